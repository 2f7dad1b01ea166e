"""Optimal form of 'a little is enough'."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.attacks import Attack, Knowledge
from gossamer.damage import damage
from gossamer.disguise import deviation
from gossamer.linesearch import maximiser

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class OptALIE(Attack):
    """'A little is enough' with the z that does the receivers' rule most damage: mean - z * std.

    The damage is the distance of the rule's result from the honest mean. Values of z from 0.01 to `most` are tried on
    a geometric grid, then by golden section around the best of them.
    """

    source: ClassVar[str] = "Baruch, Baruch and Goldberg 2019; Allouah et al. 2023 (line search)"
    knows: ClassVar[Knowledge] = "defence"

    kind: Literal["opt_alie"] = "opt_alie"
    most: float = Field(default=100.0, gt=0.01, allow_inf_nan=False, description="largest z, in standard deviations")
    evaluations: int = Field(default=40, ge=8, description="how often the rule is tried in a round")

    def forge(self, scene: Scene) -> Tensor:
        if len(scene.honest_GD) == 0 or not scene.mean.isfinite().all():
            return scene.own_HD
        std_D = deviation(scene.honest_GD)
        harm = damage(
            scene.defence,
            scene.honest_GD,
            scene.mean - std_D,
            len(scene.own_HD),
            scene.receiver_D,
            scene.weights_G,
            scene.weights_H,
        )
        grid = np.geomspace(0.01, self.most, self.evaluations * 3 // 5).tolist()
        z = maximiser(harm, grid, self.evaluations - len(grid))
        return (scene.mean - z * std_D).expand_as(scene.own_HD)
