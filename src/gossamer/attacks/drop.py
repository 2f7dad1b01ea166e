"""Silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gossamer.attacks import Attack

if TYPE_CHECKING:
    from gossamer.attacks import Scene


class Drop(Attack):
    """Hostile nodes take part in the round and send nothing."""

    kind: Literal["drop"] = "drop"

    def forge(self, scene: Scene) -> None:
        return None
