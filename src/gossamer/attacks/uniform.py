"""Uniform noise instead of an update."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.attacks import Attack

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class Uniform(Attack):
    """Every number of the change that is sent is drawn from [0, scale), by each hostile node for itself.

    With scale = 1 it is the 'random' attack of the Flag Aggregator's experiments. Not noise but a coalition: two such
    vectors have a cosine of 3/4.
    """

    source: ClassVar[str] = "Guerraoui et al. 2021 (Garfield); Almasi, Mishra, Vamanan and Ravi 2024 ('random')"

    kind: Literal["uniform"] = "uniform"
    scale: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="end of the range, in units of the message"
    )

    def forge(self, scene: Scene) -> Tensor:
        import torch

        size = scene.own_HD.shape[1]
        drawn_HD = np.stack([scene.dice(int(node)).random(size) for node in scene.hostile_H])
        return scene.own_base_HD + torch.from_numpy(self.scale * drawn_HD).to(scene.own_HD)
