"""Noise in shares, seen in a secure sum only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field

from gossamer.accounting import Release, Skellam
from gossamer.errors import ExperimentError
from gossamer.privacy import Mechanism, Setting
from gossamer.secure.ring import l1_bound, l2_bound


class Distributed(Mechanism):
    """Every node adds a share of the noise, and a secure sum shows the total only.

    A message is clipped to norm C and rounded to integers of norm at most D (a little above C in their unit), and gets
    Skellam noise of variance (z D)^2 / t, where t is the threshold of the secure sum: as many messages as any sum has.
    A sum of Skellam numbers is one too, so what the server sees has the noise of a central mechanism, or more.
    """

    source: ClassVar[str] = "Agarwal, Kairouz and Liu 2021, Theorem 3.5; Kairouz, Liu and Steinke 2021, Algorithm 1"
    unit: ClassVar[Literal["", "node", "example"]] = "node"
    world: ClassVar[Literal["", "server", "graph"]] = "server"
    guards: ClassVar[Literal["nothing", "messages", "changes", "gradients", "sums"]] = "sums"

    kind: Literal["distributed"] = "distributed"
    accountant: Literal["rdp"] = Field(default="rdp", description="Renyi, by the bound for Skellam noise")

    def releases(self, noise: float, rounds: int, setting: Setting) -> Iterable[Release]:
        l2 = self.moved * l2_bound(setting.levels, setting.length)
        # Integers: |x|_1 is at most |x|_2 sqrt(d), and at most |x|_2 squared.
        l1 = self.moved * l1_bound(l2 / self.moved, setting.length)
        return [Release(noise / self.moved, times=int(setting.times(rounds).max()), skellam=Skellam(l2, l1))]

    def hides(self, setting: Setting) -> str:
        return "a node's part in the run, from the server too, which sees sums only and knows who takes part"

    def assumes(self, setting: Setting) -> tuple[str, ...]:
        return (
            "the secure sum holds: fewer nodes than its threshold join the server, which follows the protocol",
            "as many nodes as its threshold add their share of the noise",
        )

    def check(self, settings: Any) -> None:
        if settings.secure_sum is None:
            raise ExperimentError(
                "privacy.kind = 'distributed': a share of the noise hides nobody in a message that is seen; set "
                "secure_sum = {}, or use privacy.kind = 'local'"
            )
