"""Only the largest coordinates travel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from gossamer.bits import pack, packed_bytes, unpack
from gossamer.errors import ExperimentError, WireError
from gossamer.transforms import Transform, numbers

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout
    from gossamer.passages import Form, Passage
    from gossamer.wire import Message

SAMPLE = 65_536
"""How many magnitudes are looked at to guess the smallest that is sent."""


class Sparse(Transform):
    """Base of the transforms that send k of the n coordinates of each field."""

    needs: ClassVar[Form] = "whole"
    for_changes: ClassVar[bool] = True
    leaves: ClassVar[Form] = "numbers"

    share: float | None = Field(
        default=None, gt=0, le=1, description="part of each field's coordinates that travels, rounded up; default 0.01"
    )
    count: int | None = Field(default=None, ge=1, description="or: how many coordinates of each field")

    @model_validator(mode="after")
    def _not_both(self) -> Sparse:
        if self.share is not None and self.count is not None:
            raise ExperimentError(
                f"{self.kind}: share = {self.share:g} and count = {self.count} say the same thing; give one"
            )
        return self

    def kept(self, n: int) -> int:
        """k: ceil(share * n), or `count` where there are so many."""
        if self.count is not None:
            return min(self.count, n)
        share = 0.01 if self.share is None else self.share
        # 0.07 * 100 is 7.000000000000001, and means 7.
        return max(1, math.ceil(share * n * (1 - 1e-12)))


class TopK(Sparse):
    """Send the k coordinates of largest magnitude in each field, and where they are; the receiver takes 0 for the rest.

    Indices travel in ascending order at ceil(log2 n) bits each. Of equal magnitudes the first are sent; NaN counts as
    larger than all numbers. What is received is nearer to the message than anything else with k coordinates that are
    not 0: ||x - decoded(x)||^2 <= (1 - k/n) ||x||^2. It is biased: use it after 'error_feedback', or 'choco'.
    """

    source: ClassVar[str] = "Aji and Heafield 2017; Stich et al. 2018, Definition 2.1"

    kind: Literal["top_k"] = "top_k"

    def outline(self, like: Message, layout: Layout) -> Message:
        import torch

        out: Message = {}
        for name, value in like.items():
            if not numbers(value):
                out[name] = value
                continue
            n = value.numel()
            k = self.kept(n)
            out[f"{name}.values"] = torch.empty(k, dtype=value.dtype, device="meta")
            out[f"{name}.indices"] = torch.empty(packed_bytes(k, _width(n)), dtype=torch.uint8, device="meta")
        return out

    def forward(self, message: Message, passage: Passage) -> Message:
        out: Message = {}
        for name, value in message.items():
            if not numbers(value):
                out[name] = value
                continue
            flat_D = value.reshape(-1)
            indices_K = largest(flat_D, self.kept(len(flat_D)))
            out[f"{name}.values"] = flat_D[indices_K]
            out[f"{name}.indices"] = pack(indices_K, _width(len(flat_D)))
        return out

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        out: Message = {}
        for name, shape in like.items():
            if not numbers(shape):
                out[name] = message[name]
                continue
            n, values_K = shape.numel(), message[f"{name}.values"]
            indices_K = unpack(message[f"{name}.indices"], _width(n), len(values_K)).long()
            if int(indices_K[-1]) >= n or not bool((indices_K[1:] > indices_K[:-1]).all()):
                raise WireError(f"top_k: the indices of '{name}' are not ascending numbers below {n}")
            out[name] = values_K.new_zeros(n).index_copy_(0, indices_K, values_K).view(shape.shape)
        return out


def largest(values_D: Tensor, k: int) -> Tensor:
    """[k] int64, ascending: where the k largest magnitudes are; of equal ones the first, NaN before all numbers.

    A sample tells what is surely too small, and only the others are compared; with a bad sample all are.
    """
    sizes_D = _sizes(values_D)
    near = (sizes_D >= _guess(sizes_D, k)).nonzero()[:, 0]
    sizes_C = sizes_D if len(near) < k else sizes_D[near]
    smallest = sizes_C.kthvalue(len(sizes_C) - k + 1).values
    chosen_C = sizes_C >= smallest
    surplus = int(chosen_C.sum()) - k
    if surplus:
        ties = (sizes_C == smallest).nonzero()[:, 0]
        chosen_C[ties[len(ties) - surplus :]] = False
    chosen = chosen_C.nonzero()[:, 0]
    return chosen if sizes_C is sizes_D else near[chosen]


def _guess(sizes_D: Tensor, k: int) -> Tensor:
    """A size that k of them and somewhat more most likely reach: five standard deviations of a sample below it."""
    import torch

    n = len(sizes_D)
    # The step is a large prime, as the rows and columns of a model's matrices have periods of their own.
    sample_S = sizes_D[torch.arange(min(SAMPLE, n // 16 + 1)) * 2_654_435_761 % n]
    expected = k / n * len(sample_S)
    above = math.ceil(expected + 5 * math.sqrt(expected) + 5)
    return sample_S.kthvalue(max(1, len(sample_S) - above)).values


def _sizes(values_D: Tensor) -> Tensor:
    """[D]: integers in the order of the magnitudes: the bits of the numbers, without the sign."""
    import torch

    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    kind = kinds[values_D.element_size()]
    return values_D.view(kind) & torch.iinfo(kind).max


def _width(n: int) -> int:
    """Bits of an index: ceil(log2 n)."""
    return (n - 1).bit_length()
