"""Federated averaging with momentum at the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.methods import Context, Inbox, View
from gossamer.methods.fedavg import FedAvg, moved

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class FedAvgM(FedAvg):
    """FedAvg with momentum at the server: v <- beta * v + Delta, x <- x + eta_s * v.

    Delta = sum_i p_i (y_i - x) is the mean change of the nodes, v starts at zero. beta = 0 is FedAvg; eta_s = 1 is the
    paper's. Buffers are averaged, without momentum.
    """

    source: ClassVar[str] = "Hsu et al. 2019 (FedAvgM)"

    kind: Literal["fedavgm"] = "fedavgm"  # type: ignore[assignment]
    beta: float = Field(default=0.9, ge=0, lt=1, description="server momentum")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        trainable = context.layout.trainable
        return {"row": row_D.clone(), "momentum": row_D.new_zeros(trainable)}, {}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        delta_D = inbox.fields["delta"]
        momentum_T = self.beta * state["momentum"] + delta_D[: view.layout.trainable]
        return {"row": moved(state["row"], delta_D, self.server_lr * momentum_T), "momentum": momentum_T}
