"""A random part of the coordinates travels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.transforms import numbers
from gossamer.transforms.top_k import Sparse

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout
    from gossamer.passages import Passage
    from gossamer.wire import Message


class RandomK(Sparse):
    """Send k random coordinates of each field, other ones each time; the receiver draws the same and takes 0 elsewhere.

    Only values travel. Times n/k they are right on average, E decoded(x) = x, with E ||x - decoded(x)||^2 =
    (n/k - 1) ||x||^2; as they are (`rescale = false`) the error is (1 - k/n) ||x||^2, as 'error_feedback' and 'choco'
    need it.
    """

    source: ClassVar[str] = "Konecny et al. 2016 (random mask); Stich et al. 2018, Definition 2.1; Wangni et al. 2018"

    kind: Literal["random_k"] = "random_k"
    rescale: bool = Field(default=True, description="multiply by n/k, which makes it right on average")
    common: bool = Field(default=False, description="all nodes send the same coordinates in a round, so they add up")

    @property
    def unbiased(self) -> bool:
        return self.rescale

    @property
    def linear(self) -> bool:
        return True

    @property
    def masks(self) -> bool:
        return self.common

    @property
    def alike(self) -> bool:
        return self.common

    @property
    def expands(self) -> bool:
        return self.rescale

    def outline(self, like: Message, layout: Layout) -> Message:
        import torch

        drawn = {
            f"{name}.values": torch.empty(self.kept(value.numel()), dtype=value.dtype, device="meta")
            for name, value in like.items()
            if numbers(value)
        }
        return drawn | _others(like, like)

    def forward(self, message: Message, passage: Passage) -> Message:
        drawn = self._draw(message, passage)
        values = {f"{name}.values": message[name].reshape(-1)[indices_K] for name, indices_K in drawn.items()}
        return values | _others(message, message)

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        out = _others(message, like)
        for name, indices_K in self._draw(like, passage).items():
            n, values_K = like[name].numel(), message[f"{name}.values"]
            if self.rescale:
                values_K = values_K * (n / len(values_K))
            out[name] = values_K.new_zeros(n).index_copy_(0, indices_K, values_K).view(like[name].shape)
        return out

    def _draw(self, like: Message, passage: Passage) -> dict[str, Tensor]:
        """[k] for each field: different coordinates, in no particular order."""
        import torch

        rng = passage.dice()
        drawn = {}
        # By name, as the order of its fields is not part of a message.
        for name in sorted(name for name, value in like.items() if numbers(value)):
            n = like[name].numel()
            drawn[name] = torch.from_numpy(rng.choice(n, self.kept(n), replace=False, shuffle=False))
        return drawn


def _others(message: Message, like: Message) -> Message:
    """What goes as it is."""
    return {name: message[name] for name, value in like.items() if not numbers(value)}
