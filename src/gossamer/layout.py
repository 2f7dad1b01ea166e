"""Layout: how a flat row maps to the named tensors of a model.

A row holds what a node trains and carries: first all trainable parameters (`row[:trainable]`), then the floating or
integer buffers of the model (`row[trainable:]`, e.g. BatchNorm statistics; integers are exact in float32 up to 2**24).
Buffers are averaged like parameters but never touched by gradients or server optimisers. What is frozen is not in the
row at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """One named tensor within a row: `row[start:stop].view(shape)`."""

    name: str
    shape: tuple[int, ...]
    start: int
    trainable: bool

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)


@dataclass(frozen=True)
class Factors:
    """A low-rank change of one frozen weight of a model: W + scale * B @ A, with A [r, n] and B [m, r].

    Dimensions of A after the first, and of B after the second, are flattened (convolutions).
    """

    a: Entry
    b: Entry
    base: str
    """Name of the weight W."""
    scale: float
    transposed: bool = False
    """Whether W is stored as [n, m]."""

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def inputs(self) -> int:
        """n"""
        return math.prod(self.a.shape[1:])

    @property
    def outputs(self) -> int:
        """m"""
        return self.b.shape[0]


@dataclass(frozen=True)
class Layout:
    """The entries of a row in order, trainable ones first, and the names that stay frozen outside it."""

    entries: tuple[Entry, ...]
    frozen: tuple[str, ...] = ()
    factors: tuple[Factors, ...] = ()
    """The pairs of entries that are low-rank changes of frozen weights."""

    @cached_property
    def size(self) -> int:
        """D, the number of columns of a row."""
        return self.entries[-1].stop if self.entries else 0

    @cached_property
    def trainable(self) -> int:
        """T, the number of trainable columns: `row[:T]`."""
        return max((e.stop for e in self.entries if e.trainable), default=0)

    @cached_property
    def shared(self) -> tuple[Entry, ...]:
        """Where the frozen weights that have low-rank changes lie in a vector [S] of all of them, as [m, n] or, where
        they are stored transposed, [n, m]. A method that merges changes into the base writes that vector."""
        entries: list[Entry] = []
        for pair in self.factors:
            shape = (pair.inputs, pair.outputs) if pair.transposed else (pair.outputs, pair.inputs)
            entries.append(Entry(pair.base, shape, entries[-1].stop if entries else 0, False))
        return tuple(entries)

    @classmethod
    def of(cls, module: nn.Module, frozen: tuple[str, ...] = ()) -> Layout:
        """The layout of a module: parameters not frozen (nor `requires_grad=False`), then persistent buffers."""
        entries: list[Entry] = []
        kept: list[str] = []
        position = 0
        persistent = set(module.state_dict(keep_vars=True))
        for name, parameter in module.named_parameters():
            if name in frozen or not parameter.requires_grad:
                kept.append(name)
                continue
            entries.append(Entry(name, tuple(parameter.shape), position, True))
            position = entries[-1].stop
        for name, tensor in module.named_buffers():
            if name in persistent:
                entries.append(Entry(name, tuple(tensor.shape), position, False))
                position = entries[-1].stop
        return cls(tuple(entries), tuple(kept))

    def views(self, row_D: Tensor) -> Iterator[tuple[Entry, Tensor]]:
        """Zero-copy named views of one row [D], or of rows [N, D] with the node dimension kept first."""
        for entry in self.entries:
            part = row_D[..., entry.start : entry.stop]
            yield entry, part.view((*row_D.shape[:-1], *entry.shape))

    def columns(self, names: set[str]) -> list[tuple[int, int]]:
        """The (start, stop) ranges of the named entries, neighbours joined."""
        ranges: list[tuple[int, int]] = []
        for entry in self.entries:
            if entry.name not in names or entry.start == entry.stop:
                continue
            if ranges and ranges[-1][1] == entry.start:
                ranges[-1] = (ranges[-1][0], entry.stop)
            else:
                ranges.append((entry.start, entry.stop))
        return ranges
