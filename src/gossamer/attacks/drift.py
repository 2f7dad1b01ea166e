"""A bias that grows slowly."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.attacks import Attack, Knowledge

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class Drift(Attack):
    """Honest at first, then ever more biased in one direction: own + min(limit, pace * k) * ||own - base|| * direction.

    k counts the rounds in which a hostile node has taken part, this one included. All of them pull in the same
    direction if they began in the same round or it is drawn. No single round looks unlike the one before.
    """

    knows: ClassVar[Knowledge] = "honest"

    kind: Literal["drift"] = "drift"
    aim: Literal["all"] = Field(default="all", description="the same message for all")
    toward: Literal["against", "random"] = Field(
        default="against",
        description="the direction, fixed at the start: against the first honest mean change that was seen (their own "
        "where they see none), or drawn",
    )
    pace: float = Field(
        default=0.05, gt=0, allow_inf_nan=False, description="growth of the bias a round, in lengths of an own change"
    )
    limit: float = Field(default=2.0, gt=0, allow_inf_nan=False, description="largest bias, in the same")

    def memory(self, row_D: Tensor) -> dict[str, Tensor]:
        """The direction [D] and the rounds so far."""
        return {"direction": row_D.new_zeros(len(row_D)), "rounds": row_D.new_zeros(())}

    def forge(self, scene: Scene) -> Tensor:
        direction_HD, rounds_H = scene.memory["direction"], scene.memory["rounds"]
        own_HD = scene.own_HD - scene.own_base_HD
        new_H = rounds_H == 0
        if new_H.any():
            direction_HD[new_H] = self._start(scene, own_HD)[new_H].to(direction_HD)
        rounds_H += 1
        bias_H: Tensor = (self.pace * rounds_H).clamp(max=self.limit).to(own_HD) * own_HD.norm(dim=1)
        return scene.own_HD + bias_H[:, None] * direction_HD.to(own_HD)

    def _start(self, scene: Scene, own_HD: Tensor) -> Tensor:
        """[H, D]: a unit vector for each (zero where there is nothing to be against)."""
        import torch

        if self.toward == "random":
            drawn_D = scene.start_dice(-1).standard_normal(own_HD.shape[1])
            away_HD = torch.from_numpy(drawn_D).to(own_HD).expand_as(own_HD)
        else:
            away_HD = -scene.change.expand_as(own_HD) if len(scene.honest_GD) else -own_HD
        length_H = away_HD.norm(dim=1, keepdim=True)
        unit_HD: Tensor = torch.where(length_H > 0, away_HD / length_H, 0.0)
        return unit_HD
