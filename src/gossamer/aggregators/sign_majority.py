"""A majority vote on signs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import CoordinateRule
from gossamer.columns import by_columns, median
from gossamer.gram import Gram

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout


class SignMajority(CoordinateRule):
    """In every coordinate the sign that most updates have, times a scale; zero where the vote is tied.

    On a graph the vote is on the signs of the others' differences from the receiver's own, which is moved by the
    result. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import SignMajority
        >>> SignMajority(scale=0.1)(np.array([[1.0, -2.0], [3.0, -4.0], [-1e9, 6.0]]))
        array([ 0.1, -0.1])
    """

    source: ClassVar[str] = "Bernstein, Zhao, Azizzadenesheli and Anandkumar 2019, Algorithm 1"

    kind: Literal["sign_majority"] = "sign_majority"
    scale: float | None = Field(
        default=None,
        gt=0,
        description="size of every coordinate of the result; default: the median of the updates' absolute values there",
    )

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        if own is None:
            return super().combine(updates_ND, weights_N, f, own, layout)
        import torch

        map_PN, place = None, own
        if self.before:
            points_PN = self.prepared(Gram.of(updates_ND), f, own).map_PN
            mine_1N = torch.eye(len(updates_ND), dtype=torch.float64, device=updates_ND.device)[own : own + 1]
            map_PN = mine_1N if points_PN is None else torch.cat([mine_1N, points_PN])
            place = 0

        def moved(block_PC: Tensor) -> Tensor:
            own_C = block_PC[place].clone()
            others_QC = torch.cat([block_PC[:place], block_PC[place + 1 :]])
            return own_C + self.on_columns(others_QC - own_C, f) if len(others_QC) else own_C

        return by_columns(updates_ND, moved, map_PN)

    def on_columns(self, block_NC: Tensor, f: int) -> Tensor:
        votes_C = block_NC.sign().sum(0).sign_()
        if self.scale is not None:
            return votes_C.mul_(self.scale)
        return votes_C.mul_(median(block_NC.abs_()))
