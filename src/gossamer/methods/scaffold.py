"""Control variates against the drift of local work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.methods import Context, Inbox, Method, Outbox, Result, Task, Terms, View
from gossamer.methods.fedavg import moved

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class Scaffold(Method):
    """Every local step is corrected by the difference of the server's and the node's control variate.

        node:    y <- y - lr * (g_i(y) - c_i + c)   K times, from y = x
                 c_i+ = c_i - c + (x - y) / (K * lr)                        (option II)
        server:  x <- x + eta_s * mean_i (y_i - x),   c <- c + |S| / N * mean_i (c_i+ - c_i)

    Means are uniform over the |S| participants of the N nodes, as in the paper; all c start at zero. Weight decay is
    part of the loss and so of g_i. Buffers are averaged and have no control variates.
    """

    source: ClassVar[str] = "Karimireddy et al. 2020, Algorithm 1, option II"

    kind: Literal["scaffold"] = "scaffold"
    server_lr: float = Field(default=1.0, gt=0, description="eta_s, step size at the server")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        control_T = row_D.new_zeros(context.layout.trainable)
        return {"row": row_D.clone(), "control": control_T}, {"control": control_T.clone()}

    def publish(self, state: State, view: View) -> State:
        return {"row": state["row"], "control": state["control"]}

    def prepare(self, own: State, down: State, view: View) -> Task:
        return Task(down["row"], Terms(drift=down["control"] - own["control"]))

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        delta_D = result.row - task.row
        drift_T = task.terms.drift
        if (
            drift_T is None or result.steps == 0 or result.lr == 0
        ):  # nothing was learned about the gradient: the node keeps its c_i
            return Outbox({"delta": delta_D, "control": own["control"].new_zeros(own["control"].shape)}), {}
        control_T = delta_D[: len(drift_T)] / (-result.steps * result.lr) - drift_T
        return Outbox({"delta": delta_D, "control": control_T - own["control"]}), {"control": control_T}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        delta_D = inbox.fields["delta"]
        row_D = moved(state["row"], delta_D, self.server_lr * delta_D[: view.layout.trainable])
        share = inbox.count / view.context.nodes
        return {"row": row_D, "control": state["control"] + share * inbox.fields["control"]}

    def check(self, settings: Any) -> None:
        learner = settings.learner
        found = f"kind = '{learner.kind}'" if learner.kind != "sgd" else f"momentum = {learner.momentum}"
        if learner.kind != "sgd" or learner.momentum:
            raise ExperimentError(
                f"learner.{found}: method.kind = 'scaffold' estimates gradients from plain SGD steps; "
                "use learner = { kind = 'sgd', momentum = 0 }"
            )
