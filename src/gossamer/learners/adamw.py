"""AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.learners.adam import Adam

if TYPE_CHECKING:
    from torch import Tensor


class AdamW(Adam):
    """Adam with decoupled weight decay: the row shrinks by lr * weight_decay before the step."""

    source: ClassVar[str] = "Loshchilov and Hutter 2019, Algorithm 2"

    kind: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: float = Field(default=0.01, ge=0, description="share of lr by which the row shrinks each step")

    def _decayed(self, row: Tensor, grad: Tensor, lr: float) -> Tensor:
        row.mul_(1 - lr * self.weight_decay)
        return grad
