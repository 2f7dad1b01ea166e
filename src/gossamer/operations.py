"""Operations: what happens in an asynchronous run, one after the other, as data.

A simulation (`gossamer.simulation`) says when and in which order they happen without looking at a single value; an
engine carries them out on tensors, by whatever back end, and gets the same result. Copies of states live in numbered
*snapshot* slots, messages in numbered *mail* slots; a slot is taken again, lowest first, once nothing needs what it
holds. Times are simulated seconds, ticks count a node's local works from 0.

On a graph:       Start ... Apply, Send, Mix (or Exchange)
With a server:    Start ... Merge (or Lost)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Start:
    """A node begins local work from a copy of its model (with a server: of the server's) in slot `snapshot`.

    What the work gives goes to mail slot `result`. Both are its own until Apply, Merge or Lost. No work is begun that
    the node will not finish.
    """

    time: float
    node: int
    tick: int
    snapshot: int
    result: int


@dataclass(frozen=True, slots=True)
class Apply:
    """On a graph: the work is done, what it changed is added to the node's model as it is now; both slots are free."""

    time: float
    node: int
    tick: int
    snapshot: int
    result: int
    untouched: bool
    """Whether the node's model is still the one that the work began from."""


@dataclass(frozen=True, slots=True)
class Send:
    """On a graph: a node's message, as its model is now, is copied into a mail slot, for all its receivers.

    `tick` is the last work that it contains, -1 before the first.
    """

    time: float
    node: int
    tick: int
    slot: int


@dataclass(frozen=True, slots=True)
class Mix:
    """On a graph: a node merges its own model and messages; M of them, in the order of their senders."""

    time: float
    node: int
    slots: tuple[int, ...]
    senders: tuple[int, ...]
    weights: tuple[float, ...]
    """Sum to 1 with `own_weight`."""
    own_weight: float
    staleness: tuple[int, ...]
    """Works that the receiver has done more than the message contains; negative: fewer."""
    freed: tuple[int, ...]
    """Those of the slots that nobody else will read."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """On a graph: the models of two nodes both become their mean."""

    time: float
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Merge:
    """With a server: it merges M results, in the order in which they came; their slots of both sorts are then free."""

    time: float
    slots: tuple[int, ...]
    snapshots: tuple[int, ...]
    senders: tuple[int, ...]
    ticks: tuple[int, ...]
    staleness: tuple[int, ...]
    """Merges that the server has done since it handed out the model that the work began from."""


@dataclass(frozen=True, slots=True)
class Lost:
    """With a server: a work was done, but its result never arrived; both slots are free."""

    time: float
    node: int
    tick: int
    snapshot: int
    result: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A round is over: evaluate, record, save. What each of the N nodes sent and received since the last one."""

    time: float
    round: int
    sent: tuple[int, ...]
    """Bytes; lost messages count."""
    received: tuple[int, ...]
    transfers: int
    """Models sent, both directions with a server; lost messages count."""
    lost_down: int = 0
    """With a server: how many of the models it sent never arrived."""


Operation: TypeAlias = Start | Apply | Send | Mix | Exchange | Merge | Lost | Finished


@dataclass(frozen=True)
class Needs:
    """What a whole run needs, found out beforehand. R rounds, N nodes."""

    snapshots: int
    """Snapshot slots."""
    mail: int
    """Mail slots."""
    works: int
    """Local works begun."""
    merges: int
    """Merges at nodes or at the server; an Exchange is one."""
    staleness_mean: float
    """Over all messages merged; 0 without any."""
    staleness_max: int
    seconds: tuple[float, ...]
    """Simulated seconds at the end of each round, R of them."""
    transfers: tuple[int, ...]
    """Models sent in each round, R of them."""
    sent: tuple[int, ...]
    """Bytes of each node in the whole run, N of them."""
    received: tuple[int, ...]


def survey(operations: Iterable[Operation]) -> Needs:
    """What carrying out these operations needs; they are used up."""
    snapshots = mail = works = merges = 0
    stale_sum = stale_count = stale_max = 0
    seconds: list[float] = []
    transfers: list[int] = []
    sent: tuple[int, ...] = ()
    received: tuple[int, ...] = ()
    for operation in operations:
        if isinstance(operation, Start):
            works += 1
            snapshots, mail = max(snapshots, operation.snapshot + 1), max(mail, operation.result + 1)
        elif isinstance(operation, Send):
            mail = max(mail, operation.slot + 1)
        elif isinstance(operation, (Mix, Merge)):
            merges += 1
            stale_sum += sum(operation.staleness)
            stale_count += len(operation.staleness)
            stale_max = max(stale_max, *operation.staleness)
        elif isinstance(operation, Exchange):
            merges += 1
        elif isinstance(operation, Finished):
            seconds.append(operation.time)
            transfers.append(operation.transfers)
            sent, received = _added(sent, operation.sent), _added(received, operation.received)
    return Needs(
        snapshots=snapshots,
        mail=mail,
        works=works,
        merges=merges,
        staleness_mean=stale_sum / stale_count if stale_count else 0.0,
        staleness_max=stale_max,
        seconds=tuple(seconds),
        transfers=tuple(transfers),
        sent=sent,
        received=received,
    )


def _added(total: tuple[int, ...], part: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(total, part, strict=True)) if total else part
