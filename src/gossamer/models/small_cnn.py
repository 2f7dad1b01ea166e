"""A convolutional network of a few thousand parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.models import Model

if TYPE_CHECKING:
    from torch import nn


class SmallCNN(Model):
    """Two convolutions (5x5, stride 2) and one dense layer; 5,994 parameters for images of 28x28 and ten classes.

    Small, and with bounded activations, because the noise of privacy grows with the number of parameters.
    """

    source: ClassVar[str] = "Papernot et al. 2021 (bounded activations under differential privacy)"

    kind: Literal["small_cnn"] = "small_cnn"
    channels: int = Field(default=8, ge=1, description="of the first convolution; the second has twice as many")
    activation: Literal["tanh", "relu"] = Field(default="tanh", description="after each convolution")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        if len(shape) != 3 or min(shape[1:]) < 9:
            raise ExperimentError(
                f"model.kind = 'small_cnn' takes images of 9x9 or more, found shape {shape}; choose 'mlp' or "
                "'softmax_regression' for other inputs"
            )
        act = nn.Tanh if self.activation == "tanh" else nn.ReLU
        sides = [(((side - 1) // 2 + 1) - 5) // 2 + 1 for side in shape[1:]]
        return nn.Sequential(
            nn.Conv2d(shape[0], self.channels, 5, stride=2, padding=2),
            act(),
            nn.Conv2d(self.channels, 2 * self.channels, 5, stride=2),
            act(),
            nn.Flatten(),
            nn.Linear(2 * self.channels * sides[0] * sides[1], classes),
        )
