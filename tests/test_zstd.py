"""Entropy coding: nothing is lost, nothing gets longer, and no frame makes its receiver allocate more than due."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transform_table import LAYOUT, Link, outline_of, same

from gossamer import wire
from gossamer.errors import WireError
from gossamer.passages import Passage
from gossamer.randomness import generator
from gossamer.transforms import Zstd

PASSAGE = Passage(LAYOUT, lambda: generator(0, "zstd"))
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
]


def read(frame: torch.Tensor) -> bytes:
    """By the streaming reader of the library, which goes another way than what is tested."""
    return zstandard.ZstdDecompressor().stream_reader(frame.numpy().tobytes()).read()


@given(
    octets=st.binary(max_size=400),
    copies=st.integers(0, 30),
    dtype=st.sampled_from([*DTYPES, torch.bool]),
    step=st.builds(Zstd, level=st.integers(1, 19), shuffle=st.booleans()),
)
@settings(max_examples=300, deadline=None)
def test_nothing_is_lost_and_nothing_gets_longer(octets: bytes, copies: int, dtype: torch.dtype, step: Zstd) -> None:
    whole = octets * copies
    whole = whole[: len(whole) // 8 * 8]
    raw = torch.from_numpy(np.frombuffer(whole, np.uint8).copy())
    given = {
        "x": raw > 99 if dtype == torch.bool else raw.clone().view(dtype) if len(raw) else torch.empty(0).to(dtype)
    }
    sent, received = Link([step], given).send(given)
    assert same(received, given)
    assert sent["x"].dtype == torch.uint8
    assert len(sent["x"]) <= len(raw)
    assert wire.size(sent) <= wire.size(step.outline(outline_of(given), LAYOUT))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_cannot_be_shortened_goes_as_it_is(dtype: torch.dtype) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8))
    for octets in (noise, noise[:8].clone()):
        assert torch.equal(Zstd().forward({"x": octets.view(dtype)}, PASSAGE)["x"], octets)


def test_what_travels_is_a_zstandard_frame() -> None:
    values = torch.arange(1000).float()
    sent = Zstd(shuffle=False).forward({"x": values}, PASSAGE)["x"]
    assert read(sent) == values.numpy().tobytes()
    assert len(sent) < 4000
    # Shuffled: the first bytes of all numbers, then the second ones, and so on.
    sent = Zstd().forward({"x": values}, PASSAGE)["x"]
    planes = [bytes(values.numpy().view(np.uint8)[byte::4]) for byte in range(4)]
    assert read(sent) == b"".join(planes)


def test_shuffling_helps_floating_point_numbers() -> None:
    given = {"x": torch.from_numpy(np.random.default_rng(1).standard_normal(20_000).astype(np.float32))}
    shuffled, plain = (len(Zstd(shuffle=shuffle).forward(given, PASSAGE)["x"]) for shuffle in (True, False))
    # The 9 bits of sign and exponent have an entropy of 3.5 for normal numbers, so 0.83 is the best there is.
    assert 0.83 * 80_000 < shuffled < 0.86 * 80_000 < 0.9 * 80_000 < plain


def test_higher_levels_are_shorter() -> None:
    rng = np.random.default_rng(2)
    given = {"x": torch.from_numpy(rng.choice(rng.integers(0, 99, (50, 40)), 400).astype(np.uint8).reshape(-1))}
    lengths = [len(Zstd(level=level).forward(given, PASSAGE)["x"]) for level in (1, 19)]
    assert lengths[1] < lengths[0] < 16_000
    for level in (0, 20):
        with pytest.raises(ValidationError, match="level"):
            Zstd(level=level)


def announcing(length: int, window: int, blocks: bytes) -> bytes:
    """A frame by hand (RFC 8878, 3.1.1) that announces a length from 256 to 65791 and a window of 2^window bytes."""
    return struct.pack("<IBBH", 0xFD2FB528, 1 << 6, (window - 10) << 3, length - 256) + blocks


def repeated(length: int, last: bool) -> bytes:
    """A block that stands for one byte so many times."""
    return struct.pack("<I", length << 3 | 1 << 1 | last)[:3] + b"a"


GOOD = zstandard.ZstdCompressor().compress(bytes(4000))
UNANNOUNCED = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(4000))
BAD = {
    "nothing": b"",
    "no frame": b"abcdefgh",
    "cut": GOOD[:-1],
    "only a header": GOOD[:6],
    "more after it": GOOD + b"x",
    "two": GOOD + GOOD,
    "of another length": zstandard.ZstdCompressor().compress(bytes(3999)),
    "of no announced length": UNANNOUNCED,
    "a bomb": zstandard.ZstdCompressor().compress(bytes(2**26)),
    "a bomb that lies": announcing(4000, 17, repeated(2**17, False) * 500 + repeated(1, True)),
    "shorter than announced": announcing(4000, 17, repeated(3999, True)),
    "huge window": announcing(4000, 31, repeated(3000, False)),
    "impossible window": announcing(4000, 41, repeated(4000, True)),
    "to be skipped": struct.pack("<II", 0x184D2A50, 4000) + bytes(2000),
    "a dictionary": struct.pack("<IBBBH", 0xFD2FB528, 1 << 6 | 1, 56, 7, 4000 - 256) + repeated(4000, True),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_frames_are_refused_in_little_memory(name: str) -> None:
    like = {"row": torch.empty(1000, device="meta")}
    frame = torch.from_numpy(np.frombuffer(BAD[name], np.uint8).copy())
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="zstd: 'row'") as refusal:
            Zstd().reverse({"row": frame}, like, PASSAGE)
        assert tracemalloc.get_traced_memory()[1] < 100_000 + len(frame)
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refusal.value)


def test_frames_written_by_hand_are_understood() -> None:
    like = {"row": torch.empty(1000, device="meta")}
    for frame in (GOOD, announcing(4000, 17, repeated(4000, True)), announcing(4000, 27, repeated(4000, True))):
        received = Zstd(shuffle=False).reverse(
            {"row": torch.from_numpy(np.frombuffer(frame, np.uint8).copy())}, like, PASSAGE
        )["row"]
        assert received.shape == (1000,)
        assert received.view(torch.uint8).unique().tolist() in ([0], [ord("a")])


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.integers(0, 10**6))
@settings(max_examples=300, deadline=None)
def test_damaged_frames(place: int, bit: int, cut: int) -> None:
    """A flipped bit may give other bytes, as many; a frame that was cut is refused."""
    given = {"x": torch.arange(300)}
    frame = Zstd().forward(given, PASSAGE)["x"]
    flipped = frame.clone()
    flipped[place % len(frame)] ^= 1 << bit
    with contextlib.suppress(WireError):
        assert Zstd().reverse({"x": flipped}, outline_of(given), PASSAGE)["x"].shape == (300,)
    with pytest.raises(WireError):
        Zstd().reverse({"x": frame[: cut % len(frame)]}, outline_of(given), PASSAGE)
