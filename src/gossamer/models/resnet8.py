"""A small residual network with group normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.models import Model

if TYPE_CHECKING:
    from torch import Tensor, nn


class ResNet8(Model):
    """ResNet-8 for 32x32 images: three residual blocks of width 16, 32 and 64, with GroupNorm instead of BatchNorm.

    GroupNorm keeps no statistics of the batch, which labels that differ from node to node would spoil. Shortcuts
    between widths are 1x1 convolutions (option B of the paper).
    """

    source: ClassVar[str] = "He et al. 2016, Section 4.2 with n = 1; Wu and He 2018 and Hsieh et al. 2020 for GroupNorm"

    kind: Literal["resnet8"] = "resnet8"
    width: int = Field(default=16, ge=1, description="channels of the first block; the next have 2x and 4x")
    groups: int = Field(default=8, ge=1, description="groups of each GroupNorm; must divide width")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        if len(shape) != 3 or min(shape[1:]) < 8:
            raise ExperimentError(
                f"model.kind = 'resnet8' takes images (channels, height, width) from 8x8, found shape {shape}; "
                "choose 'mlp' or 'softmax_regression'"
            )
        if self.width % self.groups:
            raise ExperimentError(
                f"model.groups = {self.groups} does not divide model.width = {self.width}; "
                f"use groups = {max(g for g in range(1, self.groups) if self.width % g == 0)}"
            )
        widths = [self.width, 2 * self.width, 4 * self.width]
        return nn.Sequential(
            nn.Conv2d(shape[0], widths[0], 3, padding=1, bias=False),
            nn.GroupNorm(self.groups, widths[0]),
            nn.ReLU(),
            residual_block(widths[0], widths[0], self.groups),
            residual_block(widths[0], widths[1], self.groups),
            residual_block(widths[1], widths[2], self.groups),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[2], classes),
        )


def residual_block(before: int, after: int, groups: int) -> nn.Module:
    """ReLU(body(x) + shortcut(x)); where the width grows, the first convolution and a 1x1 shortcut have stride 2."""
    from torch import nn

    class ResidualBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stride = 1 if before == after else 2
            self.body = nn.Sequential(
                nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                nn.GroupNorm(groups, after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1, bias=False),
                nn.GroupNorm(groups, after),
            )
            self.shortcut = (
                nn.Identity()
                if before == after
                else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.GroupNorm(groups, after))
            )

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return nn.functional.relu(self.body(images_BCHW) + self.shortcut(images_BCHW))

    return ResidualBlock()
