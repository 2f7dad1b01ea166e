"""Min-max."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.attacks import Attack, Knowledge
from gossamer.disguise import Direction, direction, within_largest_distance

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class MinMax(Attack):
    """As far from the honest mean as one gets without being further from any honest message than two of them are.

    No bisection: the limit is the root of a quadratic. Depends only on which way the direction points.
    """

    source: ClassVar[str] = "Shejwalkar and Houmansadr 2021 (Manipulating the Byzantine), Min-Max"
    knows: ClassVar[Knowledge] = "honest"

    kind: Literal["min_max"] = "min_max"
    direction: Direction = Field(
        default="std",
        description="away from the honest mean: std (down by each coordinate's standard deviation), unit (against the "
        "mean change), sign (against the sign of each coordinate of it)",
    )

    def forge(self, scene: Scene) -> Tensor:
        if len(scene.honest_GD) == 0:
            return scene.own_HD
        direction_D = direction(self.direction, scene.honest_GD, scene.base_D)
        return self.limit(scene.honest_GD, direction_D).expand_as(scene.own_HD)

    def limit(self, honest_GD: Tensor, direction_D: Tensor) -> Tensor:
        """The message [D], as far along the direction as is allowed."""
        return within_largest_distance(honest_GD, direction_D)
