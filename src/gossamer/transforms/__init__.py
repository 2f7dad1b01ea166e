"""Transforms: symmetric steps on messages, forward at the sender and reversed at the receiver.

A transform plug is one file with both halves. What kind of message it can follow, what it leaves, and whether its
length is fixed are said in class variables, see `gossamer.passages`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossamer.passages import Step
from gossamer.plugs import Plug, by_class

if TYPE_CHECKING:
    from torch import Tensor


class Transform(Step, Plug):
    """Base of the transforms: `forward` before sending, `reverse` after receiving (the chain in opposite order)."""


def numbers(tensor: Tensor) -> bool:
    """Whether codecs work on it: floating-point numbers, more than one. A single number goes as it is."""
    return tensor.is_floating_point() and tensor.numel() > 1


def __getattr__(name: str) -> type[Plug]:
    """The transforms by the names of their classes."""
    return by_class(Transform, name)
