"""What hostile nodes send in a round, in place of what they would send if they were honest.

Shapes: N names, H hostile ones that send, G honest messages seen, D numbers of a message.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer import wire
from gossamer.attacks import Attack, Scene
from gossamer.errors import GossamerError, WireError, node_error
from gossamer.groundwork import travelling
from gossamer.population import shared
from gossamer.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.coding import Chain
    from gossamer.experiment import Experiment
    from gossamer.layout import Layout
    from gossamer.placement import Placement
    from gossamer.population import Population
    from gossamer.wire import Message

Array = np.ndarray[Any, Any]


@dataclass
class Struck:
    """What became of the hostile messages of a round."""

    silent: list[int] = field(default_factory=list)
    """Hostile nodes that send nothing."""
    rejected: dict[int, str] = field(default_factory=dict)
    """Hostile nodes whose message no receiver can use, and why."""

    @property
    def absent(self) -> list[int]:
        """Hostile nodes that are not heard."""
        return sorted({*self.silent, *self.rejected})


class Adversary:
    """The hostile nodes of one run, as one mind."""

    def __init__(
        self,
        experiment: Experiment,
        placement: Placement,
        population: Population,
        chain: Chain,
        layout: Layout,
        sent_bytes: Tensor,
        on_graph: bool,
    ) -> None:
        self.attack, self.hostile, self.placement = experiment.attack, experiment.hostile, placement
        self.defence, self.seed, self.rounds = experiment.aggregator, experiment.seed, experiment.rounds
        self.population, self.chain, self.on_graph = population, chain, on_graph
        self.experiment, self.sent_bytes = experiment, sent_bytes
        self.packs = bool(experiment.method.packing(down=False))
        self.kept = tuple(
            (entry.start, entry.stop, experiment.parametrisation.kept(entry.name, entry.stop - entry.start))
            for entry in layout.entries
            if entry.trainable
        )
        self.trial: Callable[[str, Tensor, int], float] | None = None
        """At a server: the accuracy of what it would make of updates [N, D] of a field in a round."""
        self._first = True
        self._began: dict[str, Tensor] = {}
        """The models that local work began from, where messages are written while receivers already merge."""
        self.memory: dict[str, Tensor] = {}
        """What the attacker remembers, [H, ...] under 'field.name'."""
        if self.attack.forges:
            for name, value in chain.received().items():
                if value.numel() > 1:
                    kept = self.attack.memory(value.flatten())
                    self.memory |= {f"{name}.{key}": shared(len(placement.hostile), v) for key, v in kept.items()}

    @property
    def active(self) -> bool:
        """Whether messages are other than those of honest nodes."""
        return bool(len(self.placement.hostile)) and (self.attack.forges or self.placement.host >= 0 or self._mangles)

    @property
    def per_neighbour(self) -> bool:
        """Whether each neighbour gets another message."""
        return self.attack.forges and self.attack.aim == "neighbour" and bool(len(self.placement.hostile))

    @property
    def _mangles(self) -> bool:
        return type(self.attack).mangle is not Attack.mangle

    def strike(
        self, sent: dict[str, Tensor], participants: Array, round: int, heard_E2: Array | None, first: bool = True
    ) -> Struck:
        """Write what hostile participants send into `sent` [N, ...] of each field; `heard_E2`: the links of the round.

        `first`: whether it is the first exchange of the round, the one that the attacker remembers.
        Raises NodeError where the attack itself fails.
        """
        struck, hostile_N = Struck(), self.placement.is_hostile
        if not self.active:
            return struck
        self._first = first
        if self.per_neighbour:
            self._began = {name: rows.clone() for name, rows in self.population.state.items() if name in sent}
        hostile = participants[hostile_N[participants]]
        honest = participants[~hostile_N[participants]]
        if not len(hostile):
            return struck
        if self.placement.host >= 0:
            struck.silent += [h for h in hostile.tolist() if not self.hostile.sends(self._dice("sends", h, round))]
            hostile = np.setdiff1d(hostile, struck.silent)
            for rows in sent.values():
                rows[index(hostile)] = rows[self.placement.host].clone()
        if self.attack.forges and self.attack.aim == "all" and len(hostile):
            for seen, senders in self._groups(hostile, honest, heard_E2):
                for name, rows in sent.items():
                    forged = self._forged(name, rows, round, senders, seen)
                    if forged is None:
                        struck.silent += [h for h in senders.tolist() if h not in struck.silent]
                        break
                    rows.index_copy_(0, index(senders), forged.to(rows.dtype).reshape(len(senders), *rows.shape[1:]))
        if self.placement.host >= 0:
            for name, rows in sent.items():
                for identity in np.setdiff1d(hostile, struck.silent).tolist() if rows[0].numel() > 1 else []:
                    dice = self._dice(f"disguise {name}", identity, round)
                    rows[identity].copy_(self.hostile.disguised(rows[identity].clone(), dice))
        if self._mangles or self.chain.steps:
            for node in np.setdiff1d(hostile, struck.silent).tolist():
                self._send(sent, node, round, struck)
        return struck

    def _send(self, sent: dict[str, Tensor], node: int, round: int, struck: Struck) -> None:
        """Put what a hostile node wrote on the wire: it can say nothing that has no form there."""
        message = self.attack.mangle(self._encoded({name: rows[node] for name, rows in sent.items()}, node, round))
        if not self.chain.fixed:
            self.sent_bytes[node] = wire.size(travelling(self.experiment, message, self.chain.outlines[0]))
        try:
            heard = self.chain.decode(message, node, round)
        except WireError as error:
            struck.rejected[node] = str(error)
            return
        for name, value in heard.items():
            sent[name][node].copy_(value)

    def _encoded(self, message: Message, node: int, round: int) -> Message:
        """A message as it goes on the wire; whole numbers that were kept as float64 are whole numbers again."""
        if not self.packs:
            like = self.chain.outlines[0]
            message = {k: v if like[k].is_floating_point() else v.round().to(like[k].dtype) for k, v in message.items()}
        return self.chain.encode({name: value.clone() for name, value in message.items()}, node, round)

    def letters(
        self, name: str, sent: dict[str, Tensor], round: int, receiver: int, heard: Array, weights: Array
    ) -> tuple[Array, Tensor | None] | None:
        """What the hostile among `heard` write to one neighbour in a field: their places among `heard`, and [H, D] or,
        where they send nothing, None. For a hostile receiver, or where all that is heard is honest, no letters.
        """
        import torch

        rows, hostile_N = sent[name], self.placement.is_hostile
        places = hostile_N[heard].nonzero()[0]
        if not len(places) or hostile_N[receiver]:
            return None
        seen = heard[~hostile_N[heard]]
        told = (receiver, weights[~hostile_N[heard]], weights[places])
        forged = self._forged(name, rows, round, heard[places], seen, told)
        if forged is not None and self.chain.steps:
            forged = forged.to(rows.dtype).reshape(len(places), *rows.shape[1:])
            pairs = zip(heard[places].tolist(), forged, strict=True)
            forged = torch.stack([self._read(sent, name, value, node, round) for node, value in pairs])
        return places, None if forged is None else forged.flatten(1)

    def _read(self, sent: dict[str, Tensor], name: str, value: Tensor, node: int, round: int) -> Tensor:
        """A field that a hostile node writes to one neighbour, as it is read there."""
        message = {**{other: rows[node] for other, rows in sent.items()}, name: value}
        return self.chain.decode(self._encoded(message, node, round), node, round)[name]

    def _groups(self, hostile: Array, honest: Array, heard_E2: Array | None) -> list[tuple[Array, Array]]:
        """(honest nodes seen, hostile nodes that write together): all as one, or each by its own neighbourhood."""
        if self.attack.knows == "own":
            return [(honest[:0], hostile)]
        if self.attack.knows != "neighbourhood" or heard_E2 is None:
            return [(honest, hostile)]
        groups = [hostile] if self.placement.host >= 0 else np.split(hostile, len(hostile))
        to_group = [heard_E2[np.isin(heard_E2[:, 1], group), 0] for group in groups]
        return [(np.intersect1d(honest, senders), group) for senders, group in zip(to_group, groups, strict=True)]

    def _forged(
        self,
        name: str,
        rows: Tensor,
        round: int,
        senders: Array,
        seen: Array,
        told: tuple[int, Array, Array] | None = None,
    ) -> Tensor | None:
        """What `senders` send of a field [H, D]; single numbers stay as they are. None: nothing."""
        import torch

        own_HD = rows[index(senders)].flatten(1)
        if own_HD.shape[1] == 1:
            return own_HD
        honest_GD = rows[index(seen)].flatten(1)
        states = self._began or self.population.state
        state = states.get(name) if self.on_graph else None
        if state is None or state.shape[1:] != rows.shape[1:]:
            own_base_HD, base_D = torch.zeros_like(own_HD), torch.zeros_like(own_HD[0])
        else:
            # Behind all names of Sybils is one model.
            trained = senders if self.placement.host < 0 else np.full(len(senders), self.placement.host)
            own_base_HD = state[index(trained)].flatten(1)
            of_honest = state[index(seen)] if len(seen) else state[index(senders)]
            base_D = of_honest.flatten(1).mean(0)
        places = np.searchsorted(self.placement.hostile, senders)
        mine = {key.removeprefix(f"{name}."): v for key, v in self.memory.items() if key.startswith(f"{name}.")}
        memory = {key: v[index(places)] for key, v in mine.items()}
        scene = Scene(
            round=round,
            rounds=self.rounds,
            hostile_H=senders,
            own_HD=own_HD,
            own_base_HD=own_base_HD,
            honest_GD=honest_GD,
            base_D=base_D,
            defence=self.defence.at(round, self.rounds),
            dice=lambda node: self._dice(f"attack {name}", node, round),
            start_dice=lambda node: self._dice(f"attack {name}", node, -1),
            memory=memory,
            receiver_D=None if told is None else rows[told[0]].flatten(),
            weights_G=None if told is None else torch.from_numpy(np.asarray(told[1], np.float64)),
            weights_H=None if told is None else torch.from_numpy(np.asarray(told[2], np.float64)),
            kept=self.kept,
            accuracy_if=None if self.trial is None else functools.partial(self._accuracy, name, honest_GD, round),
        )
        try:
            forged = self.attack.forge(scene)
            if forged is not None and forged.shape != own_HD.shape:
                raise ValueError(f"forge gave shape {list(forged.shape)}, not {list(own_HD.shape)}")
        except GossamerError:
            raise
        except Exception as error:
            raise node_error(error, int(senders[0]), round + 1, "attack") from error
        for key, value in memory.items() if self._first else ():
            mine[key].index_copy_(0, index(places), value)
        return forged

    def _accuracy(self, name: str, honest_GD: Tensor, round: int, forged_HD: Tensor) -> float:
        import torch

        assert self.trial is not None, "asked for where there is one"
        return self.trial(name, torch.cat([honest_GD, forged_HD.to(honest_GD.dtype)]), round)

    def _dice(self, purpose: str, node: int, round: int) -> np.random.Generator:
        return generator(self.seed, purpose, node, round)


def index(nodes: Array) -> Tensor:
    """Node numbers as a tensor."""
    import torch

    return torch.from_numpy(np.asarray(nodes, dtype=np.int64))
