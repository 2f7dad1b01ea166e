"""Decentralised SGD: local steps, then averaging with the neighbours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.methods import Context, Inbox, Method, Outbox, Result, Task, Terms, View

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class DSGD(Method):
    """H local steps at every node, then x_i <- sum_j W_ij x_j with the mixing matrix W of the round.

    The optimiser state stays at the node and is never sent; `keep_optimizer = false` starts it afresh every round,
    `reset_at_merge` after an all-reduce, where old momentum would drive equal models apart. `pull_back` adds
    pull_back * (x_i - a) to the gradient, a being the common model of the last all-reduce, at first the node's start:
    nodes that seldom meet then stay where their mean is still a good model (the proximal term of Li et al. 2020).

    Lian et al. take the gradient at x_i and mix at the same time (x_i <- sum_j W_ij x_j - lr * g_i); here, as in
    Koloskova et al., the nodes step first and then mix.
    """

    source: ClassVar[str] = "Lian et al. 2017, Algorithm 1; Koloskova et al. 2020, Algorithm 1 (step, then mix; H > 1)"
    world: ClassVar[Literal["server", "graph", "alone"]] = "graph"
    asynchronous: ClassVar[bool] = True

    kind: Literal["dsgd"] = "dsgd"
    keep_optimizer: bool = Field(default=True, description="carry momentum or Adam state from round to round")
    reset_at_merge: bool = Field(default=False, description="start the optimiser afresh after an all-reduce")
    pull_back: float = Field(default=0.0, ge=0, description="pull of local work to the model of the last all-reduce")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        row_T = row_D[: context.layout.trainable]
        state = {"row": row_D.clone()}
        if self.reset_at_merge:
            state["stale"] = row_D.new_ones(1)
        if self.pull_back:
            state["anchor"] = row_T.clone()
        return state, context.learner.fresh(row_T) if self.keep_optimizer else {}

    def publish(self, state: State, view: View) -> State:
        return dict(state)

    def prepare(self, own: State, down: State, view: View) -> Task:
        terms = Terms(proximal=self.pull_back, anchor=down["anchor"]) if self.pull_back else Terms()
        slots = own if self.keep_optimizer else None
        if slots is not None and self.reset_at_merge:
            slots = {name: own[name] * down["stale"] for name in view.learner.slot_names}
        return Task(down["row"], terms, slots)

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        return Outbox({"row": result.row}), dict(result.slots) if self.keep_optimizer else {}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        row_D = inbox.fields["row"]
        changed = {"row": row_D}
        if self.reset_at_merge:
            changed["stale"] = row_D.new_full((1,), float(not inbox.everyone))
        if self.pull_back and inbox.everyone:
            changed["anchor"] = row_D[: view.layout.trainable]
        return changed

    @property
    def adopts(self) -> bool:
        return type(self).merge is DSGD.merge and not self.reset_at_merge

    def check(self, settings: Any) -> None:
        schedule, rounds = settings.schedule, settings.rounds
        merges = any(math.isinf(schedule.intensity(round, rounds)) for round in range(rounds - 1))
        for name in ("reset_at_merge", "pull_back"):
            if getattr(self, name) and not merges:
                raise ExperimentError(
                    f"method.{name}: acts after an all-reduce, but schedule.kind = '{schedule.kind}' has none before "
                    "the last round; use a schedule with all-reduces such as 'late', or leave it out"
                )
        if self.reset_at_merge and not self.keep_optimizer:
            raise ExperimentError(
                "method.reset_at_merge: with keep_optimizer = false the optimiser starts afresh in every round anyway; "
                "leave one of them out"
            )
