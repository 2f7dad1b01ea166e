"""Gaussian noise instead of an update."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.attacks import Attack

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class Gaussian(Attack):
    """Every number of the change that is sent is drawn from a normal distribution, by each hostile node for itself."""

    source: ClassVar[str] = "Blanchard, El Mhamdi, Guerraoui and Stainer 2017, experiments (mean 0, sigma 200)"

    kind: Literal["gaussian"] = "gaussian"
    mean: float = Field(default=0.0, allow_inf_nan=False, description="mean of each number, in units of the message")
    sigma: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="its standard deviation")

    def forge(self, scene: Scene) -> Tensor:
        import torch

        size = scene.own_HD.shape[1]
        drawn_HD = np.stack([scene.dice(int(node)).standard_normal(size) for node in scene.hostile_H])
        return scene.own_base_HD + torch.from_numpy(self.mean + self.sigma * drawn_HD).to(scene.own_HD)
