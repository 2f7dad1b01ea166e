"""Numbers lost on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.attacks import Attack

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class Zeros(Attack):
    """A hostile node sends its own honest message with a share of the numbers, drawn anew each round, set to zero.

    The 'drop' attack of the Flag Aggregator's experiments, as it was meant: their code discards its result.
    """

    source: ClassVar[str] = "Guerraoui et al. 2021 (Garfield); Almasi, Mishra, Vamanan and Ravi 2024 ('drop')"

    kind: Literal["zeros"] = "zeros"
    share: float = Field(default=0.1, gt=0, le=1, description="probability with which a number is lost")

    def forge(self, scene: Scene) -> Tensor:
        import torch

        size = scene.own_HD.shape[1]
        lost_HD = np.stack([scene.dice(int(node)).random(size) < self.share for node in scene.hostile_H])
        return scene.own_HD.masked_fill(torch.from_numpy(lost_HD).to(scene.own_HD.device), 0.0)
