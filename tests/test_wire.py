"""The wire frame: what goes in comes out, its length is known beforehand, and nothing else is accepted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer import wire
from gossamer.errors import WireError

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8]
messages = st.dictionaries(
    st.text("abcdefgh._", min_size=1, max_size=12),
    st.tuples(st.lists(st.integers(0, 5), max_size=3), st.sampled_from(DTYPES)),
    min_size=1,
    max_size=5,
).map(lambda spec: {name: torch.randint(0, 100, shape).to(dtype) for name, (shape, dtype) in spec.items()})


@given(message=messages, sender=st.integers(-1, 10**6), round=st.integers(0, 10**9))
@settings(max_examples=200)
def test_round_trip_and_size(message: dict[str, torch.Tensor], sender: int, round: int) -> None:
    frame = wire.encode(message, sender, round)
    assert len(frame) == wire.size(message)
    back, who, when = wire.decode(frame)
    assert (who, when) == (sender, round)
    assert back.keys() == message.keys()
    for name, value in message.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)


def test_nothing_to_say_takes_no_bytes() -> None:
    assert wire.size({}) == 0


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(position: int, bit: int) -> None:
    frame = bytearray(wire.encode({"row": torch.arange(50.0)}, 3, 7))
    frame[position % len(frame)] ^= 1 << bit
    with pytest.raises(WireError):
        wire.decode(bytes(frame))


@given(cut=st.integers(0, 400))
def test_any_truncation_is_noticed(cut: int) -> None:
    frame = wire.encode({"row": torch.arange(50.0)}, 3, 7)
    with pytest.raises(WireError):
        wire.decode(frame[: min(cut, len(frame) - 1)])


def test_too_large_and_foreign_frames_are_refused() -> None:
    frame = wire.encode({"row": torch.arange(50.0)}, 0, 0)
    with pytest.raises(WireError, match="exceeds the limit"):
        wire.decode(frame, limit=100)
    with pytest.raises(WireError, match="magic"):
        wire.decode(b"PK\x03\x04" + frame[4:])
