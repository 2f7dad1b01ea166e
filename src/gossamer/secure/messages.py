"""Messages of a secure sum, and the tensors that they are in a wire frame.

A frame says from whom it is (`sender`, -1 for the server) and in which round; the round is the sum's number. So
`wire.encode(message.to_tensors(), message.node, message.sum_id)` is read by `from_tensors(*wire.decode(frame))`, which
raises ProtocolError for tensors that are no such message. `outline` is its tensors without numbers: their shapes follow
from how many nodes there are, never from what is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, NoReturn

import numpy as np

from gossamer import wire
from gossamer.errors import ProtocolError
from gossamer.secure.agreement import KEY, TAG
from gossamer.secure.masks import Vector
from gossamer.secure.shamir import SHARE

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.wire import Message

SEALED = 2 * SHARE + TAG
"""Bytes of a sealed pair of shares: of a seed and of a private key."""
SERVER = -1
STEPS = ("advertise", "share", "mask", "reveal")


@dataclass(frozen=True)
class Advertise:
    """Node -> server: public keys, one to agree on channels for shares with, one to agree on masks with."""

    step: ClassVar[str] = "advertise"
    node: int
    sum_id: int
    channel_key: bytes
    mask_key: bytes

    def __post_init__(self) -> None:
        _sized(self, (self.channel_key, self.mask_key), KEY)

    @staticmethod
    def outline() -> Message:
        return {"keys": _bytes_like(2, KEY)}

    def to_tensors(self) -> Message:
        return {"keys": _table([self.channel_key, self.mask_key], KEY)}

    @classmethod
    def from_tensors(cls, tensors: Message, sender: int, round: int) -> Advertise:
        _require(tensors, cls.outline(), cls.step, sender, round)
        return cls(sender, round, *_rows(tensors["keys"]))


@dataclass(frozen=True)
class Roster:
    """Server -> nodes: who takes part, each with its (channel key, mask key)."""

    step: ClassVar[str] = "share"
    sum_id: int
    keys: Mapping[int, tuple[bytes, bytes]]

    @staticmethod
    def outline(nodes: int) -> Message:
        return {"nodes": _ids_like(nodes), "keys": _bytes_like(nodes, 2 * KEY)}

    def to_tensors(self) -> Message:
        return {"nodes": _ids(self.keys), "keys": _table(map(b"".join, self.keys.values()), 2 * KEY)}

    @classmethod
    def from_tensors(cls, tensors: Message, sender: int, round: int) -> Roster:
        _require_from_server(tensors, cls.outline(_count(tensors, "nodes")), cls.step, sender, round)
        pairs = _numbered(tensors["nodes"], tensors["keys"])
        return cls(round, {node: (pair[:KEY], pair[KEY:]) for node, pair in pairs.items()})


@dataclass(frozen=True)
class Shares:
    """Node -> server: for each other node its shares of this node's seed and private mask key, sealed to it.

    With a commitment to the seed, which the public key is for the private one.
    """

    step: ClassVar[str] = "share"
    node: int
    sum_id: int
    commitment: bytes
    sealed: Mapping[int, bytes]

    def __post_init__(self) -> None:
        _sized(self, [self.commitment], KEY)
        _sized(self, self.sealed.values(), SEALED)

    @staticmethod
    def outline(others: int) -> Message:
        return {"commitment": _bytes_like(KEY), "nodes": _ids_like(others), "sealed": _bytes_like(others, SEALED)}

    def to_tensors(self) -> Message:
        sealed = _table(self.sealed.values(), SEALED)
        return {"commitment": _table([self.commitment], KEY)[0], "nodes": _ids(self.sealed), "sealed": sealed}

    @classmethod
    def from_tensors(cls, tensors: Message, sender: int, round: int) -> Shares:
        _require(tensors, cls.outline(_count(tensors, "nodes")), cls.step, sender, round)
        committed = tensors["commitment"].numpy().tobytes()
        return cls(sender, round, committed, _numbered(tensors["nodes"], tensors["sealed"]))


@dataclass(frozen=True)
class Delivery:
    """Server -> one node: what the others sealed to it, by their numbers."""

    step: ClassVar[str] = "mask"
    sum_id: int
    sealed: Mapping[int, bytes]

    @staticmethod
    def outline(others: int) -> Message:
        return {"nodes": _ids_like(others), "sealed": _bytes_like(others, SEALED)}

    def to_tensors(self) -> Message:
        return {"nodes": _ids(self.sealed), "sealed": _table(self.sealed.values(), SEALED)}

    @classmethod
    def from_tensors(cls, tensors: Message, sender: int, round: int) -> Delivery:
        _require_from_server(tensors, cls.outline(_count(tensors, "nodes")), cls.step, sender, round)
        return cls(round, _numbered(tensors["nodes"], tensors["sealed"]))


@dataclass(frozen=True, eq=False)
class Masked:
    """Node -> server: its numbers modulo 2^32 plus all its masks; on the wire as int32, the same bits."""

    step: ClassVar[str] = "mask"
    node: int
    sum_id: int
    values_L: Vector

    @staticmethod
    def outline(length: int) -> Message:
        import torch

        return {"values": torch.empty(length, dtype=torch.int32, device="meta")}

    def to_tensors(self) -> Message:
        import torch

        return {"values": torch.from_numpy(self.values_L.view(np.int32))}

    @classmethod
    def from_tensors(cls, tensors: Message, sender: int, round: int) -> Masked:
        _require(tensors, cls.outline(_count(tensors, "values")), cls.step, sender, round)
        return cls(sender, round, tensors["values"].numpy().view(np.uint32))


@dataclass(frozen=True)
class Survivors:
    """Server -> nodes: whose masked numbers are in the sum."""

    step: ClassVar[str] = "reveal"
    sum_id: int
    nodes: tuple[int, ...]

    @staticmethod
    def outline(nodes: int) -> Message:
        return {"nodes": _ids_like(nodes)}

    def to_tensors(self) -> Message:
        return {"nodes": _ids(self.nodes)}

    @classmethod
    def from_tensors(cls, tensors: Message, sender: int, round: int) -> Survivors:
        _require_from_server(tensors, cls.outline(_count(tensors, "nodes")), cls.step, sender, round)
        return cls(round, tuple(tensors["nodes"].tolist()))


@dataclass(frozen=True)
class Reveal:
    """Node -> server: its shares of the seeds of survivors, and of the mask keys of those who dropped."""

    step: ClassVar[str] = "reveal"
    node: int
    sum_id: int
    seeds: Mapping[int, bytes]
    keys: Mapping[int, bytes]

    def __post_init__(self) -> None:
        _sized(self, (*self.seeds.values(), *self.keys.values()), SHARE)

    @staticmethod
    def outline(survivors: int, dropped: int) -> Message:
        of_survivors = {"survivors": _ids_like(survivors), "seeds": _bytes_like(survivors, SHARE)}
        return {**of_survivors, "dropped": _ids_like(dropped), "keys": _bytes_like(dropped, SHARE)}

    def to_tensors(self) -> Message:
        of_survivors = {"survivors": _ids(self.seeds), "seeds": _table(self.seeds.values(), SHARE)}
        return {**of_survivors, "dropped": _ids(self.keys), "keys": _table(self.keys.values(), SHARE)}

    @classmethod
    def from_tensors(cls, tensors: Message, sender: int, round: int) -> Reveal:
        like = cls.outline(_count(tensors, "survivors"), _count(tensors, "dropped"))
        _require(tensors, like, cls.step, sender, round)
        seeds = _numbered(tensors["survivors"], tensors["seeds"])
        return cls(sender, round, seeds, _numbered(tensors["dropped"], tensors["keys"]))


FromNode = Advertise | Shares | Masked | Reveal


def refuse(step: str, sum_id: int, node: int, reason: str) -> NoReturn:
    """Raise ProtocolError with where it went wrong."""
    raise ProtocolError(f"{f'node {node}' if node >= 0 else 'the server'}, sum {sum_id}, step {step}: {reason}")


def _sized(message: FromNode, values: Iterable[bytes], size: int) -> None:
    wrong = next((len(value) for value in values if len(value) != size), size)
    if wrong != size:
        refuse(message.step, message.sum_id, message.node, f"{wrong} bytes where {size} belong")


def _require(tensors: Message, like: Message, step: str, sender: int, round: int) -> None:
    """Raise ProtocolError unless the tensors are like these, with no node twice."""
    reason = wire.refused(tensors, like)
    for name in () if reason else ("nodes", "survivors", "dropped"):
        listed = sorted(tensors[name].tolist()) if name in tensors else []
        reason = next((f"node {a} is listed twice" for a, b in pairwise(listed) if a == b), reason)
    if reason:
        refuse(step, round, sender, reason)


def _require_from_server(tensors: Message, like: Message, step: str, sender: int, round: int) -> None:
    if sender != SERVER:
        refuse(step, round, sender, "only the server sends this")
    _require(tensors, like, step, sender, round)


def _count(tensors: Message, name: str) -> int:
    """Length of a tensor; 0 where there is none, which is refused with the rest."""
    return len(tensors[name]) if name in tensors and tensors[name].dim() else 0


def _ids(nodes: Iterable[int]) -> Tensor:
    import torch

    return torch.tensor(list(nodes), dtype=torch.int64)


def _ids_like(nodes: int) -> Tensor:
    import torch

    return torch.empty(nodes, dtype=torch.int64, device="meta")


def _bytes_like(*shape: int) -> Tensor:
    import torch

    return torch.empty(shape, dtype=torch.uint8, device="meta")


def _table(rows: Iterable[bytes], width: int) -> Tensor:
    import torch

    return torch.from_numpy(np.frombuffer(bytearray(b"".join(rows)), np.uint8).reshape(-1, width))


def _rows(table: Tensor) -> list[bytes]:
    return [row.tobytes() for row in table.numpy()]


def _numbered(nodes: Tensor, table: Tensor) -> dict[int, bytes]:
    return dict(zip(nodes.tolist(), _rows(table), strict=True))
