"""Noise in shares, seen in a secure sum only."""

from __future__ import annotations

import math
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
    colluding: int = Field(
        default=1,
        ge=0,
        description="nodes that tell the server their share of the noise, at most; any node knows its own",
    )
    accountant: Literal["rdp"] = Field(default="rdp", description="Renyi, by the bound for Skellam noise")

    def releases(self, noise: float, rounds: int, setting: Setting) -> Iterable[Release]:
        l2 = self.moved * l2_bound(setting.levels, setting.length)
        # Integers: |x|_1 is at most |x|_2 sqrt(d), and at most |x|_2 squared.
        l1 = self.moved * l1_bound(l2 / self.moved, setting.length)
        hidden = noise * self.left(setting)
        return [Release(hidden / self.moved, times=int(setting.times(rounds).max()), skellam=Skellam(l2, l1))]

    def left(self, setting: Setting) -> float:
        """The share of the noise, as a standard deviation, that nobody knows but those who added it."""
        if not setting.threshold:
            return 1.0
        if self.colluding >= setting.threshold:
            raise ExperimentError(
                f"privacy.colluding = {self.colluding}: sums of {setting.threshold} nodes are opened, whose noise "
                "would all be known; use fewer, or a higher secure_sum.threshold"
            )
        return math.sqrt((setting.threshold - self.colluding) / setting.threshold)

    def hides(self, setting: Setting) -> str:
        return "what a node holds, from everybody and the server, which sees sums only, and who takes part"

    def assumes(self, setting: Setting) -> tuple[str, ...]:
        with_them = f", of whom {self.colluding} may tell the server theirs" if self.colluding else ""
        return (
            "the secure sum holds: the server follows its protocol, and fewer nodes than its threshold join it",
            f"as many nodes as its threshold add their share of the noise{with_them}",
        )

    def check(self, settings: Any) -> None:
        if settings.secure_sum is None:
            raise ExperimentError(
                "privacy.kind = 'distributed': a share of the noise hides nobody in a message that is seen; set "
                "secure_sum = {}, or use privacy.kind = 'local'"
            )
