"""How many bytes a secure sum sends, known before it begins: lengths of the wire frames of its messages."""

from __future__ import annotations

from typing import NamedTuple

from gossamer import wire
from gossamer.secure.messages import Advertise, Delivery, Masked, Reveal, Roster, Shares, Survivors


class Traffic(NamedTuple):
    """Bytes from nodes to the server and back."""

    up: int
    down: int


def sizes(length: int, advertised: int, shared: int, masked: int) -> dict[type, int]:
    """Bytes of the frame of each kind of message, in a sum of `length` numbers with so many nodes left at each step."""
    outlines = {
        Advertise: Advertise.outline(),
        Roster: Roster.outline(advertised),
        Shares: Shares.outline(advertised - 1),
        Delivery: Delivery.outline(shared - 1),
        Masked: Masked.outline(length),
        Survivors: Survivors.outline(masked),
        Reveal: Reveal.outline(masked, shared - masked),
    }
    return {kind: wire.size(outline) for kind, outline in outlines.items()}


def traffic(length: int, advertised: int, shared: int, masked: int, revealed: int) -> Traffic:
    """Bytes of all frames of a sum in which so many messages arrived at each step.

    A server answers a step to all whose message of that step arrived. What nodes sent in vain is not in it.
    """
    size = sizes(length, advertised, shared, masked)
    up = advertised * size[Advertise] + shared * size[Shares] + masked * size[Masked] + revealed * size[Reveal]
    return Traffic(up, advertised * size[Roster] + shared * size[Delivery] + masked * size[Survivors])
