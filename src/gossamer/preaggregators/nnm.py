"""Nearest-neighbour mixing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.preaggregators import PreAggregator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class NNM(PreAggregator):
    """Each update becomes the mean of its n - f nearest, itself among them."""

    source: ClassVar[str] = "Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan 2023, Algorithm 2"

    kind: Literal["nnm"] = "nnm"
    f: int | None = Field(default=None, ge=0, description="hostile updates; default: as many as the rule withstands")

    def matrix(self, gram: Gram, f: int, own: int | None) -> Tensor:
        n, f = len(gram), f if self.f is None else self.f
        nearest_NK = gram.squares.sort(dim=1, stable=True).indices[:, : max(1, n - f)]
        map_NN = gram.squares.new_zeros((n, n))
        return map_NN.scatter_(1, nearest_NK, 1.0 / nearest_NK.shape[1])
