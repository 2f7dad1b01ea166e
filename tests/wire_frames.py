"""Frames made without wire.py, and payloads that no reader may take; for the tests of the wire."""

from __future__ import annotations

import hashlib
import json
import struct

import numpy as np
import torch
from hypothesis import strategies as st

from gossamer import wire
from gossamer.errors import WireError

DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64]

Message = dict[str, torch.Tensor]


def filled(shape: tuple[int, ...], dtype: torch.dtype, seed: int, backwards: bool = False) -> torch.Tensor:
    """A tensor of random bits, NaN and all; `backwards`: with its dimensions not in the order of its memory."""
    shape = shape[::-1] if backwards else shape
    count = int(np.prod(shape, dtype=int))
    high = 2 if dtype == torch.bool else 256
    bits = np.random.default_rng(seed).integers(0, high, count * dtype.itemsize, dtype=np.uint8)
    tensor = torch.empty(shape, dtype=dtype)
    if count:
        tensor.view(-1).view(torch.uint8).copy_(torch.from_numpy(bits))
    return tensor.permute(tuple(reversed(range(tensor.dim())))) if backwards else tensor


tensors = st.builds(
    filled,
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
    st.booleans(),
)
names = st.text(max_size=12).filter(lambda name: name != "__metadata__")
messages = st.dictionaries(names, tensors, max_size=5)


def same(one: Message, other: Message) -> bool:
    """Whether two messages are the same, bit by bit."""
    return one.keys() == other.keys() and all(
        a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b) for a, b in ((one[n], other[n]) for n in one)
    )


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8).tolist())


def sealed(
    payload: bytes, sender: int = 0, round: int = 0, schema: int = 0, version: int = 2, length: int | None = None
) -> bytes:
    """A frame with a valid digest around any payload."""
    length = len(payload) if length is None else length
    frame = struct.pack("<4sHHiIQQ", b"GSMR", version, 0, sender, round, length, schema) + payload
    return frame + hashlib.blake2b(frame, digest_size=16).digest()


def payload(header: object, data: bytes = b"") -> bytes:
    """A payload with a header: text as it is, or anything else as JSON; filled up to a multiple of 8."""
    text = header if isinstance(header, bytes) else header.encode() if isinstance(header, str) else as_json(header)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def as_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def streamed(frame: bytes, pieces: list[int], limit: int = 2**30) -> tuple[Message, int, int]:
    """What a Reader makes of a frame that arrives in pieces of these lengths and then the rest."""
    reader, at = wire.Reader(limit), 0
    for length in pieces:
        reader.feed(frame[at : at + length])
        at += length
    reader.feed(frame[at:])
    return reader.message()


def verdicts(frame: bytes, pieces: list[int], limit: int = 2**30) -> list[tuple[Message, int, int] | str]:
    """What `decode` and `Reader` make of a frame: a message, or why not, in one short line."""
    found: list[tuple[Message, int, int] | str] = []
    for read in (lambda: wire.decode(frame, limit), lambda: streamed(frame, pieces, limit)):
        try:
            found.append(read())
        except WireError as error:
            found.append(str(error))
    for why in found:
        assert not isinstance(why, str) or (why.splitlines() == [why] and len(why) < 300)
    return found


