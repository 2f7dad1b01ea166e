"""Margin cap: no vote counts for more than so far from the median vote."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import CoordinateRule
from gossamer.columns import by_columns, median
from gossamer.gram import Gram

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class MarginCap(CoordinateRule):
    """Mean in which no value is farther from the coordinate-wise median than a share of the layer's size.

    A vote on rankings: of n edges no voter takes one farther than cap * n positions from where the median voter sees
    it, so that f of U voters move it by no more than f cap n / U besides what they move the median by. Towards cap = 0
    it is the median, from cap = 1 the mean of rankings. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import MarginCap
        >>> MarginCap(cap=0.25)(np.array([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 0.0, 1.0], [0.0, 2.0, 1.0, 3.0]])).round(2)
        array([2.67, 2.  , 0.67, 1.  ])
    """

    source: ClassVar[str] = "ours; clipping about the median as in Huber 1964"

    kind: Literal["margin_cap"] = "margin_cap"
    cap: float = Field(
        default=0.1, gt=0, le=1, description="largest distance from the median, as a share of the numbers of a layer"
    )

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        map_PN = self.prepared(Gram.of(updates_ND), f, own).map_PN if self.before else None
        result_D = updates_ND.new_empty(updates_ND.shape[1])
        for start, stop in layers(layout, len(result_D)):
            within = partial(capped, reach=self.cap * (stop - start))
            result_D[start:stop] = by_columns(updates_ND[:, start:stop], within, map_PN)
        return result_D


def capped(block_NC: Tensor, reach: float) -> Tensor:
    """[C]: the mean of every column's values, taken no farther than `reach` from their median."""
    centre_C = median(block_NC.clone())
    return centre_C + (block_NC - centre_C).clamp_(-reach, reach).mean(0)


def layers(layout: Layout | None, size: int) -> list[tuple[int, int]]:
    """(start, stop) of each layer of rows of so many numbers; without a layout that fits, the row is one."""
    found = [] if layout is None else [(e.start, e.stop) for e in layout.entries if e.start < e.stop <= size]
    return found if sum(stop - start for start, stop in found) == size else [(0, size)]
