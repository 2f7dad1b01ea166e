"""The wire frame: what goes in comes out, its length is known beforehand, and nothing else is accepted."""

from __future__ import annotations

import gc
import hashlib
import itertools
import re
import struct
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_frames import DATA, DTYPES, GOOD, Message, filled, messages, payload, same, sealed, streamed, verdicts

from gossamer import wire
from gossamer.errors import WireError

ROW = {"row": torch.tensor([1.0, 2.0])}
senders, rounds, schemas = st.integers(-1, 2**31 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def on_meta(message: Message) -> Message:
    return {name: tensor.to("meta") for name, tensor in message.items()}


@given(message=messages, sender=senders, round=rounds, schema=schemas)
@settings(max_examples=200)
def test_round_trip_and_size(message: Message, sender: int, round: int, schema: int) -> None:
    frame = wire.encode(message, sender, round, schema)
    assert wire.size(message) == wire.size(on_meta(message)) == (len(frame) if message else 0)
    back, who, when = wire.decode(frame, schema=schema)
    assert (who, when) == (sender, round)
    assert same(back, message)
    assert sealed(frame[32:-16], sender, round, schema) == frame


@given(message=messages, pieces=st.lists(st.integers(0, 100), max_size=20))
def test_pieces_of_any_length_make_the_same_message(message: Message, pieces: list[int]) -> None:
    frame = wire.encode(message, 3, 7)
    assert b"".join(wire.chunks(message, 3, 7)) == frame
    back, who, when = streamed(frame, pieces)
    assert (who, when) == (3, 7)
    assert same(back, message)
    assert same(streamed(frame, [1] * len(frame))[0], message)


def test_frame_takes_48_bytes_beside_its_payload() -> None:
    assert wire.HEADER_BYTES == 48
    assert wire.size(ROW) == 48 + len(payload(GOOD, DATA)) == 120
    assert wire.size({}) == 0
    assert len(wire.encode({}, 0, 0)) == 64
    assert wire.decode(wire.encode({}, -1, 5)) == ({}, -1, 5)


def test_frame_on_the_page_is_that_of_the_code() -> None:
    page = (Path(__file__).parent.parent / "docs" / "wire.md").read_text(encoding="utf-8")
    shown = re.findall(r"^ *(\d+)  ((?:[0-9a-f]{2} )+)", page, re.MULTILINE)
    frame = wire.encode(ROW, 3, 7, wire.schema_of(ROW))
    assert [int(at) for at, _ in shown] == list(range(0, len(frame), 16))
    assert bytes.fromhex("".join(part for _, part in shown)) == frame


def test_chunks_are_small_and_lie_in_the_tensors_memory() -> None:
    row = torch.arange(700_000.0)
    pieces = list(wire.chunks({"row": row, "few": torch.ones(3)}, 0, 0))
    assert max(len(piece) for piece in pieces) <= 2**20
    large = [piece for piece in pieces if len(piece) > 1000]
    places = [np.frombuffer(piece, np.uint8).ctypes.data for piece in large]
    assert places == [row.data_ptr() + at for at in range(0, row.nbytes, 2**20)]


def test_sending_takes_no_second_copy() -> None:
    message = {f"row{i}": torch.zeros(2**20) for i in range(4)}
    tracemalloc.start()
    total = sum(len(piece) for piece in wire.chunks(message, 0, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == wire.size(message) > 2**24
    assert peak < 2**17


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda frame: memoryview(bytearray(frame))])
def test_tensors_are_views_of_what_can_be_written_to(kind: Callable[[bytes], wire.Buffer]) -> None:
    """And copies of what cannot, which must not change."""
    message = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3, 4])}
    frame = wire.encode(message, 0, 0)
    buffer = kind(frame)
    back, *_ = wire.decode(buffer)
    assert same(back, message)
    back["a"][0] = 9
    assert (bytes(buffer) == frame) == memoryview(buffer).readonly


@pytest.mark.filterwarnings("error")
def test_frame_may_lie_anywhere_in_memory() -> None:
    message = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3, 4])}
    frame = wire.encode(message, 0, 0)
    for shift in range(8):
        buffer = bytearray(shift) + frame
        back, *_ = wire.decode(memoryview(buffer)[shift:])
        assert same(back, message)
        assert not any(tensor.data_ptr() % tensor.itemsize for tensor in back.values())
    spread_B2 = np.zeros((len(frame), 2), np.uint8)
    spread_B2[:, 0] = [*frame]
    for array in (spread_B2[:, 0], np.frombuffer(frame, "<u4"), np.frombuffer(frame, np.uint8).reshape(2, -1)):
        assert same(wire.decode(array.data)[0], message)
        reader = wire.Reader()
        reader.feed(array.data)
        assert same(reader.message()[0], message)


