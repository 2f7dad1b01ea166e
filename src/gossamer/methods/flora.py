"""Low-rank changes go into the base in every round, and start afresh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.lowrank import add_to, joined, numbers, products, rest, spread, stacked
from gossamer.methods import Context, Inbox, Task, View
from gossamer.methods.flexlora import FlexLoRA, heard, mean
from gossamer.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class FLoRA(FlexLoRA):
    """The server adds the mean product of the nodes' low-rank factors to the base: nothing is lost, of any rank.

        W <- W + s * sum_k p_k B_k A_k,     then B = 0, and A drawn anew

    Nodes are sent the factors of all that were heard, stacked, or the sum itself where it is shorter: (m + n) sum_k r_k
    numbers for each weight, which grow with the participants. A is drawn as at the start (Kaiming: uniform within
    1 / sqrt(n)), for every round from the seed of the experiment, the same at all nodes, so it is not sent; the message
    is what is not a factor (a head, biases, buffers), averaged. p_k as in 'flexlora'.
    """

    source: ClassVar[str] = "Wang et al. 2024 (FLoRA: stacking); what is drawn anew is common to all nodes here"
    merges_into_base: ClassVar[bool] = True

    kind: Literal["flora"] = "flora"  # type: ignore[assignment]

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        assert context.shared_S is not None, "the engine gives it to methods that merge into it"
        return {"row": self.afresh(row_D, context, 0), "shared": context.shared_S}, {}

    def publish(self, state: State, view: View) -> State:
        return {"rest": joined(state["row"], rest(view.layout))}

    def besides(self, context: Context, heard: Sequence[int]) -> int:
        count = 0
        for pair in context.layout.factors:
            ranks = (min(context.ranks[node], pair.rank) if context.ranks else pair.rank for node in heard)
            count += numbers(pair, sum(ranks))
        return count

    def prepare(self, own: State, down: State, view: View) -> Task:
        return Task(self.whole(down["rest"], view))

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        rows_ND, shares_N = heard(inbox)
        additions = (stacked(*products(rows_ND, pair), shares_N) for pair in view.layout.factors)
        return {
            "row": self.afresh(mean(rows_ND, shares_N), view.context, view.round + 1),
            "shared": add_to(state["shared"], view.layout, additions),
        }

    def model(self, own: State, down: State, view: View) -> Task:
        return Task(self.whole(down["rest"], view), steps=0)

    def whole(self, rest_D: Tensor, view: View) -> Tensor:
        """The row [D] of a round that what is not a factor stands for."""
        return self.afresh(spread(rest_D, rest(view.layout), view.layout.size), view.context, view.round)

    def afresh(self, row_D: Tensor, context: Context, round: int) -> Tensor:
        """The row with the factors that all nodes start a round from."""
        import torch

        row_D = row_D.clone()
        rng = generator(context.seed, "factors", round=round)
        for pair in context.layout.factors:
            a_rn, b_mr = products(row_D, pair)
            bound = pair.inputs**-0.5
            a_rn.copy_(torch.from_numpy(rng.uniform(-bound, bound, (pair.rank, pair.inputs))))
            b_mr.zero_()
        return row_D
