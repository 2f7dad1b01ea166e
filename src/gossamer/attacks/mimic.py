"""Mimic: copies of one honest node."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.attacks import Attack, Knowledge
from gossamer.errors import ExperimentError
from gossamer.gram import Gram

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class Mimic(Attack):
    """Every hostile node copies the honest message that lies furthest out along the main direction of their variation.

    Nothing about the copies is suspicious, but one node's data counts as often as there are hostile nodes. The message
    is found anew in each round, as the largest entry of the top eigenvector of the centred Gram matrix (the paper
    follows one node, chosen by an online estimate of the direction; give `target` for that).
    """

    source: ClassVar[str] = "Karimireddy, He and Jaggi 2022 (heterogeneous datasets via bucketing), mimic"
    knows: ClassVar[Knowledge] = "honest"

    kind: Literal["mimic"] = "mimic"
    target: int | None = Field(
        default=None, ge=0, description="place, from 0, of the message to copy among the honest ones seen"
    )

    def forge(self, scene: Scene) -> Tensor:
        """Raises ExperimentError where there is no honest message at `target`."""
        honest = len(scene.honest_GD)
        if honest == 0:
            return scene.own_HD
        if self.target is not None and self.target >= honest:
            raise ExperimentError(
                f"attack.target = {self.target}, but {honest} honest messages are seen: use 0 to {honest - 1}, or "
                "leave it out"
            )
        place = outermost(scene.honest_GD) if self.target is None else self.target
        return scene.honest_GD[place].expand_as(scene.own_HD)


def outermost(rows_GD: Tensor) -> int:
    """The row with the largest projection, either way, on the first principal direction; 0 if not finite."""
    import torch

    g = len(rows_GD)
    centring_GG = torch.eye(g, dtype=torch.float64, device=rows_GD.device) - 1.0 / g
    centred_GG = Gram.of(rows_GD).through(centring_GG).products
    if not centred_GG.isfinite().all():
        return 0
    return int(torch.linalg.eigh(centred_GG).eigenvectors[:, -1].abs().argmax())
