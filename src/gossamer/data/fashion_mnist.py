"""Fashion-MNIST: photographs of clothes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from gossamer.data import Data, Dataset, Split
from gossamer.data.formats import Origin, idx_images

ORIGIN = Origin(
    "fashion_mnist",
    "github.com/zalandoresearch/fashion-mnist (data/fashion)",
    {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class FashionMNIST(Data):
    """Articles of clothing, 28x28 grey, 10 balanced classes, 60,000 + 10,000 items."""

    source: ClassVar[str] = "Xiao, Rasul and Vollgraf 2017"

    kind: Literal["fashion_mnist"] = "fashion_mnist"
    verify: bool = Field(default=True, description="check the SHA-256 of what the files hold")

    def load(self, folder: Path | None) -> Dataset:
        return Dataset(
            name="fashion_mnist",
            train=Split(*idx_images(ORIGIN, folder, "train", self.verify)),
            test=Split(*idx_images(ORIGIN, folder, "t10k", self.verify)),
            classes=CLASSES,
            mean=(0.2860,),
            std=(0.3530,),
            licence="MIT (Zalando SE)",
        )
