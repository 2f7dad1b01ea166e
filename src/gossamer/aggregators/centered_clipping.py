"""Centred clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import GramRule

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class CenteredClipping(GramRule):
    """Centred clipping: a centre moves by the mean of the clipped differences to it.

        v <- v + 1/n sum_i (x_i - v) min(1, tau / ||x_i - v||),   `iterations` times

    v starts at zero, which suits changes and gradients, on a graph at the receiver's own. It moves by tau at most in an
    iteration, whatever the updates, so it is not equivariant to scale, and at a server not to translation. tau is in
    units of the updates' norms. Ignores weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import CenteredClipping
        >>> CenteredClipping(tau=1.0, iterations=1)(np.array([[0.5, 0.0], [0.0, 0.5], [30.0, 40.0]]))
        array([0.36666667, 0.43333333])
    """

    source: ClassVar[str] = "Karimireddy, He and Jaggi 2021, Algorithm 2"

    kind: Literal["centered_clipping"] = "centered_clipping"
    tau: float = Field(default=10.0, gt=0, description="clipping radius")
    iterations: int = Field(default=1, ge=1, description="L, steps of the centre")

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        # v is its start plus a combination of the updates less that start.
        inner_NN = gram.products if own is None else gram.about(own)
        coefficients_N = weights_N.new_zeros(len(weights_N))
        for _ in range(self.iterations):
            toward_N = inner_NN @ coefficients_N
            squares_N = inner_NN.diagonal() - 2 * toward_N + coefficients_N @ toward_N
            kept_N = self.tau / squares_N.clamp(min=self.tau**2).sqrt()
            coefficients_N = coefficients_N * (1 - kept_N.mean()) + kept_N / len(kept_N)
        if own is not None:
            coefficients_N[own] += 1 - coefficients_N.sum()
        return coefficients_N
