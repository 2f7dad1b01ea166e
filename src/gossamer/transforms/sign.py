"""One bit a number: its sign."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.transforms.blockwise import Blockwise

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor


class Sign(Blockwise):
    """The sign of each number, times the mean magnitude of all: x' = (||x||_1 / d) sign(x), with sign(0) = 1.

    Of what has these signs it is the nearest to x, and leaves (1 - ||x||_1^2 / (d ||x||_2^2)) of its squared length,
    so with 'error_feedback' before it SGD converges, at the same rate in the end; alone it may not. 1 + 32 / block bits
    a number.
    """

    source: ClassVar[str] = "Bernstein et al. 2018 (signSGD); Karimireddy et al. 2019, Algorithm 1 (the scale)"

    for_changes: ClassVar[bool] = True

    kind: Literal["sign"] = "sign"
    block: int | None = Field(default=None, ge=1, description="numbers that share a scale; none: all of a tensor")

    @property
    def width(self) -> int:
        return 1

    def shared(self, count: int) -> int:
        return self.block or count

    def norms(self, given_GB: Tensor) -> Tensor:
        return given_GB.abs().sum(1)

    def scales(self, norms_S: Tensor, counts_S: Tensor) -> Tensor:
        return norms_S / counts_S

    def quantise(self, given_GB: Tensor, scales_G1: Tensor, codes_GB: Tensor, rng: Generator) -> None:
        np.greater_equal(given_GB.numpy(), 0, out=codes_GB.numpy().view(bool))

    def restore(self, codes_GB: Tensor, scales_G1: Tensor, out_GB: Tensor) -> None:
        import torch

        torch.mul(codes_GB.view(torch.int8) * 2 - 1, scales_G1, out=out_GB)