def test_received_tensors_lie_in_one_memory() -> None:
    message = {f"row{i}": filled((1000,), dtype, i) for i, dtype in enumerate(DTYPES)}
    back, *_ = streamed(wire.encode(message, 0, 0), [100, 5000])
    assert same(back, message)
    ends = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in back.values())
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(ends))


def test_every_flipped_bit_is_noticed() -> None:
    frame = wire.encode(ROW, 3, 7, wire.schema_of(ROW))
    for place in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[place // 8] ^= 1 << place % 8
        assert all(isinstance(verdict, str) for verdict in verdicts(bytes(flipped), [32, 32])), place


def test_every_truncation_is_noticed() -> None:
    frame = wire.encode(ROW, 3, 7)
    for length in range(len(frame)):
        assert all(isinstance(verdict, str) for verdict in verdicts(frame[:length], [])), length


@pytest.mark.parametrize("length", [0, 15, 16, 71, 73, 2**30 - 48, 2**30 - 47, 2**32 + 72, 2**63, 2**64 - 1])
def test_length_that_is_not_that_of_the_payload_is_noticed(length: int) -> None:
    frame = sealed(payload(GOOD, DATA), length=length)
    assert all(isinstance(verdict, str) for verdict in verdicts(frame, [40, 40])), length


def test_other_versions_are_named() -> None:
    for version in (0, 1, 3, 258, 65535):
        frame = sealed(payload(GOOD, DATA), version=version)
        for verdict in verdicts(frame, [6]):
            assert verdict == f"frame of protocol version {version}; this is version 2, which cannot read it"


def test_frame_of_version_1_is_refused_by_its_version() -> None:
    """As Gossamer wrote it before: 8 bytes of sender and of round, the digest before the payload."""
    start = struct.pack("<4sHHqqQ", b"GSMR", 1, 0, 3, 7, 72)
    frame = start + hashlib.blake2b(start + payload(GOOD, DATA), digest_size=16).digest() + payload(GOOD, DATA)
    with pytest.raises(WireError, match="version 1; this is version 2"):
        wire.decode(frame)


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (b"P", "magic"),
        (b"GSMX", "magic"),
        (b"GSMR\1\0", "version 1; this is version 2"),
        (b"GSMR\2\0\1", "has 1 where version 2 has 0"),
        (b"GSMR\2\0\0\0\xfe\xff\xff\xff", "sender -2"),
        (b"GSMR\2\0\0\0" + bytes(8) + b"\0\0\0\x40", "exceeds the limit of 1073741824"),
        (b"GSMR\2\0\0\0" + bytes(8) + b"\x10" + bytes(7) + b"\1" * 8, "schema 0101010101010101, agreed was 0{15}5"),
        (sealed(payload(GOOD, DATA), schema=5, length=10)[:32], "payload of 10 bytes"),
        (sealed(payload(GOOD, DATA), schema=5)[:32] + b"\0\0\x10\0\0\0\0\0", "tensor header of 1048576 bytes"),
        (sealed(payload(GOOD.replace("[2]", "[3]"), DATA), schema=5)[:96], "do not fit"),
    ],
)
def test_reader_refuses_at_the_first_byte_that_is_wrong(start: bytes, why: str) -> None:
    """And gives the same reason from then on."""
    reader = wire.Reader(schema=5)
    reader.feed(start[:-1])
    with pytest.raises(WireError, match=why):
        reader.feed(start[-1:])
    for again in (lambda: reader.feed(b""), reader.message):
        with pytest.raises(WireError, match=why):
            again()
    assert not reader.done


def test_agreed_schema() -> None:
    schema, other = wire.schema_of(ROW), wire.schema_of({"row": torch.zeros(3)})
    stated, silent = wire.encode(ROW, 0, 0, schema), wire.encode(ROW, 0, 0)
    assert same(wire.decode(stated)[0], ROW)
    assert same(wire.decode(stated, schema=schema)[0], ROW)
    for frame in (silent, wire.encode(ROW, 0, 0, other)):
        with pytest.raises(WireError, match=f"agreed was {schema:016x}"):
            wire.decode(frame, schema=schema)


