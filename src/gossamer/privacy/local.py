"""Noise at every node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.accounting import Release
from gossamer.norms import shortened
from gossamer.privacy import Mechanism, Place, Setting
from gossamer.randomness import gaussian

if TYPE_CHECKING:
    from torch import Tensor


class Local(Mechanism):
    """Every node clips what its local work changed to norm C, and adds noise N(0, (z C)^2) to every coordinate.

    It does so before anything else is made of the change: the node goes on from the noisy model itself, so all that it
    ever sends, to a server or to neighbours, follows from noisy changes.
    """

    source: ClassVar[str] = "Duchi, Jordan and Wainwright 2013; Gaussian mechanism: Dwork and Roth 2014, Appendix A"
    unit: ClassVar[Literal["", "node", "example"]] = "node"
    guards: ClassVar[Literal["nothing", "messages", "changes", "gradients", "sums"]] = "changes"

    kind: Literal["local"] = "local"

    def releases(self, noise: float, rounds: int, setting: Setting) -> Iterable[Release]:
        return [Release(noise / self.moved, times=int(setting.times(rounds).max()))]

    def hides(self, setting: Setting) -> str:
        return "all that a node holds, from everybody, who sees all its messages"

    def changed(self, change_D: Tensor, noise: float, place: Place) -> Tensor:
        short_D = shortened({"row": change_D}, self.clip)["row"]
        return short_D + gaussian(short_D, noise * self.clip, place.dice("privacy", place.node))
