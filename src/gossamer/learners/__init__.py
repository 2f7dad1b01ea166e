"""Learners: the local work of a node.

A learner plug is one file that says how a row changes given a gradient. Rows, gradients and slots (optimiser state)
are flat tensors [..., T]; all operations are elementwise over the last dimension, so the same line serves one node [T]
and a batch of nodes [n, T].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from gossamer.plugs import Plug

if TYPE_CHECKING:
    from torch import Tensor


class Learner(Plug):
    """Base of the learners: batch size, amount of local work, learning rate over rounds, clipping."""

    lr: float = Field(default=0.1, gt=0, description="learning rate of round 0")
    batch_size: int = Field(default=32, ge=1, description="items of a local step")
    epochs: int | None = Field(default=None, ge=0, description="local epochs a round (or give steps)")
    steps: int | None = Field(default=None, ge=0, description="local steps a round (or give epochs)")
    lr_schedule: Literal["constant", "cosine", "linear", "exponential"] = Field(
        default="constant", description="learning rate over the rounds of the run"
    )
    lr_final: float = Field(default=0.0, ge=0, description="learning rate after the last round, as a fraction of lr")
    warmup_rounds: int = Field(default=0, ge=0, description="rounds of linear warm-up from lr / warmup_rounds")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread over all classes")
    clip_norm: float | None = Field(default=None, gt=0, description="largest Euclidean norm of a batch gradient")
    clip_value: float | None = Field(default=None, gt=0, description="largest magnitude of a gradient coordinate")
    weight_decay: float = Field(default=0.0, ge=0, description="factor of the squared norm in the loss (L2)")

    slots: ClassVar[tuple[str, ...]] = ()
    """Names of the optimiser's state vectors; each starts as zeros [T]. 'count' is a vector of one number."""

    @model_validator(mode="after")
    def _work(self) -> Learner:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give either epochs or steps, not both")
        if self.lr_schedule == "exponential" and self.lr_final <= 0:
            raise ValueError("lr_schedule = 'exponential' needs lr_final > 0 (a fraction of lr)")
        return self

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The slots this learner really needs with its settings."""
        return self.slots

    def fresh(self, row_T: Tensor) -> dict[str, Tensor]:
        """Optimiser state before the first step, for rows shaped like `row_T` [..., T]: zeros."""
        return {
            name: row_T.new_zeros((*row_T.shape[:-1], 1)) if name == "count" else row_T.new_zeros(row_T.shape)
            for name in self.slot_names
        }

    def rate(self, round: int, rounds: int) -> float:
        """The learning rate of a round: warm-up, then the schedule from lr towards lr * lr_final.

        The last value would be that of the round after the last one, so no round is played at a rate of zero.
        """
        if round < self.warmup_rounds:
            return self.lr * (round + 1) / self.warmup_rounds
        span = max(1, rounds - self.warmup_rounds)
        u = min(1.0, (round - self.warmup_rounds) / span)
        if self.lr_schedule == "cosine":
            return self.lr * (self.lr_final + (1 - self.lr_final) * (1 + math.cos(math.pi * u)) / 2)
        if self.lr_schedule == "linear":
            return self.lr * (1 - (1 - self.lr_final) * u)
        if self.lr_schedule == "exponential":
            return float(self.lr * self.lr_final**u)
        return self.lr

    def steps_for(self, items: int) -> int:
        """Local steps of one round at a node with this many items (one epoch if neither steps nor epochs is given)."""
        if self.steps is not None:
            return self.steps
        epochs = 1 if self.epochs is None else self.epochs
        return epochs * math.ceil(items / self.batch_size)

    def update(self, row: Tensor, grad: Tensor, slots: dict[str, Tensor], lr: float) -> None:
        """Change `row` [..., t] in place by one step along `grad` [..., t], which is only read.

        `slots` are changed in place too, but for 'count', the number of steps, which already counts this one.
        """
        raise NotImplementedError
