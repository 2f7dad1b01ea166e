"""Messages that are no messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gossamer.attacks import Attack

if TYPE_CHECKING:
    from torch import Tensor


class Malformed(Attack):
    """Hostile nodes send messages that receivers cannot use: of the wrong shape, type or size, or without a field.

    A blank one is all zeros, which is no ranking and no ascending list of places.
    """

    kind: Literal["malformed"] = "malformed"
    fault: Literal["shape", "dtype", "size", "missing", "blank"] = Field(
        default="shape",
        description="shape (a row [1, ...] instead of [...]), dtype (bool), size (one number short), missing (the "
        "first field is left out), blank (all zeros: refused where these are no message)",
    )

    def mangle(self, message: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.fault == "missing":
            return {name: message[name] for name in sorted(message)[1:]}
        return {name: self._faulty(tensor) for name, tensor in message.items()}

    def _faulty(self, tensor: Tensor) -> Tensor:
        if self.fault == "blank":
            return tensor.new_zeros(tensor.shape)
        if self.fault == "shape":
            return tensor[None]
        if self.fault == "dtype":
            return tensor != 0
        return tensor.flatten()[:-1]
