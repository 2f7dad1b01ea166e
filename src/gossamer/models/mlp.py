"""A multi-layer perceptron."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.models import Model

if TYPE_CHECKING:
    from torch import nn


class MLP(Model):
    """Fully connected layers with ReLU between them; inputs are flattened.

    With `pool` images are first averaged over squares of so many pixels, for models of a few thousand parameters: of
    28x28 images, pool = 2 and 24 hidden ones make 4,978.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = Field(default=(64,), description="width of each hidden layer")

    pool: int = Field(default=1, ge=1, description="side of the squares that images are averaged over; 1: none")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        layers: list[nn.Module] = [nn.Flatten()]
        if self.pool > 1:
            if len(shape) != 3 or min(shape[1:]) < self.pool:
                raise ExperimentError(
                    f"model.pool = {self.pool}: inputs of shape {shape} have no squares of that side; use pool = 1"
                )
            shape = (shape[0], *(side // self.pool for side in shape[1:]))
            layers = [nn.AvgPool2d(self.pool), nn.Flatten()]
        widths = [math.prod(shape), *self.hidden]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
