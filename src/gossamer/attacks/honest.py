"""No attack."""

from __future__ import annotations

from typing import Literal

from gossamer.attacks import Attack


class Honest(Attack):
    """Hostile nodes do what honest ones do: what a defence costs when nobody attacks."""

    kind: Literal["honest"] = "honest"
