"""What receivers remember of each sender, for rules that compare what was sent over many rounds.

Direct: one row for each sender, the sum of the changes it sent (FoolsGold). Gossiped: neighbours pass on what they know
of others (SybilWall). A record of sender j is a pure function of (j, version), the round it was made in, so all records
lie in one bounded pool and a receiver only holds numbers: which version of whom, how far away, from whom.

Shapes: N names, P slots of the pool, D numbers of a row, E links of a round, K records of one receiver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.aggregators import Gossiping, Remembering
from gossamer.gram import Gram
from gossamer.population import shared
from gossamer.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.experiment import Experiment
    from gossamer.placement import Placement
    from gossamer.wire import Message

Array = np.ndarray[Any, Any]

BLOCK = 1024
"""Columns of the pool multiplied at a time: a copy of so many is made in float64."""


def remembered(message: Message) -> str:
    """The field of a message that is remembered: its largest."""
    return max(message, key=lambda name: message[name].numel())


class Direct:
    """Of each sender the sum of what it changed, [N, D]; or on a graph, where whole models are compared, nothing."""

    def __init__(self, experiment: Experiment, names: int, like: Message) -> None:
        self.name, rule = remembered(like), experiment.aggregator
        assert isinstance(rule, Remembering)
        self.sums = experiment.method.world == "server" or rule.remember == "updates"
        self.rows_ND = shared(names if self.sums else 0, like[self.name].flatten())

    def tensors(self) -> dict[str, Tensor]:
        """What lasts from round to round."""
        return {"history.sums": self.rows_ND} if self.sums else {}

    def note(self, sent: dict[str, Tensor], before: Tensor | None, senders: Array, round: int) -> None:
        """Remember what was sent; `before` [N, D] are the models that local work began from, on a graph."""
        if not self.sums:
            self.rows_ND = sent[self.name].flatten(1)
            return
        for sender in senders.tolist():
            self.rows_ND[sender].add_(sent[self.name][sender].flatten())
            if before is not None:
                self.rows_ND[sender].sub_(before[sender].flatten())

    def of(self, heard: Array) -> Gram:
        """Products of the histories of those who are heard."""
        import torch

        return Gram.of(self.rows_ND[torch.from_numpy(np.asarray(heard, np.int64))])


class Gossiped:
    """Records of neighbours and, passed on from node to node, of others."""

    def __init__(self, experiment: Experiment, names: int, like: Message) -> None:
        import torch

        rule = experiment.aggregator
        assert isinstance(rule, Gossiping)
        self.seed, self.decay, self.name = experiment.seed, float(rule.decay), remembered(like)
        self.sums = rule.remember == "updates"
        row_D = like[self.name].flatten()
        number = torch.zeros((), dtype=torch.int32)
        self.rule, self.slots = rule, rule.versions * names
        self.exposes = rule.exposes
        self.exposed_NN = shared(names if self.exposes else 0, torch.zeros(names, dtype=torch.int32))
        """Whom a receiver distrusts for good."""
        self.pool_PD = shared(self.slots, row_D)
        self.sums_ND = shared(names if self.sums else 0, row_D)
        self.kernel_PP = shared(self.slots, torch.zeros(self.slots, dtype=torch.float64))
        self.of_P = shared(self.slots, number - 1)
        """Whose record a slot holds; -1: it is free."""
        self.made_P = shared(self.slots, number)
        """Its version: the round it was made in."""
        self.slot_NN = shared(names, torch.full((names,), -1, dtype=torch.int32))
        """Where receiver i's record of j lies; -1: it has none."""
        self.distance_NN = shared(names, torch.zeros(names, dtype=torch.int32))
        self.source_NN = shared(names, torch.full((names,), -1, dtype=torch.int32))
        """Who told it."""
        self.version_NN = shared(names, torch.full((names,), -1, dtype=torch.int32))
        self.of_P.fill_(-1)
        for table in (self.slot_NN, self.source_NN, self.version_NN):
            table.fill_(-1)

    def tensors(self) -> dict[str, Tensor]:
        """What lasts from round to round."""
        pool = ("pool_PD", "kernel_PP", "of_P", "made_P")
        kept = (*pool, "slot_NN", "distance_NN", "source_NN", "version_NN", "sums_ND", "exposed_NN")
        return {f"history.{name}": getattr(self, name) for name in kept if getattr(self, name).numel()}

    def note(self, sent: dict[str, Tensor], before: Tensor | None, senders: Array, round: int) -> None:
        """A new version of every sender's record. The oldest make room, and are forgotten by whoever had them."""
        rows_ND = sent[self.name].flatten(1)
        if self.sums:
            for sender in senders.tolist():
                self.sums_ND[sender].add_(rows_ND[sender])
                if before is not None:
                    self.sums_ND[sender].sub_(before[sender].flatten())
            rows_ND = self.sums_ND
        of_P, made_P = self.of_P.numpy(), self.made_P.numpy()
        held = np.isin(np.arange(self.slots), self.slot_NN.numpy())
        # A rule that compares models of the same round needs those that neighbours sent in earlier ones.
        of_P[~held & (made_P < round - (self.rule.versions - 1 if self.exposes else 1))] = -1
        free = (of_P < 0).nonzero()[0]
        if len(free) < len(senders):
            used = (of_P >= 0).nonzero()[0]
            oldest = used[np.lexsort((of_P[used], made_P[used]))][: len(senders) - len(free)]
            self.slot_NN.numpy()[np.isin(self.slot_NN.numpy(), oldest)] = -1
            of_P[oldest] = -1
            free = (of_P < 0).nonzero()[0]
        new = free[: len(senders)]
        for slot, sender in zip(new.tolist(), senders.tolist(), strict=True):
            self.pool_PD[slot].copy_(rows_ND[sender])
        of_P[new], made_P[new] = senders, round
        self._multiply(new)

    def _multiply(self, new: Array) -> None:
        """Products of new records with all that there are, in float64: nothing is centred."""
        import torch

        used, fresh = torch.from_numpy((self.of_P.numpy() >= 0).nonzero()[0]), torch.from_numpy(new)
        products = torch.zeros((len(fresh), len(used)), dtype=torch.float64)
        for start in range(0, self.pool_PD.shape[1], BLOCK):
            block_PC = self.pool_PD[:, start : start + BLOCK]
            products += block_PC[fresh].double() @ block_PC[used].double().T
        rows_FP = torch.zeros((len(fresh), self.slots), dtype=torch.float64)
        rows_FP.index_copy_(1, used, products)
        self.kernel_PP.index_copy_(0, fresh, rows_FP)
        self.kernel_PP.index_copy_(1, fresh, rows_FP.T)

    def exchange(self, heard_E2: Array, round: int, placement: Placement, frames: bool) -> None:
        """Everybody tells each of its neighbours one thing about another; then what came from the others itself.

        Hostile nodes tell nothing, or with `frames` that some stranger's record is that of an honest neighbour: two who
        are the same person, it seems.
        """
        slot_NN, distance_NN = self.slot_NN.numpy(), self.distance_NN.numpy()
        source_NN, version_NN = self.source_NN.numpy(), self.version_NN.numpy()
        told: list[tuple[int, int, int, int, int, int]] = []
        order_E = np.lexsort((heard_E2[:, 1], heard_E2[:, 0]))
        for sender in np.unique(heard_E2[:, 0]).tolist():
            receivers = heard_E2[order_E][heard_E2[order_E, 0] == sender, 1].tolist()
            rng = generator(self.seed, "gossip", sender, round)
            if placement.is_hostile[sender]:
                told += self._framed(sender, receivers, heard_E2, placement, rng, round) if frames else []
                continue
            known = slot_NN[sender] >= 0
            known[sender] = False
            for receiver in receivers:
                eligible = (known & (source_NN[sender] != receiver)).nonzero()[0]
                eligible = eligible[eligible != receiver]
                if not len(eligible):
                    continue
                odds = np.exp(-self.decay * (distance_NN[sender, eligible] - 1.0))
                j = int(rng.choice(eligible, p=odds / odds.sum()))
                told.append(
                    (receiver, j, slot_NN[sender, j], distance_NN[sender, j] + 1, sender, version_NN[sender, j])
                )
        for receiver, j, slot, distance, sender, version in told:
            newer = version > version_NN[receiver, j] and distance_NN[receiver, j] > 1
            if slot_NN[receiver, j] < 0 or newer:
                slot_NN[receiver, j], distance_NN[receiver, j] = slot, distance
                source_NN[receiver, j], version_NN[receiver, j] = sender, version
        senders_E, receivers_E = heard_E2.T
        slot_NN[receivers_E, senders_E] = self._current(round)[senders_E]
        distance_NN[receivers_E, senders_E] = 1
        source_NN[receivers_E, senders_E] = senders_E
        version_NN[receivers_E, senders_E] = round
        if self.exposes:
            self._expose(heard_E2, round)

    def _expose(self, heard_E2: Array, round: int) -> None:
        """Compare every receiver's records with what its neighbours sent in the same rounds."""
        import torch

        slot_NN, version_NN = self.slot_NN.numpy(), self.version_NN.numpy()
        oldest = max(0, round - self.rule.versions + 1)
        at_VN = np.stack([self._current(version) for version in range(oldest, round + 1)])
        for receiver in np.unique(heard_E2[:, 1]).tolist():
            senders = np.sort(heard_E2[heard_E2[:, 1] == receiver, 0])
            records = (slot_NN[receiver] >= 0).nonzero()[0]
            records = records[(records != receiver) & (version_NN[receiver, records] >= oldest)]
            theirs_RU = at_VN[version_NN[receiver, records] - oldest][:, senders]
            known_RU = torch.from_numpy((theirs_RU >= 0) & (records[:, None] != senders))
            slots_R1 = torch.from_numpy(slot_NN[receiver, records].astype(np.int64))[:, None]
            slots_RU = torch.from_numpy(np.maximum(theirs_RU, 0).astype(np.int64))
            norms_P = self.kernel_PP.diagonal()
            squares_RU = norms_P[slots_R1] + norms_P[slots_RU] - 2 * self.kernel_PP[slots_R1, slots_RU]
            found = self.rule.twins(squares_RU.clamp_(min=0.0), known_RU)
            if found is not None:
                self.exposed_NN[receiver, torch.from_numpy(senders)[found]] = 1

    def _framed(
        self,
        sender: int,
        receivers: list[int],
        heard_E2: Array,
        placement: Placement,
        rng: np.random.Generator,
        round: int,
    ) -> list[tuple[int, int, int, int, int, int]]:
        """A forged record for each neighbour: what an honest one, heard by both, sent last, under a stranger's name."""
        found, last = [], self._current(round - 1)
        names = placement.hostile if placement.host >= 0 else np.array([sender])
        seen = heard_E2[np.isin(heard_E2[:, 1], names), 0]
        for receiver in receivers:
            heard = heard_E2[heard_E2[:, 1] == receiver, 0]
            victims = np.intersect1d(heard[~placement.is_hostile[heard] & (last[heard] >= 0)], seen)
            strangers = np.setdiff1d(placement.honest, [*heard.tolist(), receiver])
            if len(victims) and len(strangers):
                victim, name = int(rng.choice(victims)), int(rng.choice(strangers))
                found.append((receiver, name, int(last[victim]), 2, sender, round - 1))
        return found

    def _current(self, round: int) -> Array:
        """The slot of each name's record of this round; -1: none."""
        slots_N = np.full(len(self.slot_NN), -1, np.int32)
        made = ((self.made_P.numpy() == round) & (self.of_P.numpy() >= 0)).nonzero()[0]
        slots_N[self.of_P.numpy()[made]] = made
        return slots_N

    def of(self, receiver: int, others: Array) -> Gram:
        """Products of the records of the others that a receiver hears, in their order, then of all else it knows."""
        import torch

        slots_N = self.slot_NN.numpy()[receiver]
        rest = (slots_N >= 0).nonzero()[0]
        rest = rest[~np.isin(rest, others) & (rest != receiver)]
        slots = torch.from_numpy(slots_N[np.concatenate([others, rest])].astype(np.int64))
        kernel_BB = torch.zeros((len(slots) + 1, len(slots) + 1), dtype=torch.float64)
        kernel_BB[:-1, :-1] = self.kernel_PP[slots[:, None], slots]
        return Gram(kernel_BB)


def histories_of(experiment: Experiment, names: int, like: Message) -> Direct | Gossiped | None:
    """What the experiment's rule remembers."""
    rule = experiment.aggregator
    if not isinstance(rule, Remembering):
        return None
    gossips = isinstance(rule, Gossiping) and experiment.method.world == "graph"
    return Gossiped(experiment, names, like) if gossips else Direct(experiment, names, like)


def history_bytes(experiment: Experiment, names: int, row_bytes: int) -> int:
    """Memory of the histories."""
    rule, on_graph = experiment.aggregator, experiment.method.world == "graph"
    if not isinstance(rule, Remembering):
        return 0
    sums = names * row_bytes if rule.remember == "updates" or not on_graph else 0
    if not isinstance(rule, Gossiping) or not on_graph:
        return sums
    slots = rule.versions * names
    passing = 8 * (slots + names) * (BLOCK + names)
    return slots * (row_bytes + 8 * slots + 8) + 16 * names * names + sums + passing
