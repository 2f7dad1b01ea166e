"""A few bits a number, rounded at random so that the mean is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.transforms.blockwise import Blockwise, divided

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor

_ONE = 1 << 16
"""Parts of a level: what is left between two levels is compared with 16 random bits."""


class QSGD(Blockwise):
    """Stochastic rounding to 2^bits levels, equally spaced from -m to m, m being the norm of a bucket of numbers.

        t = (x + m) / delta,     delta = 2 m / (2^bits - 1),     code = floor(t + u),     u ~ U[0, 1)

    so E[x'] = x and Var[x'] <= delta^2 / 4. The chance of rounding up is right within 2^-15 of a level (t is rounded
    to 2^-16, u has 16 bits). bits + 32 / bucket bits a number. With norm = "max" delta is as small as it can be;
    "euclidean" is the norm of the analysis. There is no level at 0 where m > 0; a bucket of zeros stays zero.
    """

    source: ClassVar[str] = "Alistarh et al. 2017, section 3.1; Suresh et al. 2017 (stochastic k-level quantisation)"

    kind: Literal["qsgd"] = "qsgd"
    bits: int = Field(default=4, ge=1, le=8, description="bits a number")
    bucket: int = Field(default=512, ge=1, description="numbers that share a norm")
    norm: Literal["max", "euclidean"] = Field(default="max", description="m: the largest magnitude, or the length")

    @property
    def unbiased(self) -> bool:
        return True

    @property
    def width(self) -> int:
        return self.bits

    def shared(self, count: int) -> int:
        return self.bucket

    def norms(self, given_GB: Tensor) -> Tensor:
        import torch

        if self.norm == "max":
            return super().norms(given_GB)
        # In float64 squares are exact, so that the length is not less than any of the numbers.
        lengths_G: Tensor = torch.linalg.vector_norm(given_GB, dim=1, dtype=torch.float64)
        return lengths_G.float()

    def quantise(self, given_GB: Tensor, scales_G1: Tensor, codes_GB: Tensor, rng: Generator) -> None:
        import torch

        half = (2**self.bits - 1) * _ONE / 2
        # From 0 to (2^bits - 1) * 2^16 < 2^24, so every integer on the way is a float32.
        steps_GB = torch.add(torch.tensor(half + 0.5), divided(given_GB, scales_G1), alpha=half).int().numpy()
        words = rng.bit_generator.random_raw(-(-steps_GB.size // 4)).astype("<u8", copy=False)
        steps_GB += words.view("<u2")[: steps_GB.size].reshape(steps_GB.shape)
        steps_GB >>= 16
        np.copyto(codes_GB.numpy(), steps_GB, casting="unsafe")

    def restore(self, codes_GB: Tensor, scales_G1: Tensor, out_GB: Tensor) -> None:
        levels = 2**self.bits - 1
        out_GB.copy_(codes_GB).sub_(levels / 2).mul_(scales_G1 * (2 / levels))
