"""The population: all state of the receivers and the nodes as a handful of arrays whose first dimension is the node.

Shapes: N nodes, R receivers (1 with a server, else N), D columns of a row.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import Tensor

BLOCK = 8
"""Sums fold in blocks of this many nodes: in node order within a block, then block by block."""


@dataclass(frozen=True)
class Population:
    """`state[name]` is [R, ...]: what each receiver holds. `own[name]` is [N, ...]: what each node keeps for itself.

    The arrays live in shared memory, so that worker processes read and write the same numbers.
    """

    state: dict[str, Tensor]
    own: dict[str, Tensor]

    @classmethod
    def start(
        cls, init: Callable[[int], tuple[dict[str, Tensor], dict[str, Tensor]]], receivers: int, nodes: int
    ) -> Population:
        """Arrays filled from `init(node)` -> (receiver state, node state)."""
        first_state, first_own = init(0)
        population = cls(
            {name: shared(receivers, value) for name, value in first_state.items()},
            {name: shared(nodes, value) for name, value in first_own.items()},
        )
        for node in range(nodes):
            state, own = (first_state, first_own) if node == 0 else init(node)
            if node < receivers:
                population.write_state(node, state)
            population.write_own(node, own)
            if not population.own and node + 1 >= receivers:
                break
        return population

    def state_of(self, receiver: int) -> dict[str, Tensor]:
        """Views of one receiver's state."""
        return {name: values[receiver] for name, values in self.state.items()}

    def own_of(self, node: int) -> dict[str, Tensor]:
        """Views of what one node keeps."""
        return {name: values[node] for name, values in self.own.items()}

    def write_state(self, receiver: int, changed: dict[str, Tensor]) -> None:
        """Copy changed entries of one receiver's state into the arrays."""
        for name, value in changed.items():
            self.state[name][receiver].copy_(value)

    def write_own(self, node: int, changed: dict[str, Tensor]) -> None:
        """Copy changed entries of what one node keeps into the arrays."""
        for name, value in changed.items():
            self.own[name][node].copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """All arrays by a flat name: 'state.row', 'own.momentum', ..."""
        return {
            **{f"state.{name}": values for name, values in self.state.items()},
            **{f"own.{name}": values for name, values in self.own.items()},
        }


def shared(count: int, like: Tensor) -> Tensor:
    """Zeros [count, *like.shape] in memory that worker processes share."""
    import torch

    size = count * like.numel()
    # Anonymous shared memory: forked workers see it, and no limit of /dev/shm applies.
    memory = mmap.mmap(-1, max(1, size * like.element_size()))
    return (
        torch.frombuffer(memory, dtype=like.dtype, count=size).view(count, *like.shape)
        if size
        else like.new_empty((count, *like.shape))
    )


class Fold:
    """A weighted sum that does not depend on who computed what when: folded in node order, in blocks of BLOCK.

    Memory is two rows, whatever the number of nodes.
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._block: Tensor | None = None
        self._in_block = 0
        self.weight = 0.0

    def add(self, value: Tensor, weight: float) -> None:
        """Add weight * value."""
        import torch

        if self._block is None:
            self._block = torch.empty_like(value)
        if self._in_block == 0:
            torch.mul(value, weight, out=self._block)
        else:
            self._block.add_(value, alpha=weight)
        self._in_block += 1
        self.weight += weight
        if self._in_block == BLOCK:
            self._close()

    def _close(self) -> None:
        if self._in_block and self._block is not None:
            if self._total is None:
                self._total = self._block.clone()
            else:
                self._total.add_(self._block)
            self._in_block = 0

    def mean(self) -> Tensor:
        """sum_i w_i x_i / sum_i w_i over what was added."""
        self._close()
        if self._total is None:
            raise ValueError("nothing was added")
        return self._total / self.weight


def folded_mean(rows: Iterator[Tensor]) -> Tensor:
    """The plain mean of rows, folded as `Fold` does."""
    fold = Fold()
    for row in rows:
        fold.add(row, 1.0)
    return fold.mean()


def as_dtype(name: str) -> torch.dtype:
    """torch's dtype of a name."""
    import torch

    return {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64}[name]
