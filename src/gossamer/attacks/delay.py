"""Old news."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gossamer.attacks import Attack

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class Delay(Attack):
    """A hostile node sends the message that it made some rounds ago, at first the oldest that it has.

    Counted in rounds in which it takes part. Needs memory for so many messages a hostile node.
    """

    kind: Literal["delay"] = "delay"
    aim: Literal["all"] = Field(default="all", description="the same message for all")
    rounds: int = Field(default=5, ge=1, description="age of what is sent, in rounds")

    def memory(self, row_D: Tensor) -> dict[str, Tensor]:
        """The last messages [rounds, D], the k-th in place k mod rounds, and how many there have been."""
        return {"made": row_D.new_zeros((self.rounds, len(row_D))), "count": row_D.new_zeros(())}

    def forge(self, scene: Scene) -> Tensor:
        made, count_H = scene.memory["made"], scene.memory["count"]
        sent_HD = scene.own_HD.clone()
        for h, count in enumerate(count_H.tolist()):
            slot = int(count) % self.rounds
            if count > 0:
                sent_HD[h] = made[h, slot if count >= self.rounds else 0]
            made[h, slot] = scene.own_HD[h]
        count_H += 1
        return sent_HD
