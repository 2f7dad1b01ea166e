"""The Flag aggregator: the mean of the updates within the subspace that most of them lie in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import GramRule

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


@dataclass(frozen=True)
class FlagResult:
    """What a run of the algorithm found."""

    coefficients: Tensor
    """[P]: the result is sum_i a_i g_i."""
    objective: tuple[float, ...]
    """After each iteration; never increasing."""
    converged: bool
    """Whether the objective stopped to fall before the iterations were used up."""
    ratios: Tensor
    """[P]: which share of the square of each update lies in the subspace, from 0 to 1; 0 for updates that are zero."""


class OnSubspace(GramRule):
    """Base of the rules that work within the main directions of the updates."""

    components: int | None = Field(
        default=None,
        ge=1,
        description="dimensions m of the subspace; default: half of the p updates, ceil((p + 1) / 2)",
    )


class Flag(OnSubspace):
    """Mean of the updates' projections on the subspace that explains most of them (Flag median).

    With x_i = g_i / |g_i| the subspace Y of m dimensions minimises

        sum_i sqrt(1 - |Y'x_i|^2) + weight / (p - 1) sum_{i != j} sqrt(1 - |Y'(g_i - g_j)|^2 / |g_i - g_j|^2)

    by iteratively reweighted least squares, and the result is the mean of Y Y'g_i, all found from the Gram matrix.
    Updates that are zero count in the mean only. On a graph the g_i are differences from the receiver's own. Ignores
    weights. It favours updates that resemble each other, so colluders gain by it: see FlagTrimmed.

        >>> import numpy as np
        >>> from gossamer.aggregators import Flag
        >>> Flag(components=1)(np.array([[4.0, 0.0, 0.0], [6.0, 0.0, 0.0], [0.0, 9.0, 0.0], [2.0, 0.0, 0.0]]))
        array([3., 0., 0.])
    """

    proven: ClassVar[bool] = False
    source: ClassVar[str] = "Almasi, Mishra, Vamanan and Ravi 2024, Algorithm 1"

    kind: Literal["flag"] = "flag"
    weight: float = Field(default=0.0, ge=0, description="lambda: what differences of updates count")
    max_iterations: int = Field(default=50, ge=1, description="most iterations; the first has equal weights")
    tolerance: float = Field(default=1e-10, ge=0, description="decrease of the objective that ends the iterations")
    epsilon: float = Field(
        default=1e-12, gt=0, description="bounds the weight, 1 / epsilon, of what is fully explained"
    )
    normalise: bool = Field(
        default=False, description="project directions times the median length instead of the updates as they are"
    )

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        return flag(
            gram,
            self.components,
            self.weight,
            self.max_iterations,
            self.tolerance,
            self.epsilon,
            normalise=self.normalise,
            own=own,
        ).coefficients


def flag(
    gram: Gram,
    components: int | None = None,
    weight: float = 0.0,
    max_iterations: int = 50,
    tolerance: float = 1e-10,
    epsilon: float = 1e-12,
    *,
    normalise: bool = False,
    own: int | None = None,
) -> FlagResult:
    """The Flag aggregate of P points, how its objective fell, and how well each of them is explained.

    With the place `own` of one of the points, it is the origin. The parameters are the fields of `Flag`.
    """
    directions = Directions.of(gram, own)
    columns_RC, shares_C = directions.units_RQ, directions.lengths_Q.new_ones(len(directions.lengths_Q))
    if weight > 0 and len(shares_C) > 1:
        columns_RC, shares_C = _with_differences(directions, gram, weight)
    basis_RM, objective, converged = subspace(
        columns_RC, shares_C, directions.dimensions(components), max_iterations, tolerance, epsilon
    )
    lengths_Q = directions.median.expand_as(directions.lengths_Q) if normalise else directions.lengths_Q
    projected_R = basis_RM @ (basis_RM.T @ (directions.units_RQ @ lengths_Q)) / len(gram)
    ratios_P = lengths_Q.new_zeros(len(gram))
    ratios_P[directions.places_Q] = (basis_RM.T @ directions.units_RQ).square().sum(0).clamp_(max=1.0)
    return FlagResult(directions.combination(projected_R), objective, converged, ratios_P)


@dataclass(frozen=True)
class Directions:
    """The Q of P points that are not zero: their lengths, and their directions in the R dimensions they span."""

    count: int
    """P."""
    own: int | None
    """The place of the point that is the origin; None: zero is."""
    places_Q: Tensor
    lengths_Q: Tensor
    units_RQ: Tensor
    """Unit vectors as columns."""
    inverse_QR: Tensor
    """The pseudo-inverse of the unit vectors."""

    @classmethod
    def of(cls, gram: Gram, own: int | None = None) -> Directions:
        """Of the points, or of their differences from one of them."""
        import torch

        products_PP = gram.products if own is None else gram.about(own)
        lengths_P = products_PP.diagonal().clamp(min=0.0).sqrt()
        # A point at the origin has, by rounding, a length of about 1e-8 of the others'.
        places_Q = (lengths_P > 1e-7 * lengths_P.median()).nonzero().flatten()
        lengths_Q = lengths_P[places_Q]
        # Lengths go first, so that a point of 1e12 does not hide the others.
        cosines_QQ = products_PP[places_Q][:, places_Q] / lengths_Q[:, None] / lengths_Q
        values_Q, vectors_QQ = torch.linalg.eigh(cosines_QQ)
        kept = values_Q > 1e-14 * values_Q.max() if len(values_Q) else values_Q > 0
        roots_R, vectors_QR = values_Q[kept].sqrt(), vectors_QQ[:, kept]
        units_RQ = (vectors_QR * roots_R).T
        return cls(len(gram), own, places_Q, lengths_Q, units_RQ, vectors_QR / roots_R)

    @property
    def median(self) -> Tensor:
        """The median of the lengths (of two middle ones the smaller), zero if there are none."""
        return self.lengths_Q.median() if len(self.lengths_Q) else self.lengths_Q.new_zeros(())

    def dimensions(self, components: int | None) -> int:
        """Of the subspace: as many as given, or half of those there could be."""
        return (len(self.lengths_Q) + 2) // 2 if components is None else components

    def main(self, dimensions: int) -> Tensor:
        """The main directions of the unit vectors: the orthonormal basis [R, M] of Flag's first step."""
        return subspace(self.units_RQ, self.lengths_Q.new_ones(len(self.lengths_Q)), dimensions, max_iterations=1)[0]

    def coordinates(self, basis_RM: Tensor) -> Tensor:
        """[P, M], of the unit vectors in a basis; zero for points that are zero."""
        coordinates_PM = self.lengths_Q.new_zeros((self.count, basis_RM.shape[1]))
        coordinates_PM[self.places_Q] = (basis_RM.T @ self.units_RQ).T
        return coordinates_PM

    def rescaled(self, lengths: Tensor) -> Tensor:
        """The coefficients [P] of the points in the sum of their directions times the lengths ([Q], or one for all)."""
        coefficients_P = self.lengths_Q.new_zeros(self.count)
        coefficients_P[self.places_Q] = lengths / self.lengths_Q
        if self.own is not None:
            coefficients_P[self.own] = 1.0 - coefficients_P.sum()
        return coefficients_P

    def combination(self, vector_R: Tensor) -> Tensor:
        """The coefficients [P] of the points in a vector that they span."""
        return self.rescaled(self.inverse_QR @ vector_R)


