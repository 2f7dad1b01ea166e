"""Every node alone: the reference that federated methods must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.methods import Context, Inbox, Method, Outbox, Result, Task, View

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class Local(Method):
    """Each node trains on its own data only, y_i <- local steps from y_i, and sends nothing."""

    world: ClassVar[Literal["server", "graph", "alone"]] = "alone"

    kind: Literal["local"] = "local"
    keep_optimizer: bool = Field(default=True, description="carry momentum or Adam state from round to round")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        slots = context.learner.fresh(row_D[: context.layout.trainable]) if self.keep_optimizer else {}
        return {}, {"row": row_D.clone(), **slots}

    def publish(self, state: State, view: View) -> State:
        return {}

    def prepare(self, own: State, down: State, view: View) -> Task:
        return Task(own["row"], slots=own if self.keep_optimizer else None)

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        return Outbox({}), {"row": result.row, **(result.slots if self.keep_optimizer else {})}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        return {}

    def model(self, own: State, down: State, view: View) -> Task:
        return Task(own["row"], steps=0)
