"""Min-sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.attacks.min_max import MinMax
from gossamer.disguise import within_largest_sum

if TYPE_CHECKING:
    from torch import Tensor


class MinSum(MinMax):
    """As far from the honest mean as one gets with squared distances to honest messages summing to no more than theirs.

    No bisection: the limit is the root of a quadratic. Depends only on which way the direction points.
    """

    source: ClassVar[str] = "Shejwalkar and Houmansadr 2021 (Manipulating the Byzantine), Min-Sum"

    kind: Literal["min_sum"] = "min_sum"  # type: ignore[assignment]

    def limit(self, honest_GD: Tensor, direction_D: Tensor) -> Tensor:
        return within_largest_sum(honest_GD, direction_D)
