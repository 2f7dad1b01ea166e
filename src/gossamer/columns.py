"""Order statistics of every column of a few long rows, a block of columns at a time.

A sorting network orders N rows with whole-row minima and maxima: no branch, no index, no transposed copy, and the
block stays in cache. Shapes: N rows of D numbers, C columns of a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 8192
"""Columns sorted at a time."""


def by_columns(rows_ND: Tensor, rule: Callable[[Tensor], Tensor], map_PN: Tensor | None = None) -> Tensor:
    """`rule` of each block [N, C] of columns (or of P combinations of the rows), joined: [D].

    The block is the rule's own to overwrite.
    """
    result_D = rows_ND.new_empty(rows_ND.shape[1])
    for start in range(0, rows_ND.shape[1], COLUMNS):
        block_NC = rows_ND[:, start : start + COLUMNS]
        block_NC = block_NC.clone() if map_PN is None else map_PN.to(block_NC) @ block_NC
        result_D[start : start + COLUMNS] = rule(block_NC)
    return result_D


@functools.cache
def network(n: int, low: int, high: int) -> tuple[tuple[int, int], ...]:
    """Comparators (i, j), i < j, after which the places low..high-1 of n rows hold what a full sort puts there.

    Batcher's odd-even merge exchange (Knuth, TAOCP 3, algorithm 5.2.2M), without the comparators that those places do
    not depend on.
    """
    pairs = []
    t = max(1, (n - 1).bit_length())
    p = 1 << (t - 1)
    while p > 0:
        q, r, d = 1 << (t - 1), 0, p
        while d > 0:
            pairs += [(i, i + d) for i in range(n - d) if (i & p) == r]
            d, q, r = q - p, q >> 1, p
        p >>= 1
    needed, kept = set(range(low, high)), []
    for i, j in reversed(pairs):
        if i in needed or j in needed:
            needed |= {i, j}
            kept.append((i, j))
    return tuple(reversed(kept))


def order(block_NC: Tensor, low: int = 0, high: int | None = None) -> list[Tensor]:
    """The rows low..high-1 of the block with every column in ascending order. Overwrites the block."""
    import torch

    rows = list(block_NC.unbind(0))
    spare = torch.empty_like(rows[0])
    for i, j in network(len(rows), low, len(rows) if high is None else high):
        torch.minimum(rows[i], rows[j], out=spare)
        torch.maximum(rows[i], rows[j], out=rows[j])
        rows[i], spare = spare, rows[i]
    return rows[low:high]
