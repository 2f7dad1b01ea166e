"""Decentralised SGD whose nodes end the run with the mean of their own last models."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.methods import Context, Outbox, Result, Task, View
from gossamer.methods.dsgd import DSGD

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class TailAveraged(DSGD):
    """DSGD, where each node averages its models over the last rounds and sends that mean in the last one.

    Over the last `share` of the rounds each node keeps the mean of the models that its local work gave, buffers too; in
    the last round this mean takes the place of its model. With schedule.final = "merge" the run ends with the mean over
    nodes and rounds. Training before is that of DSGD. Costs one more row at each node and no transfer.
    """

    source: ClassVar[str] = "Jain et al. 2018 (tail averaging of SGD) at each node, then DSGD's exchange"
    asynchronous: ClassVar[bool] = False

    kind: Literal["tail_averaged"] = "tail_averaged"  # type: ignore[assignment]
    share: float = Field(default=0.2, gt=0, le=1, description="of the rounds, the last ones, that are averaged")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        state, own = super().init(context, row_D)
        return state, {**own, "tail": row_D.new_zeros(row_D.shape), "models": row_D.new_zeros(1)}

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        outbox, kept = super().finish(task, result, own, view)
        left = view.context.rounds - view.round
        if left > max(1, round(self.share * view.context.rounds)):
            return outbox, kept
        models = own["models"] + 1
        tail_D = own["tail"] + (result.row - own["tail"]) / models
        return Outbox({"row": tail_D}) if left == 1 else outbox, {**kept, "tail": tail_D, "models": models}
