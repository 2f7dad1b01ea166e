"""Eight bits a number, in blocks with a scale each."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.errors import WireError
from gossamer.transforms.blockwise import Blockwise, divided

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor


class Int8(Blockwise):
    """The nearest of 255 equally spaced levels, as far as the largest magnitude of a block.

        scale = max |x| / 127,     code = round(x / scale),     x' = code * scale,     |x' - x| <= scale / 2

    Every block of numbers has a scale of its own, so an outlier spoils no other block. 8 + 32 / block bits a number.
    It draws nothing at random, and is biased by as much as it rounds.
    """

    source: ClassVar[str] = "Dettmers et al. 2022, 8-bit optimizers, section 2.1 (blocks), with linear levels"
    signed: ClassVar[bool] = True

    kind: Literal["int8"] = "int8"
    block: int = Field(default=256, ge=1, description="numbers that share a scale")

    @property
    def width(self) -> int:
        return 8

    def shared(self, count: int) -> int:
        return self.block

    def scales(self, norms_S: Tensor, counts_S: Tensor) -> Tensor:
        import torch

        scales_S = norms_S / 127
        # Rounded up, so that no number is more than 127 scales, also where they are as small as float32 can be.
        return torch.where(scales_S * 127 < norms_S, torch.nextafter(scales_S, norms_S), scales_S)

    def quantise(self, given_GB: Tensor, scales_G1: Tensor, codes_GB: Tensor, rng: Generator) -> None:
        import torch

        codes_GB.view(torch.int8).copy_(divided(given_GB, scales_G1).round_())

    def restore(self, codes_GB: Tensor, scales_G1: Tensor, out_GB: Tensor) -> None:
        import torch

        torch.mul(codes_GB.view(torch.int8), scales_G1, out=out_GB)

    def check(self, name: str, codes: Tensor, scales_S: Tensor, count: int) -> None:
        super().check(name, codes, scales_S, count)
        if int(codes.min()) == -128:
            raise WireError(f"{name}.codes: -128 is no code; they go from -127 to 127")
