"""Adam at the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.methods.fedadagrad import FedAdagrad

if TYPE_CHECKING:
    from torch import Tensor


class FedAdam(FedAdagrad):
    """The mean change of the nodes is a pseudo-gradient for Adam at the server.

        Delta = sum_i p_i (y_i - x)
        m <- beta1 * m + (1 - beta1) * Delta
        v <- beta2 * v + (1 - beta2) * Delta^2
        x <- x + eta_s * m / (sqrt(v) + tau)

    m starts at 0 and v at tau^2; there is no bias correction. Buffers are averaged. The algorithm's mean is uniform
    (`weighting = "uniform"`), the paper's experiments weight by items.
    """

    source: ClassVar[str] = "Reddi et al. 2021, Algorithm 2"

    kind: Literal["fedadam"] = "fedadam"  # type: ignore[assignment]
    server_lr: float = Field(default=0.01, gt=0, description="eta_s, step size at the server")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean of changes")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="decay of the mean of squared changes")

    def second_moment(self, before_T: Tensor, square_T: Tensor) -> Tensor:
        return self.beta2 * before_T + (1 - self.beta2) * square_T
