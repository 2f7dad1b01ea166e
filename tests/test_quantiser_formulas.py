"""Quantisers against slow transcriptions of their formulas, number by number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantised import LAYOUT, blocks, normal, passage, received

from gossamer.passages import Passage
from gossamer.randomness import generator
from gossamer.transforms import NF4, QSGD, Int8, Sign
from gossamer.transforms.blockwise import PIECE
from gossamer.transforms.nf4 import LEVELS

torch.set_num_threads(1)


@pytest.mark.parametrize("n", [2, 255, 256, 1000, 3 * PIECE + 7])
def test_int8_is_the_nearest_of_255_levels(n: int) -> None:
    codec, row = Int8(), normal(n, seed=n) * 10
    sent = codec.forward({"row": row}, passage())
    for block, scale, codes in zip(
        blocks(codec, row), sent["row.scales"].tolist(), torch.split(sent["row.codes"], 256), strict=True
    ):
        largest = float(block.abs().max())
        assert largest <= 127 * scale * (1 + 2**-24)
        assert scale == pytest.approx(largest / 127, rel=2**-22)
        # In exact arithmetic, up to the rounding of x / scale.
        distance = (block.double() / scale - codes.double()).abs()
        assert float(distance.max()) <= 0.5 + 127 * 2**-24
        assert int(codes.abs().max()) == 127
    assert torch.equal(received(codec, row), sent["row.codes"] * sent["row.scales"].repeat_interleave(256)[:n])


def test_int8_of_denormal_numbers() -> None:
    """Scales are multiples of 2^-149, and rounded up to one: no number is more than 127 of them."""
    for times in range(1, 500):
        row = torch.tensor([times, -times, times // 3, 0], dtype=torch.float64) * 2.0**-149
        sent = Int8().forward({"row": row}, passage())
        scale = -(-times // 127)
        assert sent["row.scales"].tolist() == [scale * 2.0**-149]
        assert float((received(Int8(), row) - row).abs().max()) <= scale / 2 * 2.0**-149


def nearest(x: float) -> int:
    """The number of the level of NormalFloat that is nearest, the lower of two."""
    return min(range(16), key=lambda i: (abs(x - float(LEVELS[i])), i))


@pytest.mark.parametrize("block", [1, 5, 64, 1000])
def test_nf4_is_the_nearest_of_its_levels(block: int) -> None:
    codec, row = NF4(block=block), normal(777)
    expected = []
    for part in blocks(codec, row):
        largest = np.float32(part.abs().max())
        expected += [LEVELS[nearest(float(np.float32(x) / largest))] * largest for x in part.tolist()]
    assert received(codec, row).tolist() == expected


def test_nf4_decides_exactly_in_the_middle_of_two_levels() -> None:
    """Numbers of float32 around the middle of all neighbours, with 1 as the largest magnitude."""
    middles = (LEVELS[1:].astype(np.float64) + LEVELS[:-1]) / 2
    near = middles.astype(np.float32)
    row = np.concatenate([[1], np.nextafter(near, -2, dtype=np.float32), near, np.nextafter(near, 2, dtype=np.float32)])
    row = row.astype(np.float32)
    found = received(NF4(block=64), torch.from_numpy(row))
    assert found.tolist() == [float(LEVELS[nearest(float(x))]) for x in row]


def test_the_levels_of_nf4() -> None:
    """The construction of the paper: quantiles of the normal distribution, 8 on the positive side, 7 on the other."""
    from scipy.stats import norm

    offset = 0.9677083
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([positive, [0], negative])) / positive.max()
    np.testing.assert_allclose(LEVELS, levels, atol=1e-6)
    assert LEVELS.dtype == np.float32


@pytest.mark.parametrize("block", [None, 1, 10, 1000, 70_000])
def test_sign_is_the_sign_times_the_mean_magnitude(block: int | None) -> None:
    codec, row = Sign(block=block), normal(500 if block and block < 100 else 2 * PIECE + 5)
    row[::50] = 0
    found = received(codec, row)
    for part, decoded in zip(blocks(codec, row), blocks(codec, found), strict=True):
        scale = math.fsum(map(abs, part.tolist())) / len(part)
        assert torch.equal(decoded >= 0, part >= 0)
        torch.testing.assert_close(decoded.abs(), torch.full_like(part, scale), rtol=1e-5, atol=0)
        if scale:
            missing = math.fsum(((part - decoded) ** 2).tolist()) / math.fsum((part**2).tolist())
            share = 1 - (scale * len(part)) ** 2 / (len(part) * math.fsum((part**2).tolist()))
            assert missing == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("norm", ["max", "euclidean"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_qsgd_is_rounded_with_16_bits_of_the_dice(bits: int, norm: Any) -> None:
    codec, row = QSGD(bits=bits, bucket=50, norm=norm), normal(150, seed=bits)
    raw = generator(3, "codec", 1, 2, 0).bit_generator.random_raw(38)
    words = [int(word) >> shift & 0xFFFF for word in raw for shift in (0, 16, 32, 48)]
    levels, found = 2**bits - 1, received(codec, row)
    for start in (0, 50, 100):
        part, rounded = row[start : start + 50].tolist(), found[start : start + 50].tolist()
        m = max(map(abs, part)) if norm == "max" else math.sqrt(math.fsum(x * x for x in part))
        for x, back, word in zip(part, rounded, words[start:], strict=False):
            code = (back / m + 1) / 2 * levels
            assert abs(code - round(code)) < 1e-4
            assert 0 <= round(code) <= levels
            # code <= t + u < code + 1
            aim = (x / m + 1) / 2 * levels + word / 2**16
            assert -(2**-14) <= aim - round(code) < 1 + 2**-14


class Turns:
    """All 2^16 words in turn, instead of dice."""

    def __init__(self) -> None:
        self.bit_generator = self

    def random_raw(self, count: int) -> Any:
        return np.resize(np.arange(2**16, dtype="<u2").view("<u8"), count)


@pytest.mark.parametrize("bits", range(1, 9))
@given(x=st.floats(-1, 1, width=32))
@settings(max_examples=15)
def test_qsgd_is_unbiased_over_all_words_of_the_dice(bits: int, x: float) -> None:
    """A number 2^16 times, and another that makes the norm 1: the mean over all words is exact up to half a word of
    the way to the next level, and rounding."""
    row = torch.cat([torch.full((2**16,), x), torch.ones(1)])
    codec, turns = QSGD(bits=bits, bucket=2**17), Turns()
    sent = codec.forward({"row": row}, Passage(LAYOUT, lambda: turns))  # type: ignore[arg-type,return-value]
    found = codec.reverse(sent, {"row": row}, passage())["row"][: 2**16]
    exact = 2 / (2**bits - 1) * 2**-17 * 1.01
    assert float(found.double().mean()) == pytest.approx(x, abs=exact + 2**-22)
    assert len(found.unique()) <= 2


@pytest.mark.parametrize("norm", ["max", "euclidean"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_qsgd_is_unbiased_with_its_dice(bits: int, norm: Any) -> None:
    """Sums of errors, plain and against the numbers, lie within five standard deviations; and so do their squares."""
    codec, row = QSGD(bits=bits, norm=norm), normal(100_000)
    error = (received(codec, row) - row).double()
    p = math.inf if norm == "max" else 2
    m = torch.cat([part.norm(p).expand(len(part)) for part in blocks(codec, row)]).double()
    delta = 2 * m / (2**bits - 1)
    up = ((row + m) / delta).frac()
    variance = delta**2 * up * (1 - up)
    assert float(error.sum().abs()) <= 5 * float(variance.sum().sqrt())
    assert float((error * row).sum().abs()) <= 5 * float((variance * row**2).sum().sqrt())
    fourth = delta**4 * up * (1 - up) * (1 - 3 * up * (1 - up)) - variance**2
    assert float((error**2 - variance).sum().abs()) <= 5 * float(fourth.sum().sqrt())
    assert bool((error.abs() <= delta * (1 + 1e-4)).all())


def test_qsgd_draws_from_its_dice_and_from_nothing_else() -> None:
    codec, row = QSGD(bits=2), normal(5000)
    torch.manual_seed(0)
    first = codec.forward({"row": row, "two": row}, passage(0))
    torch.manual_seed(1)
    assert torch.equal(first["row.codes"], codec.forward({"row": row}, passage(0))["row.codes"])
    assert not torch.equal(first["row.codes"], codec.forward({"row": row}, passage(1))["row.codes"])
    # The fields of a message are rounded independently.
    assert not torch.equal(first["row.codes"], first["two.codes"])
