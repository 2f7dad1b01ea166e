"""Vulnerable edges: those near the boundary of what a model keeps change sides with the fewest votes.

Shapes: H hostile rankings, G honest ones, D edges of all layers, P of one layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.attacks import Attack, Knowledge
from gossamer.attacks.rank_reversal import arranged, parts

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene

Sight = Literal["all", "own"]
"""Whose rankings tell the attacker how honest nodes vote."""


class VulnerableEdges(Attack):
    """The weakest edges that a model keeps are exchanged for the strongest that it does not.

    All hostile nodes send one ranking: j kept edges at the very bottom, the weakest of them the least deep, j others at
    the very top, the weakest the highest, and the rest in honest order between. If any common ranking gets j edges
    exchanged by a vote of mean positions, so does this one; and if it can for j it can for less, so bisection finds the
    most. (The paper bounds which edges can change sides and searches for their order by gradients through
    Gumbel-Sinkhorn. That a vote of means is met exactly needs neither.)
    """

    source: ClassVar[str] = "Gong, Zhang, Zhang, Zhang, Xiang and Pan 2025 (Not All Edges are Equally Robust), VEM"
    knows: ClassVar[Knowledge] = "honest"
    exchanges: ClassVar[bool] = True

    kind: Literal["vulnerable_edges"] = "vulnerable_edges"
    sees: Sight = Field(
        default="all",
        description="where honest votes are known from: all honest rankings of the round, or only those that the "
        "hostile nodes would send if they were honest",
    )
    swaps: Literal["most", "all"] = Field(
        default="most",
        description="most: as many exchanges as a vote of mean positions lets happen; all: every kept edge below every "
        "other, the nearer to the boundary the farther away from it",
    )
    reach: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="how far from the boundary edges are moved, as a share of the way to the bottom and to the top",
    )

    def forge(self, scene: Scene) -> Tensor:
        if len(scene.honest_GD) == 0:
            return scene.own_HD
        contests = contested(scene, self.sees, self.reach)
        if self.swaps == "all":
            return sent(scene, [contest.all_swapped() for contest in contests])
        return sent(scene, [contest.swapped(contest.most()) for contest in contests])


@dataclass(frozen=True)
class Contest:
    """The vote on one layer: what honest nodes give to each edge, and what hostile ones add to it by its place."""

    total_P: Tensor
    """Honest votes for each edge."""
    added_P: Tensor
    """What all hostile nodes together give to the edge at each place of their ranking, ascending."""
    count: int
    """Edges that are kept."""
    reach: float = 1.0

    @cached_property
    def ascending(self) -> Tensor:
        """The edges by honest votes, least first; of equal ones the earlier first."""
        return self.total_P.sort(stable=True).indices

    @cached_property
    def window(self) -> tuple[int, int, int]:
        """Places in that order: where hostile nodes begin to move edges, the first that is kept, where they end."""
        boundary = len(self.total_P) - self.count
        return boundary - round(self.reach * boundary), boundary, boundary + round(self.reach * self.count)

    @property
    def limit(self) -> int:
        """The most edges that there are to exchange."""
        low, boundary, high = self.window
        return min(boundary - low, high - boundary)

    def swapped(self, swaps: int) -> Tensor:
        """The hostile ranking for so many exchanges: edges [P], least first."""
        import torch

        low, boundary, high = self.window
        fall_J, rise_J = self._changing(swaps)
        rest_Q = torch.cat([self.ascending[: boundary - swaps], self.ascending[boundary + swaps :]])
        middle = high - 2 * swaps
        return torch.cat([rest_Q[:low], fall_J.flip(0), rest_Q[low:middle], rise_J.flip(0), rest_Q[middle:]])

    def all_swapped(self) -> Tensor:
        """The ranking with everything that is kept below everything that is not, each in honest order."""
        import torch

        low, boundary, high = self.window
        edges_P = self.ascending
        return torch.cat([edges_P[:low], edges_P[boundary:high], edges_P[low:boundary], edges_P[high:]])

    def most(self) -> int:
        """The most exchanges that a sum of votes grants."""
        granted, refused = 0, self.limit + 1
        while refused - granted > 1:
            swaps = (granted + refused) // 2
            granted, refused = (swaps, refused) if self._granted(swaps) else (granted, swaps)
        return granted

    def _changing(self, swaps: int) -> tuple[Tensor, Tensor]:
        """The edges [J] that are to leave, and those to come in, each by honest votes with the least first."""
        boundary = self.window[1]
        return self.ascending[boundary : boundary + swaps], self.ascending[boundary - swaps : boundary]

    def _granted(self, swaps: int) -> bool:
        """Whether all that shall rise get more than all that shall fall; of equal votes the later edge wins."""
        low, _, high = self.window
        fall_J, rise_J = (edges_J.flip(0) for edges_J in self._changing(swaps))
        fallen_J = self.total_P[fall_J] + self.added_P[low : low + swaps]
        risen_J = self.total_P[rise_J] + self.added_P[high - swaps : high]
        best, worst = fallen_J.max(), risen_J.min()
        if best != worst:
            return bool(worst > best)
        return bool(rise_J[risen_J == worst].min() > fall_J[fallen_J == best].max())


def contested(scene: Scene, sees: Sight = "all", reach: float = 1.0) -> list[Contest]:
    """The contest of each layer. Votes are weighted where messages are written for one neighbour."""
    honest_GD, own_HD = scene.honest_GD.double(), scene.own_HD.double()
    weights_G, weights_H = honest_GD.new_ones(len(honest_GD)), own_HD.new_ones(len(own_HD))
    total_D = weights_G @ honest_GD
    if scene.weights_G is not None and scene.weights_H is not None:
        weights_G, weights_H = scene.weights_G, scene.weights_H
        total_D = weights_G @ honest_GD
        if scene.receiver_D is not None:
            # What the others leave is the receiver's weight for itself.
            left = (1.0 - weights_G.sum() - weights_H.sum()).clamp(min=0.0)
            total_D = total_D + left * scene.receiver_D
    if sees == "own":
        total_D = weights_G.sum() * own_HD.mean(0)
    return [
        Contest(total_D[start:stop], weights_H @ own_HD[:, start:stop].sort(1).values, count, reach)
        for start, stop, count in parts(scene)
    ]


def sent(scene: Scene, orders: list[Tensor]) -> Tensor:
    """[H, D]: every hostile node's own numbers in the given order of each layer's edges, least first."""
    forged_HD = scene.own_HD.clone()
    for (start, stop, _), order_P in zip(parts(scene), orders, strict=True):
        forged_HD[:, start:stop] = arranged(scene.own_HD[:, start:stop], order_P)
    return forged_HD
