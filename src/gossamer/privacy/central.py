"""Noise at the server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.accounting import Release
from gossamer.errors import ExperimentError
from gossamer.privacy import Mechanism, Setting
from gossamer.randomness import gaussian

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Central(Mechanism):
    """A trusted server clips every message to norm C, and adds noise to their sum.

    Every round the server takes (sum_i clip(m_i, C) + N(0, (z C)^2)) / n, where n is the expected number of
    participants, known beforehand. All fields of a message are clipped together. With `quantile` the bound follows the
    norms: C <- C exp(-lr (b - quantile)), b the share of messages that are not longer than C, with noise of its own,
    for which the messages get a little more.
    """

    source: ClassVar[str] = "McMahan et al. 2018, Algorithm 1; the quantile: Andrew et al. 2021, Algorithm 1"
    unit: ClassVar[Literal["", "node", "example"]] = "node"
    world: ClassVar[Literal["", "server", "graph"]] = "server"
    guards: ClassVar[Literal["nothing", "messages", "changes", "gradients", "sums"]] = "messages"

    kind: Literal["central"] = "central"
    quantile: float | None = Field(
        default=None, gt=0, lt=1, description="share of messages that the bound is to let through whole; absent: fixed"
    )
    quantile_lr: float = Field(default=0.2, gt=0, description="how fast the bound follows")
    quantile_noise: float | None = Field(
        default=None,
        gt=0,
        description="standard deviation of the noise on the number of such messages; default: a twentieth of the "
        "expected participants",
    )

    def releases(self, noise: float, rounds: int, setting: Setting) -> Iterable[Release]:
        if setting.sampling == "none":
            return [Release(noise / self.moved, times=rounds)]
        # Drawn without replacement, exchanging one node is part of how a release is accounted.
        known = 1.0 if setting.sampling == "fixed" else self.moved
        return [Release(noise / known, times=rounds, rate=setting.participation, sampling=setting.sampling)]

    def require(self, noise: float, setting: Setting) -> None:
        self.spread(noise, setting.cohort)

    def hides(self, setting: Setting) -> str:
        return "a node's part in the run, from all who see the server's models; the server itself sees the messages"

    def assumes(self, setting: Setting) -> tuple[str, ...]:
        if setting.sampling == "none":
            return ()
        drawn = "by a coin of its own" if setting.sampling == "poisson" else "so many at a time without replacement"
        return (f"nobody but the server knows who takes part in a round; nodes are drawn {drawn}",)

    def spread(self, noise: float, cohort: float) -> float:
        """The noise multiplier of the messages: z, or more where the count of short ones has a part of the budget.

        Raises ExperimentError where the count alone would spend it.
        """
        if self.quantile is None or noise == 0:
            return noise
        counted = self.counted(cohort)
        if noise >= 2 * counted:
            raise ExperimentError(
                f"privacy.quantile_noise = {counted:g}: with a noise multiplier of {noise:.3g} the count of short "
                f"messages alone would spend the budget; use more than {noise / 2:.3g}, or more participants"
            )
        return float((noise**-2 - (2 * counted) ** -2) ** -0.5)

    def counted(self, cohort: float) -> float:
        """Standard deviation of the noise on the number of short messages."""
        return cohort / 20 if self.quantile_noise is None else self.quantile_noise

    def answer(
        self, sums: dict[str, Tensor], cohort: float, level: float, noise: float, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """The noisy means from sums of clipped messages; fields in alphabetical order draw their noise."""
        std = self.spread(noise, cohort) * level
        return {name: (sums[name] + gaussian(sums[name], std, rng)) / cohort for name in sorted(sums)}

    def next_level(self, level: float, below: float, cohort: float, noise: float, rng: np.random.Generator) -> float:
        """The bound of the next round; `below` is the sum over messages of +1/2 (not longer than it) or -1/2."""
        assert self.quantile is not None
        import math

        noisy = below + (rng.normal(0.0, self.counted(cohort)) if noise > 0 else 0.0)
        share = min(1.0, max(0.0, noisy / cohort + 0.5))
        return level * math.exp(-self.quantile_lr * (share - self.quantile))

    def check(self, settings: Any) -> None:
        schedule = settings.schedule
        if schedule.participation < 1 and schedule.sampling == "fixed":
            if self.adjacency != "replace_one" or self.accountant != "rdp":
                raise ExperimentError(
                    "schedule.sampling = 'fixed': how little a node shows in rounds that draw so many without "
                    "replacement is known only between data sets with one node exchanged, by Renyi: set "
                    "schedule.sampling = 'poisson', or privacy.adjacency = 'replace_one' and accountant = 'rdp'"
                )
        elif schedule.participation < 1 and self.adjacency == "replace_one":
            raise ExperimentError(
                "privacy.adjacency = 'replace_one': rounds that draw nodes by coins (schedule.sampling = 'poisson') "
                "are accounted for nodes added or removed; use 'add_or_remove'"
            )
