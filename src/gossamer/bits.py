"""Integers of any width side by side in bytes.

The stream is little-endian in bits: value i is bits i * width to (i + 1) * width - 1, and bit b of the stream is bit
b % 8 of byte b // 8. Where the last byte is not full, the rest of it is zero when packed and is not looked at when
unpacked.

Values of less than a byte are squeezed together in the lanes of 64-bit words, eight values at once; wider ones are
shifted into the words of the stream, 32 values into `width` words of 32 bits, or 64 into as many of 64 bits where
width > 32. Both work on blocks that stay in the cache.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

MAX_WIDTH = 63
_U8, _U32, _U64 = np.dtype("u1"), np.dtype("<u4"), np.dtype("<u8")
_WHOLE: dict[int, np.dtype[Any]] = {8: _U8, 16: np.dtype("<u2"), 32: _U32}
_BLOCK = 1 << 17
"""Values handled at a time: 128 kB as bytes, 512 kB as words of 32 bits."""


def packed_bytes(count: int, width: int) -> int:
    """Bytes that `count` values of `width` bits take: ceil(count * width / 8)."""
    return -(-count * width // 8)


def pack(values: Tensor, width: int) -> Tensor:
    """Values [n] side by side: uint8 [ceil(n * width / 8)].

    The values are integers of any type from 0 to 2^width - 1; others would spill into their neighbours. Raises
    ValueError unless 1 <= width <= 63.
    """
    import torch

    _check(width)
    given_n: Array = values.detach().contiguous().view(-1).numpy()
    count = len(given_n)
    packed = np.empty(packed_bytes(count, width), np.uint8)
    if width == 1:
        packed = np.packbits(given_n.view(_U8) if given_n.itemsize == 1 else given_n, bitorder="little")
    elif width in _WHOLE:
        np.copyto(packed.view(_WHOLE[width]), given_n, casting="unsafe")
    else:
        for block, start, stop in _blocks(count, width):
            block[: stop - start] = given_n[start:stop]
            block[stop - start :] = 0
            begin, end = start * width // 8, packed_bytes(stop, width)
            stream = (_squeezed if width < 8 else _joined)(block, width)
            packed[begin:end] = stream[: end - begin]
    return torch.from_numpy(packed)


def unpack(packed: Tensor, width: int, count: int) -> Tensor:
    """The first `count` values of `width` bits in `packed` (uint8): int64 [count], uint8 where width <= 8.

    What follows them is ignored. Raises ValueError unless 1 <= width <= 63, and where `packed` is too short.
    """
    import torch

    _check(width)
    size = packed_bytes(count, width)
    if packed.numel() < size:
        raise ValueError(f"packed: {count} values of {width} bits are {size} bytes, but there are {packed.numel()}")
    stream: Array = packed.detach().contiguous().view(-1).numpy()[:size]
    values = np.empty(count, np.uint8 if width <= 8 else np.int64)
    if width == 1:
        values = np.unpackbits(stream, count=count, bitorder="little")
    elif width in _WHOLE:
        values[:] = stream.view(_WHOLE[width])
    else:
        buffer = np.zeros(packed_bytes(_BLOCK, width), np.uint8)
        for block, start, stop in _blocks(count, width):
            begin, end = start * width // 8, packed_bytes(stop, width)
            buffer[: end - begin] = stream[begin:end]
            (_spread if width < 8 else _split)(buffer[: packed_bytes(len(block), width)], block, width)
            values[start:stop] = block[: stop - start]
    return torch.from_numpy(values)


def _check(width: int) -> None:
    if not 1 <= width <= MAX_WIDTH:
        raise ValueError(f"width: {width} bits; it must be from 1 to {MAX_WIDTH}")


def _blocks(count: int, width: int) -> Iterator[tuple[Array, int, int]]:
    """(block, start, stop): room for values `start` to `stop`, a multiple of 64 long; the same memory each time."""
    dtype = _U8 if width < 8 else _U32 if width < 32 else _U64
    room = np.empty(min(_BLOCK, -(-count // 64) * 64), dtype)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        yield room[: -(-(stop - start) // 64) * 64], start, stop


def _lanes(width: int) -> list[tuple[int, int, int]]:
    """(bits moved, mask of the lower halves, of the upper halves, both squeezed) from lanes of 16 bits on, until what
    is in a lane is a whole number of bytes."""
    steps = []
    lane, filled = 8, width
    while filled % 8:
        low = sum((2**filled - 1) << at for at in range(0, 64, 2 * lane))
        steps.append((lane - filled, low, low << filled))
        lane, filled = 2 * lane, 2 * filled
    return steps


def _squeezed(block: Array, width: int) -> Array:
    """The stream of values of less than 8 bits, a byte each; `block` is written over."""
    words = block.view(_U64)
    moved = np.empty_like(words)
    steps = _lanes(width)
    for shift, low, high in steps:
        np.right_shift(words, shift, out=moved)
        moved &= np.uint64(high)
        words &= np.uint64(low)
        words |= moved
    lane, filled = 2 ** len(steps), width * 2 ** len(steps) // 8
    stream = np.empty((len(block) // lane, filled), np.uint8)
    for byte in range(filled):
        stream[:, byte] = block[byte::lane]
    return stream.reshape(-1)


def _spread(stream: Array, block: Array, width: int) -> None:
    """The reverse of `_squeezed`, into `block`."""
    steps = _lanes(width)
    lane, filled = 2 ** len(steps), width * 2 ** len(steps) // 8
    block[:] = 0
    for byte in range(filled):
        block[byte::lane] = stream[byte::filled]
    words = block.view(_U64)
    moved = np.empty_like(words)
    for shift, low, high in reversed(steps):
        np.bitwise_and(words, np.uint64(high), out=moved)
        moved <<= np.uint64(shift)
        words &= np.uint64(low)
        words |= moved


def _period(width: int, bits: int) -> tuple[int, int]:
    """(values, words) after which values and words of `bits` bits begin together again."""
    common = math.gcd(width, bits)
    return bits // common, width // common


def _joined(block: Array, width: int) -> Array:
    """The stream of values of more than 8 bits, a word each."""
    bits = 8 * block.itemsize
    many, words = _period(width, bits)
    values_GM = block.reshape(-1, many)
    stream_GW = np.empty((len(values_GM), words), block.dtype)
    word, moved = np.empty((2, len(values_GM)), block.dtype)
    for number in range(words):
        begin = number * bits
        first, last = begin // width, (begin + bits - 1) // width
        np.right_shift(values_GM[:, first], begin - first * width, out=word)
        for value in range(first + 1, last + 1):
            np.left_shift(values_GM[:, value], value * width - begin, out=moved)
            word |= moved
        stream_GW[:, number] = word
    return stream_GW.view(_U8).reshape(-1)


def _split(stream: Array, block: Array, width: int) -> None:
    """The reverse of `_joined`, into `block`."""
    bits = 8 * block.itemsize
    many, words = _period(width, bits)
    values_GM, stream_GW = block.reshape(-1, many), stream.view(block.dtype).reshape(-1, words)
    value, moved = np.empty((2, len(values_GM)), block.dtype)
    for number in range(many):
        word, shift = divmod(number * width, bits)
        np.right_shift(stream_GW[:, word], shift, out=value)
        if shift + width > bits:
            np.left_shift(stream_GW[:, word + 1], bits - shift, out=moved)
            value |= moved
        np.bitwise_and(value, 2**width - 1, out=values_GM[:, number])
