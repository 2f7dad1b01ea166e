"""Decentralised SGD with a momentum of the models' movement, which is nearly the same at all nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.methods import Context, Inbox, Method, Outbox, Result, Task, Terms, View
from gossamer.methods.gradient_tracking import needs_plain_sgd

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class QuasiGlobalMomentum(Method):
    """Local steps go along the gradient plus beta * m_i, and m_i follows how the model moves, neighbours included.

        node:      y <- y - lr * (g_i(y) + beta * m_i)   H times, from y = x_i
        exchange:  x_i <- sum_j W_ij y_j
                   m_i <- mu * m_i + (1 - mu) * (x_i before - x_i after) / (lr * H)

    Local momentum follows a node's own data; m_i, which sees what the exchange made of the step, follows what the nodes
    have in common. m_i starts at 0 and is never sent. The paper has H = 1 and beta = mu; with more local steps m_i
    stays as it is during them and the movement is divided by their number. Buffers are averaged, without momentum.
    """

    source: ClassVar[str] = "Lin et al. 2021, Algorithm 1 (QG-DSGDm)"
    world: ClassVar[Literal["server", "graph", "alone"]] = "graph"

    kind: Literal["quasi_global_momentum"] = "quasi_global_momentum"
    beta: float = Field(default=0.9, ge=0, lt=1, description="share of m_i added to the gradient")
    mu: float = Field(default=0.9, ge=0, lt=1, description="share of m_i kept at an exchange")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        return {"row": row_D.clone(), "momentum": row_D.new_zeros(context.layout.trainable)}, {}

    def publish(self, state: State, view: View) -> State:
        return dict(state)

    def prepare(self, own: State, down: State, view: View) -> Task:
        return Task(down["row"], Terms(drift=self.beta * down["momentum"]))

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        return Outbox({"row": result.row}), {}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        row_D, learner, trainable = inbox.fields["row"], view.learner, view.layout.trainable
        length = learner.rate(view.round, view.context.rounds) * learner.steps_for(view.samples)
        if not length:
            return {"row": row_D}
        moved_T = (state["row"] - row_D)[:trainable] / length
        return {"row": row_D, "momentum": self.mu * state["momentum"] + (1 - self.mu) * moved_T}

    def check(self, settings: Any) -> None:
        needs_plain_sgd(self, settings, "has the momentum itself")
