"""One number everywhere: NaN, infinity, huge."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from gossamer.attacks import Attack

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class Constant(Attack):
    """Every hostile node sends a message whose every number is the same: NaN, infinity, a huge one, any."""

    kind: Literal["constant"] = "constant"
    value: Annotated[float, Field(allow_inf_nan=False)] | Literal["nan", "inf", "-inf"] = Field(
        default="nan", description="the number; 'nan', 'inf' and '-inf' as words"
    )

    @field_validator("value", mode="before")
    @classmethod
    def _in_words(cls, value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    def forge(self, scene: Scene) -> Tensor:
        import torch

        # Through float64, so that what float32 cannot hold becomes infinity and not an error.
        number = torch.tensor(float(self.value), dtype=torch.float64)
        return number.to(scene.own_HD).expand_as(scene.own_HD)
