"""Eight convolutions and three linear layers without biases."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.models import Model

if TYPE_CHECKING:
    from torch import nn


class Conv8(Model):
    """Conv8: four pairs of 3x3 convolutions with pooling, then three linear layers: 5,275,840 weights on CIFAR-10.

    Channels are 64, 128, 256 and 512, then 256 and 256 hidden units, all times `width`. ReLU, no biases, no
    normalisation.
    """

    source: ClassVar[str] = "Ramanujan et al. 2020; Frankle and Carbin 2019 for the smaller ones of its kind"

    kind: Literal["conv8"] = "conv8"
    width: float = Field(default=1.0, gt=0, description="factor of all widths, which stay at least 4")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        if len(shape) != 3 or min(shape[1:]) < 16:
            raise ExperimentError(
                f"model.kind = 'conv8' takes images (channels, height, width) from 16x16, found shape {shape}; "
                "choose 'mlp' or 'softmax_regression'"
            )
        layers: list[nn.Module] = []
        channels = [shape[0], *(self._scaled(width) for width in (64, 128, 256, 512))]
        for before, after in itertools.pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2)]
        widths = [channels[-1] * (shape[1] // 16) * (shape[2] // 16), self._scaled(256), self._scaled(256)]
        layers.append(nn.Flatten())
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], classes, bias=False))

    def _scaled(self, width: int) -> int:
        return max(4, round(self.width * width))
