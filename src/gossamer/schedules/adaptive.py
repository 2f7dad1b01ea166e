"""Communication when the models have drifted too far apart."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from gossamer.schedules import Observed, Schedule, Share, as_intensity


class Adaptive(Schedule):
    """Exchange where the consensus distance exceeds c times the gradient norm, Xi_t > c * mu_t.

    Xi_t = sqrt(1/m sum_i ||x_i - mean(x)||^2) and mu_t, the norm of the mean gradient of the round, are those of the
    nodes' models before the exchange. Theory allows less distance the smaller the gradient is (the critical consensus
    edge), hence more communication late. Both numbers are read off the models of all nodes: in a simulation this costs
    nothing, in a federation it would take a sketch of every model, which is not counted.
    """

    source: ClassVar[str] = "after Kong et al. 2021 (critical consensus distance); Zhu et al. 2025 (arXiv 2507.06542)"
    looks: ClassVar[bool] = True

    kind: Literal["adaptive"] = "adaptive"
    c: float = Field(default=10.0, gt=0, description="consensus distance allowed, in gradient norms")
    exchange: Share | Literal["all"] = Field(
        default="all", description="what an excess triggers: a share of the topology's links, or 'all': an all-reduce"
    )
    quiet: float = Field(default=0.0, ge=0, le=1, description="share of the topology's links in the other rounds")

    def intensity(self, round: int, rounds: int) -> float:
        """That of an excess."""
        return as_intensity(self.exchange)

    def possible(self, round: int, rounds: int) -> tuple[float, ...]:
        return self.quiet, as_intensity(self.exchange)

    def decide(self, round: int, rounds: int, observed: Observed) -> float:
        if observed.consensus_distance <= self.c * observed.gradient_norm:
            return self.quiet
        return as_intensity(self.exchange)
