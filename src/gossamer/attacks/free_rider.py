"""Free-riding."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.attacks import Attack

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class FreeRider(Attack):
    """A hostile node does no work: it sends what it began from, perhaps with noise that looks like work."""

    source: ClassVar[str] = "Fraboni, Vidal and Lorenzi 2021 (plain; disguised by noise)"

    kind: Literal["free_rider"] = "free_rider"
    sigma: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="standard deviation of the noise, in units of the message"
    )

    def forge(self, scene: Scene) -> Tensor:
        if self.sigma == 0:
            return scene.own_base_HD
        import torch

        size = scene.own_HD.shape[1]
        drawn_HD = np.stack([scene.dice(int(node)).standard_normal(size) for node in scene.hostile_H])
        return scene.own_base_HD + torch.from_numpy(self.sigma * drawn_HD).to(scene.own_HD)
