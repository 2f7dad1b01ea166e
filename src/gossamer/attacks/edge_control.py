"""Edge control: the accuracy is steered to a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.attacks import Attack, Knowledge
from gossamer.attacks.vulnerable_edges import contested, sent

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class EdgeControl(Attack):
    """As many vulnerable edges are exchanged as bring the accuracy nearest to a target.

    The strength is the share of the exchanges that `vulnerable_edges` would make, from honest rankings at 0 to that
    attack at 1. What the receiver's rule would make of the messages is measured on what the hostile nodes train on:
    with both ends first, then by bisection. Above the accuracy of honest rankings all stay honest; below that at full
    strength, and on a graph, where there is no single receiver to ask, all send the full attack. (The paper aligns the
    model with a target model and then widens the gap at the boundary; here the target is met anew in each round.)
    """

    source: ClassVar[str] = "Chen, Gong, Ning, Zhang and Zhang 2026 (The Puppeteer's Attack), ECA"
    knows: ClassVar[Knowledge] = "defence"
    exchanges: ClassVar[bool] = True

    kind: Literal["edge_control"] = "edge_control"
    target: float = Field(default=0.5, ge=0, le=1, description="accuracy aimed at, from 0 to 1")
    evaluations: int = Field(default=6, ge=2, description="how often the accuracy is measured in a round")

    def forge(self, scene: Scene) -> Tensor:
        if len(scene.honest_GD) == 0:
            return scene.own_HD
        contests = contested(scene)
        most = [contest.most() for contest in contests]

        def forged(strength: float) -> Tensor:
            if strength == 0:
                return scene.own_HD
            swaps = [round(strength * j) for j in most]
            return sent(scene, [contest.swapped(j) for contest, j in zip(contests, swaps, strict=True)])

        measure = scene.accuracy_if
        if measure is None:
            return forged(1.0)
        tried = {strength: measure(forged(strength)) for strength in (0.0, 1.0)}
        if tried[1.0] < self.target < tried[0.0]:
            weaker, stronger = 0.0, 1.0
            for _ in range(self.evaluations - 2):
                strength = (weaker + stronger) / 2
                tried[strength] = measure(forged(strength))
                if tried[strength] > self.target:
                    weaker = strength
                else:
                    stronger = strength
        return forged(min(sorted(tried), key=lambda strength: abs(tried[strength] - self.target)))
