"""Gradient tracking with local steps (K-GT): corrections against the drift of unlike data, without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.methods import Context, Inbox, Method, Outbox, Result, Task, Terms, View

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class GradientTracking(Method):
    """Every local step is corrected by c_i, which tracks the difference of the mean gradient and the node's own.

        node:  y <- y - lr * (g_i(y) + c_i)   K times, from y = x_i;    z_i = (x_i - y) / (K * lr)
               c_i <- c_i - z_i + sum_j W_ij z_j
               x_i <- sum_j W_ij (x_j - eta_s * K * lr * z_j)

    With a doubly stochastic W the c_i always sum to zero, and with exact gradients the nodes reach the optimum of the
    mean objective, whatever their data, where DSGD stops beside it. c_i starts at 0 (the paper: at the difference of
    the first gradients, one more exchange). A message is twice as long as DSGD's. Weight decay is part of the loss.
    Buffers are averaged and not corrected. Without a step, or at lr = 0, z_i is 0.
    """

    source: ClassVar[str] = "Liu et al. 2023, Algorithm 1 (K-GT)"
    world: ClassVar[Literal["server", "graph", "alone"]] = "graph"
    requires: ClassVar[Literal["row", "column", "doubly"]] = "doubly"

    kind: Literal["gradient_tracking"] = "gradient_tracking"
    exchange_lr: float = Field(default=1.0, gt=0, description="eta_s, share of the local way that is taken")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        # c_i is kept in two parts, because z_i is known at the node and its mean at the receiver: c_i = own + tracked.
        zero_T = row_D.new_zeros(context.layout.trainable)
        return {"row": row_D.clone(), "tracked": zero_T}, {"correction": zero_T.clone()}

    def publish(self, state: State, view: View) -> State:
        return dict(state)

    def prepare(self, own: State, down: State, view: View) -> Task:
        return Task(down["row"], Terms(drift=own["correction"] + down["tracked"]))

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        trainable, length = view.layout.trainable, result.steps * result.lr
        way_T = (task.row - result.row)[:trainable]
        direction_T = way_T / length if length else way_T.new_zeros(trainable)
        row_D = result.row.clone()
        row_D[:trainable] = task.row[:trainable] - self.exchange_lr * way_T
        correction_T = own["correction"] if task.terms.drift is None else task.terms.drift
        return Outbox({"row": row_D, "direction": direction_T}), {"correction": correction_T - direction_T}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        return {"row": inbox.fields["row"], "tracked": inbox.fields["direction"]}

    def check(self, settings: Any) -> None:
        needs_plain_sgd(self, settings, "estimates gradients from plain SGD steps")
        if settings.aggregator.kind != "mean":
            raise ExperimentError(
                f"aggregator.kind = '{settings.aggregator.kind}': method.kind = 'gradient_tracking' keeps a sum of "
                "corrections at zero, which only a mean does; use aggregator = 'mean'"
            )


def needs_plain_sgd(method: Method, settings: Any, reason: str) -> None:
    """Raise ExperimentError where a local step is not the learning rate times the gradient."""
    learner = settings.learner
    found = f"kind = '{learner.kind}'" if learner.kind != "sgd" else f"momentum = {learner.momentum}"
    if learner.kind != "sgd" or learner.momentum:
        raise ExperimentError(
            f"learner.{found}: method.kind = '{method.kind}' {reason}; use learner = {{ kind = 'sgd', momentum = 0 }}"
        )
