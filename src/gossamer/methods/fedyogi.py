"""Yogi at the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.methods.fedadam import FedAdam

if TYPE_CHECKING:
    from torch import Tensor


class FedYogi(FedAdam):
    """FedAdam with v <- v - (1 - beta2) * Delta^2 * sign(v - Delta^2), which moves v no faster than Delta^2 allows."""

    source: ClassVar[str] = "Reddi et al. 2021, Algorithm 2; Zaheer et al. 2018 for Yogi"

    kind: Literal["fedyogi"] = "fedyogi"  # type: ignore[assignment]

    def second_moment(self, before_T: Tensor, square_T: Tensor) -> Tensor:
        return before_T - (1 - self.beta2) * square_T * (before_T - square_T).sign()
