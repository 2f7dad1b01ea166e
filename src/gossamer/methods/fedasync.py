"""Asynchronous federated optimisation: the server mixes in every model as it comes, the staler the less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.methods import Inbox, Method, Outbox, Result, Task, Terms, View

if TYPE_CHECKING:
    from gossamer.methods import State


class FedAsync(Method):
    """At every message x <- (1 - a) x + a y, y being a node's model after local work and a = alpha * s(d).

    d is how many models the server has taken since the node was given the one it trained on (the paper's counter is one
    more). s(d) is 1 (`constant`), (1 + d)^-a (`polynomial`), or 1 up to d = b and 1 / (a (d - b) + 1) above (`hinge`).
    The local loss has a proximal term rho/2 * ||w - x||^2. Buffers are mixed alike.
    """

    source: ClassVar[str] = "Xie et al. 2019, Algorithm 1 (FedAsync), with its functions of staleness"
    asynchronous: ClassVar[bool] = True

    kind: Literal["fedasync"] = "fedasync"
    alpha: float = Field(default=0.6, gt=0, le=1, description="share of a fresh model in the mixture")
    staleness: Literal["constant", "polynomial", "hinge"] = Field(
        default="polynomial", description="how the share falls with staleness"
    )
    a: float = Field(default=0.5, gt=0, description="exponent of `polynomial`, slope of `hinge`")
    b: int = Field(default=4, ge=0, description="staleness up to which `hinge` does not discount")
    rho: float = Field(default=0.005, ge=0, description="strength of the proximal term at the nodes")

    def prepare(self, own: State, down: State, view: View) -> Task:
        row_D = down["row"]
        return Task(row_D, Terms(proximal=self.rho, anchor=row_D[: view.layout.trainable]) if self.rho else Terms())

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        return Outbox({"row": result.row}), {}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        # The share of the server's own model depends on the discount, so it is taken here and not from the message.
        shares = [self.alpha * self.trust(staleness) for staleness in inbox.staleness] or [self.alpha]
        return {"row": state["row"].lerp(inbox.fields["row"], sum(shares) / len(shares))}

    def trust(self, staleness: int) -> float:
        """s(d)."""
        if self.staleness == "polynomial":
            return float((1 + staleness) ** -self.a)
        if self.staleness == "hinge" and staleness > self.b:
            return 1 / (self.a * (staleness - self.b) + 1)
        return 1.0

    def check(self, settings: Any) -> None:
        needs_clock(self, settings)


def needs_clock(method: Method, settings: Any) -> None:
    """Raise ExperimentError in synchronous rounds, where no message is staler than another."""
    if settings.clock.kind != "events":
        raise ExperimentError(
            f"clock.kind = '{settings.clock.kind}': method.kind = '{method.kind}' merges models as they come in; "
            "use clock = { kind = 'events' }, or method = 'fedavg'"
        )
