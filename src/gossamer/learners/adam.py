"""Adam."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.learners import Learner

if TYPE_CHECKING:
    from torch import Tensor


class Adam(Learner):
    """Adam with bias correction; weight decay, if any, is added to the gradient (L2)."""

    source: ClassVar[str] = "Kingma and Ba 2015, Algorithm 1"
    slots: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment", "count")

    kind: Literal["adam"] = "adam"
    lr: float = Field(default=0.001, gt=0, description="learning rate of round 0")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="memory of the first moment")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="memory of the second moment")
    eps: float = Field(default=1e-8, gt=0, description="added to the root of the second moment")

    def update(self, row: Tensor, grad: Tensor, slots: dict[str, Tensor], lr: float) -> None:
        grad = self._decayed(row, grad, lr)
        slots["first_moment"].lerp_(grad, 1 - self.beta1)
        slots["second_moment"].mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        # In float64: 1 - beta**count cancels in float32.
        count = slots["count"].double()
        correction1 = (1 - self.beta1**count).to(row.dtype)
        correction2 = (1 - self.beta2**count).to(row.dtype)
        step = slots["first_moment"] / correction1
        row.sub_(lr * step / ((slots["second_moment"] / correction2).sqrt() + self.eps))

    def _decayed(self, row: Tensor, grad: Tensor, lr: float) -> Tensor:
        """The gradient with weight decay in it."""
        return grad.add(row, alpha=self.weight_decay) if self.weight_decay else grad
