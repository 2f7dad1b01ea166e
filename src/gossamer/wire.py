"""The wire frame: one versioned binary form for a message, with nothing executable in it.

    offset  size  field
    0       4     magic "GSMR"
    4       2     version (1), little-endian like all numbers here
    6       2     reserved, 0
    8       8     sender (node number; -1 for a server)
    16      8     round
    24      8     length of the payload in bytes
    32      16    BLAKE2b-128 digest of bytes 0..31 and the payload
    48      ...   payload: the tensors in safetensors format

Bytes reported by a run are lengths of such frames.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from typing import TYPE_CHECKING

from gossamer.errors import WireError

if TYPE_CHECKING:
    from torch import Tensor

    Message = dict[str, Tensor]
    """What travels: named tensors."""

_HEAD = struct.Struct("<4sHHqqQ")
_DIGEST = 16
HEADER_BYTES = _HEAD.size + _DIGEST
MAGIC, VERSION = b"GSMR", 1


def encode(message: Message, sender: int, round: int) -> bytes:
    """The frame of a message. Tensors are sent contiguous, little-endian, in their own dtype."""
    from safetensors.torch import save

    payload = save({name: tensor.contiguous() for name, tensor in message.items()})
    head = _HEAD.pack(MAGIC, VERSION, 0, sender, round, len(payload))
    return head + hashlib.blake2b(head + payload, digest_size=_DIGEST).digest() + payload


def decode(frame: bytes, limit: int = 2**30) -> tuple[Message, int, int]:
    """(message, sender, round) of a frame of at most `limit` bytes. Raises WireError for anything but a valid frame."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    if len(frame) > limit:
        raise WireError(f"frame of {len(frame)} bytes exceeds the limit of {limit}")
    if len(frame) < HEADER_BYTES:
        raise WireError(f"frame of {len(frame)} bytes is shorter than its header of {HEADER_BYTES}")
    head, digest, payload = frame[: _HEAD.size], frame[_HEAD.size : HEADER_BYTES], frame[HEADER_BYTES:]
    magic, version, reserved, sender, round, length = _HEAD.unpack(head)
    if magic != MAGIC:
        raise WireError("not a Gossamer frame: wrong magic")
    if version != VERSION or reserved != 0:
        raise WireError(f"frame version {version}.{reserved} is not supported (this is version {VERSION}.0)")
    if length != len(payload):
        raise WireError(f"frame announces {length} payload bytes but carries {len(payload)}")
    if hashlib.blake2b(head + payload, digest_size=_DIGEST).digest() != digest:
        raise WireError("frame is damaged: digest differs")
    try:
        return load(payload), sender, round
    except SafetensorError as error:
        raise WireError(f"frame carries malformed tensors: {error}") from None


def size(message: Message) -> int:
    """Bytes of the frame of a message, exactly; an empty message is not sent and takes none."""
    if not message:
        return 0
    return _size(tuple((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in message.items()))


@functools.lru_cache(maxsize=1024)
def _size(signature: tuple[tuple[str, object, tuple[int, ...]], ...]) -> int:
    """Measured by encoding zeros of the same names, types and shapes: content does not change a frame's length."""
    import torch

    zeros = {name: torch.zeros(shape, dtype=dtype) for name, dtype, shape in signature}  # type: ignore[call-overload]
    return len(encode(zeros, 0, 0))
