"""No guarantee."""

from __future__ import annotations

from typing import Literal

from gossamer.privacy import Privacy


class NoPrivacy(Privacy):
    """Nothing is clipped, no noise is added, nothing is promised."""

    kind: Literal["none"] = "none"
