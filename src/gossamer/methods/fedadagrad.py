"""Adagrad at the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.methods import Context, Inbox, View
from gossamer.methods.fedavg import FedAvg, moved

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class FedAdagrad(FedAvg):
    """The mean change of the nodes is a pseudo-gradient for Adagrad at the server.

        Delta = sum_i p_i (y_i - x)
        m <- beta1 * m + (1 - beta1) * Delta
        v <- v + Delta^2
        x <- x + eta_s * m / (sqrt(v) + tau)

    m starts at 0 and v at tau^2. Buffers are averaged. The algorithm's mean is uniform (`weighting = "uniform"`), the
    paper's experiments weight by items and use beta1 = 0.
    """

    source: ClassVar[str] = "Reddi et al. 2021, Algorithm 2"

    kind: Literal["fedadagrad"] = "fedadagrad"  # type: ignore[assignment]
    server_lr: float = Field(default=0.1, gt=0, description="eta_s, step size at the server")
    beta1: float = Field(default=0.0, ge=0, lt=1, description="decay of the mean of changes")
    tau: float = Field(default=1e-3, gt=0, description="adaptivity: the smaller, the more adaptive")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        row_T = row_D[: context.layout.trainable]
        first_T, second_T = row_T.new_zeros(row_T.shape), row_T.new_full(row_T.shape, self.tau**2)
        return {"row": row_D.clone(), "first_moment": first_T, "second_moment": second_T}, {}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        delta_D = inbox.fields["delta"]
        delta_T = delta_D[: view.layout.trainable]
        first_T = self.beta1 * state["first_moment"] + (1 - self.beta1) * delta_T
        second_T = self.second_moment(state["second_moment"], delta_T.square())
        row_D = moved(state["row"], delta_D, self.server_lr * first_T / (second_T.sqrt() + self.tau))
        return {"row": row_D, "first_moment": first_T, "second_moment": second_T}

    def second_moment(self, before_T: Tensor, square_T: Tensor) -> Tensor:
        """v from its value before and the squared mean change."""
        return before_T + square_T
