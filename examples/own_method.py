# own_method.py
from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.methods import Context, Inbox, Method, Outbox, Result, Task, Terms, View

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class ElasticAveraging(Method):
    """Every node keeps a model x_i of its own, tied to the server's centre c by an elastic force.

    node:    x_i <- x_i - lr * (g_i(x_i) + rho * (x_i - c))     in every local step
    server:  c <- c + beta * (mean_i x_i - c)
    """

    source: ClassVar[str] = "Zhang, Choromanska and LeCun 2015, Equations 3 and 4"
    world: ClassVar[Literal["server", "graph", "alone"]] = "server"
    personal: ClassVar[bool] = True  # every node ends with a model of its own, which is measured too

    kind: Literal["elastic_averaging"] = "elastic_averaging"
    rho: float = Field(default=0.1, ge=0, description="strength of the force")
    beta: float = Field(default=0.9, gt=0, le=1, description="step of the centre towards the mean")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        return {"row": row_D.clone()}, {"row": row_D.clone()}  # what the server holds, what a node keeps

    def prepare(self, own: State, down: State, view: View) -> Task:
        return Task(own["row"], Terms(proximal=self.rho, anchor=down["row"][: view.layout.trainable]))

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        return Outbox({"row": result.row}), {"row": result.row}  # what is sent, what is kept

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        return {"row": state["row"] + self.beta * (inbox.fields["row"] - state["row"])}

    def model(self, own: State, down: State, view: View) -> Task:
        return Task(own["row"], steps=0)  # the row a node is judged by
