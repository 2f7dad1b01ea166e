"""What a frame carries: named tensors as a safetensors file, written and read where they lie in memory.

    offset  size  field
    0       8     h, length of the header
    8       h     JSON: {"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},...}, filled up with spaces to 8
    8 + h         numbers of the tensors, without gaps

Byte for byte what `safetensors.torch.save` writes (Apache-2.0, https://github.com/huggingface/safetensors). Its reader
is not used because it copies, and because this one faces strangers: it takes less, and only WireError comes out of it.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from gossamer.errors import WireError

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER, MAX_DIMENSIONS, MAX_NAME = 2**20, 8, 1024
"""Limits on the header in bytes (some 20,000 tensors), the dimensions of a tensor, the characters of a name."""
SMALL_HEADER, PARSED = 4096, 8
"""Bytes of a header that need not be accounted for, and how many bytes of memory one of its bytes takes when it is read
(measured, at most: of many empty tensors)."""

_TYPES = {"I64": "int64", "F64": "float64", "F32": "float32", "I32": "int32", "BF16": "bfloat16"}
_TYPES |= {"F16": "float16", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
"""In the order of tensors in a file: larger items first, so that each begins at a multiple of its item size."""
_ITEM_BYTES = {"I64": 8, "F64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_CODES = {f"torch.{name}": code for code, name in _TYPES.items()}
_RANKS = {code: rank for rank, code in enumerate(_TYPES)}

# Bounded and possessive: what `json` sees of a stranger's text is short, and no text takes long to refuse.
_MEMBER = re.compile(r'_("(?:[^"\\]|\\.){0,12288}+")_:_(\{[^{}]{0,1024}+\})_([,}])'.replace("_", r"[ \t\n\r]*+"))


class Entry(NamedTuple):
    """A tensor as the header tells of it; its numbers are bytes start .. stop after the header."""

    name: str
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int


Signature = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, type and shape of tensors."""


def signature_of(message: dict[str, Tensor]) -> Signature:
    """What a message's frame looks like, whatever its numbers."""
    return tuple((name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in message.items())


def placed(signature: Signature) -> list[Entry]:
    """Tensors in the order of the file: by type, then by name. Raises WireError for those that it cannot hold."""
    listed = []
    for name, dtype, shape in signature:
        if dtype not in _CODES:
            raise WireError(f"{name!r:.80} is {dtype}; a frame holds only {', '.join(sorted(_CODES))}")
        listed.append((_RANKS[_CODES[dtype]], name, _CODES[dtype], shape))
    entries: list[Entry] = []
    at = 0
    for _, name, code, shape in sorted(listed):
        stop = at + _bytes(name, code, shape)
        entries.append(Entry(name, code, shape, at, stop))
        at = stop
    return entries


def written(entries: list[Entry]) -> bytes:
    """The beginning of the file, up to the numbers."""
    about = {e.name: {"dtype": e.code, "shape": e.shape, "data_offsets": (e.start, e.stop)} for e in entries}
    text = compact(about)
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise WireError(f"{len(entries)} tensors need a header of {len(text)} bytes; at most {MAX_HEADER} are allowed")
    return len(text).to_bytes(8, "little") + text


def compact(value: object) -> bytes:
    """JSON without spaces, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def memory(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as bytes: where they are, unless they do not lie there in order."""
    import torch

    _check_byte_order()
    if not tensor.numel():
        return memoryview(b"")
    in_order = tensor.detach().cpu().resolve_neg().contiguous()
    # One dimension of stride 1: a tensor of one number may have any stride and still count as contiguous.
    return in_order.as_strided((in_order.numel(),), (1,)).view(torch.uint8).numpy().data


def header_bytes(first: bytes, room: int, limit: int) -> int:
    """h, from the first 8 bytes of a file of `room` bytes, which takes no more than `limit` bytes of memory to read."""
    size = int.from_bytes(first, "little")
    if size > SMALL_HEADER and room + PARSED * size > limit:
        raise WireError(f"tensor header of {size} bytes takes more memory than the limit of {limit}")
    if not 8 <= size <= min(room - 8, MAX_HEADER) or size % 8:
        raise WireError(f"tensor header of {size} bytes in a payload of {room}; a multiple of 8, at most {MAX_HEADER}")
    return size


def read_header(text: bytes, room: int) -> list[Entry]:
    """The tensors of a header, in its order, with `room` bytes after it. Raises WireError unless they fill it."""
    try:
        entries = [_entry(name, about) for name, about in _members(text.decode())]
    except UnicodeError:
        raise WireError("tensor header is not UTF-8") from None
    if len({entry.name for entry in entries}) < len(entries):
        raise WireError("tensor header names a tensor twice")
    at = 0
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.stop)):
        if entry.start != at:
            raise WireError(f"tensor {entry.name!r:.80} begins at byte {entry.start}, where {at} is next")
        at = entry.stop
    if at != room:
        raise WireError(f"tensors take {at} bytes, but {room} follow their header")
    return entries


