"""Static clipping of norms."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.preaggregators import PreAggregator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class Clipping(PreAggregator):
    """Static clipping: x_i min(1, c / ||x_i||); on a graph the difference to the own update is clipped.

    >>> import numpy as np
    >>> from gossamer.aggregators import TrimmedMean
    >>> TrimmedMean(f=0, before=[{"kind": "clipping", "c": 5.0}])(np.array([[1.0, 1.0], [30.0, 40.0]]))
    array([2. , 2.5])
    """

    source: ClassVar[str] = "Sun et al. 2019 (norm clipping); He, Karimireddy and Jaggi 2022 (about the own)"

    kind: Literal["clipping"] = "clipping"
    c: float = Field(default=2.0, gt=0, description="largest norm, in the updates' own unit")

    def matrix(self, gram: Gram, f: int, own: int | None) -> Tensor:
        return shrunk(self.c / lengths(gram, own).clamp(min=self.c), own)


def lengths(gram: Gram, own: int | None) -> Tensor:
    """[P]: norms, on a graph those of the differences to the own update."""
    return gram.norms if own is None else gram.squares[own].sqrt()


def shrunk(factors_P: Tensor, own: int | None) -> Tensor:
    """[P, P]: every update multiplied by its factor, on a graph its difference to the own update."""
    map_PP = factors_P.diag()
    if own is not None:
        map_PP[:, own] += 1 - factors_P
    return map_PP
