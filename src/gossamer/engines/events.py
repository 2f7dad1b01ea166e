"""The local engine by the clock: it does to the models what a simulation says happens, in that order.

What happens when is known before any model is touched (`gossamer.simulation`). Local work begins from a copy of the
state at its simulated start, runs on the back end whenever there is room, and is waited for when the trace applies it;
so the result depends on the trace alone, not on which worker was how fast.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from gossamer.adversary import Struck
from gossamer.clocks import nanoseconds
from gossamer.engines import Round
from gossamer.engines.receiving import Receiving
from gossamer.federation import Outcome, Work
from gossamer.methods import Inbox
from gossamer.operations import Apply, Exchange, Finished, Lost, Merge, Mix, Send, Start
from gossamer.population import Fold

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.backends import Backend
    from gossamer.federation import Federation


class Events:
    """Plays the trace, a round at a time: until as many local works are done as a round has."""

    def __init__(self, federation: Federation, backend: Backend, spent: int = 0, clock: float = 0.0) -> None:
        self.federation, self.backend = federation, backend
        self.spent, self.clock = spent, clock
        self._trace = federation.operations()
        self._running: dict[int, Work] = {}
        """Works not yet waited for, by their result slots."""
        self._next_round = 0

    def train(self, round: int) -> Round:
        """Everything that happens until the end of a round."""
        federation = self.federation
        while self._next_round < round:  # Rounds that were played before the run was resumed.
            self._next_round += isinstance(next(self._trace), Finished)
        result = Round(round, np.arange(federation.nodes), federation.nodes)
        for operation in self._trace:
            clock, phase = time.perf_counter(), "exchange"
            match operation:
                case Start():
                    self._start(operation, round)
                    phase = "train"
                case Apply():
                    self._apply(operation, result)
                    phase = "train"
                case Send():
                    self._send(operation)
                case Mix():
                    self._mix(operation, round)
                case Exchange():
                    self._average(operation, round)
                case Merge():
                    self._merge(operation, result)
                case Lost():
                    self._wait(operation.result)
                case Finished():
                    self._drain()
                    result.sent_N, result.received_N = np.array(operation.sent), np.array(operation.received)
                    result.lost_bytes = operation.lost_down * federation.down_bytes
                    result.transfers, result.communicated = operation.transfers, operation.transfers > 0
                    self.spent += operation.transfers
                    self.clock = result.clock = operation.time
                    self._next_round += 1
                    return result
            result.seconds[phase] += time.perf_counter() - clock
        return result

    def exchange(self, result: Round) -> None:
        """Nothing: exchanges are part of the trace."""

    def _start(self, operation: Start, round: int) -> None:
        federation, node = self.federation, operation.node
        for work in list(self._running.values()):
            # A node trains once at a time, and a slot is not written while somebody reads it.
            if work.node == node or work.snapshot == operation.snapshot or work.result == operation.result:
                self._wait(work.result)
        receiver = 0 if federation.has_server else node
        for name, value in federation.population.state_of(receiver).items():
            federation.snapshots[name][operation.snapshot].copy_(value)
        work = Work(node, operation.tick, round, operation.snapshot, operation.result)
        self._running[operation.result] = work
        self.backend.submit(work)

    def _wait(self, slot: int) -> Outcome:
        """The outcome of the work whose result is in a slot, waiting for it if need be."""
        pending_M4 = self.federation.pending
        work = self._running.pop(slot, None)
        if work is not None:
            done = self.backend.collect(work)
            for place, value in enumerate((done.node, done.weight, done.loss, done.accuracy)):
                pending_M4[slot, place] = value
        node, weight, loss, accuracy = pending_M4[slot].tolist()
        return Outcome(int(node), weight, loss, accuracy)

    def _drain(self) -> None:
        for slot in list(self._running):
            self._wait(slot)

    def _apply(self, operation: Apply, result: Round) -> None:
        federation, node = self.federation, operation.node
        result.outcomes.append(self._wait(operation.result))
        state = federation.population.state_of(node)
        started = {name: slots[operation.snapshot] for name, slots in federation.snapshots.items()}
        message = {name: slots[operation.result] for name, slots in federation.mail.items()}
        federation.population.write_state(node, federation.method.apply(state, started, message, operation.untouched))

    def _send(self, operation: Send) -> None:
        federation = self.federation
        state = federation.population.state_of(operation.node)
        message = {name: state[name] for name in federation.mail}
        for name, value in federation.travelled(message, operation.node, nanoseconds(operation.time)).items():
            federation.mail[name][operation.slot].copy_(value)

    def _mix(self, operation: Mix, round: int) -> None:
        federation, node = self.federation, operation.node
        state = federation.population.state_of(node)
        heard = sorted(zip(operation.senders, operation.slots, operation.weights, strict=True))
        fields = {}
        for name, slots in federation.mail.items():
            parts = [(slots[slot], weight) for _, slot, weight in heard]
            own = sum(sender < node for sender, _, _ in heard)
            # In rounds, what is decoded is not quite the row, and the own part is added last.
            own = len(parts) if federation.experiment.transforms else own
            parts.insert(own, (state[name], operation.own_weight))
            fields[name] = self._combined(name, parts, own, node, round)
        inbox = Inbox(fields, len(heard), 1.0 - operation.own_weight, staleness=operation.staleness)
        federation.merge(node, inbox, federation.view(node, round, np.arange(federation.nodes)))

    def _average(self, operation: Exchange, round: int) -> None:
        """Both nodes take the mean of their models, at once (Lian et al. 2018)."""
        federation, pair = self.federation, sorted((operation.a, operation.b))
        states = [federation.population.state_of(node) for node in pair]
        now = nanoseconds(operation.time)
        messages = [{name: state[name] for name in federation.mail} for state in states]
        sent = [federation.travelled(message, node, now) for message, node in zip(messages, pair, strict=True)]
        inboxes = []
        for own, node in enumerate(pair):
            fields = {}
            for name in federation.mail:
                parts = [(states[i][name] if i == own else sent[i][name], 0.5) for i in range(2)]
                fields[name] = self._combined(name, parts, own, node, round)
            inboxes.append(Inbox(fields, 1, 0.5, staleness=(0,)))
        for node, inbox in zip(pair, inboxes, strict=True):
            federation.merge(node, inbox, federation.view(node, round, np.arange(federation.nodes)))

    def _combined(self, name: str, parts: list[tuple[Tensor, float]], own: int, node: int, round: int) -> Tensor:
        """One field of the models in `parts` with their weights, put through the aggregator."""
        import torch

        federation = self.federation
        rule = federation.experiment.aggregator
        if not rule.linear:
            updates_ND = torch.stack([value.flatten() for value, _ in parts])
            weights_N = torch.tensor([weight for _, weight in parts], dtype=torch.float64)
            own_D, nobody = parts[own][0].flatten(), np.empty(0, np.int64)
            merged_D = Receiving(federation, round, Struck()).by_rule(updates_ND, weights_N, own_D, node, nobody)
            return merged_D.view(parts[own][0].shape)
        out = torch.mul(parts[0][0], parts[0][1])
        for value, weight in parts[1:]:
            out.add_(value, alpha=weight)
        if not (federation.corrects and name == "row"):
            return out
        found = [rule.statistics(value, federation.layout) for value, _ in parts]
        stats_NS = torch.stack([stats for stats in found if stats is not None])
        return federation.finished(out, stats_NS, [weight for _, weight in parts], own)

    def _merge(self, operation: Merge, result: Round) -> None:
        """The server merges a buffer of messages, each discounted by its staleness."""
        import torch

        federation, round = self.federation, result.round
        outcomes = [self._wait(slot) for slot in operation.slots]
        result.outcomes += outcomes
        factors = [federation.method.discount(age) for age in operation.staleness]
        weights, fields = [outcome.weight for outcome in outcomes], {}
        for name, slots in federation.mail.items():
            if federation.experiment.aggregator.linear:
                fold = Fold()
                for slot, weight, factor in zip(operation.slots, weights, factors, strict=True):
                    fold.add(slots[slot] * factor if factor != 1.0 else slots[slot], weight)
                fields[name] = fold.mean()
            else:
                scaled = [slots[slot] * factor for slot, factor in zip(operation.slots, factors, strict=True)]
                updates_ND = torch.stack([value.flatten() for value in scaled])
                weights_N = torch.tensor(weights, dtype=torch.float64)
                nobody = np.empty(0, np.int64)
                merged_D = Receiving(federation, round, Struck()).by_rule(updates_ND, weights_N, None, -1, nobody)
                fields[name] = merged_D.view(slots.shape[1:])
        inbox = Inbox(fields, len(outcomes), float(sum(weights)), staleness=operation.staleness)
        senders = np.array(sorted(set(operation.senders)))
        federation.merge(-1, inbox, federation.view(-1, round, senders))
