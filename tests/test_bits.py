"""Bit packing against one large integer: value i is added at bit i * width, and the bytes of the sum are the stream."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.bits import pack, packed_bytes, unpack

torch.set_num_threads(1)


def stream(values: list[int], width: int) -> bytes:
    """The definition."""
    total = sum(value << i * width for i, value in enumerate(values))
    return total.to_bytes((len(values) * width + 7) // 8, "little")


def drawn(count: int, width: int) -> list[int]:
    dice = random.Random(count * 64 + width)
    return [dice.getrandbits(width) for _ in range(count)]


@given(data=st.data(), width=st.integers(1, 63))
@settings(max_examples=150)
def test_packs_as_defined_and_comes_back(data: st.DataObject, width: int) -> None:
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=140))
    packed = pack(torch.tensor(values, dtype=torch.int64), width)
    assert packed.dtype == torch.uint8
    assert bytes(packed.tolist()) == stream(values, width)
    assert len(packed) == packed_bytes(len(values), width)
    back = unpack(packed, width, len(values))
    assert back.dtype == (torch.uint8 if width <= 8 else torch.int64)
    assert back.tolist() == values


@pytest.mark.parametrize("width", range(1, 64))
def test_all_widths_with_the_extremes(width: int) -> None:
    values = [0, 2**width - 1, 1, 2 ** (width - 1), 2**width - 1] * 30
    packed = pack(torch.tensor(values), width)
    assert bytes(packed.tolist()) == stream(values, width)
    assert unpack(packed, width, 150).tolist() == values


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 23, 31, 32, 33, 48, 63])
@pytest.mark.parametrize("count", [131_072, 131_073, 262_207])
def test_more_than_one_block(width: int, count: int) -> None:
    values_n = torch.randint(0, 2**width - 1, (count,), generator=torch.Generator().manual_seed(width))
    packed = pack(values_n, width)
    assert torch.equal(unpack(packed, width, count).long(), values_n)
    # Any part of the stream that begins at a byte is the stream of that part.
    for start in (0, 131_064, count // 8 * 8 - 8):
        part = values_n[start : start + 8]
        assert torch.equal(packed[start * width // 8 :][: packed_bytes(len(part), width)], pack(part, width))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("width", [1, 5, 8, 11, 16, 21, 32, 40])
def test_integers_of_any_type_and_stride(dtype: torch.dtype, width: int) -> None:
    largest = 1 if dtype == torch.bool else torch.iinfo(dtype).max
    values = [min(value, largest) for value in drawn(200, width)]
    given_n = torch.tensor(values).to(dtype)
    kept = given_n.clone()
    assert bytes(pack(given_n, width).tolist()) == stream(values, width)
    assert bytes(pack(given_n[::3], width).tolist()) == stream(values[::3], width)
    assert bytes(pack(given_n.view(8, 25), width).tolist()) == stream(values, width)
    assert torch.equal(given_n, kept)


@given(count=st.integers(0, 10**12), width=st.integers(1, 63))
def test_packed_bytes_is_exact(count: int, width: int) -> None:
    assert 8 * packed_bytes(count, width) - 8 < count * width <= 8 * packed_bytes(count, width)


@pytest.mark.parametrize("width", [1, 3, 4, 7, 8, 9, 17, 32, 63])
def test_what_follows_the_last_value_is_zero_and_not_looked_at(width: int) -> None:
    for count in (1, 7, 61):
        values = drawn(count, width)
        packed = pack(torch.tensor(values), width)
        used = count * width % 8
        if used:
            assert int(packed[-1]) < 2**used
            packed[-1] |= 256 - 2**used
        longer = torch.cat([packed, torch.full((9,), 255, dtype=torch.uint8)])
        assert unpack(longer, width, count).tolist() == values


def test_nothing() -> None:
    for width in (1, 4, 8, 17, 63):
        packed = pack(torch.empty(0, dtype=torch.int64), width)
        assert packed.shape == (0,)
        assert unpack(packed, width, 0).shape == (0,)


@pytest.mark.parametrize("width", [-1, 0, 64])
def test_widths_out_of_range(width: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 63"):
        pack(torch.zeros(3, dtype=torch.int64), width)
    with pytest.raises(ValueError, match="from 1 to 63"):
        unpack(torch.zeros(99, dtype=torch.uint8), width, 1)


@pytest.mark.parametrize("width", [1, 4, 8, 17, 32])
def test_too_few_bytes(width: int) -> None:
    packed = pack(torch.ones(100, dtype=torch.int64), width)
    with pytest.raises(ValueError, match=f"100 values of {width} bits are {len(packed)} bytes"):
        unpack(packed[:-1], width, 100)
