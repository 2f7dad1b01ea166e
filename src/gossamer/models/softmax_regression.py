"""Softmax regression."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from gossamer.errors import ExperimentError
from gossamer.models import Model

if TYPE_CHECKING:
    from torch import nn


class SoftmaxRegression(Model):
    """One linear layer on the flattened input: multinomial logistic regression, convex in its parameters."""

    kind: Literal["softmax_regression"] = "softmax_regression"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        if not shape or math.prod(shape) == 0:
            raise ExperimentError(
                f"model.kind = 'softmax_regression' needs at least one number an item, found shape {shape}; "
                "give the inputs a feature dimension, or choose a model of your own with model.file"
            )
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
