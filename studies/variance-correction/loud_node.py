"""A node whose first message is 100 times too large: what the target of a variance correction makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gossamer.methods import Outbox, Result, Task, View
from gossamer.methods.dsgd import DSGD

if TYPE_CHECKING:
    from gossamer.methods import State


class LoudNode(DSGD):
    """DSGD, where node 0 sends (and takes for its own) `factor` times its weights in the first round only."""

    kind: Literal["loud_node"] = "loud_node"  # type: ignore[assignment]
    factor: float = Field(default=100.0, description="of the weights in the first message of node 0")

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        outbox, kept = super().finish(task, result, own, view)
        if view.node or view.round:
            return outbox, kept
        return Outbox({"row": self.factor * outbox.common["row"]}), kept
