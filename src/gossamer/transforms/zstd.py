"""Entropy coding of whatever is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import WireError
from gossamer.transforms import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout
    from gossamer.passages import Form, Passage
    from gossamer.wire import Message

    Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Zstd(Transform):
    """Compress the bytes of every tensor by itself with Zstandard; nothing is lost.

    A tensor travels as the bytes of one Zstandard frame that announces its length (RFC 8878), or as its own bytes where
    a frame would not be shorter: as many bytes as it has are these. So a message never gets longer.
    """

    source: ClassVar[str] = "Collet and Kucherawy 2021 (RFC 8878); Alted 2010 (Blosc, for the order of bytes)"
    # Not on bytes: its receiver could not tell how many there were, as those who leave bytes only promise a bound.
    needs: ClassVar[Form] = "codes"
    leaves: ClassVar[Form] = "bytes"
    fixed: ClassVar[bool] = False

    kind: Literal["zstd"] = "zstd"
    level: int = Field(default=3, ge=1, le=19, description="from 1, fast, to 19, short")
    shuffle: bool = Field(
        default=True,
        description="put bytes of the same significance together first: signs and exponents are much alike",
    )

    @property
    def unbiased(self) -> bool:
        return True

    @property
    def linear(self) -> bool:
        return True

    def outline(self, like: Message, layout: Layout) -> Message:
        import torch

        return {
            name: torch.empty(value.numel() * value.element_size(), dtype=torch.uint8, device="meta")
            for name, value in like.items()
        }

    def forward(self, message: Message, passage: Passage) -> Message:
        import torch

        out: Message = {}
        for name, value in message.items():
            raw = _copied(value).view(torch.uint8)
            frame = self._compressed(raw.numpy(), value.element_size())
            out[name] = torch.frombuffer(bytearray(frame), dtype=torch.uint8) if len(frame) < len(raw) else raw
        return out

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        import torch

        out: Message = {}
        for name, shape in like.items():
            size, length = shape.element_size(), shape.numel() * shape.element_size()
            raw = _copied(message[name])
            if len(raw) != length:
                raw = torch.from_numpy(self._restored(decompressed(raw.numpy(), length, name), size))
            out[name] = (raw != 0 if shape.dtype == torch.bool else raw.view(shape.dtype)).view(shape.shape)
        return out

    def _compressed(self, raw: Bytes, size: int) -> bytes:
        """The frame of numbers of `size` bytes each."""
        import zstandard

        stream = zstandard.ZstdCompressor(level=self.level).compressobj(size=len(raw))
        *planes, last = np.ascontiguousarray(raw.reshape(-1, size).T) if self.shuffle else raw[None]
        parts = []
        for plane in planes:
            # A block ends with every plane, for each is best in a code of its own.
            parts += [stream.compress(plane.data), stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
        return b"".join([*parts, stream.compress(last.data), stream.flush()])

    def _restored(self, ordered: Bytes, size: int) -> Bytes:
        """The bytes as they were before they were put in the order in which they are compressed; writable."""
        return (ordered.reshape(size, -1).T if self.shuffle else ordered).reshape(-1).copy()


def _copied(value: Tensor) -> Tensor:
    """[n], in memory of its own with stride 1, which `contiguous` does not promise of a single number."""
    return value.new_empty(value.numel()).copy_(value.detach().reshape(-1))


def decompressed(frame: Bytes, length: int, name: str) -> Bytes:
    """What is in one Zstandard frame that announces `length` bytes. Raises WireError for anything else, before any
    memory is allocated for it.
    """
    import zstandard

    try:
        announced = zstandard.get_frame_parameters(frame.data).content_size
        if announced != length:
            raise WireError(f"zstd: '{name}' announces {announced} bytes instead of {length}")
        content = zstandard.ZstdDecompressor().decompress(frame.data, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError(f"zstd: '{name}' is no Zstandard frame: {error}") from None
    if len(content) != length:
        raise WireError(f"zstd: '{name}' holds {len(content)} bytes instead of {length}")
    return np.frombuffer(content, np.uint8)
