"""Frames that are damaged at random, many of them sealed again with a valid digest so that all of a reader is reached.

Whatever comes in: WireError or a valid message, little memory, and soon.
"""

from __future__ import annotations

import random
import re
import struct
import time
import tracemalloc

import pytest
import safetensors.torch
import torch
from wire_frames import DTYPES, MALFORMED, as_json, entry, filled, payload, same, sealed, verdicts

from gossamer import wire

LIMIT = 2**21
NUMBERS = [0, 1, 2, 3, 8, 63, 64, 72, 255, 2**20, 2**30, 2**31, 2**32, 2**61, 2**63 - 1, 2**63, 2**64 - 1, 10**30]
CODES = ["I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL"]
TOKENS = ["{", "}", "[", "]", ",", ":", '"', "\\", '""', "null", "true", "NaN", "-", "-1", "1e9", "0.5", "é", "\ud800"]
TOKENS += ["\0", " ", '"row"', '"dtype"', '"shape"', '"data_offsets"', r"\u0000", "[[[[", "{{{{", '{"a":', "[0,8]"]
TOKEN = re.compile(r'"[^"]*"|\w+|.', re.DOTALL)


def some_frames() -> list[bytes]:
    """Valid ones: small, of every type, of many tensors, of none, large."""
    every = {f"t{i}": filled((i % 3, 2), dtype, i) for i, dtype in enumerate(DTYPES)}
    many = {f"layer.{i}.weight": filled((3,), torch.float32, i) for i in range(40)}
    strange = {"": torch.ones(()), 'a"\\\n\0é\U0001f642': torch.zeros(0, 3)}
    large = {"row": filled((5000,), torch.float32, 0), "votes": filled((999,), torch.uint8, 1)}
    return [wire.encode(message, 3, 7) for message in ({"row": torch.ones(2)}, every, many, strange, {}, large)]


FRAMES = some_frames()
PAYLOADS = [frame[32:-16] for frame in FRAMES] + [
    malformed for malformed, _ in MALFORMED.values() if len(malformed) < 4096
]


def damaged(data: bytes, dice: random.Random) -> bytes:
    """A few places cut, flipped, repeated, overwritten or taken from elsewhere."""
    out = bytearray(data)
    for _ in range(dice.choice([1, 1, 1, 2, 5])):
        start = dice.randrange(len(out) + 1)
        stop = min(len(out), start + dice.choice([1, 1, 4, 8, 100]))
        match dice.randrange(6):
            case 0:
                del out[start:]
            case 1 if start < len(out):
                out[start] ^= 1 << dice.randrange(8)
            case 2:
                del out[start:stop]
            case 3:
                out[start:start] = out[start:stop]
            case 4:
                out[start:stop] = dice.randbytes(stop - start)
            case 5:
                other = dice.choice(FRAMES)
                place = dice.randrange(len(other))
                out[start:stop] = other[place : place + stop - start]
    return bytes(out)


def retold(data: bytes, dice: random.Random) -> bytes:
    """A payload with words of its JSON header exchanged for others, its length and padding made right again."""
    (size,) = struct.unpack("<Q", data[:8])
    words = TOKEN.findall(data[8 : 8 + size].decode("utf-8", "replace").rstrip(" ")) or ["{}"]
    for _ in range(dice.choice([1, 1, 2, 4])):
        place = dice.randrange(len(words))
        word = dice.choice([*TOKENS, f'"{dice.choice(CODES)}"', dice.choice(words)])
        if dice.random() < 0.5:
            place = dice.choice([i for i, word in enumerate(words) if word.isdigit()] or [place])
            word = str(dice.choice(NUMBERS))
        words[place : place + dice.choice([0, 1, 1, 1, 3])] = [word]
    return payload("".join(words).encode("utf-8", "surrogatepass"), data[8 + size :])


