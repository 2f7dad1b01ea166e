"""Nobody is hostile."""

from __future__ import annotations

from typing import Literal

from gossamer.hostile import Hostile


class Nobody(Hostile):
    """All nodes are honest."""

    kind: Literal["nobody"] = "nobody"
