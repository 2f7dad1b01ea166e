"""What hostile nodes write is put in its place before anybody hears it, and what everybody sent is noted for later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gossamer.adversary import Struck
from gossamer.errors import NodeError
from gossamer.histories import Gossiped

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.engines import Round
    from gossamer.exchanges import Exchange
    from gossamer.federation import Federation


def strike(federation: Federation, result: Round, exchange: Exchange | None) -> Struck:
    """Let hostile nodes write their messages, and note for later what everybody sent.

    Where a round ends in several exchanges, what lasts is noted in the first of them.
    """
    first = exchange is None or exchange.round == result.round
    participants, adversary = result.participants, federation.adversary
    hostile = participants[federation.placement.is_hostile[participants]]
    heard_E2 = None if exchange is None or exchange.everyone else exchange.heard_E2
    struck = adversary.strike(federation.sent, participants, result.round, heard_E2, first)
    result.rejected += len(struck.rejected) if first else 0
    if adversary.active:
        for node in hostile.tolist() if federation.lengths.varies else ():
            for rows in federation.sent.values():
                rows[node] = federation.lengths.cut(rows[node], node)  # More has no place in its messages.
        bad = [n for n in np.setdiff1d(hostile, struck.absent).tolist() if not whole(federation.sent, n)]
        result.rejected += len(bad) if first else 0
        if bad and (rule := federation.experiment.aggregator).linear:
            reason = f"its message holds NaN or infinity, which aggregator '{rule.kind}' cannot take; use a robust rule"
            raise NodeError(bad[0], result.round + 1, "exchange", reason)
        if federation.histories is not None:
            struck.rejected |= dict.fromkeys(bad, "holds NaN or infinity")
    if (history := federation.histories) is not None and first:
        senders = np.setdiff1d(participants, struck.absent)
        before = None if federation.has_server else federation.population.state.get(history.name)
        history.note(federation.sent, before, senders, result.round)
        if isinstance(history, Gossiped) and heard_E2 is not None:
            kept_E2 = heard_E2[~np.isin(heard_E2[:, 0], struck.absent)]
            history.exchange(kept_E2, result.round, federation.placement, federation.experiment.attack.frames)
    return struck


def whole(sent: dict[str, Tensor], node: int) -> bool:
    """Whether a node's message holds no NaN or infinity."""
    return all(bool(rows[node].isfinite().all()) for rows in sent.values())
