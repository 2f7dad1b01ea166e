"""Low-rank factors are averaged, and what their means leave out goes into the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.lowrank import add_to, numbers, products, residual
from gossamer.methods import Context, Inbox, View
from gossamer.methods.flexlora import FlexLoRA, heard, mean

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class FedExLoRA(FlexLoRA):
    """The mean of the factors, as in FedIT, and its error added to the base: nothing is lost at the server.

        A <- sum_k p_k A_k,     B <- sum_k p_k B_k,     W <- W + s * (sum_k p_k B_k A_k - B A)

    What is added is sum_k p_k (B_k - B)(A_k - A). Nodes are sent it as factors: K ranks for each rank that K of those
    heard have, K - 1 where all have it; or the sum itself, where it is shorter. p_k as in 'flexlora'; what is not a
    factor (a head, biases, buffers) is averaged. Where ranks differ, nodes of smaller rank go on from the first ranks
    of the mean, which is not the server's model: 'flora' is exact for them too.
    """

    source: ClassVar[str] = "Singhal, Ponkshe and Vepakomma 2025 (arXiv 2410.09432)"
    merges_into_base: ClassVar[bool] = True

    kind: Literal["fedex_lora"] = "fedex_lora"  # type: ignore[assignment]

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        assert context.shared_S is not None, "the engine gives it to methods that merge into it"
        return {"row": row_D.clone(), "shared": context.shared_S}, {}

    def besides(self, context: Context, heard: Sequence[int]) -> int:
        count = 0
        for pair in context.layout.factors:
            ranks = [min(context.ranks[node], pair.rank) if context.ranks else pair.rank for node in heard]
            having = (sum(rank > place for rank in ranks) for place in range(pair.rank))
            # sum_k p_k b_k (a_k - a) over the K nodes that have a rank; where all do, one a_k - a follows from others.
            count += numbers(pair, sum(min(k, max(0, len(ranks) - 1)) for k in having))
        return count

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        rows_ND, shares_N = heard(inbox)
        row_D = mean(rows_ND, shares_N)
        pairs = view.layout.factors
        additions = (residual(*products(rows_ND, pair), shares_N, *products(row_D, pair)) for pair in pairs)
        return {"row": row_D, "shared": add_to(state["shared"], view.layout, additions)}
