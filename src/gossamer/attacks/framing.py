"""Framing: Sybils that have an honest node taken for one of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from gossamer.attacks import Knowledge
from gossamer.attacks.label_flip import LabelFlip


class Framing(LabelFlip):
    """Label flipping, and lies about others where nodes tell each other what they know of others (SybilWall).

    Each hostile node tells each of its neighbours that some stranger, a node which that neighbour does not hear, sent
    what one of its honest neighbours just sent: two names, it seems, of one attacker, and the honest one is distrusted.
    Records that their makers sign would not allow it.
    """

    source: ClassVar[str] = "ours"
    knows: ClassVar[Knowledge] = "neighbourhood"
    frames: ClassVar[bool] = True

    kind: Literal["framing"] = "framing"  # type: ignore[assignment]
