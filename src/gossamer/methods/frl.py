"""Federated Rank Learning: nodes rank the edges of a random network, and a server counts their votes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.methods import Context, Inbox, Method, Outbox, Result, Task, View
from gossamer.rankings import FIELD, Packed, elected, ranks_of, scores_of

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State
    from gossamer.passages import Step


class FRL(Method):
    """Nodes train scores of the edges of a supermask and send what ranking they make; the server sends the vote's.

        at a node:     s <- sigma by position in R;  train s;  R_i = argsort(s)       (layer by layer)
        at the server: R <- argsort of the mean position of each edge in the R_i

    sigma are the scores that all draw from the seed, in ascending order: they are dealt out anew in every round, so the
    scores of a layer remain the same numbers for ever. With the mean as aggregator it is a Borda count, ties by the
    number of the edge; any other aggregator is another vote on positions. Each node has one vote. A forged message is
    a ranking like any other, whatever is written in it.
    """

    source: ClassVar[str] = "Mozaffari, Shejwalkar and Houmansadr 2023 (Every Vote Counts); Sparse-FRL with top < 1"

    kind: Literal["frl"] = "frl"
    coder: Literal["packed", "optimal"] = Field(
        default="packed",
        description="of rankings: ceil(log2 n) bits an edge, or within 3 % of log2(n!) bits for layers from 1000 edges",
    )
    top: float = Field(
        default=1.0, gt=0, le=1, description="share of the edges of a layer that nodes send, the most important ones"
    )

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        if buffers := [entry.name for entry in context.layout.entries if not entry.trainable]:
            raise ExperimentError(
                f"method.kind = '{self.kind}': nobody can vote on buffers of the model ('{buffers[0]}'); use layers "
                "without running statistics, such as GroupNorm instead of BatchNorm"
            )
        return {"row": row_D.clone(), FIELD: ranks_of(row_D, context.layout)}, {}

    def packing(self, down: bool) -> tuple[Step, ...]:
        return (Packed(self.coder, 1.0 if down else self.top),)

    def publish(self, state: State, view: View) -> State:
        return {FIELD: state[FIELD]}

    def prepare(self, own: State, down: State, view: View) -> Task:
        return Task(self.scores(down[FIELD], view))

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        return Outbox({FIELD: ranks_of(result.row, view.layout)}), {}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        ranks_T = elected(inbox.fields[FIELD], view.layout)
        return {"row": self.scores(ranks_T, view), FIELD: ranks_T}

    def model(self, own: State, down: State, view: View) -> Task:
        return Task(self.scores(down[FIELD], view), steps=0)

    def scores(self, ranks_T: Tensor, view: View) -> Tensor:
        """The row that a ranking stands for."""
        start_T = view.context.start_D
        assert start_T is not None, "check() asks for a start that all share"
        return scores_of(ranks_T, start_T, view.layout)

    def check(self, settings: Any) -> None:
        if settings.parametrisation.kind != "supermask":
            raise ExperimentError(
                f"method.kind = '{self.kind}' ranks the edges of a supermask, but parametrisation.kind = "
                f"'{settings.parametrisation.kind}'; use parametrisation = 'supermask'"
            )
        if not settings.init.shared:
            raise ExperimentError(
                f"init.shared = false: with method.kind = '{self.kind}' all nodes rank the same random edges; "
                "set it to true"
            )
        if self.coder == "optimal" and self.top < 1:
            raise ExperimentError(
                f"method.top = {self.top:g}: coder = 'optimal' is for whole rankings; use coder = 'packed' or top = 1"
            )
