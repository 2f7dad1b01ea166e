"""Send numbers in fewer bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gossamer.transforms import Transform

if TYPE_CHECKING:
    from gossamer.wire import Message


class Cast(Transform):
    """Send floating-point tensors of more than one number as float16, bfloat16 or float32; the receiver widens them."""

    kind: Literal["cast"] = "cast"
    to: Literal["float16", "bfloat16", "float32"] = Field(default="float16", description="type on the wire")

    def forward(self, message: Message) -> Message:
        import torch

        to: torch.dtype = getattr(torch, self.to)
        return {k: v.to(to) if v.is_floating_point() and v.numel() > 1 else v for k, v in message.items()}

    def reverse(self, message: Message, like: Message) -> Message:
        return {name: value.to(like[name].dtype) for name, value in message.items()}
