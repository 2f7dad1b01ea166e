"""Noise on messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.passages import Numerical
from gossamer.randomness import gaussian
from gossamer.transforms import Transform, numbers

if TYPE_CHECKING:
    from gossamer.passages import Passage
    from gossamer.wire import Message


class GaussianNoise(Numerical, Transform):
    """Add normal noise to every number of a message: x + N(0, std^2).

    Alone it proves nothing: what it hides depends on what came before, which `clip` bounds, and on how often it is
    done. The field `privacy` does both and keeps the account. Integers and single numbers stay as they are.
    """

    source: ClassVar[str] = "Dwork et al. 2006 (the Gaussian mechanism, without its account)"

    kind: Literal["gaussian_noise"] = "gaussian_noise"
    std: float = Field(
        default=0.01, ge=0, allow_inf_nan=False, description="standard deviation, in the messages' own unit"
    )

    @property
    def unbiased(self) -> bool:
        return True

    def forward(self, message: Message, passage: Passage) -> Message:
        rng = passage.dice()
        # By name, as the order of its fields is not part of a message.
        names = sorted(name for name, value in message.items() if numbers(value))
        return {**message, **{name: message[name] + gaussian(message[name], self.std, rng) for name in names}}
