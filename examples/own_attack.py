# own_attack.py
from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.attacks import Attack, Knowledge

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class Stall(Attack):
    """Hostile nodes send what cancels a share of the honest changes in their mean: base - s G/H (mean - base)."""

    knows: ClassVar[Knowledge] = "honest"  # what it may look at: every honest message of the round
    forges: ClassVar[bool] = True  # it changes what hostile nodes send

    kind: Literal["stall"] = "stall"
    share: float = Field(default=1.0, gt=0, description="of the honest changes; 1: the mean stays where it is")

    def forge(self, scene: Scene) -> Tensor:
        if len(scene.honest_GD) == 0:
            return scene.own_HD
        scale = self.share * len(scene.honest_GD) / len(scene.own_HD)
        return (scene.base_D - scale * scene.change).expand_as(scene.own_HD)
