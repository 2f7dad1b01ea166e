"""Stochastic gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from gossamer.learners import Learner

if TYPE_CHECKING:
    from torch import Tensor


class SGD(Learner):
    """SGD with optional momentum, Nesterov look-ahead and L2 weight decay: torch's own update rule."""

    source: ClassVar[str] = "Robbins and Monro 1951; Sutskever et al. 2013 for the momentum form"
    slots: ClassVar[tuple[str, ...]] = ("momentum",)

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.0, ge=0, lt=1, description="share of the last step's velocity that is kept")
    nesterov: bool = Field(default=False, description="look ahead by the momentum")

    @model_validator(mode="after")
    def _nesterov(self) -> SGD:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true needs momentum > 0")
        return self

    @property
    def slot_names(self) -> tuple[str, ...]:
        return self.slots if self.momentum else ()

    def update(self, row: Tensor, grad: Tensor, slots: dict[str, Tensor], lr: float) -> None:
        if self.weight_decay:
            grad = grad.add(row, alpha=self.weight_decay)
        if self.momentum:
            velocity = slots["momentum"].mul_(self.momentum).add_(grad)
            grad = grad.add(velocity, alpha=self.momentum) if self.nesterov else velocity
        row.sub_(grad, alpha=lr)
