"""The first step of a message's way where the server adds noise: it is bounded at both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gossamer.norms import in_norms, shortened
from gossamer.passages import Numerical
from gossamer.transforms import numbers

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.passages import Message, Passage

BELOW = "below"
"""The field that says whether a message was not longer than the bound: +1/2 or -1/2."""


class Bound(Numerical):
    """A message is clipped before it goes on its way, and as it comes off it.

    What arrives is no longer than the bound, whatever transforms made of it on the way and whoever sent it: the most
    that one node can change in a sum does not depend on the node.
    """

    for_changes: ClassVar[bool] = True

    def __init__(self, level: Tensor) -> None:
        self.level = level
        """The bound of the round, [1]."""

    def forward(self, message: Message, passage: Passage) -> Message:
        return self._bounded(message, asked=True)

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        return self._bounded(message, asked=False)

    def _bounded(self, message: Message, asked: bool) -> Message:
        fields = {name: value for name, value in message.items() if numbers(value)}
        bounded = {**message, **shortened(fields, float(self.level))}
        if BELOW in message:
            said = message[BELOW]
            if asked:
                said = said.new_full((1,), 0.5 if in_norms(fields.values(), float(self.level)) <= 1 else -0.5)
            bounded[BELOW] = said.clamp(-0.5, 0.5)
        return bounded
