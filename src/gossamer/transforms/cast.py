"""Send numbers in fewer bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.transforms import Transform, numbers

if TYPE_CHECKING:
    from gossamer.layout import Layout
    from gossamer.passages import Form, Passage
    from gossamer.wire import Message


class Cast(Transform):
    """Send floating-point tensors of more than one number as float16, bfloat16 or float32; the receiver widens them.

    Rounding is to the nearest: no message is changed by more than 2^-11 (float16, within its range), 2^-9 (bfloat16)
    or 2^-24 (float32) of each number.
    """

    leaves: ClassVar[Form] = "whole"

    kind: Literal["cast"] = "cast"
    to: Literal["float16", "bfloat16", "float32"] = Field(default="float16", description="type on the wire")

    def outline(self, like: Message, layout: Layout) -> Message:
        return self._cast(like)

    def forward(self, message: Message, passage: Passage) -> Message:
        return self._cast(message)

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        return {name: value.to(like[name].dtype) for name, value in message.items()}

    def _cast(self, message: Message) -> Message:
        import torch

        to: torch.dtype = getattr(torch, self.to)
        return {name: value.to(to) if numbers(value) else value for name, value in message.items()}
