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

COLUMNS = 16384
"""Columns sorted at a time."""


def by_columns(rows_ND: Tensor, rule: Callable[[Tensor], Tensor], map_PN: Tensor | None = None) -> Tensor:
    """`rule` of each block [N, C] of columns (or of P combinations of the rows), joined: [D].

    The block is the rule's own to overwrite.
    """
    import torch

    columns = rows_ND.shape[1]
    result_D = rows_ND.new_empty(columns)
    map_PN = None if map_PN is None else map_PN.to(rows_ND)
    factors_N1 = None if map_PN is None or not _is_diagonal(map_PN) else map_PN.diagonal()[:, None]
    buffer_PC = rows_ND.new_empty((len(rows_ND) if map_PN is None else len(map_PN), min(COLUMNS, columns)))
    for start in range(0, columns, COLUMNS):
        block_NC = rows_ND[:, start : start + COLUMNS]
        part_PC = buffer_PC[:, : block_NC.shape[1]]
        if map_PN is None:
            part_PC.copy_(block_NC)
        elif factors_N1 is not None:
            torch.mul(block_NC, factors_N1, out=part_PC)
        else:
            torch.mm(map_PN, block_NC, out=part_PC)
        result_D[start : start + COLUMNS] = rule(part_PC)
    return result_D


def _is_diagonal(map_PN: Tensor) -> bool:
    return map_PN.shape[0] == map_PN.shape[1] and map_PN.equal(map_PN.diagonal().diag())


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


@functools.cache
def selection(n: int, low: int, high: int) -> tuple[tuple[int, int], ...]:
    """Comparators after which the places low..high-1 of n rows hold the values that a sort puts there, in any order.

    Either the network without the comparators that order the values below, between or above; or, where few are left
    out, minima and maxima one after another.
    """
    where = ["below" if i < low else "above" if i >= high else "between" for i in range(n)]
    kept = []
    for i, j in reversed(network(n, 0, n)):
        if where[i] == "" or where[i] != where[j]:
            kept.append((i, j))
            where[i] = where[j] = ""
    extremes = [(i, j) for i in range(low) for j in range(i + 1, n)]
    extremes += [(i, j) for j in range(n - 1, high - 1, -1) for i in range(low, j)]
    return min(tuple(reversed(kept)), tuple(extremes), key=len)


def order(block_NC: Tensor, low: int = 0, high: int | None = None, sort: bool = True) -> list[Tensor]:
    """The rows low..high-1 of the block with every column in ascending order (not `sort`: the same values in any
    order). Overwrites the block."""
    import torch

    rows = list(block_NC.unbind(0))
    spare = torch.empty_like(rows[0])
    for i, j in (network if sort else selection)(len(rows), low, len(rows) if high is None else high):
        torch.minimum(rows[i], rows[j], out=spare)
        torch.maximum(rows[i], rows[j], out=rows[j])
        rows[i], spare = spare, rows[i]
    return rows[low:high]


def median(block_NC: Tensor) -> Tensor:
    """[C]: the middle value of every column, of an even number the mean of the two middle ones. Overwrites all."""
    n = len(block_NC)
    middle = order(block_NC, (n - 1) // 2, n // 2 + 1)
    return middle[0] if n % 2 else (middle[0] + middle[1]) / 2


def weighted_median(block_NC: Tensor, weights_N: Tensor) -> Tensor:
    """[C]: of every column the least value up to which half of the weight lies."""
    values_NC, places_NC = block_NC.sort(0)
    given_NC = weights_N.to(block_NC)[places_NC].cumsum(0)
    reached = (given_NC >= given_NC[-1] / 2 * (1 - 1e-6)).int().argmax(0, keepdim=True)
    return values_NC.gather(0, reached)[0]
