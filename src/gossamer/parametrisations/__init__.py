"""Parametrisations: how a row becomes a model over a frozen part that all nodes share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gossamer.plugs import Plug

if TYPE_CHECKING:
    from torch import nn

    from gossamer.layout import Layout


class Parametrisation(Plug):
    """Base of the parametrisations: `layout` says what of a module is a node's row; the rest is frozen and shared."""

    drawn: ClassVar[bool] = False
    """Whether the frozen part follows from the seed of the experiment, so that nobody needs to be sent it."""

    def applied(self, module: nn.Module) -> nn.Module:
        """The module as nodes train it, from a fresh one; torch's own dice are keyed to the seed of the experiment.

        Raises ExperimentError where the module is not for it.
        """
        return module

    def layout(self, module: nn.Module) -> Layout:
        """The layout of a row of this module, by default of all that has a gradient. What it does not list exists once
        per process and never changes."""
        from gossamer.layout import Layout

        return Layout.of(module)

    def ranks(self, nodes: int) -> tuple[int, ...]:
        """The rank of the low-rank changes at each node, where these differ from node to node; else empty."""
        return ()

    def kept(self, name: str, count: int) -> int:
        """How many of the numbers of one entry of the row the model uses at a time."""
        return count
