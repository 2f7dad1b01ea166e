"""Rank reversal: the opposite of what the hostile nodes would elect."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.attacks import Attack

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class RankReversal(Attack):
    """The hostile nodes vote among themselves and all send the outcome in reverse.

    The vote is the mean of the rankings that they would send if they were honest. Each sends its own numbers in the new
    order, layer by layer: of a ranking the position n - 1 - p in place of p, of other messages their own values, so
    that no number is larger than an honest one. Against honest nodes that agree it turns the order over exactly where
    hostile ones are more than half.
    """

    source: ClassVar[str] = "Mozaffari, Shejwalkar and Houmansadr 2023 (Every Vote Counts), reversed rankings"

    kind: Literal["rank_reversal"] = "rank_reversal"

    def forge(self, scene: Scene) -> Tensor:
        forged_HD = scene.own_HD.clone()
        for start, stop, _ in parts(scene):
            own_HP = scene.own_HD[:, start:stop]
            order_P = own_HP.double().mean(0).sort(stable=True).indices
            forged_HD[:, start:stop] = arranged(own_HP, order_P.flip(0))
        return forged_HD


def parts(scene: Scene) -> tuple[tuple[int, int, int], ...]:
    """(start, stop, count) of each layer; where the scene knows of none the row is one, of which the larger half is
    kept."""
    size = scene.own_HD.shape[1]
    return scene.kept or ((0, size, size - size // 2),)


def arranged(own_HP: Tensor, order_P: Tensor) -> Tensor:
    """The numbers of each row in another order [H, P]: the smallest for the first edge of `order_P`."""
    import torch

    arranged_HP = torch.empty_like(own_HP)
    arranged_HP[:, order_P] = own_HP.sort(1).values
    return arranged_HP