def subspace(
    columns_RC: Tensor,
    shares_C: Tensor,
    dimensions: int,
    max_iterations: int,
    tolerance: float = 1e-10,
    epsilon: float = 1e-12,
) -> tuple[Tensor, tuple[float, ...], bool]:
    """The orthonormal basis [R, M] that minimises sum_c shares_c sqrt(1 - |Y'column_c|^2) for unit columns.

    Also the objective after each iteration and whether it stopped to fall. Should it rise, the last basis is kept.
    """
    import torch

    weights_C = shares_C
    basis_RM = columns_RC[:, :0]
    objective: list[float] = []
    for _ in range(max_iterations):
        # Singular vectors, not those of the products: weights up to 1 / epsilon would drown the others in rounding.
        found_RM = torch.linalg.svd(columns_RC * weights_C.sqrt(), full_matrices=False).U[:, :dimensions]
        missing_C = (columns_RC - found_RM @ (found_RM.T @ columns_RC)).square().sum(0).sqrt()
        value = float(shares_C @ missing_C)
        if objective and value > objective[-1]:
            return basis_RM, tuple(objective), True
        basis_RM = found_RM
        objective.append(value)
        if len(objective) > 1 and objective[-2] - value <= tolerance:
            return basis_RM, tuple(objective), True
        weights_C = shares_C / (2 * missing_C + epsilon)
    return basis_RM, tuple(objective), False


def _with_differences(directions: Directions, gram: Gram, weight: float) -> tuple[Tensor, Tensor]:
    """The unit columns of the updates and of their differences, and what each counts in the objective."""
    import torch

    units_RQ, lengths_Q, places_Q = directions.units_RQ, directions.lengths_Q, directions.places_Q
    count = len(lengths_Q)
    first, second = torch.triu_indices(count, count, 1, device=lengths_Q.device)
    squares = gram.squares[places_Q][:, places_Q][first, second]
    apart = squares > 1e-12 * (lengths_Q[first].square() + lengths_Q[second].square())
    first, second, distances = first[apart], second[apart], squares[apart].sqrt()
    points_RQ = units_RQ * lengths_Q
    differences = (points_RQ[:, first] - points_RQ[:, second]) / distances
    # Each pair stands for both orders.
    shares = torch.cat([lengths_Q.new_ones(count), lengths_Q.new_full((len(first),), 2 * weight / (count - 1))])
    return torch.cat([units_RQ, differences], 1), shares
