"""Noise in the gradient of every local step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from gossamer.accounting import Release
from gossamer.privacy import Mechanism, Setting


class PerExample(Mechanism):
    """Every node clips the gradient of each of its examples to norm C and adds noise to their sum (DP-SGD).

    A step takes every example by a coin of its own, of chance B / n with B the batch size and n the node's items, and
    moves along (sum_i clip(g_i, C) + N(0, (z C)^2)) / B, by whatever learner. Nodes share no examples, so a node spends
    for its own only; the figure is that of the node that spends most.
    """

    source: ClassVar[str] = "Abadi et al. 2016, Algorithm 1"
    unit: ClassVar[Literal["", "node", "example"]] = "example"
    guards: ClassVar[Literal["nothing", "messages", "changes", "gradients", "sums"]] = "gradients"

    kind: Literal["per_example"] = "per_example"

    def releases(self, noise: float, rounds: int, setting: Setting) -> Iterable[Release]:
        steps = (setting.times(rounds) * setting.steps_N).tolist()
        rates = [rate_of(setting.batch_size, items) for items in setting.items]
        most: dict[float, int] = {}
        for rate, count in zip(rates, steps, strict=True):
            most[rate] = max(most.get(rate, 0), int(count))
        found, longest = [], -1
        # A node with a lower rate and no more steps than another spends less.
        for rate in sorted(most, reverse=True):
            if most[rate] > longest:
                longest = most[rate]
                sampling: Literal["none", "poisson"] = "poisson" if rate < 1 else "none"
                found.append(Release(noise / self.moved, times=longest, rate=rate, sampling=sampling))
        return found

    def hides(self, setting: Setting) -> str:
        return "any one example of a node, from everybody else, who sees all the node's messages"

    def assumes(self, setting: Setting) -> tuple[str, ...]:
        return ("each step of local work draws every example by a coin of its own, which only the node knows",)


def rate_of(batch_size: int, items: int) -> float:
    """The chance that a step takes an example."""
    return min(1.0, batch_size / max(1, items))
