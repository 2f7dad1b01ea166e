"""The wire frame: one versioned binary form for a message, with nothing executable in it.

    offset  size  field
    0       4     magic "GSMR"
    4       2     version (2), little-endian like all numbers here
    6       2     reserved, 0
    8       4     sender, signed (node number; -1 for a server)
    12      4     round
    16      8     n, length of the payload in bytes
    24      8     schema: what both ends agreed on, see `schema_of`; 0 where it is not stated
    32      n     payload: the tensors as a safetensors file, see payload.py
    32 + n  16    BLAKE2b-128 digest of all before it

Bytes reported by a run are lengths of such frames. The digest comes last, so a sender goes through a message once,
without a second copy of it (`chunks`), and a receiver checks while it reads (`Reader`).
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.errors import WireError
from gossamer.payload import (
    Signature,
    compact,
    header_bytes,
    memory,
    placed,
    read_header,
    read_tensors,
    signature_of,
    written,
)

if TYPE_CHECKING:
    from torch import Tensor

    Message = dict[str, Tensor]
    """What travels: named tensors."""

    Buffer = bytes | bytearray | memoryview
    Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_HEAD = struct.Struct("<4sHHiIQQ")
_DIGEST = 16
HEADER_BYTES = _HEAD.size + _DIGEST
"""What a frame takes beside its payload."""
MAGIC, VERSION = b"GSMR", 2
_CHUNK = 2**20


def chunks(message: Message, sender: int, round: int, schema: int = 0) -> Iterator[bytes | memoryview]:
    """The frame of a message in pieces of at most 1 MiB, most of them views of the tensors' own memory.

    Tensors that do not lie in memory in order are copied when their turn comes. Raises WireError for what no frame
    can hold.
    """
    if not (-1 <= sender < 2**31 and 0 <= round < 2**32 and 0 <= schema < 2**64):
        raise WireError(f"sender {sender}, round {round} or schema {schema} is out of a frame's range")
    entries = placed(signature_of(message))
    start = written(entries)
    payload = len(start) + (entries[-1].stop if entries else 0)
    head = _HEAD.pack(MAGIC, VERSION, 0, sender, round, payload, schema)
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for name in (None, *(entry.name for entry in entries)):
        view = memoryview(head + start) if name is None else memory(message[name])
        for at in range(0, len(view), _CHUNK):
            piece = view[at : at + _CHUNK]
            digest.update(piece)
            yield piece
    yield digest.digest()


def encode(message: Message, sender: int, round: int, schema: int = 0) -> bytes:
    """The frame of a message. Tensors are sent contiguous, little-endian, in their own dtype."""
    return b"".join(chunks(message, sender, round, schema))


def decode(frame: Buffer, limit: int = 2**30, schema: int = 0) -> tuple[Message, int, int]:
    """(message, sender, round) of a frame of at most `limit` bytes. Raises WireError for anything but a valid frame.

    Tensors are views of a frame that can be written to, and copies of one that cannot. `schema` as for `Reader`.
    """
    view = _flat(frame)
    if len(view) > limit:
        raise WireError(f"frame of {len(view)} bytes exceeds the limit of {limit}")
    sender, round, payload = _read_head(bytes(view[: _HEAD.size]), limit, schema)
    if len(view) < HEADER_BYTES:
        raise WireError(f"frame of {len(view)} bytes is shorter than any")
    if payload != len(view) - HEADER_BYTES:
        raise WireError(f"frame announces {payload} payload bytes but carries {len(view) - HEADER_BYTES}")
    if hashlib.blake2b(view[:-_DIGEST], digest_size=_DIGEST).digest() != view[-_DIGEST:]:
        raise WireError("frame is damaged: digest differs")
    data = _HEAD.size + 8 + header_bytes(bytes(view[_HEAD.size : _HEAD.size + 8]), payload, limit)
    entries = read_header(bytes(view[_HEAD.size + 8 : data]), len(view) - _DIGEST - data)
    return read_tensors(entries, view[data:-_DIGEST]), sender, round


class Reader:
    """Takes a frame in pieces, as they arrive, and refuses it as early as can be.

    Holds at most twice what has arrived and never more than `limit` bytes (and some 32 kB to read a header), whatever
    a frame announces. With a `schema` other than 0, frames that state another, or none, are refused.
    """

    def __init__(self, limit: int = 2**30, schema: int = 0) -> None:
        self._limit, self._schema = limit, schema
        self._frame_B: Bytes = np.empty(0, np.uint8)
        self._arrived = 0
        self._digest = hashlib.blake2b(digest_size=_DIGEST)
        self._message: tuple[Message, int, int] | None = None
        self._refusal = ""
        self._stages = _stages(self._frame_B, self._digest, limit, schema)
        self._stage, self._total = next(self._stages)

    @property
    def done(self) -> bool:
        """Whether the frame is complete and valid."""
        return self._message is not None

    def feed(self, data: Buffer) -> None:
        """Take the next bytes, any number of them. Raises WireError once something is wrong, and from then on."""
        if self._refusal:
            raise WireError(self._refusal)
        try:
            self._take(_flat(data))
        except WireError as error:
            self._refusal, self._message = str(error), None
            self._frame_B = np.empty(0, np.uint8)
            raise

    def message(self) -> tuple[Message, int, int]:
        """(message, sender, round); the tensors are views of what was received. Raises WireError until `done`."""
        if self._message is None:
            raise WireError(self._refusal or f"frame ends after {self._arrived} bytes, at least {self._total} expected")
        return self._message

    def _take(self, data: memoryview) -> None:
        at = 0
        while at < len(data):
            if self.done:
                raise WireError(f"frame of {self._total} bytes is followed by {len(data) - at} more")
            piece = data[at : at + self._stage - self._arrived]
            at, arrived = at + len(piece), self._arrived + len(piece)
            if arrived > len(self._frame_B):
                # In place; nothing refers to the memory, only to the array, before the frame is complete.
                self._frame_B.resize(min(self._total, max(arrived, 2 * self._arrived)), refcheck=False)
            self._frame_B[self._arrived : arrived] = piece
            self._arrived = arrived
            self._digest.update(piece)
            if arrived == self._stage:
                try:
                    self._stage, self._total = next(self._stages)
                except StopIteration as end:
                    self._message = end.value
            elif arrived < _HEAD.size:
                _read_head(self._frame_B[:arrived].tobytes(), self._limit, self._schema)


def _stages(
    frame_B: Bytes, digest: hashlib.blake2b, limit: int, schema: int
) -> Generator[tuple[int, int], None, tuple[Message, int, int]]:
    """Goes through a frame while it arrives in `frame_B` and `digest`, and returns what `decode` does.

    Yields up to which byte it has to be there for the next step, and how long it is as far as is known.
    """
    yield _HEAD.size, _HEAD.size
    sender, round, payload = _read_head(frame_B[: _HEAD.size].tobytes(), limit, schema)
    start, end = _HEAD.size + 8, _HEAD.size + payload
    total = end + _DIGEST
    yield start, total
    data = start + header_bytes(frame_B[_HEAD.size : start].tobytes(), payload, limit)
    yield data, total
    entries = read_header(frame_B[start:data].tobytes(), end - data)
    if end > data:
        yield end, total
    expected = digest.digest()
    yield total, total
    if frame_B[end:total].tobytes() != expected:
        raise WireError("frame is damaged: digest differs")
    return read_tensors(entries, frame_B.data[data:end]), sender, round


def size(message: Message) -> int:
    """Bytes of the frame of a message, exactly; an empty message is not sent and takes none.

    They do not depend on the numbers, so tensors on the meta device will do.
    """
    return _size(signature_of(message)) if message else 0


@functools.lru_cache(maxsize=1024)
def _size(signature: Signature) -> int:
    entries = placed(signature)
    return HEADER_BYTES + len(written(entries)) + entries[-1].stop


def schema_of(message: Message) -> int:
    """A number for messages of these names, types and shapes; tensors on the meta device will do.

    The first 8 bytes, little-endian, of the BLAKE2b digest (64 bytes) of `[["name","F32",[2,3]],...]`, in the order of
    the wire, as JSON without spaces in UTF-8.
    """
    listed = [(entry.name, entry.code, entry.shape) for entry in placed(signature_of(message))]
    return int.from_bytes(hashlib.blake2b(compact(listed)).digest()[:8], "little")


def refused(message: Message, like: Message, exactly: bool = True) -> str:
    """Why a receiver cannot use a message; empty where it can. `like` is one as it ought to be.

    If not `exactly`, tensors of one dimension may be shorter, as entropy-coded ones are.
    """
    for name, expected in like.items():
        value = message.get(name)
        if value is None:
            return f"'{name}' is missing"
        shorter = not exactly and value.dim() == expected.dim() == 1 and len(value) < len(expected)
        if value.shape != expected.shape and not shorter:
            return f"'{name}' has shape {list(value.shape)}, not {list(expected.shape)}"
        if value.dtype != expected.dtype:
            return f"'{name}' is {value.dtype}, not {expected.dtype}"
    unknown = message.keys() - like.keys()
    return f"unknown field {min(unknown)!r:.80}" if unknown else ""


def _read_head(head: bytes, limit: int, schema: int) -> tuple[int, int, int]:
    """(sender, round, payload bytes) of a frame; of its first bytes alone, checks as much as they show."""
    if not MAGIC.startswith(head[: len(MAGIC)]):
        raise WireError("not a Gossamer frame: wrong magic")
    _, version, reserved, sender, round, payload, stated = _HEAD.unpack(head.ljust(_HEAD.size, b"\0"))
    if len(head) >= 6 and version != VERSION:
        raise WireError(f"frame of protocol version {version}; this is version {VERSION}, which cannot read it")
    if reserved:
        raise WireError(f"frame has {reserved} where version {VERSION} has 0, in bytes 6 and 7")
    if sender < -1:
        raise WireError(f"frame of sender {sender}; nodes count from 0, a server is -1")
    if HEADER_BYTES + payload > limit:
        raise WireError(f"frame announces {HEADER_BYTES + payload} bytes or more, which exceeds the limit of {limit}")
    if len(head) == _HEAD.size and payload < 16:
        raise WireError(f"frame announces a payload of {payload} bytes; one without tensors takes 16")
    if len(head) == _HEAD.size and schema and stated != schema:
        raise WireError(f"frame states schema {stated:016x}, agreed was {schema:016x}")
    return sender, round, payload


def _flat(data: Buffer) -> memoryview:
    """Any buffer as one of bytes."""
    view = memoryview(data)
    if not view.c_contiguous or not view.nbytes:
        return memoryview(view.tobytes())
    return view.cast("B")
