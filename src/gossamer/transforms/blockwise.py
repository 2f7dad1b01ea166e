"""What the quantisers share: blocks of numbers with a scale each, and codes packed side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gossamer.bits import pack, packed_bytes, unpack
from gossamer.errors import WireError
from gossamer.transforms import Transform, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.random import Generator
    from torch import Tensor

    from gossamer.layout import Layout
    from gossamer.passages import Passage
    from gossamer.wire import Message

PIECE = 1 << 16
"""Numbers handled at a time: a quarter of a megabyte, so that what is computed on the way stays in the cache."""


class Blockwise(Transform):
    """Base of the quantisers: `name` becomes `name.codes`, packed, and `name.scales`, one float32 for each block.

    Blocks are consecutive numbers of the flattened tensor, the last one may be shorter. Numbers of other types than
    float32 are rounded to float32 first. A block with a number that is not finite is received as such.
    """

    signed: ClassVar[bool] = False
    """Whether codes are sent as int8; else they are packed into uint8."""

    @property
    def width(self) -> int:
        """Bits of a code, at most 8."""
        raise NotImplementedError

    def shared(self, count: int) -> int:
        """How many numbers share a scale in a tensor of `count`."""
        raise NotImplementedError

    def norms(self, given_GB: Tensor) -> Tensor:
        """[G] float32: a p-norm of each row, for the p of this quantiser."""
        return given_GB.abs().amax(1)

    def scales(self, norms_S: Tensor, counts_S: Tensor) -> Tensor:
        """[S] float32, >= 0: scales of blocks of so many numbers with these norms."""
        return norms_S

    def quantise(self, given_GB: Tensor, scales_G1: Tensor, codes_GB: Tensor, rng: Generator) -> None:
        """Write the codes (uint8) of float32 numbers; numbers that are not finite may get any code."""
        raise NotImplementedError

    def restore(self, codes_GB: Tensor, scales_G1: Tensor, out_GB: Tensor) -> None:
        """Write the numbers (float32) that codes stand for."""
        raise NotImplementedError

    def outline(self, like: Message, layout: Layout) -> Message:
        import torch

        found: Message = {}
        for name, value in like.items():
            if numbers(value):
                count = value.numel()
                of = torch.int8 if self.signed else torch.uint8
                found[f"{name}.codes"] = torch.empty(packed_bytes(count, self.width), dtype=of, device="meta")
                found[f"{name}.scales"] = torch.empty(-(-count // self.shared(count)), device="meta")
            else:
                found[name] = value
        return found

    def forward(self, message: Message, passage: Passage) -> Message:
        rng = passage.dice()
        found: Message = {}
        for name, value in message.items():
            if numbers(value):
                found[f"{name}.codes"], found[f"{name}.scales"] = self._encoded(value.detach().reshape(-1), rng)
            else:
                found[name] = value
        return found

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        found: Message = {}
        for name, value in like.items():
            if numbers(value):
                codes, scales_S = message[f"{name}.codes"], message[f"{name}.scales"]
                self.check(name, codes, scales_S, value.numel())
                found[name] = self.decoded(codes, scales_S, value.numel()).view(value.shape).to(value.dtype)
            else:
                found[name] = message[name]
        return found

    def check(self, name: str, codes: Tensor, scales_S: Tensor, count: int) -> None:
        """Raise WireError for codes or scales that no sender makes."""
        if bool((scales_S < 0).any()):
            raise WireError(f"{name}.scales: {float(scales_S[scales_S < 0][0]):g} is negative")
        spare = 8 * len(codes) - count * self.width
        if spare and int(codes[-1]) >> (8 - spare):
            raise WireError(f"{name}.codes: bits are set after the last of {count} codes")

    def _encoded(self, given_n: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        import torch

        count, block = len(given_n), self.shared(len(given_n))
        norms_S = self._norms(given_n, block)
        counts_S = torch.full_like(norms_S, block)
        counts_S[-1] = count - block * (len(norms_S) - 1)
        scales_S = self.scales(norms_S, counts_S)
        codes_n = torch.empty(count, dtype=torch.uint8)
        for piece, rows, of in pieces(count, block):
            given_GB = given_n[piece].float().view(rows, -1)
            self.quantise(given_GB, scales_S[of, None], codes_n[piece].view(rows, -1), rng)
        return (codes_n.view(torch.int8) if self.signed else pack(codes_n, self.width)), scales_S

    def decoded(self, codes: Tensor, scales_S: Tensor, count: int) -> Tensor:
        """[count] float32: the numbers that packed codes stand for."""
        import torch

        codes_n = codes.view(torch.uint8) if self.signed else unpack(codes, self.width, count)
        found_n = torch.empty(count)
        for piece, rows, of in pieces(count, self.shared(count)):
            self.restore(codes_n[piece].view(rows, -1), scales_S[of, None], found_n[piece].view(rows, -1))
        return found_n

    def _norms(self, given_n: Tensor, block: int) -> Tensor:
        """[S] float32: the norms of the blocks; that of a large one is the norm of the norms of its pieces."""
        import torch

        if block > PIECE:
            return torch.cat([self.norms(self._norms(part, PIECE)[None]) for part in torch.split(given_n, block)])
        found = [self.norms(given_n[piece].float().view(rows, -1)) for piece, rows, _ in pieces(len(given_n), block)]
        return torch.cat(found)


def pieces(count: int, block: int) -> Iterator[tuple[slice, int, slice]]:
    """(which numbers, how many blocks they are, which blocks): whole blocks of about 2^16 numbers, the shorter last
    block alone, and blocks above that in parts."""
    many = max(1, PIECE // block)
    for start in range(0, count, many * block):
        stop, first = min(start + many * block, count), start // block
        whole = (stop - start) // block
        if block > PIECE:
            for begin in range(start, stop, PIECE):
                yield slice(begin, min(begin + PIECE, stop)), 1, slice(first, first + 1)
            continue
        if whole:
            yield slice(start, start + whole * block), whole, slice(first, first + whole)
        if start + whole * block < stop:
            yield slice(start + whole * block, stop), 1, slice(first + whole, first + whole + 1)


def divided(given_GB: Tensor, scales_G1: Tensor) -> Tensor:
    """A new tensor: numbers in units of their scale, unchanged where that is zero."""
    import torch

    return given_GB / torch.where(scales_G1 == 0, 1, scales_G1)
