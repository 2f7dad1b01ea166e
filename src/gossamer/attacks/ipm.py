"""Inner product manipulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.attacks import Attack, Knowledge

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class IPM(Attack):
    """Every hostile node sends the honest mean turned round: base - scale * (mean - base).

    Small scales stay among the honest updates and only turn the mean's direction; large ones shout.
    """

    source: ClassVar[str] = "Xie, Koyejo and Gupta 2020, Section 4 ('empires')"
    knows: ClassVar[Knowledge] = "honest"

    kind: Literal["ipm"] = "ipm"
    scale: float = Field(default=0.1, gt=0, description="length of what is sent, in honest means")

    def forge(self, scene: Scene) -> Tensor:
        if len(scene.honest_GD) == 0:
            return scene.own_HD
        return (scene.base_D - self.scale * scene.change).expand_as(scene.own_HD)
