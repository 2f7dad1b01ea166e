"""Buffered asynchronous aggregation: the server moves once a number of changes has come in."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from gossamer.methods.fedasync import needs_clock
from gossamer.methods.fedavg import FedAvg


class FedBuff(FedAvg):
    """Once K changes are there, x <- x + eta_s * 1/K sum_k s(d_k) (y_k - x_k), with s(d) = 1 / sqrt(1 + d).

    y_k - x_k is what local work made of the model x_k that the node was given, d_k how often the server has moved since
    then. The nodes never wait. Buffers move by the same mean, whatever eta_s.
    """

    source: ClassVar[str] = "Nguyen et al. 2022, Algorithm 1 (FedBuff), without differential privacy"
    asynchronous: ClassVar[bool] = True

    kind: Literal["fedbuff"] = "fedbuff"  # type: ignore[assignment]
    weighting: Literal["samples", "uniform"] = Field(default="uniform", description="weight of a node in the mean")
    buffer: int = Field(default=10, ge=1, description="K, changes that make the server move")

    @property
    def buffered(self) -> int:
        """Messages that make a merge."""
        return self.buffer

    def discount(self, staleness: int) -> float:
        return 1 / math.sqrt(1 + staleness)

    def check(self, settings: Any) -> None:
        needs_clock(self, settings)
