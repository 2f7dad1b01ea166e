"""Normalised averaging: nodes that take more steps do not pull the objective their way."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.methods import Inbox, Outbox, Result, Task, Terms, View
from gossamer.methods.fedavg import FedAvg

if TYPE_CHECKING:
    from gossamer.learners.sgd import SGD
    from gossamer.methods import State


class FedNova(FedAvg):
    """Changes are divided by how much gradient each node accumulated, averaged, and scaled back together.

        y_i - x = -lr * G_i a_i      (G_i: the gradients of the tau_i local steps, a_i: how often each one counts)
        d_i     = (y_i - x) / ||a_i||_1
        x      <- x + eta_s * tau_eff * sum_i p_i d_i,     tau_eff = sum_i p_i ||a_i||_1

    ||a_i||_1 is tau for plain SGD, (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho) =: h with momentum rho,
    tau + rho h with Nesterov momentum, and (1 - (1 - lr mu)^tau) / (lr mu) with a proximal term mu; `accumulation` has
    all of them at once. Nodes with equal work make this FedAvg. Weight decay is taken as part of the loss, so it is in
    G_i and leaves a_i alone. Buffers are averaged.
    """

    source: ClassVar[str] = "Wang et al. 2020 (generalised update rule, FedNova)"

    kind: Literal["fednova"] = "fednova"  # type: ignore[assignment]
    mu: float = Field(default=0.0, ge=0, description="strength of a proximal term at the nodes, as in FedProx")

    def prepare(self, own: State, down: State, view: View) -> Task:
        row_D = down["row"]
        return Task(row_D, Terms(proximal=self.mu, anchor=row_D[: view.layout.trainable]) if self.mu else Terms())

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        learner = cast("SGD", view.learner)
        norm = accumulation(result.steps, learner.momentum, learner.nesterov, result.lr * self.mu)
        delta_D = result.row - task.row
        delta_D[: view.layout.trainable] /= norm or 1.0  # without steps there is no change to divide
        return Outbox({"delta": delta_D, "norm": delta_D.new_tensor([norm])}, self.weight(view)), {}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        delta_D = inbox.fields["delta"].clone()
        delta_D[: view.layout.trainable] *= inbox.fields["norm"]
        return super().merge(state, dataclasses.replace(inbox, fields={"delta": delta_D}), view)

    def check(self, settings: Any) -> None:
        if settings.learner.kind != "sgd":
            raise ExperimentError(
                f"learner.kind = '{settings.learner.kind}': method.kind = 'fednova' normalises steps of SGD only; "
                "use learner = 'sgd', or method = 'fedavg'"
            )


@functools.cache
def accumulation(steps: int, momentum: float = 0.0, nesterov: bool = False, shrink: float = 0.0) -> float:
    """||a||_1: the total weight that the gradients of `steps` local SGD steps have in the change of the row.

    Local SGD is linear in its gradients, so the weight of a gradient with m steps to go (its own included) is how far
    a unit gradient followed by m - 1 zero ones moves the row, in units of the learning rate. `shrink` is lr * mu, the
    pull of a proximal term back to the start. Weights can be negative where lr * mu is large, hence the magnitudes.
    """
    total = row = velocity = 0.0
    for step in range(steps):
        gradient = float(step == 0) - shrink * row
        velocity = momentum * velocity + gradient
        row += gradient + momentum * velocity if nesterov else velocity
        total += abs(row)
    return total
