"""Whether the parts of an experiment fit together, and what to change where they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossamer.aggregators import Gossiping, Robust
from gossamer.aggregators.approval import Approving
from gossamer.errors import ExperimentError
from gossamer.fitting_adapters import check_adapters
from gossamer.fitting_privacy import check_privacy, check_secure_sum
from gossamer.methods.frl import FRL
from gossamer.parametrisations.supermask import Supermask
from gossamer.passages import check_steps
from gossamer.schedules import ALL
from gossamer.transforms.choco import Choco
from gossamer.transforms.clip import Clip
from gossamer.transforms.gaussian_noise import GaussianNoise

if TYPE_CHECKING:
    from gossamer.experiment import Experiment


def check(experiment: Experiment) -> None:
    """Raise ExperimentError that names the field, the value and the fix."""
    method, topology = experiment.method, experiment.topology
    if method.world == "server" and not topology.has_server:
        raise ExperimentError(
            f"method.kind = '{method.kind}' needs a server, but topology.kind = '{topology.kind}' has none; "
            "use topology = 'server', or a method for graphs such as 'dsgd'"
        )
    if method.world == "graph" and topology.has_server:
        raise ExperimentError(
            f"method.kind = '{method.kind}' works between neighbours: "
            "choose a graph, e.g. topology = { kind = 'ring' }"
        )
    metropolis = topology.weights == "metropolis" and topology.own_weight is None
    if method.world == "graph" and topology.one_way and metropolis:
        raise ExperimentError(
            f"topology.weights = 'metropolis' needs an undirected graph, but topology '{topology.kind}' "
            "is directed; use weights = 'uniform'"
        )
    _schedule_fits(experiment)
    _clock_fits(experiment)
    _hostility_fits(experiment)
    if method.world == "server" and not experiment.init.shared:
        raise ExperimentError(
            "init.shared = false needs nodes with models of their own, but a server's nodes start from its model; "
            "use a method for graphs, or 'local'"
        )
    _messages_fit(experiment)
    _supermask_fits(experiment)
    check_adapters(experiment)
    check_privacy(experiment)
    check_secure_sum(experiment)
    method.check(experiment)


def _schedule_fits(experiment: Experiment) -> None:
    schedule, world = experiment.schedule, experiment.method.world
    if world == "alone":
        return
    intensities = [schedule.intensity(round, experiment.rounds) for round in range(experiment.rounds)]
    if world == "server":
        limited = schedule.limit(1) < ALL or schedule.final != "none" or schedule.looks
        if limited or any(intensity < 1 for intensity in intensities):
            raise ExperimentError(
                f"schedule.kind = '{schedule.kind}': with a server every round ends in an exchange with all "
                "participants; use schedule = 'every' with k = 1, share = 1, no budget and no end of its own, more "
                "learner.steps or epochs for fewer exchanges, schedule.participation for fewer nodes"
            )
        if experiment.evaluate.before_exchange:
            raise ExperimentError(
                "evaluate.before_exchange: with a server the nodes keep no models of their own; set it to false"
            )
        return
    if schedule.final == "none" and not any(intensities):
        raise ExperimentError(
            f"schedule.kind = '{schedule.kind}' never communicates in {experiment.rounds} rounds; "
            "give more rounds, a share above 0, schedule.final = 'merge', or use method = 'local'"
        )
    if experiment.method.requires == "doubly" and experiment.clock.drop:
        raise ExperimentError(
            f"clock.drop = {experiment.clock.drop:g}: method.kind = '{experiment.method.kind}' needs doubly stochastic "
            "mixing weights, which lost messages spoil; use drop = 0"
        )
    merges = schedule.final == "merge" or ALL in intensities
    if merges and not (experiment.topology.overlay or experiment.topology.all_to_all):
        what = "schedule.final = 'merge'" if schedule.final == "merge" else f"schedule.kind = '{schedule.kind}'"
        raise ExperimentError(
            f"{what} asks for an all-reduce among all nodes, but topology.kind = '{experiment.topology.kind}' only "
            "joins neighbours; set topology.all_to_all = true if any two nodes can talk, or end with "
            "schedule.final = 'gossip'"
        )


def _hostility_fits(experiment: Experiment) -> None:
    world, attack, hostile = experiment.method.world, experiment.attack, experiment.hostile
    attacked = attack.kind != "honest"
    if attacked and hostile.kind == "nobody":
        raise ExperimentError(
            f"attack.kind = '{attack.kind}' needs somebody to attack: set hostile = {{ count = 3 }}, or "
            "hostile = { kind = 'sybils', attack_edges = 1 } on a graph"
        )
    if hostile.kind != "nobody" and (world == "alone" or experiment.method.pools_data):
        raise ExperimentError(
            f"hostile.kind = '{hostile.kind}': with method.kind = '{experiment.method.kind}' nobody hears anybody; use "
            "a method with a server or for graphs"
        )
    fix = ", or attack.aim = 'all'"
    if world != "graph" and (attack.knows == "neighbourhood" or attack.aim == "neighbour"):
        raise ExperimentError(
            f"attack.kind = '{attack.kind}' is made for neighbours on a graph, and with a server there are "
            f"none; use a method for graphs such as 'dsgd'{'' if attack.knows == 'neighbourhood' else fix}"
        )
    if hostile.many_names and experiment.nodes is None:
        raise ExperimentError("hostile.kind = 'sybils' needs nodes = ..., the number of honest ones")
    if experiment.clock.kind == "events" and (attack.forges or hostile.many_names or experiment.aggregator.history):
        what = (
            f"aggregator.kind = '{experiment.aggregator.kind}'" if experiment.aggregator.history else "forged messages"
        )
        raise ExperimentError(
            f"clock.kind = 'events': {what} need rounds; use clock = 'rounds', or an attack on the data only"
        )
    if experiment.aggregator.graph_only and world == "server":
        raise ExperimentError(
            f"aggregator.kind = '{experiment.aggregator.kind}' weighs what others sent against a node's own "
            "model, which a server has none of; use it with a method for graphs, or another rule such as "
            "'centered_clipping'"
        )
    _rule_fits(experiment, world)
    if experiment.aggregator.trusts and world == "server" and not experiment.root:
        raise ExperimentError(
            f"aggregator.kind = '{experiment.aggregator.kind}' compares updates with the server's own: set "
            "root = 100, the number of training items that the server holds"
        )
    if experiment.root and not (experiment.aggregator.trusts and world == "server"):
        raise ExperimentError(
            f"root = {experiment.root}: only rules that compare updates with a server's own, such as 'fltrust', use "
            "items at the server; set it to 0"
        )


def _rule_fits(experiment: Experiment, world: str) -> None:
    """What rules that ask more than updates need of the rest."""
    rule, schedule = experiment.aggregator, experiment.schedule
    if rule.history and experiment.attack.aim == "neighbour" and experiment.attack.forges:
        raise ExperimentError(
            f"aggregator.kind = '{rule.kind}' compares what a sender sends to all; use attack.aim = 'all'"
        )
    if world != "graph":
        return
    intensities = [schedule.intensity(round, experiment.rounds) for round in range(experiment.rounds)]
    merges = schedule.final == "merge" or ALL in intensities or schedule.looks
    if merges and (rule.graph_only or rule.trusts or rule.history == "gossiped"):
        raise ExperimentError(
            f"aggregator.kind = '{rule.kind}' is for a node that hears its neighbours, but "
            f"schedule.kind = '{schedule.kind}' with final = '{schedule.final}' has all-reduces; use 'every' and "
            "final = 'none' or 'gossip'"
        )
    if isinstance(rule, Robust) and rule.points(60) != 60:
        raise ExperimentError(
            "aggregator.before: 'bucketing' mixes a node's own update with others', so it is for servers; use 'nnm'"
        )
    steady = not experiment.topology.varies and set(intensities) == {1.0} and not experiment.clock.drop
    everybody = schedule.participation == 1
    if isinstance(rule, Gossiping) and rule.exposes and not (steady and everybody):
        raise ExperimentError(
            f"aggregator.kind = '{rule.kind}' compares with what neighbours sent in earlier rounds: it needs a "
            "fixed graph with all nodes and links in every round, and no lost messages"
        )
    if experiment.hostile.many_names and not everybody:
        raise ExperimentError(
            f"schedule.participation = {schedule.participation:g}: the names of Sybils on a graph come and go by "
            "hostile.participation; use 1"
        )


def _clock_fits(experiment: Experiment) -> None:
    if experiment.clock.kind == "events":
        if not experiment.method.asynchronous:
            raise ExperimentError(
                f"clock.kind = 'events': method.kind = '{experiment.method.kind}' needs rounds; use clock = 'rounds', "
                "or one that works while models change: 'dsgd' on a graph, 'fedasync' or 'fedbuff' with a server"
            )
        if experiment.evaluate.before_exchange:
            raise ExperimentError(
                "evaluate.before_exchange: with clock.kind = 'events' there is no exchange at the end of a round; "
                "set it to false"
            )
    experiment.clock.check(experiment.method.world, experiment.topology, experiment.schedule, experiment.rounds)


def _messages_fit(experiment: Experiment) -> None:
    """What transforms need of each other and of the rest."""
    method, world, clock = experiment.method, experiment.method.world, experiment.clock
    if experiment.downlink and world != "server":
        raise ExperimentError(
            f"downlink = {[step.kind for step in experiment.downlink]}: method.kind = '{method.kind}' has no server "
            "that sends; leave it out"
        )
    ups = [(f"transforms.{i}.kind = '{step.kind}'", step) for i, step in enumerate(experiment.transforms)]
    downs = [(f"downlink.{i}.kind = '{step.kind}'", step) for i, step in enumerate(experiment.downlink)]
    own = f"method.kind = '{method.kind}'"
    for steps, down in ((ups, False), (downs, True)):
        check_steps([*((own, step) for step in method.packing(down)), *steps], own)
    for name, step in downs:
        if step.for_changes:
            raise ExperimentError(
                f"{name}: it is made for what local work changed, but a server sends its whole model, of which too "
                "little would be left; use 'cast', 'int8', 'nf4', 'qsgd' or 'zstd'"
            )
        if step.remembers:
            raise ExperimentError(
                f"{name}: it is for nodes, of whose earlier messages the server knows; a node that takes part again "
                "has missed some of the server's. Use a transform without memory"
            )
    for name, step in ups + downs:
        if clock.kind == "events" and (step.chained or not step.fixed):
            why = "a message builds on the one before" if step.chained else "how long a message takes is not known"
            raise ExperimentError(f"{name}: by the clock (clock.kind = 'events') {why}; use clock = 'rounds'")
        if not step.fixed and isinstance(experiment.aggregator, Gossiping) and world == "graph":
            raise ExperimentError(
                f"{name}: records that aggregator.kind = '{experiment.aggregator.kind}' passes on have their place in "
                "every message, which needs messages of known length; leave it out"
            )
    noisy = [name for name, step in ups if isinstance(step, GaussianNoise)]
    for place, (name, step) in enumerate(ups):
        if isinstance(step, Clip) and any(isinstance(before, GaussianNoise) for _, before in ups[:place]):
            raise ExperimentError(
                f"{name}: it comes after {noisy[0]}, so the noise is scaled down with the message and bounds nothing; "
                "put clip first, or use privacy = { kind = 'local', ... }, which keeps the account as well"
            )
    chained = [place for place, (_, step) in enumerate(ups) if step.chained]
    for name, step in ups[chained[0] :] if chained else []:
        if step.expands:
            raise ExperimentError(
                f"{name}: what is lost is sent again, and grows without end where messages are scaled up; set rescale "
                f"= false, or leave out {ups[chained[0]][1].kind}"
            )
    if world == "graph" and chained:
        _memories_fit(experiment, ups[chained[0]][0])
    for name, step in ups:
        if isinstance(step, Choco):
            _copies_fit(experiment, name)


def _supermask_fits(experiment: Experiment) -> None:
    """What a sub-network of random weights asks of the rest."""
    part, rule, attack = experiment.parametrisation, experiment.aggregator, experiment.attack
    if not isinstance(part, Supermask):
        if attack.exchanges:
            raise ExperimentError(
                f"attack.kind = '{attack.kind}' exchanges edges that a sub-network keeps; use parametrisation = "
                "'supermask', or another attack"
            )
        return
    if experiment.init.kind != "default":
        raise ExperimentError(
            f"init.kind = '{experiment.init.kind}': parametrisation.kind = 'supermask' draws weights and scores "
            "itself; leave it out"
        )
    if part.k == 1 and not part.layers:
        raise ExperimentError(
            "parametrisation.k = 1: a model that uses all edges, whatever their scores, cannot learn; use e.g. 0.5"
        )
    top = experiment.method.top if isinstance(experiment.method, FRL) else 1.0
    if isinstance(rule, Approving) and top < rule.k:
        raise ExperimentError(
            f"method.top = {top:g}: aggregator.kind = '{rule.kind}' counts votes on the share {rule.k:g} of the edges; "
            "let nodes send at least those"
        )
    if isinstance(rule, Approving) and {rule.k} != {part.k, *part.layers.values()}:
        raise ExperimentError(
            f"aggregator.k = {rule.k:g}: voters approve of the share of edges that the model keeps, which is "
            f"parametrisation.k = {part.k:g}, the same in all layers; set them alike"
        )


def _memories_fit(experiment: Experiment, name: str) -> None:
    """Neighbours that remember must hear every message."""
    schedule, topology = experiment.schedule, experiment.topology
    intensities = {schedule.intensity(round, experiment.rounds) for round in range(experiment.rounds)}
    whole = intensities <= {0.0, 1.0} and schedule.final != "merge" and not schedule.looks and schedule.limit(1) == ALL
    if topology.varies or not whole or schedule.participation < 1 or experiment.clock.drop:
        raise ExperimentError(
            f"{name}: neighbours must hear every message of each other: it needs a fixed graph, all nodes and "
            "links in every exchange, no all-reduce, no budget and no lost messages"
        )


def _copies_fit(experiment: Experiment, name: str) -> None:
    """What gossip on copies asks of the rest."""
    if experiment.method.world != "graph":
        raise ExperimentError(
            f"{name}: it is for neighbours on a graph, but method.kind = '{experiment.method.kind}' has a server; use "
            "'error_feedback'"
        )
    if sum(isinstance(step, Choco) for step in experiment.transforms) > 1:
        raise ExperimentError(f"{name}: once is enough; leave one of them out")
    if experiment.aggregator.kind != "mean":
        raise ExperimentError(
            f"{name}: nodes move to the mean of their neighbours' copies; aggregator.kind = "
            f"'{experiment.aggregator.kind}' needs their models: use 'mean', or other transforms"
        )
    if experiment.attack.forges or experiment.hostile.many_names:
        raise ExperimentError(f"{name}: it is not for forged messages, which 'mean' cannot withstand; use others")
