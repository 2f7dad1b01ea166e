"""Models: the networks of the examples and benchmarks, and any `torch.nn.Module` of the user.

A model plug is one file with a `build(shape, classes)` that returns a fresh module mapping inputs [B, *shape] to logits
[B, classes] (or [B, L, classes] for sequences). Initialisation is torch's own for the module, under the run's dice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossamer.plugs import Plug

if TYPE_CHECKING:
    from torch import nn


class Model(Plug):
    """Base of the models: `build` makes a fresh module."""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A module for inputs of `shape` (without the batch dimension) and `classes` labels.

        Raises ExperimentError where the shape does not suit the network.
        """
        raise NotImplementedError

    @classmethod
    def adopt(cls, value: object) -> Plug | None:
        from gossamer.models.object import ObjectModel

        return ObjectModel.wrap(value)

    @classmethod
    def default_kind(cls) -> str | None:
        return "file"
