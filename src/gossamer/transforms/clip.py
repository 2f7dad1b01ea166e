"""Messages of bounded length."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.norms import shortened
from gossamer.passages import Numerical
from gossamer.transforms import Transform, numbers

if TYPE_CHECKING:
    from gossamer.passages import Passage
    from gossamer.wire import Message


class Clip(Numerical, Transform):
    """Shorten a message to a Euclidean norm of at most c: x min(1, c / ||x||), all its fields together.

    Never longer, whatever rounding does. Integers and single numbers (a weight, a mass) neither count nor change. A
    message with NaN or infinity goes on as it is, for its receiver to refuse.
    """

    source: ClassVar[str] = "Pascanu et al. 2013, Algorithm 1; Abadi et al. 2016, Algorithm 1 (of what one sender adds)"
    for_changes: ClassVar[bool] = True

    kind: Literal["clip"] = "clip"
    norm: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="c, largest norm, in the messages' own unit"
    )

    def forward(self, message: Message, passage: Passage) -> Message:
        short = shortened({name: value for name, value in message.items() if numbers(value)}, self.norm)
        return {**message, **short}
