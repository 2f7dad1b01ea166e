"""Federated averaging: the server averages the nodes' local progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.methods import Inbox, Method, Outbox, Result, Task, View

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class FedAvg(Method):
    """The server's row moves by the weighted mean of the nodes' changes: x <- x + eta_s * sum_i p_i (y_i - x).

    p_i is n_i / sum_j n_j over the participants (`weighting = "samples"`) or 1 / |S| (`"uniform"`). With eta_s = 1 this
    is Algorithm 1 of McMahan et al. 2017. Buffers are averaged, whatever eta_s.
    """

    source: ClassVar[str] = "McMahan et al. 2017, Algorithm 1"

    kind: Literal["fedavg"] = "fedavg"
    weighting: Literal["samples", "uniform"] = Field(default="samples", description="weight of a node in the mean")
    server_lr: float = Field(default=1.0, gt=0, description="eta_s, step size at the server")

    def weight(self, view: View) -> float:
        """p_i before normalisation."""
        return float(view.samples) if self.weighting == "samples" else 1.0

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        return Outbox({"delta": result.row - task.row}, self.weight(view)), {}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        delta_D = inbox.fields["delta"]
        return {"row": moved(state["row"], delta_D, self.server_lr * delta_D[: view.layout.trainable])}


def moved(row_D: Tensor, delta_D: Tensor, step_T: Tensor) -> Tensor:
    """The server's row after a round: trainable columns move by `step_T`, buffers by their mean change in `delta_D`."""
    import torch

    trainable = len(step_T)
    return torch.cat([row_D[:trainable] + step_T, row_D[trainable:] + delta_D[trainable:]])
