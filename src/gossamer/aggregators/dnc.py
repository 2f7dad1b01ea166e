"""Divide and conquer: outliers along the top singular direction of random coordinates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PrivateAttr

from gossamer.aggregators import Tolerant
from gossamer.aggregators.caf import centred
from gossamer.errors import AggregationError
from gossamer.gram import Gram, combined
from gossamer.randomness import ANY, generator

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from gossamer.layout import Layout


class DnC(Tolerant):
    """Mean of the updates that are never among the c f farthest along the top singular direction.

        `iterations` times: of some random coordinates, less their mean, v <- top right singular vector;
                            drop the ceil(c f) updates with the largest <x_i - mean, v>^2
        the mean of those that were never dropped

    The directions are found by an exact eigendecomposition of the centred n x n Gram matrix of those coordinates. Which
    they are depends on the seed and, in a run, on the round. f = 0 gives the mean. Needs n >= 2f + 1 and
    n > iterations * ceil(c f), so that some are left. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import DnC
        >>> DnC(f=1)(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [8.0, 8.0]]))
        array([0.5, 0.5])
    """

    source: ClassVar[str] = "Shejwalkar and Houmansadr 2021, Algorithm 2"

    kind: Literal["dnc"] = "dnc"
    coordinates: int = Field(default=10_000, ge=1, description="b, coordinates looked at in an iteration")
    iterations: int = Field(default=1, ge=1, description="times that outliers are dropped")
    c: float = Field(default=1.0, gt=0, description="filter fraction: updates dropped in an iteration, divided by f")
    seed: int = Field(default=0, ge=0, description="of the choice of coordinates")
    _round: int = PrivateAttr(default=ANY)

    def at(self, round: int, rounds: int) -> Self:
        """The rule with the coordinates of a round."""
        rule = super().at(round, rounds).model_copy()
        rule._round = round
        return rule

    def tolerates(self, n: int) -> int:
        return min((n - 1) // 2, int((n - 1) // self.iterations / self.c))

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        import torch

        map_PN = self.prepared(Gram.of(updates_ND), f, own).map_PN if self.before else None
        size = len(updates_ND) if map_PN is None else len(map_PN)
        kept_P = torch.ones(size, dtype=torch.float64, device=updates_ND.device)
        dropped = math.ceil(self.c * f - 1e-9)
        for iteration in range(self.iterations if dropped else 0):
            part_PB = self._coordinates(updates_ND, iteration)
            part_PB = part_PB if map_PN is None else map_PN.to(part_PB) @ part_PB
            kept_P[outlying(part_PB).argsort(stable=True)[max(0, size - dropped) :]] = 0.0
        if not kept_P.any():
            raise AggregationError(
                f"dnc dropped all of {size} updates; use fewer than {self.iterations} iterations or a smaller c or f"
            )
        shares_P = kept_P / kept_P.sum()
        return combined(updates_ND, shares_P if map_PN is None else shares_P @ map_PN)

    def _coordinates(self, updates_ND: Tensor, iteration: int) -> Tensor:
        """[N, B]: the coordinates of an iteration."""
        import torch

        columns = updates_ND.shape[1]
        if columns <= self.coordinates:
            return updates_ND
        rng = generator(self.seed, "dnc", round=self._round, step=iteration)
        index_B = rng.choice(columns, self.coordinates, replace=False, shuffle=False)
        index_B.sort()
        return updates_ND[:, torch.from_numpy(index_B).to(updates_ND.device)]


def outlying(part_PB: Tensor) -> Tensor:
    """[P]: squared coordinates along the top singular direction of the centred rows, up to a common factor."""
    import torch

    squares_PP = Gram.of(part_PB).squares
    uniform_P = squares_PP.new_full((len(squares_PP),), 1 / len(squares_PP))
    vectors_PP: Tensor = torch.linalg.eigh(centred(squares_PP, uniform_P)).eigenvectors
    return vectors_PP[:, -1].square()
