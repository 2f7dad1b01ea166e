"""A multi-layer perceptron."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gossamer.models import Model

if TYPE_CHECKING:
    from torch import nn


class MLP(Model):
    """Fully connected layers with ReLU between them; inputs are flattened."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = Field(default=(64,), description="width of each hidden layer")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        widths = [math.prod(shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
