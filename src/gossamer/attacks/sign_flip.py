"""Sign flipping."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.attacks import Attack

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class SignFlip(Attack):
    """Every hostile node sends its own honest change turned round: base - scale * (own - base).

    With scale = 10 it is the 'reverse' attack of Damaskinos et al. 2019 and of the Flag Aggregator's experiments.
    """

    source: ClassVar[str] = "Li, Xu, Chen, Giannakis and Ling 2019 (RSA); Damaskinos et al. 2019 (reverse)"

    kind: Literal["sign_flip"] = "sign_flip"
    scale: float = Field(default=1.0, gt=0, description="length of what is sent, in honest changes of its own")

    def forge(self, scene: Scene) -> Tensor:
        return scene.own_base_HD - self.scale * (scene.own_HD - scene.own_base_HD)