def read_tensors(entries: Iterable[Entry], data: memoryview) -> dict[str, Tensor]:
    """The tensors, as views of `data` where it can be written to and they are aligned in it; otherwise copies."""
    import torch

    _check_byte_order()
    message = {}
    for name, code, shape, start, stop in entries:
        dtype, part = getattr(torch, _TYPES[code]), data[start:stop]
        if start == stop:
            message[name] = torch.empty(shape, dtype=dtype)
            continue
        bytes_B = np.frombuffer(part, np.uint8)
        if code == "BOOL" and bytes_B.max() > 1:
            raise WireError(f"tensor {name!r:.80} has truth values other than 0 and 1")
        in_place = not part.readonly and bytes_B.ctypes.data % _ITEM_BYTES[code] == 0
        message[name] = torch.frombuffer(part if in_place else bytearray(part), dtype=dtype).reshape(shape)
    return message


def _members(text: str) -> Iterable[tuple[str, object]]:
    """Names of the header and what is under them."""
    text = text.rstrip(" ")
    if text == "{}":
        return
    at, after = 1, ","
    while text.startswith("{") and after == ",":
        found = _MEMBER.match(text, at)
        if found is None:
            break
        try:
            yield json.loads(found[1]), _ABOUT.decode(found[2])
        except (ValueError, RecursionError):
            break
        at, after = found.end(), found[3]
    if after == "," or at != len(text):
        raise WireError(f"tensor header is malformed at character {at}")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _not_whole(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a whole number")


_ABOUT = json.JSONDecoder(object_pairs_hook=_once, parse_float=_not_whole, parse_constant=_not_whole)


def _entry(name: str, about: object) -> Entry:
    """A member of the header, checked on its own."""
    if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
        raise WireError(f"tensor {name!r:.80} needs dtype, shape and data_offsets, nothing else")
    code, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(code, str) or code not in _TYPES:
        raise WireError(f"tensor {name!r:.80} has the unknown type {code!r:.40}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise WireError(f"tensor {name!r:.80} has a shape or offsets that are not whole numbers in range")
    start, stop = offsets
    if stop - start != _bytes(name, code, tuple(shape)):
        raise WireError(f"tensor {name!r:.80}: offsets do not fit its shape")
    if start % _ITEM_BYTES[code]:
        raise WireError(f"tensor {name!r:.80} does not begin at a multiple of its item size; put larger items first")
    return Entry(name, code, tuple(shape), start, stop)


def _counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _bytes(name: str, code: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor's numbers. Raises WireError for a name or shape that is not allowed."""
    if name == "__metadata__":
        raise WireError("'__metadata__' is not allowed: a frame carries tensors only")
    if len(name) > MAX_NAME or any("\ud800" <= char <= "\udfff" for char in name):
        raise WireError(f"tensor name {name!r:.80} is longer than {MAX_NAME} characters or not Unicode")
    if len(shape) > MAX_DIMENSIONS:
        raise WireError(f"tensor {name!r:.80} has {len(shape)} dimensions, more than {MAX_DIMENSIONS}")
    if math.prod(max(size, 1) for size in shape) * _ITEM_BYTES[code] >= 2**63:
        raise WireError(f"tensor {name!r:.80} has a shape larger than any memory")
    return math.prod(shape) * _ITEM_BYTES[code]


def _check_byte_order() -> None:
    if sys.byteorder != "little":
        raise WireError("frames can be written and read on little-endian machines only")
