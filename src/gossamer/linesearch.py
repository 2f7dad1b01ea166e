"""The largest value of a function of one positive number that need not be smooth, from few evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

GOLDEN = (math.sqrt(5) - 1) / 2


def maximiser(value: Callable[[float], float], grid: Sequence[float], refinements: int) -> float:
    """The best x found: of an ascending grid, then by golden section between the neighbours of its best place.

    Rules jump where an update is no longer taken in, so that the best x often lies just before a cliff: golden section
    finds it, as the function still rises up to one point and is lower beyond. Whatever it is, the result is no worse
    than any x of the grid; of equal ones the smallest is taken. Not-a-number counts as minus infinity. `value` is
    asked len(grid) + refinements times.
    """
    tried: dict[float, float] = {}

    def at(x: float) -> float:
        y = value(x)
        tried[x] = -math.inf if math.isnan(y) else y
        return tried[x]

    for x in grid:
        at(x)
    best = max(range(len(grid)), key=lambda i: tried[grid[i]])
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    if refinements >= 2 and low < high:
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        at_left, at_right = at(left), at(right)
        for _ in range(refinements - 2):
            if at_left >= at_right:
                high, right, at_right = right, left, at_left
                left = high - GOLDEN * (high - low)
                at_left = at(left)
            else:
                low, left, at_left = left, right, at_right
                right = low + GOLDEN * (high - low)
                at_right = at(right)
    return max(sorted(tried), key=lambda x: tried[x])
