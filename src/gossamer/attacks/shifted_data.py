"""Honest work on shifted data."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.attacks import Array, Attack
from gossamer.errors import ExperimentError

STEPS = 10
"""Runge-Kutta steps of the flow."""


class ShiftedData(Attack):
    """Hostile nodes are honest, but see other inputs: with noise, or images bent by a smooth flow.

    What a robust rule does to them tells whether it takes being different for being hostile. The flow is that of the
    predator-prey equations x' = 2/3 x - 4/3 xy, y' = xy - y for a time of strength / 100, with x and y from 16 to -16
    over the height and the width of an image, so that strength 1 moves the corners of a square one by about a tenth of
    its side; what comes from outside is its edge.
    """

    source: ClassVar[str] = "Almasi, Mishra, Vamanan and Ravi 2024 (images augmented by a Lotka-Volterra flow, noise)"

    kind: Literal["shifted_data"] = "shifted_data"
    shift: Literal["noise", "warp"] = Field(default="warp", description="what is done to inputs; 'warp' is for images")
    strength: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="noise: standard deviation, in units of the inputs after normalisation; warp: time of the flow in "
        "hundredths",
    )
    share: float = Field(default=1.0, gt=0, le=1, description="share of a hostile node's items that are shifted")

    def poison(self, inputs_M: Array, labels_M: Array, classes: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Raises ExperimentError for tokens, and where what is to be warped is no image."""
        if not np.issubdtype(inputs_M.dtype, np.floating):
            raise ExperimentError("attack.kind = 'shifted_data' needs inputs that are numbers, not tokens")
        chosen = rng.permutation(len(inputs_M))[: round(self.share * len(inputs_M))]
        if self.shift == "noise":
            noise = self.strength * rng.standard_normal((len(chosen), *inputs_M.shape[1:]))
            inputs_M[chosen] += noise.astype(inputs_M.dtype)
            return inputs_M, labels_M
        if inputs_M.ndim != 4:
            raise ExperimentError("attack.shift = 'warp' needs images; for other data use 'noise'")
        inputs_M[chosen] = warped(inputs_M[chosen], self.strength / 100)
        return inputs_M, labels_M


def warped(images: Array, time: float) -> Array:
    """Images [M, C, height, width], each pixel taken (bilinearly) from where the flow carries its place."""
    from scipy.ndimage import map_coordinates

    height, width = images.shape[2:]
    middle = np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    unit = np.array([height, width])[:, None, None] / 32
    # As published, offsets are counted from the pixel to the middle.
    away = (middle - np.mgrid[:height, :width]) / unit
    source = middle - unit * flowed(away, time)
    result = np.empty_like(images)
    for m, image in enumerate(images):
        for c, channel in enumerate(image):
            result[m, c] = map_coordinates(channel, source, order=1, mode="nearest")
    return result


def flowed(start: Array, time: float) -> Array:
    """Where the points [2, ...] are after the time (Runge-Kutta of order 4)."""

    def slope(point: Array) -> Array:
        x, y = point
        return np.stack([2 / 3 * x - 4 / 3 * x * y, x * y - y])

    point, step = start, time / STEPS
    for _ in range(STEPS):
        k1 = slope(point)
        k2 = slope(point + step / 2 * k1)
        k3 = slope(point + step / 2 * k2)
        k4 = slope(point + step * k3)
        point = point + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return point
