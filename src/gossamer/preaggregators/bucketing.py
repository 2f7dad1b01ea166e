"""Bucketing: means of small random groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr

from gossamer.preaggregators import PreAggregator
from gossamer.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class Bucketing(PreAggregator):
    """Updates are dealt at random into buckets of s, the last perhaps smaller; their means are the points.

    ceil(n / s) points, of which f are hostile at most: the rule behind must withstand that. Who shares a bucket depends
    on the seed, on n and, in a run, on the round. Weights are not used, and the receiver's own update is lost among the
    others. s = 1 changes nothing.

        >>> import numpy as np
        >>> from gossamer.aggregators import Median
        >>> Median(before=[{"kind": "bucketing", "s": 3}])(np.array([1.0, 2.0, 6.0]))
        np.float64(3.0)
    """

    source: ClassVar[str] = "Karimireddy, He and Jaggi 2022, Algorithm 1"

    kind: Literal["bucketing"] = "bucketing"
    s: int = Field(default=2, ge=1, description="updates in a bucket")
    seed: int = Field(default=0, ge=0, description="of the dealing")
    _round: int = PrivateAttr(default=0)

    def at(self, round: int, rounds: int) -> Self:
        """The buckets of a round."""
        step = self.model_copy()
        step._round = round
        return step

    def points(self, n: int) -> int:
        return -(-n // self.s)

    def matrix(self, gram: Gram, f: int, own: int | None) -> Tensor:
        import torch

        n = len(gram)
        if self.s == 1:
            return torch.eye(n, dtype=torch.float64, device=gram.device)
        order_N = torch.from_numpy(generator(self.seed, "bucketing", round=self._round, step=n).permutation(n))
        map_QN = torch.zeros((-(-n // self.s), n), dtype=torch.float64)
        map_QN[torch.arange(n) // self.s, order_N] = 1.0
        return (map_QN / map_QN.sum(1, keepdim=True)).to(gram.device)
