"""Parametrisations: how a row becomes a model over a frozen part that all nodes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossamer.plugs import Plug

if TYPE_CHECKING:
    from torch import nn

    from gossamer.layout import Layout


class Parametrisation(Plug):
    """Base of the parametrisations: `layout` says what of a module is a node's row; the rest is frozen and shared."""

    def layout(self, module: nn.Module) -> Layout:
        """The layout of a row of this module. What it does not list exists once per process and never changes."""
        raise NotImplementedError