def test_schema_is_of_names_types_and_shapes_in_the_order_of_the_wire() -> None:
    message = {"b": torch.zeros(2, 3), "ä": torch.zeros((), dtype=torch.uint8), "a": torch.zeros(0)}
    text = '[["a","F32",[0]],["b","F32",[2,3]],["ä","U8",[]]]'
    expected = struct.unpack("<Q", hashlib.blake2b(text.encode()).digest()[:8])[0]
    assert wire.schema_of(message) == wire.schema_of(on_meta(dict(reversed(message.items())))) == expected
    others = [message | {"b": torch.ones(3, 2)}, message | {"b": torch.ones(2, 3).half()}, {**message, "c": ROW["row"]}]
    assert len({wire.schema_of(other) for other in [*others, message, {}]}) == 5


def test_limit_is_on_the_whole_frame() -> None:
    frame = wire.encode(ROW, 0, 0)
    assert all(not isinstance(verdict, str) for verdict in verdicts(frame, [], limit=120))
    assert all("exceeds the limit of 119" in verdict for verdict in verdicts(frame, [], limit=119))


def test_announcements_take_no_memory() -> None:
    """A gigabyte announced, little sent: what is held grows with what arrives."""
    header = payload('{"row":{"dtype":"F32","shape":[268435000],"data_offsets":[0,1073740000]}}')
    frame = sealed(header + bytes(2**20), length=len(header) + 1073740000)[:-16]
    tracemalloc.start()
    reader = wire.Reader()
    reader.feed(frame[:1000])
    assert tracemalloc.get_traced_memory()[1] < 20_000
    for at in range(1000, len(frame), 1000):
        reader.feed(frame[at : at + 1000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.1 * len(frame)
    with pytest.raises(WireError, match=f"ends after {len(frame)} bytes, at least {1073740000 + len(header) + 48}"):
        reader.message()


def test_receiving_takes_one_copy() -> None:
    """And none beside it for tensors."""
    frame = wire.encode({"row": torch.zeros(2**20), "bits": torch.zeros(2**20, dtype=torch.bool)}, 0, 0)
    for pieces in ([10**5] * 100, []):
        tracemalloc.start()
        streamed(frame, pieces)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < len(frame) + 2**18


def test_memory_of_a_reader_left_alone_is_given_back() -> None:
    """At once: frames that never end do not wait for the garbage collector."""
    gc.disable()
    try:
        reader = wire.Reader()
        reader.feed(wire.encode(ROW, 0, 0)[:100])
        left = weakref.ref(reader)
        del reader
        assert left() is None
    finally:
        gc.enable()


def test_bytes_after_the_end_are_refused() -> None:
    frame = wire.encode(ROW, 3, 7)
    for pieces in ([], [120]):
        with pytest.raises(WireError, match="frame of 120 bytes is followed by 1 more"):
            streamed(frame + b"!", pieces)
    with pytest.raises(WireError, match="announces 72 payload bytes but carries 73"):
        wire.decode(frame + b"!")
    reader = wire.Reader()
    reader.feed(frame[:-1])
    assert not reader.done
    reader.feed(frame[-1:])
    reader.feed(b"")
    assert reader.done
    assert same(reader.message()[0], ROW)


@pytest.mark.parametrize(
    ("sender", "round", "schema"), [(2**31, 0, 0), (-2, 0, 0), (0, -1, 0), (0, 2**32, 0), (0, 0, 2**64)]
)
def test_numbers_that_no_frame_holds(sender: int, round: int, schema: int) -> None:
    with pytest.raises(WireError, match="out of a frame's range"):
        wire.encode(ROW, sender, round, schema)


def test_why_a_message_is_refused() -> None:
    like = {"row": torch.empty(5, device="meta"), "codes": torch.empty(2, 3, dtype=torch.uint8, device="meta")}
    good = {"row": torch.zeros(5), "codes": torch.zeros(2, 3, dtype=torch.uint8)}
    assert wire.refused(good, like) == wire.refused(good, like, exactly=False) == ""
    for change, why in [
        ({"row": torch.zeros(6)}, "'row' has shape [6], not [5]"),
        ({"row": torch.zeros(5, 1)}, "'row' has shape [5, 1], not [5]"),
        ({"row": torch.zeros(())}, "'row' has shape [], not [5]"),
        ({"row": torch.zeros(4).double()}, "'row' is torch.float64, not torch.float32"),
        ({"codes": torch.zeros(1, 3, dtype=torch.uint8)}, "'codes' has shape [1, 3], not [2, 3]"),
        ({"z\n": torch.zeros(1), "zz": torch.zeros(1)}, r"unknown field 'z\n'"),
    ]:
        assert wire.refused(good | change, like, exactly=False) == why
    assert wire.refused({"row": good["row"]}, like) == "'codes' is missing"
    short = good | {"row": torch.zeros(0)}
    assert wire.refused(short, like, exactly=False) == ""
    assert wire.refused(short, like) == "'row' has shape [0], not [5]"
