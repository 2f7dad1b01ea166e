"""Dissensus: each neighbour is pushed away from the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.attacks import Attack, Knowledge
from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class Dissensus(Attack):
    """Neighbour i is sent x_i - epsilon * sum_j W_ij (x_j - x_i) / sum_b W_ib, j honest and b hostile in its sight.

    With epsilon = 1 gossip averaging leaves i exactly where it is; above that honest nodes move apart. Only on graphs.
    """

    source: ClassVar[str] = "He, Karimireddy and Jaggi 2022 (arXiv 2202.01545), dissensus attack"
    knows: ClassVar[Knowledge] = "neighbourhood"

    kind: Literal["dissensus"] = "dissensus"
    aim: Literal["neighbour"] = Field(default="neighbour", description="another message for each neighbour")
    epsilon: float = Field(
        default=1.5, ge=0, allow_inf_nan=False, description="share of the pull of the honest ones that is undone"
    )

    def forge(self, scene: Scene) -> Tensor:
        """Raises ExperimentError where there is no neighbour to write to."""
        if scene.receiver_D is None or scene.weights_G is None or scene.weights_H is None:
            raise ExperimentError("attack.kind = 'dissensus' is for graphs: with a server use 'ipm', say")
        if len(scene.honest_GD) == 0 or float(scene.weights_H.sum()) == 0:
            return scene.own_HD
        share_G = (scene.weights_G / scene.weights_H.sum()).to(scene.honest_GD)
        pull_D = share_G @ (scene.honest_GD - scene.receiver_D)
        return (scene.receiver_D - self.epsilon * pull_D).expand_as(scene.own_HD)
