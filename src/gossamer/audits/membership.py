"""Membership inference: was it in the training data? Asked of canaries, of which we know.

Canaries are items with wrong labels, or nodes with all labels exchanged, so that only a model that has seen them would
agree with them (Carlini et al. 2019). Half of them, by coins, are trained on. The attacks need no shadow models.

Q scored items, K canaries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.audits.advantage import Evidence, Scores, evidence
from gossamer.audits.canaries import Array, Unit, plant
from gossamer.errors import ExperimentError
from gossamer.rounds import Listener, one_thread, run

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.audits.canaries import Planted
    from gossamer.experiment import Experiment
    from gossamer.federation import Federation

ATTACKS = {
    "difference": "how much log p - log(1 - p) grew since the first round",
    "loss": "log p, which orders examples as log p - log(1 - p) does",
}
"""What canaries are scored by; the first is the one that is reported."""


@dataclass(frozen=True)
class Promise:
    """What the guarantee of a run says of the unit that is audited."""

    epsilon: float
    delta: float

    @property
    def bound(self) -> float:
        """The largest advantage that it allows anybody."""
        from gossamer.accounting import advantage

        return advantage(self.epsilon, self.delta)


@dataclass(frozen=True)
class MembershipAudit:
    """What became of the canaries of one run."""

    experiment: Experiment
    """What was asked; the run is the same with canaries in it."""
    unit: Unit
    folder: Path
    inside_K: Array
    scores: dict[str, Array]
    """A score [K] for each canary, by attack."""
    promise: Promise
    test_accuracy: float

    def scored(self, attack: str) -> Scores:
        """The scores of one attack, ready to be judged."""
        return Scores(self.scores[attack], self.inside_K, self.experiment.seed)


def membership(
    experiment: Experiment,
    canaries: int = 1000,
    unit: Unit = "example",
    folder: str | Path | None = None,
    listener: Listener | None = None,
) -> MembershipAudit:
    """Plant canaries, run the experiment, and score the canaries by what its models say of them.

    With unit "example" a canary is a training item; with "node" a node, and the run has only the nodes that are in:
    `experiment.nodes` counts all of them, and what the noise is solved for is the run as it is, with about half of the
    canaries. Scored is the final model; on a graph, for examples, that of the canary's own node, which is what the
    neighbours are sent. Messages to a server are not looked at. Raises ExperimentError where there are fewer items or
    nodes than canaries, and whatever `gossamer.run` does.
    """
    if experiment.method.world == "server" and not experiment.method.one_model:
        raise ExperimentError(
            f"method.kind = '{experiment.method.kind}': nobody but a node has a whole model of it to score by; use one "
            "with a common model, such as 'fedavg'"
        )
    planted = plant(experiment, canaries, unit)
    done = run(planted.experiment, folder, listener)
    accuracy = done.summary()["test_accuracy"]
    return MembershipAudit(
        experiment,
        unit,
        done.folder,
        planted.inside_K,
        score(planted, done.folder),
        promised(done.record, unit),
        math.nan if accuracy is None else float(accuracy),
    )


def findings(audits: Sequence[MembershipAudit], attack: str = next(iter(ATTACKS))) -> Evidence:
    """What an attack showed in the runs of several seeds together."""
    return evidence([audit.scored(attack) for audit in audits], max(audit.promise.delta for audit in audits))


def promised(record: dict[str, Any], unit: Unit) -> Promise:
    """The guarantee of a run for one unit.

    One for nodes holds for an example of a node too, as an exchange of what the node holds: at once where neighbouring
    data sets have a node exchanged, else as one node removed and another added, which is (2 epsilon, (1 + e^epsilon)
    delta). One for examples says nothing of nodes.
    """
    given = record.get("privacy")
    if not given or given["epsilon"] is None:
        return Promise(math.inf, 0.0)
    epsilon, delta = float(given["epsilon"]), float(given["delta"])
    if given["unit"] == unit or (given.get("adjacency") == "replace_one" and unit == "example"):
        return Promise(epsilon, delta)
    if unit == "example":
        return Promise(2 * epsilon, min(1.0, (1 + math.exp(epsilon)) * delta))
    return Promise(math.inf, 0.0)


# ---- scores --------------------------------------------------------------------------------------------------------


def score(planted: Planted, folder: Path) -> dict[str, Array]:
    """A score for each canary, by attack: over a node's items the mean."""
    from gossamer.checkpoint import latest_checkpoint, restore
    from gossamer.federation import Federation

    with one_thread():
        federation = Federation(planted.scored)
        margin_before_Q, _ = confidences(federation, planted.node_Q, 0)
        found = latest_checkpoint(folder)
        assert found is not None, "every run ends with a checkpoint"
        restore(federation.tensors(), found[1])
        margin_Q, likelihood_Q = confidences(federation, planted.node_Q, found[0].rounds_done)
    count_K = np.bincount(planted.canary_Q)
    items = {"difference": margin_Q - margin_before_Q, "loss": likelihood_Q}
    return {name: np.bincount(planted.canary_Q, values_Q) / count_K for name, values_Q in items.items()}


def confidences(federation: Federation, node_Q: Array, round: int) -> tuple[Array, Array]:
    """log p - log(1 - p) and log p of the label of each test item [Q], where p is the model's after `round` rounds.

    The model is the common one, or on a graph, where items have a node, that of the node.
    """
    from gossamer.evaluation import at_node, merge_models, model_task, reestimate

    items, several = federation.items, federation.nodes > 1
    own = several and not federation.has_server and bool((node_Q >= 0).all())
    margin_Q, likelihood_Q = np.empty(len(node_Q)), np.empty(len(node_Q))
    if not own:
        merge_models(federation, round)
        reestimate(federation, round)
        federation.resident.load(federation.merged)
    for node in np.unique(node_Q).tolist():
        if own:
            federation.resident.load(model_task(federation, node, round).row)
        mine = np.flatnonzero(node_Q == node)
        inputs = items.test_inputs[mine]
        if several and node >= 0:
            inputs = at_node(federation, inputs, node)
        margin_Q[mine], likelihood_Q[mine] = _confidences(federation, inputs, items.test_labels[mine])
    return margin_Q, likelihood_Q


def _confidences(federation: Federation, inputs: Tensor, labels: Tensor) -> tuple[Array, Array]:
    import torch

    from gossamer.training import evaluation_batch

    module, size = federation.resident.module.eval(), evaluation_batch(tuple(inputs.shape[1:]))
    with torch.inference_mode():
        logits = torch.cat([module(part) for part in torch.split(inputs, size)]).double()
    right = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -math.inf).logsumexp(1)
    return (right - others).numpy(), (right - logits.logsumexp(1)).numpy()
