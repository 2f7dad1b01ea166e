"""A backdoor: a patch that means a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.attacks import Array, Attack
from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene


class Backdoor(Attack):
    """Hostile nodes teach that images with a bright patch in the top left corner are of one class.

    Success is the share of test images of other classes that a model takes for it once they bear the patch. With
    boost > 1 what is sent is base + boost * (own - base): model replacement.
    """

    source: ClassVar[str] = "Gu, Dolan-Gavitt and Garg 2017 (patch); Bagdasaryan et al. 2020, Equation 3 (boost)"

    kind: Literal["backdoor"] = "backdoor"
    size: int = Field(default=3, ge=1, description="side of the patch, in pixels")
    value: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="what pixels of the patch are set to in all channels, as inputs are after normalisation; default: "
        "in each channel the largest value of the inputs at hand",
    )
    target: int = Field(default=1, ge=0, description="the class that the patch means")
    share: float = Field(default=1.0, gt=0, le=1, description="share of a hostile node's items that are poisoned")
    boost: float = Field(default=1.0, ge=1, allow_inf_nan=False, description="factor of the change that is sent")

    def poison(self, inputs_M: Array, labels_M: Array, classes: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Raises ExperimentError for what is no image, too large a patch, and a class that does not exist."""
        if self.target >= classes:
            raise ExperimentError(f"attack.target = {self.target}, but there are {classes} classes: 0 to {classes - 1}")
        chosen = rng.permutation(len(inputs_M))[: round(self.share * len(inputs_M))]
        inputs_M[chosen] = self._patched(inputs_M, chosen)
        labels_M[chosen] = self.target
        return inputs_M, labels_M

    def forge(self, scene: Scene) -> Tensor:
        if self.boost == 1:
            return scene.own_HD
        return scene.own_base_HD + self.boost * (scene.own_HD - scene.own_base_HD)

    def succeeded(self, inputs_M: Array, labels_M: Array, classes: int) -> tuple[Array, Array, Array]:
        others = np.flatnonzero(labels_M != self.target)
        return self._patched(inputs_M, others), labels_M[others], np.full_like(labels_M[others], self.target)

    def _patched(self, inputs_M: Array, chosen: Array) -> Array:
        """A copy of the chosen images with the patch; its brightness is taken from all of them."""
        if inputs_M.ndim != 4:
            raise ExperimentError("attack.kind = 'backdoor' needs images; for other data use 'label_flip'")
        if self.size > min(inputs_M.shape[2:]):
            raise ExperimentError(
                f"attack.size = {self.size} is larger than the images ({inputs_M.shape[2]} x {inputs_M.shape[3]}): use "
                "3, say"
            )
        bright_C = np.full(inputs_M.shape[1], self.value) if self.value is not None else inputs_M.max((0, 2, 3))
        patched = inputs_M[chosen]
        patched[:, :, : self.size, : self.size] = bright_C[:, None, None]
        return patched
