"""A little is enough."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.attacks import Attack, Knowledge
from gossamer.disguise import deviation

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class ALIE(Attack):
    """Every hostile node sends mean - z * std of the honest messages, coordinate by coordinate: among them, but biased.

    z is by default the largest with which s of the honest ones, those that make a majority with the hostile ones, are
    expected to lie further out: Phi^-1((n - f - s) / (n - f)) with s = floor(n/2) + 1 - f, n messages, f hostile ones
    (0.2104 for n = 15, f = 3). Where hostile ones are a majority already, s counts as 1. The standard deviation is the
    sample's.
    """

    source: ClassVar[str] = "Baruch, Baruch and Goldberg 2019 (A Little Is Enough), preventing convergence"
    knows: ClassVar[Knowledge] = "honest"

    kind: Literal["alie"] = "alie"
    z: float | None = Field(
        default=None, allow_inf_nan=False, description="standard deviations from the mean; default: by the formula"
    )

    def forge(self, scene: Scene) -> Tensor:
        honest, hostile = len(scene.honest_GD), len(scene.own_HD)
        if honest == 0:
            return scene.own_HD
        z = unsuspicious(honest + hostile, hostile) if self.z is None else self.z
        return (scene.mean - z * deviation(scene.honest_GD)).expand_as(scene.own_HD)


def unsuspicious(n: int, f: int) -> float:
    """z of the formula; 0 for a single honest message, whose deviation is 0 as well."""
    supporters = max(1, n // 2 + 1 - f)
    share = (n - f - supporters) / (n - f)
    return NormalDist().inv_cdf(share) if share > 0 else 0.0
