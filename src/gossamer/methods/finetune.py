"""Federated averaging, then every node fine-tunes the global model on its own data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from gossamer.errors import ExperimentError
from gossamer.methods import Task, View
from gossamer.methods.fedavg import FedAvg

if TYPE_CHECKING:
    from gossamer.methods import State


class FineTune(FedAvg):
    """Training is FedAvg; a node's own model is the server's row after some local steps, taken when it is evaluated.

    The fine-tuned models are never sent and do not change the run. An epoch is ceil(items / batch size) steps, and one
    is taken if neither steps nor epochs is given; the learning rate is that of the round.
    """

    source: ClassVar[str] = "Yu et al. 2020 (fine-tuning); McMahan et al. 2017, Algorithm 1 for the global model"
    personal: ClassVar[bool] = True

    kind: Literal["finetune"] = "finetune"  # type: ignore[assignment]
    steps: int | None = Field(default=None, ge=0, description="local steps of fine-tuning (or give epochs)")
    epochs: int | None = Field(default=None, ge=0, description="local epochs of fine-tuning (or give steps)")

    @model_validator(mode="after")
    def _work(self) -> FineTune:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give either epochs or steps, not both")
        return self

    def check(self, settings: Any) -> None:
        if settings.learner.rate(settings.rounds, settings.rounds) == 0:
            raise ExperimentError(
                "learner.lr_final = 0: method.kind = 'finetune' fine-tunes with the learning rate of the round, which "
                "is 0 after the last; give learner.lr_final > 0"
            )

    def model(self, own: State, down: State, view: View) -> Task:
        epochs = 1 if self.epochs is None else self.epochs
        steps = epochs * math.ceil(view.samples / view.learner.batch_size) if self.steps is None else self.steps
        return Task(down["row"], steps=steps)
