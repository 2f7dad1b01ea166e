"""The geometric median (RFA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import GramRule
from gossamer.columns import weighted_median

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class GeometricMedian(GramRule):
    """Geometric median: argmin_z sum_i w_i ||x_i - z||, by smoothed Weiszfeld steps to tolerance.

        z <- sum_i b_i x_i / sum_i b_i,   b_i = w_i / max(nu s, ||x_i - z||)

    s is the weighted median of the distances to the medoid, the update with the least weighted sum of distances to the
    others. Where an update is optimal (the pull of the others on it is at most its own weight) it is the medoid, which
    is then returned as it is. Else the first step leaves it as Vardi and Zhang do; as every step goes downhill, no
    later one meets an update. Stops at a step shorter than tolerance * s. All steps are taken with the coefficients
    of z: the updates are looked at for their Gram matrix and for the result.

    Withstands hostile updates with less than half of the weight.

        >>> import numpy as np
        >>> from gossamer.aggregators import GeometricMedian
        >>> GeometricMedian()(np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]]))
        array([2., 2.])
        >>> GeometricMedian()(np.array([[1.0, 1.0], [1.0, 1.0], [9e9, 0.0]]))
        array([1., 1.])
    """

    source: ClassVar[str] = "Pillutla, Kakade and Harchaoui 2022 (RFA), smoothed Weiszfeld; Vardi and Zhang 2000"

    kind: Literal["geometric_median"] = "geometric_median"
    nu: float = Field(default=1e-6, gt=0, lt=1, description="smoothing: least distance, in median distances")
    tolerance: float = Field(default=1e-10, ge=0, description="length of the last step, in median distances")
    max_iterations: int = Field(default=1000, ge=1, description="most steps")

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        distances_NN = gram.squares.sqrt()
        medoid = int((distances_NN @ weights_N).argmin())
        from_medoid_N = distances_NN[medoid]
        scale = float(weighted_median(from_medoid_N[:, None], weights_N))
        at_N = from_medoid_N <= self.nu * scale
        coefficients_N = weights_N.new_zeros(len(weights_N))
        coefficients_N[medoid] = 1.0
        inner_NN = gram.about(medoid)
        pull_N = (weights_N / from_medoid_N).masked_fill(at_N, 0.0)
        pull, held = (pull_N @ inner_NN @ pull_N).clamp(min=0.0).sqrt(), weights_N[at_N].sum()
        if pull <= held:
            return coefficients_N
        coefficients_N = coefficients_N * (held / pull) + pull_N / pull_N.sum() * (1 - held / pull)
        for _ in range(self.max_iterations):
            toward_N = inner_NN @ coefficients_N
            squares_N = inner_NN.diagonal() - 2 * toward_N + coefficients_N @ toward_N
            pull_N = weights_N / squares_N.clamp(min=(self.nu * scale) ** 2).sqrt()
            step_N = pull_N / pull_N.sum() - coefficients_N
            coefficients_N = coefficients_N + step_N
            if step_N @ inner_NN @ step_N <= (self.tolerance * scale) ** 2:
                break
        return coefficients_N
