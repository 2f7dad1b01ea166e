"""Federated averaging with a proximal term that keeps local work near the global model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.methods import Task, Terms, View
from gossamer.methods.fedavg import FedAvg

if TYPE_CHECKING:
    from gossamer.methods import State


class FedProx(FedAvg):
    """Nodes minimise F_i(w) + mu/2 * ||w - x||^2, x being the server's row; the rest is federated averaging.

    Its gradient adds mu * (w - x) to every local step. mu = 0 is FedAvg. The paper draws nodes in proportion to their
    items and averages uniformly; where nodes are drawn uniformly, as here, `weighting = "samples"` has the same mean.
    """

    source: ClassVar[str] = "Li et al. 2020, Algorithm 2 and Equation 2"

    kind: Literal["fedprox"] = "fedprox"  # type: ignore[assignment]
    mu: float = Field(default=0.01, ge=0, description="strength of the proximal term")

    def prepare(self, own: State, down: State, view: View) -> Task:
        row_D = down["row"]
        return Task(row_D, Terms(proximal=self.mu, anchor=row_D[: view.layout.trainable]))
