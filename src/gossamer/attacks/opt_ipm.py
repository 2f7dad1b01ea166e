"""Optimal inner product manipulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.attacks import Attack, Knowledge
from gossamer.damage import damage
from gossamer.linesearch import maximiser

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class OptIPM(Attack):
    """Inner product manipulation with the scale that does the receivers' rule most damage.

    Sent is base - scale * (mean - base), the honest mean turned round. The damage is the distance of the rule's result
    from the honest mean. Scales from 0.01 to `most` are tried on a geometric grid, then by golden section around the
    best of them.
    """

    source: ClassVar[str] = "Xie, Koyejo and Gupta 2020, Section 4; Allouah et al. 2023 (line search)"
    knows: ClassVar[Knowledge] = "defence"

    kind: Literal["opt_ipm"] = "opt_ipm"
    most: float = Field(default=100.0, gt=0.01, allow_inf_nan=False, description="largest scale, in honest means")
    evaluations: int = Field(default=40, ge=8, description="how often the rule is tried in a round")

    def forge(self, scene: Scene) -> Tensor:
        if len(scene.honest_GD) == 0 or not scene.mean.isfinite().all():
            return scene.own_HD
        # base - scale * (mean - base) = mean + (1 + scale) * (base - mean)
        harm = damage(
            scene.defence,
            scene.honest_GD,
            scene.base_D,
            len(scene.own_HD),
            scene.receiver_D,
            scene.weights_G,
            scene.weights_H,
        )
        grid = np.geomspace(0.01, self.most, self.evaluations * 3 // 5).tolist()
        scale = maximiser(lambda scale: harm(1 + scale), grid, self.evaluations - len(grid))
        return (scene.base_D - scale * scene.change).expand_as(scene.own_HD)
