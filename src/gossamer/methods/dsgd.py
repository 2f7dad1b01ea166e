"""Decentralised SGD: local steps, then averaging with the neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.methods import Context, Inbox, Method, Outbox, Result, Task, View

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class DSGD(Method):
    """H local steps at every node, then x_i <- sum_j W_ij x_j with the mixing matrix W of the round.

    The optimiser state stays at the node and is never sent; `keep_optimizer = false` starts it afresh every round.
    Lian et al. take the gradient at x_i and mix at the same time (x_i <- sum_j W_ij x_j - lr * g_i); here, as in
    Koloskova et al., the nodes step first and then mix.
    """

    source: ClassVar[str] = "Lian et al. 2017, Algorithm 1; Koloskova et al. 2020, Algorithm 1 (step, then mix; H > 1)"
    world: ClassVar[Literal["server", "graph", "alone"]] = "graph"

    kind: Literal["dsgd"] = "dsgd"
    keep_optimizer: bool = Field(default=True, description="carry momentum or Adam state from round to round")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        slots = context.learner.fresh(row_D[: context.layout.trainable]) if self.keep_optimizer else {}
        return {"row": row_D.clone()}, slots

    def prepare(self, own: State, down: State, view: View) -> Task:
        return Task(down["row"], slots=own if self.keep_optimizer else None)

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        return Outbox({"row": result.row}), dict(result.slots) if self.keep_optimizer else {}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        return {"row": inbox.fields["row"]}