ROW = '"dtype":"F32","shape":[2],"data_offsets":[0,8]'
NEXT = ROW.replace("0,8", "8,16")
GOOD = '{"row":{' + ROW + "}}"
DATA = bytes(8)
MALFORMED: dict[str, tuple[bytes, str]] = {
    # What is not a header at all.
    "nothing": (b"", "payload of 0 bytes"),
    "too short for a length": (b"\x08\0\0", "payload of 3 bytes"),
    "too short for a header": (struct.pack("<Q", 8) + b"{}     ", "payload of 15 bytes"),
    "longer than the payload": (struct.pack("<Q", 64) + GOOD.encode(), "tensor header of 64"),
    "length of 2**64 - 1": (b"\xff" * 8 + bytes(64), "tensor header of 18446744073709551615"),
    "not a multiple of 8": (struct.pack("<Q", 9) + b"{}       " + bytes(8), "multiple of 8"),
    "more than 1 MiB": (struct.pack("<Q", 2**20 + 8) + bytes(2**20 + 8), "at most 1048576"),
    "zeros": (payload(bytes(16)), "malformed at character 1"),
    "not UTF-8": (payload(GOOD.replace("row", "r\xff").encode("latin-1"), DATA), "not UTF-8"),
    "surrogates in UTF-8": (payload(GOOD.encode().replace(b"row", b"\xed\xa0\x80"), DATA), "not UTF-8"),
    "UTF-16": (payload(GOOD.encode("utf-16"), DATA), "not UTF-8"),
    "a byte order mark": (payload("\ufeff" + GOOD, DATA), "malformed"),
    "a list": (payload("[1, 2, 3]"), "malformed"),
    "a number": (payload("7"), "malformed"),
    "spaces": (payload(" " * 64), "malformed"),
    "spaces before": (payload(" " + GOOD, DATA), "malformed"),
    "cut off": (payload(GOOD[:-1], DATA), "malformed"),
    "more after it": (payload(GOOD + "{}", DATA), "malformed"),
    "a comma at the end": (payload(GOOD[:-1] + ",}", DATA), "malformed"),
    "a comma at the beginning": (payload("{," + GOOD[1:], DATA), "malformed"),
    "a comma alone": (payload("{,}"), "malformed"),
    "single quotes": (payload(GOOD.replace('"', "'"), DATA), "malformed"),
    "zeros after it": (payload(GOOD.encode() + b"\0", DATA), "malformed"),
    "a newline in a name": (payload(GOOD.replace("row", "r\now"), DATA), "malformed"),
    "an escape that is none": (payload(GOOD.replace("row", r"\x41"), DATA), "malformed"),
    "a vertical tab": (payload(GOOD.replace(":", ":\v", 1), DATA), "malformed"),
    # What takes long or much to refuse where it is not done with care.
    "1 MiB of brackets": (payload("[" * 2**20), "malformed"),
    "1 MiB of braces": (payload("{" * 2**20), "malformed"),
    "1 MiB of nested members": (payload('{"a":' * (2**20 // 5)), "malformed"),
    "1 MiB of brackets in a shape": (payload('{"row":{"shape":' + "[" * (2**20 - 16)), "malformed"),
    "brackets in a short shape": (payload('{"row":{"shape":' + "[" * 900 + "]" * 900 + "}}"), "malformed"),
    "brackets as deep as they can be": (payload('{"row":{"shape":' + "[" * 500 + "]" * 500 + "}}"), "row"),
    "1 MiB of backslashes": (payload('{"' + "\\" * (2**20 - 8)), "malformed"),
    "1 MiB of quotes": (payload("{" + '"' * (2**20 - 8)), "malformed"),
    "1 MiB of spaces": (payload("{" + " " * (2**20 - 8) + "x"), "malformed"),
    "1 MiB of digits": (payload('{"row":{"shape":[' + "9" * (2**20 - 32) + "]}}"), "malformed"),
    "1 MiB of a name": (payload('{"' + "a" * (2**20 - 80) + '":{' + ROW + "}}", DATA), "malformed"),
    "1 MiB of empty members": (payload("{" + '"a":{},' * 140_000 + '"b":{}}'), "needs dtype"),
    # Names.
    "metadata": (payload('{"__metadata__":{"a":"b"},' + GOOD[1:], DATA), "'__metadata__' needs"),
    "metadata like a tensor": (payload(GOOD.replace("row", "__metadata__"), DATA), "__metadata__.*tensors only"),
    "the same name twice": (payload(GOOD[:-1] + ',"row":{' + NEXT + "}}", bytes(16)), "twice"),
    "the same name, escaped": (payload(GOOD[:-1] + r',"\u0072ow":{' + NEXT + "}}", bytes(16)), "twice"),
    "half a surrogate pair": (payload(GOOD.replace("row", r"\ud800"), DATA), "not Unicode"),
    "a name of 1,025 characters": (payload({"a" * 1025: entry()}, DATA), "longer than 1024"),
    # Members.
    "null": (payload('{"row":null}'), "malformed"),
    "no shape": (payload({"row": {"dtype": "F32", "data_offsets": [0, 8]}}, DATA), "needs dtype, shape"),
    "something else": (payload({"row": entry() | {"strides": [1]}}, DATA), "nothing else"),
    "a key twice": (payload(GOOD.replace(ROW, ROW + ',"shape":[2]'), DATA), "malformed"),
    "unknown type": (payload({"row": entry("F8_E4M3", [8])}, DATA), "unknown type 'F8_E4M3'"),
    "type in small letters": (payload({"row": entry("f32")}, DATA), "unknown type 'f32'"),
    "type that is a list": (payload({"row": entry(["F32"])}, DATA), "unknown type"),
    "type that is null": (payload({"row": entry(None)}, DATA), "unknown type None"),
    "long unknown type": (payload({"row": entry("F" * 900)}, DATA), "unknown type"),
    # Numbers.
    "shape of 2.0": (payload(GOOD.replace("[2]", "[2.0]"), DATA), "malformed"),
    "shape of 2e0": (payload(GOOD.replace("[2]", "[2e0]"), DATA), "malformed"),
    "shape of NaN": (payload(GOOD.replace("[2]", "[NaN]"), DATA), "malformed"),
    "shape of -Infinity": (payload(GOOD.replace("[2]", "[-Infinity]"), DATA), "malformed"),
    "shape of 02": (payload(GOOD.replace("[2]", "[02]"), DATA), "malformed"),
    "shape of true": (payload(GOOD.replace("[2]", "[2,true]"), DATA), "whole numbers"),
    "shape of a text": (payload(GOOD.replace("[2]", '["2"]'), DATA), "whole numbers"),
    "shape of a list": (payload(GOOD.replace("[2]", "[[2]]"), DATA), "whole numbers"),
    "shape that is a number": (payload(GOOD.replace("[2]", "2"), DATA), "whole numbers"),
    "negative shape": (payload(GOOD.replace("[2]", "[-2]"), DATA), "whole numbers"),
    "two negative sizes": (payload(GOOD.replace("[2]", "[-2,-1]"), DATA), "whole numbers"),
    "nine dimensions": (payload({"row": entry(shape=[2] + [1] * 8)}, DATA), "9 dimensions"),
    "480 dimensions": (payload({"row": entry(shape=[1] * 480)}, DATA), "480 dimensions"),
    "900 digits": (payload(GOOD.replace("[2]", "[" + "9" * 900 + "]"), DATA), "whole numbers"),
    "a shape that overflows to 0": (payload({"row": entry(shape=[2**32, 2**32], offsets=[0, 0])}), "any memory"),
    "empty and too large": (payload({"row": entry(shape=[0, 2**62, 2**62], offsets=[0, 0])}), "any memory"),
    "a size of 2**63": (payload({"row": entry(shape=[0, 2**63], offsets=[0, 0])}), "whole numbers"),
    # Offsets.
    "one offset": (payload({"row": entry(offsets=[8])}, DATA), "whole numbers"),
    "three offsets": (payload({"row": entry(offsets=[0, 8, 8])}, DATA), "whole numbers"),
    "offsets backwards": (payload({"row": entry(offsets=[8, 0])}, DATA), "do not fit"),
    "negative offset": (payload({"row": entry(offsets=[-8, 0])}, DATA), "whole numbers"),
    "offsets of 2**64": (payload({"row": entry(offsets=[2**64, 2**64 + 8])}, DATA), "whole numbers"),
    "offsets too far": (payload({"row": entry(offsets=[2**62, 2**62 + 8])}, DATA), "begins at byte"),
    "offsets that do not fit the shape": (payload({"row": entry(shape=[3])}, DATA), "do not fit"),
    "a gap before": (payload({"row": entry(offsets=[4, 12])}, bytes(12)), "begins at byte 4, where 0"),
    "a gap between": (payload({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)), "begins at byte 12, where 8"),
    "a gap after": (payload(GOOD, DATA + b"\0"), "take 8 bytes, but 9 follow"),
    "overlap": (payload({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)), "begins at byte 4, where 8"),
    "the same bytes twice": (payload({"a": entry(), "b": entry()}, DATA), "begins at byte 0, where 8"),
    "an empty tensor inside another": (
        payload({"a": entry(), "b": entry(shape=[0], offsets=[4, 4])}, DATA),
        "begins at byte 4, where 8",
    ),
    "too few numbers": (payload(GOOD, DATA[:-1]), "take 8 bytes, but 7 follow"),
    "a terabyte": (payload({"row": entry(shape=[2**38], offsets=[0, 2**40])}, DATA), "take 1099511627776"),
    "smaller items first": (
        payload({"a": entry("U8", [1], [0, 1]), "b": entry("F32", [1], [1, 5])}, bytes(5)),
        "larger items first",
    ),
    # Numbers of tensors.
    "a truth value of 2": (payload({"row": entry("BOOL", [2], [0, 2])}, b"\1\2"), "other than 0 and 1"),
}  # fmt: skip
