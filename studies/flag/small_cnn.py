"""A small convolutional network without pooling."""

from __future__ import annotations

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Two strided convolutions and a linear layer, for images [channels, side, side]: 9,226 parameters on 28x28."""

    def __init__(self, channels: int = 1, side: int = 28) -> None:
        super().__init__()
        left = (side + 3) // 4
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * left * left, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
