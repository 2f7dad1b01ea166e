"""Whether privacy and secure sums fit the rest of an experiment, and what to change where they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossamer.attacks import Attack
from gossamer.errors import ExperimentError
from gossamer.methods import Method
from gossamer.privacy import Mechanism

if TYPE_CHECKING:
    from gossamer.experiment import Experiment, SecureSum


def check_privacy(experiment: Experiment) -> None:
    """Raise ExperimentError that names the field, the value and the fix."""
    mechanism, method = experiment.privacy, experiment.method
    if not isinstance(mechanism, Mechanism):
        return
    what = f"privacy.kind = '{mechanism.kind}'"
    if method.world == "alone" and mechanism.unit == "node":
        raise ExperimentError(
            f"{what}: with method.kind = '{method.kind}' nobody sees anything of a node; leave it out"
        )
    if mechanism.world and method.world != mechanism.world:
        fix = {
            "server": "it needs a server; use 'local' or 'per_example' on a graph",
            "graph": "it is for neighbours on a graph; use 'local', or 'distributed' with a server",
        }
        raise ExperimentError(f"{what}: {fix[mechanism.world]}")
    if mechanism.unit == "node" and getattr(method, "weighting", "uniform") != "uniform":
        raise ExperimentError(
            f"{what}: weights by items tell how many a node has, and let it move the mean further than clip says; set "
            f"method = {{ kind = '{method.kind}', weighting = 'uniform' }}"
        )
    if method.pools_data:
        if mechanism.unit == "node":
            raise ExperimentError(
                f"{what}: method.kind = '{method.kind}' brings all data to one place; use 'per_example'"
            )
    elif mechanism.guards in ("messages", "sums"):
        _sums_fit(experiment, what)
    if type(method).setup is not Method.setup:
        raise ExperimentError(
            f"{what}: before the first round method.kind = '{method.kind}' tells everybody what each node holds; use a "
            "method that does not, such as 'dsgd'"
        )
    if experiment.clock.kind == "events":
        raise ExperimentError(
            f"{what}: by the clock (clock.kind = 'events') how often a node takes part is not accounted; use "
            "clock = 'rounds'"
        )
    if mechanism.guards == "gradients" and experiment.backend == "vmap":
        raise ExperimentError("backend = 'vmap': per-example privacy works in 'eager' and 'parallel'; use one of these")
    if experiment.root:
        raise ExperimentError(
            f"root = {experiment.root}: what the server's own items show is not accounted; set it to 0"
        )
    if mechanism.unit == "example" and mechanism.adjacency != "add_or_remove":
        raise ExperimentError(
            "privacy.adjacency = 'replace_one': steps that draw examples by coins are accounted for examples added or "
            "removed; use 'add_or_remove'"
        )
    mechanism.check(experiment)


def _sums_fit(experiment: Experiment, what: str) -> None:
    """What a bound on every message in a sum asks for."""
    rule, attack = experiment.aggregator, experiment.attack
    if experiment.privacy.guards == "messages" and experiment.secure_sum is not None:
        raise ExperimentError(
            f"{what}: a secure sum rounds what was clipped, and the server cannot clip it again; use privacy.kind = "
            "'distributed', whose account has the rounding in it, or leave out secure_sum"
        )
    if attack.forges and attack.knows != "own":
        raise ExperimentError(
            f"{what}: attack.kind = '{attack.kind}' makes messages of what it reads in others', so that one node moves "
            "the sum by more than its own message; use privacy.kind = 'local', or an attack that knows its own data"
        )
    if rule.kind != "mean":
        raise ExperimentError(
            f"{what}: how far one message can move aggregator.kind = '{rule.kind}' is not bounded by its norm; use "
            "'mean', or privacy.kind = 'local', after which any rule may follow"
        )


def check_secure_sum(experiment: Experiment) -> None:
    """Raise ExperimentError that names the field, the value and the fix."""
    secure, method, rule = experiment.secure_sum, experiment.method, experiment.aggregator
    if secure is None:
        return
    if experiment.nodes is not None and experiment.schedule.sampling == "fixed":
        require_enough(secure, experiment.schedule.size(experiment.nodes))
    if method.world != "server":
        raise ExperimentError(
            f"secure_sum: method.kind = '{method.kind}' has no server that sums; on a graph use "
            "privacy = { kind = 'correlated', ... }, whose noise cancels, or leave it out"
        )
    if experiment.clock.kind == "events":
        raise ExperimentError(
            "secure_sum: all of a sum must take part at the same time, but by the clock (clock.kind = 'events') nodes "
            "come one by one; use clock = 'rounds'"
        )
    if not rule.linear:
        raise ExperimentError(
            f"aggregator.kind = '{rule.kind}': it compares messages, and in a secure sum nobody sees one; use 'mean', "
            "or leave out secure_sum"
        )
    own = [(f"method.kind = '{method.kind}'", step) for step in method.packing(down=False)]
    ups = [(f"transforms.{i}.kind = '{step.kind}'", step) for i, step in enumerate(experiment.transforms)]
    for name, step in own + ups:
        if not step.masks:
            raise ExperimentError(
                f"{name}: what it makes of several messages cannot be added up before it is decoded, as a secure sum "
                "does; use 'clip' or 'random_k' with common = true, or leave it out"
            )
    if experiment.attack.forges or type(experiment.attack).mangle is not Attack.mangle or experiment.hostile.many_names:
        raise ExperimentError(
            f"attack.kind = '{experiment.attack.kind}': its forged messages are not played under masks; use an attack "
            "on the data, such as 'label_flip'"
        )


def require_enough(secure: SecureSum, participants: int) -> None:
    """Raise ExperimentError where sums of so many participants could never be opened, or by two groups of them."""
    asked = secure.threshold
    if participants < 2:
        raise ExperimentError(
            f"secure_sum: {participants} node takes part in a round, whose message its sum would be; let more take part"
        )
    if isinstance(asked, int) and asked > participants:
        raise ExperimentError(
            f"secure_sum.threshold = {asked}: only {participants} nodes take part in a round; use at most "
            f"{participants}, or a share such as 0.667"
        )
    if isinstance(asked, int) and asked <= participants / 2:
        raise ExperimentError(
            f"secure_sum.threshold = {asked}: of {participants} participants a server could open two sums with so few "
            f"each; use more than {participants // 2}"
        )
