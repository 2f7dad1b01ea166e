"""The convolutional network of the FedAvg paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.errors import ExperimentError
from gossamer.models import Model

if TYPE_CHECKING:
    from torch import nn


class FedAvgCNN(Model):
    """Two 5x5 convolutions with pooling and 512 hidden units, as in the FedAvg paper: 1,663,370 parameters on MNIST."""

    source: ClassVar[str] = "McMahan et al. 2017, Section 3, the MNIST CNN"

    kind: Literal["fedavg_cnn"] = "fedavg_cnn"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        if len(shape) != 3 or min(shape[1:]) < 4:
            raise ExperimentError(
                f"model.kind = 'fedavg_cnn' takes images (channels, height, width) from 4x4, found shape {shape}; "
                "choose 'mlp' or 'softmax_regression'"
            )
        channels, height, width = shape
        return nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 512),
            nn.ReLU(),
            nn.Linear(512, classes),
        )
