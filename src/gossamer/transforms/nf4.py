"""Four bits a number, finer where normally distributed numbers are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.transforms.blockwise import PIECE, Blockwise, divided, pieces

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor

LEVELS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)
_MIDDLES = (LEVELS[1:].astype(np.float64) + LEVELS[:-1]) / 2
# Rounded down: a float32 number is above the middle of two levels exactly if it is above this.
_ROUNDED = _MIDDLES.astype(np.float32)
THRESHOLDS = np.where(_ROUNDED > _MIDDLES, np.nextafter(_ROUNDED, np.float32(-1)), _ROUNDED)

_BYTES = np.arange(256)
PAIRS = LEVELS[np.stack([_BYTES & 15, _BYTES >> 4], axis=1)].view(np.float64)[:, 0]
"""The two levels of each byte, as one number of 64 bits that is only copied."""


class NF4(Blockwise):
    """The nearest of the 16 levels of NormalFloat, times the largest magnitude of a block.

    The levels are quantiles of the normal distribution, scaled to [-1, 1], one of them 0; a number half-way between
    two gets the lower one. |x' - x| is at most 0.152 times the largest magnitude, half of the widest gap.
    4 + 32 / block bits a number; it draws nothing at random, and is biased by as much as it rounds.
    """

    source: ClassVar[str] = "Dettmers et al. 2023, QLoRA, section 3 and appendix E (the levels)"

    kind: Literal["nf4"] = "nf4"
    block: int = Field(default=64, ge=1, description="numbers that share a scale")

    @property
    def width(self) -> int:
        return 4

    def shared(self, count: int) -> int:
        return self.block

    def quantise(self, given_GB: Tensor, scales_G1: Tensor, codes_GB: Tensor, rng: Generator) -> None:
        scaled_GB, codes = divided(given_GB, scales_G1).numpy(), codes_GB.numpy()
        # As many comparisons as there are thresholds, 16 numbers at once, are faster than a search for each.
        above_GB = np.empty(scaled_GB.shape, bool)
        codes[:] = 0
        for threshold in THRESHOLDS:
            np.greater(scaled_GB, threshold, out=above_GB)
            codes += above_GB.view(np.uint8)

    def decoded(self, codes: Tensor, scales_S: Tensor, count: int) -> Tensor:
        import torch

        found_n, bytes_b = torch.empty(count), codes.numpy()
        room_b = np.empty(PIECE // 2 + 1, np.float64)
        for piece, rows, of in pieces(count, self.block):
            first, last = piece.start // 2, -(-piece.stop // 2)
            # A byte is two numbers: a table of all bytes takes half as long as one of the levels.
            pairs_b = np.take(PAIRS, bytes_b[first:last], out=room_b[: last - first], mode="clip")
            levels_n = torch.from_numpy(pairs_b.view(np.float32))[piece.start % 2 :][: piece.stop - piece.start]
            torch.mul(levels_n.view(rows, -1), scales_S[of, None], out=found_n[piece].view(rows, -1))
        return found_n
