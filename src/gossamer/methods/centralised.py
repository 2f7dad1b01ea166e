"""All data in one place: the reference that federated methods try to reach."""

from __future__ import annotations

from typing import ClassVar, Literal

from gossamer.methods.local import Local


class Centralised(Local):
    """One node holds the data of all nodes and trains on it alone, so nothing is private and nothing is sent."""

    pools_data: ClassVar[bool] = True

    kind: Literal["centralised"] = "centralised"  # type: ignore[assignment]
