"""Model replacement."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.attacks import Attack, Knowledge

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class ModelReplacement(Attack):
    """Every hostile node sends its own change enlarged: base + boost * (own - base), so that the mean becomes its own.

    With boost = n / f for f hostile of n messages (the default; all that is used of the honest ones is how many there
    are), the plain mean is moved by the mean change of the hostile nodes, where honest changes cancel.
    """

    source: ClassVar[str] = "Bagdasaryan, Veit, Hua, Estrin and Shmatikov 2020, Equation 3"
    knows: ClassVar[Knowledge] = "honest"

    kind: Literal["model_replacement"] = "model_replacement"
    boost: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="factor of the change; default: n / f"
    )

    def forge(self, scene: Scene) -> Tensor:
        hostile = len(scene.own_HD)
        boost = (len(scene.honest_GD) + hostile) / hostile if self.boost is None else self.boost
        return scene.own_base_HD + boost * (scene.own_HD - scene.own_base_HD)