def invented(dice: random.Random) -> bytes:
    """A payload with a header of random tensors; most are right but for one or two things."""
    about, at = {}, 0
    for i in range(dice.choice([0, 1, 2, 3, 20])):
        shape = [dice.choice([0, 1, 2, 3, 7]) for _ in range(dice.choice([0, 1, 1, 2, 3, 8]))]
        code = CODES[min(i, 9)] if dice.random() < 0.7 else dice.choice([*CODES, "F8_E4M3", "C64", "U64", ""])
        size = int(re.sub(r"\D", "", code) or 8) // 8 if code[:1] in "IFBU" else 1
        for length in shape:
            size *= length
        about[f"t{i}"] = entry(code, shape, [at, at + size])
        at = max(0, at + size + dice.choice([0] * 20 + [-8, -1, 1, 8]))
        if dice.random() < 0.1:
            key = dice.choice(["dtype", "shape", "data_offsets", "strides"])
            wrong = [dice.choice(NUMBERS), -dice.choice(NUMBERS)]
            about[f"t{i}"][key] = dice.choice(
                [None, True, 0.5, "F32", {}, [], [[]], [True], [0.0], wrong, wrong[0], wrong[:1]]
            )
    if dice.random() < 0.2:
        about = dict(dice.sample(list(about.items()), len(about)))
    if dice.random() < 0.05:
        about["__metadata__"] = dice.choice([{}, {"a": "b"}, entry()])
    room = at if dice.random() < 0.9 else dice.choice([0, 1, at + 1, max(at - 1, 0)])
    return payload(as_json(about), dice.choice([bytes, dice.randbytes])(min(room, 2**16)))


def case(dice: random.Random) -> bytes:
    """A frame; only the first two kinds keep a digest that was made for another."""
    kind = dice.randrange(8)
    if kind == 0:
        return damaged(dice.choice(FRAMES), dice)
    if kind == 1:
        frame, start = dice.choice(FRAMES), dice.choice([8, 12, 16, 24, 32])
        return frame[:start] + struct.pack("<Q", dice.choice(NUMBERS) % 2**64) + frame[start + 8 :]
    if kind == 2:
        length = dice.choice(NUMBERS) % 2**64
        return sealed(dice.choice(PAYLOADS), version=dice.choice([0, 1, 2, 2, 3]), length=length)
    if kind == 3:
        return sealed(struct.pack("<Q", dice.choice(NUMBERS) % 2**64) + dice.choice(PAYLOADS)[8:])
    if kind == 4:
        return sealed(damaged(dice.choice(PAYLOADS), dice))
    if kind in (5, 6):
        return sealed(retold(dice.choice([data for data in PAYLOADS if len(data) >= 16]), dice))
    return sealed(invented(dice))


def check(count: int, seed: int) -> None:
    dice = random.Random(seed)
    taken = refused = 0
    reasons = set()
    tracemalloc.start()
    try:
        for number in range(count):
            frame = case(dice)
            pieces = [dice.choice([1, 8, 32, 100]) for _ in range(dice.randrange(5))]
            tracemalloc.reset_peak()
            before, began = tracemalloc.get_traced_memory()[0], time.monotonic()
            decoded, streamed = verdicts(frame, pieces, LIMIT)
            # Far more than any takes: what is looked for is work that grows out of hand.
            assert time.monotonic() - began < 10, (seed, number)
            assert tracemalloc.get_traced_memory()[1] - before < 8 * len(frame) + 2**17, (seed, number)
            assert isinstance(decoded, str) == isinstance(streamed, str), (seed, number)
            if isinstance(decoded, str):
                refused += 1
                reasons.add(decoded[:16])
            else:
                taken += 1
                assert decoded[1:] == streamed[1:]
                assert same(decoded[0], streamed[0]), (seed, number)
                assert same(decoded[0], safetensors.torch.load(frame[32:-16])), (seed, number)
    finally:
        tracemalloc.stop()
    # Both ends of the reader are reached: valid messages among the damaged ones, and most of the reasons to refuse.
    assert taken > count / 50
    assert refused > count / 2
    assert len(reasons) > 10


def test_damaged_frames() -> None:
    check(3000, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_hundred_thousand_damaged_frames(seed: int) -> None:
    check(25_000, seed)
