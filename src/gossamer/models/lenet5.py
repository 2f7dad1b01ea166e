"""LeNet-5."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.errors import ExperimentError
from gossamer.models import Model

if TYPE_CHECKING:
    from torch import nn


class LeNet5(Model):
    """LeNet-5 with ReLU and max pooling, for images of 28x28 (padded to 32x32) or 32x32: 61,706 parameters on MNIST."""

    source: ClassVar[str] = "LeCun et al. 1998, Figure 2; ReLU, max pooling and a linear output as is usual now"

    kind: Literal["lenet5"] = "lenet5"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        if len(shape) != 3 or shape[1:] not in ((28, 28), (32, 32)):
            raise ExperimentError(
                f"model.kind = 'lenet5' takes images (channels, 28, 28) or (channels, 32, 32), found shape {shape}; "
                "choose 'resnet8' or 'fedavg_cnn' for other images, 'mlp' or 'softmax_regression' for other inputs"
            )
        return nn.Sequential(
            nn.Conv2d(shape[0], 6, 5, padding=2 if shape[1] == 28 else 0),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )
