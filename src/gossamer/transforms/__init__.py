"""Transforms: symmetric steps on messages, forward at the sender and reversed at the receiver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossamer.plugs import Plug

if TYPE_CHECKING:
    from gossamer.wire import Message


class Transform(Plug):
    """Base of the transforms: `forward` before sending, `reverse` after receiving (the chain in opposite order)."""

    def forward(self, message: Message) -> Message:
        """The message as it goes on the wire."""
        raise NotImplementedError

    def reverse(self, message: Message, like: Message) -> Message:
        """The message as the receiver uses it; `like` has the names, shapes and types of what `forward` was given."""
        raise NotImplementedError
