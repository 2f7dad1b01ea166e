"""Federated Rank Learning without a server: every node counts the votes of its neighbours and its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.methods.frl import FRL
from gossamer.rankings import FIELD, elected

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import Context, Inbox, State, View


class FRLGossip(FRL):
    """Federated Rank Learning between neighbours: a node's ranking becomes the vote of all that it hears and its own.

        at node i:  s <- sigma by position in R_i;  train s;  R_i' = argsort(s);  R_i <- argsort(sum_j W_ij R_j')

    The mixing weights W count the votes. All nodes draw the same network from the seed. With `top` below 1 neighbours
    see the top of a ranking, the node itself the whole of its own.
    """

    source: ClassVar[str] = "ours; Mozaffari, Shejwalkar and Houmansadr 2023 (Every Vote Counts) at a server"
    world: ClassVar[Literal["server", "graph", "alone"]] = "graph"

    kind: Literal["frl_gossip"] = "frl_gossip"  # type: ignore[assignment]

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        state, own = super().init(context, row_D)
        # In float64, as the rankings of neighbours are once they have been received.
        return {FIELD: state[FIELD].double()}, own

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        return {FIELD: elected(inbox.fields[FIELD], view.layout).double()}
