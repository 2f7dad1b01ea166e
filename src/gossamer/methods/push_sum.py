"""Stochastic gradient push: decentralised SGD on directed graphs, where only senders know who hears them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from gossamer.errors import ExperimentError, NodeError
from gossamer.methods import Context, Inbox, Method, Outbox, Result, Task, View

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State

LEAST_MASS = 1e-30
"""Below this, float32 rows have lost their digits."""


@dataclass(frozen=True)
class Weighed(Task):
    """Local work at z = x / w, and where z came from: `row` x [D] and `mass` w [1]."""

    held: Mapping[str, Tensor] = field(default_factory=dict)


class PushSum(Method):
    """Each node pushes shares of its row x and of its mass w; its model is z = x / w, free of the graph's bias.

        z_i = x_i / w_i                                        (w starts at 1)
        x_i <- x_i + (y_i - z_i),   y_i: H local steps from z_i
        x_i <- sum_j P_ij x_j,   w_i <- sum_j P_ij w_j

    P is column-stochastic (topology.weights = "out_degree": a sender splits what it has among those that hear it and
    itself), so the sums of x and w never change, and on a strongly connected graph every z tends to the mean although
    P is not doubly stochastic. The paper takes one step (H = 1). Momentum or Adam state is kept as in `dsgd`. Buffers
    are pushed like x, as w times their new value.
    """

    source: ClassVar[str] = "Assran et al. 2019, Algorithm 1 (SGP); Kempe et al. 2003 for push-sum"
    world: ClassVar[Literal["server", "graph", "alone"]] = "graph"
    requires: ClassVar[Literal["row", "column", "doubly"]] = "column"

    kind: Literal["push_sum"] = "push_sum"
    keep_optimizer: bool = Field(default=True, description="carry momentum or Adam state from round to round")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        slots = context.learner.fresh(row_D[: context.layout.trainable]) if self.keep_optimizer else {}
        return {"row": row_D.clone(), "mass": row_D.new_ones(1)}, slots

    def publish(self, state: State, view: View) -> State:
        return dict(state)

    def prepare(self, own: State, down: State, view: View) -> Task:
        return Weighed(down["row"] / down["mass"], slots=own if self.keep_optimizer else None, held=down)

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        held, trainable = cast("Weighed", task).held, view.layout.trainable
        row_D = held["row"] + (result.row - task.row)
        row_D[trainable:] = held["mass"] * result.row[trainable:]
        return Outbox({"row": row_D, "mass": held["mass"]}), dict(result.slots) if self.keep_optimizer else {}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        mass = inbox.fields["mass"]
        if float(mass) < LEAST_MASS:
            reason = f"its mass has run out ({float(mass):.1e}): nobody sends to it; use a strongly connected graph"
            raise NodeError(view.node, view.round + 1, "merge", reason)
        return {"row": inbox.fields["row"], "mass": mass}

    def model(self, own: State, down: State, view: View) -> Task:
        return Task(down["row"] / down["mass"], steps=0)

    def check(self, settings: Any) -> None:
        topology = settings.topology
        if topology.weights != "out_degree" or topology.own_weight is not None:
            found = f"weights = '{topology.weights}'" if topology.own_weight is None else "own_weight"
            raise ExperimentError(
                f"topology.{found}: method.kind = 'push_sum' keeps sums only where senders split what they have; "
                "use topology.weights = 'out_degree' without own_weight"
            )
        if settings.aggregator.kind != "mean":
            raise ExperimentError(
                f"aggregator.kind = '{settings.aggregator.kind}': method.kind = 'push_sum' adds up what is pushed; "
                "use aggregator = 'mean'"
            )
