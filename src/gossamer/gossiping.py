"""Gossip by the clock: what happens when on a graph whose nodes do not wait for each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gossamer.clocks import NANO
from gossamer.links import Links
from gossamer.operations import Apply, Exchange, Mix, Send, Start
from gossamer.randomness import generator
from gossamer.timeline import ARRIVE, MIX, READY, REQUEST, SEND, START, WORK, Timeline

if TYPE_CHECKING:
    from gossamer.churn import Churn
    from gossamer.clocks.events import Events
    from gossamer.links import Graph
    from gossamer.schedules import Schedule
    from gossamer.topologies import Topology


@dataclass(frozen=True, slots=True)
class Letter:
    """A message on its way or in a buffer."""

    sender: int
    tick: int
    slot: int
    weight: float


class Gossip(Timeline):
    """Nodes of a graph; see `gossamer.clocks.events` for what they do.

    WORK a node's work ends; SEND it pushes its model; READY it merges, or asks for what it will merge; REQUEST a
    question arrives; ARRIVE a message arrives, or the answer does not; MIX merge; START the next work.
    """

    def __init__(
        self,
        clock: Events,
        topology: Topology,
        schedule: Schedule,
        nodes: int,
        rounds: int,
        seed: int,
        steps_N: list[int],
        message_bytes: int,
        churn: Churn | None,
    ) -> None:
        super().__init__(clock, nodes, rounds, seed, steps_N, nodes, churn)
        self.links = Links(topology, schedule, nodes, rounds, seed)
        self.size, self.upload = message_bytes, clock.upload(message_bytes)
        self.push, self.first = clock.protocol == "push", clock.order == "merge_update"
        self.budget = schedule.limit(message_bytes)
        self.touched = [False] * nodes
        self.version = [0] * nodes
        """How often each node's model has changed."""
        self.copied = [-1] * nodes
        """The mail slot of each node's last message."""
        self.buffers: list[dict[int, Letter]] = [{} for _ in range(nodes)]
        self.mixes_at = [-1] * nodes
        """When each node's next merge is arranged for, if one is."""
        self.asked = [0] * nodes
        """Answers that each node still expects."""
        self.held_up = [False] * nodes
        """Whether a node is ready to ask, but still expects answers."""
        self.handlers = {
            WORK: self.work_done,
            SEND: self.push_out,
            READY: self.ready,
            REQUEST: self.answer,
            ARRIVE: self.arrive,
            MIX: self.mix,
            START: self.start,
        }
        for node in range(nodes):
            self.at(self.up_at(node, 0), START, node)

    # ---- a node's cycle ------------------------------------------------------------------------------------------

    def start(self, time: int, node: int, note: None) -> None:
        """Begin a work, or wait until there is time to finish it; what has come by then is merged first."""
        end, down = self.work_ends(time, node), self.down_after(node, time)
        if down <= end:
            back = self.up_at(node, down)
            if self.push and self.first and self.clock.merge == "cycle":
                self.at(back, MIX, node)
            self.at(back, START, node)
            return
        snapshot, result = self.snapshots.take(), self.mail.take()
        self.out.append(Start(time / NANO, node, self.done[node], snapshot, result))
        self.touched[node] = False
        self.at(end, WORK, node, (snapshot, result))

    def work_done(self, time: int, node: int, note: tuple[int, int]) -> None:
        """Add what the work changed; then send and rest."""
        tick, untouched = self.done[node], not self.touched[node]
        self.out.append(Apply(time / NANO, node, tick, *note, untouched))
        self.snapshots.release(note[0])
        self.mail.release(note[1])
        self.done[node] += 1
        self.version[node] += 1
        self.count(time)
        rested = time + self.clock.rest(self.seed, node, tick)
        if self.push:
            if not self.first:
                self.mix(time, node, None)
            graph = self.links.after(tick)
            sends = time
            if graph is not None and graph.receivers[node]:
                sends = self.up_at(node, max(time, self.uplink[node]))
            self.at(sends, SEND, node, rested)
        else:
            self.at(self.up_at(node, rested) if self.first else time, READY, node)

    def push_out(self, time: int, node: int, rested: int) -> None:
        """Send the model to all who hear this node."""
        tick = self.done[node] - 1
        graph = self.links.after(tick)
        receivers = [] if graph is None else graph.receivers[node]
        if receivers and self.spent + len(receivers) <= self.budget:
            lost = self.clock.lost(self.seed, node, tick, len(receivers))
            down = self.down_after(node, time)
            self.send(node, self.size, len(receivers))
            sent = [time + (k + 1) * self.upload for k in range(len(receivers))]
            self.uplink[node] = min(sent[-1], down)
            out = [
                (receiver, weight, end)
                for (receiver, weight), end, gone in zip(receivers, sent, lost, strict=True)
                if not gone and end <= down
            ]
            if out:
                slot = self.message(time, node, len(out))
                for receiver, weight, end in out:
                    self.at(end + self.latency, ARRIVE, receiver, Letter(node, tick, slot, weight))
        after = self.up_at(node, max(time, rested))
        self.at(after, READY if self.first else START, node)

    def message(self, time: int, node: int, holders: int) -> int:
        """A mail slot with the model of a node as it is now; one that is there already is not copied again."""
        slot = self.copied[node]
        if self.mail.content.get(slot) == (node, self.version[node]):
            self.mail.hold(slot, holders)
            return slot
        slot = self.copied[node] = self.mail.take(holders)
        self.mail.content[slot] = (node, self.version[node])
        self.out.append(Send(time / NANO, node, self.done[node] - 1, slot))
        return slot

    def ready(self, time: int, node: int, note: None) -> None:
        """Merge what was pushed, or ask for what is pulled; go on, or wait for the answers."""
        if self.push:
            if self.clock.merge == "cycle":
                self.at(time, MIX, node)
            self.at(time, START, node)
            return
        if self.asked[node]:
            self.held_up[node] = True
            return
        graph = self.links.after(self.done[node] - 1)
        if graph is not None and self.clock.protocol == "pull":
            self.pull(time, node, graph)
        elif graph is not None:
            self.pair(time, node, graph)
        if not self.asked[node] or self.clock.merge == "arrival":
            self.go_on(time, node)

    def go_on(self, time: int, node: int) -> None:
        """Begin the next work, after a rest if there was none yet."""
        rest = 0 if self.first else self.clock.rest(self.seed, node, self.done[node] - 1)
        self.at(self.up_at(node, time + rest), START, node)

    # ---- questions and answers -----------------------------------------------------------------------------------

    def pull(self, time: int, node: int, graph: Graph) -> None:
        """Ask all whom this node hears for their models."""
        senders = graph.senders[node]
        self.asked[node] = len(senders)
        lost = self.clock.lost(self.seed, node, self.done[node] - 1, 2 * len(senders))
        for (sender, weight), way, back in zip(senders, lost[::2], lost[1::2], strict=True):
            if way:
                self.at(time + 2 * self.latency, ARRIVE, node)
            else:
                self.at(time + self.latency, REQUEST, sender, (node, weight, back))

    def pair(self, time: int, node: int, graph: Graph) -> None:
        """Send the model to a neighbour drawn at random, for an exchange."""
        neighbours, tick = graph.receivers[node], self.done[node] - 1
        if not neighbours or self.spent + 2 > self.budget:
            return
        partner, _ = neighbours[generator(self.seed, "partner", node, tick).integers(len(neighbours))]
        way, back = self.clock.lost(self.seed, node, tick, 2)
        arrival = self.upload_ends(time, node) + self.latency
        self.asked[node] = 1
        if way or arrival - self.latency > self.down_after(node, time):
            self.at(arrival + self.latency, ARRIVE, node)
        else:
            self.at(arrival, REQUEST, partner, (node, 0.0, back))

    def upload_ends(self, time: int, node: int) -> int:
        """Put one message on a node's uplink: when it has left, if the node stays up."""
        self.send(node, self.size)
        end = max(time, self.uplink[node]) + self.upload
        self.uplink[node] = min(end, self.down_after(node, time))
        return end

    def answer(self, time: int, node: int, note: tuple[int, float, bool]) -> None:
        """A node is asked; it answers, unless it is down or the budget is spent."""
        asker, weight, lost = note
        pulled, up = self.clock.protocol == "pull", self.is_up(node, time)
        if up and not pulled:
            self.receive(node, self.size)
        if not up or self.spent + 1 > self.budget:
            self.at(time + self.latency, ARRIVE, asker)
            return
        down, end = self.down_after(node, time), self.upload_ends(time, node)
        if lost or end > down:
            self.at(end + self.latency, ARRIVE, asker)
        else:
            slot = self.message(time, node, 1) if pulled else -1
            self.at(end + self.latency, ARRIVE, asker, Letter(node, self.done[node] - 1, slot, weight))

    def arrive(self, time: int, node: int, letter: Letter | None) -> None:
        """A message arrives at a node, or (None) the moment has come at which an answer would have."""
        if letter is not None:
            if not self.is_up(node, time):
                if letter.slot >= 0:
                    self.mail.release(letter.slot)
            else:
                self.receive(node, self.size)
                if letter.slot >= 0:
                    self.keep(time, node, letter)
                else:
                    self.at(time, MIX, node, letter.sender)
        if not self.push:
            self.asked[node] -= 1
            if not self.asked[node]:
                self.answered(time, node)

    def keep(self, time: int, node: int, letter: Letter) -> None:
        """Put a message into the buffer in place of an older one of its sender, and merge if it is time."""
        buffer = self.buffers[node]
        if letter.sender in buffer:
            self.mail.release(buffer[letter.sender].slot)
        buffer[letter.sender] = letter
        due = self.clock.merge == "arrival"
        if self.clock.merge == "full":
            due = len(buffer) >= self.links.neighbours(node, max(0, self.done[node] - 1))
        if due and self.mixes_at[node] != time:
            self.mixes_at[node] = time
            self.at(time, MIX, node)

    def answered(self, time: int, node: int) -> None:
        """All answers have come, or would have."""
        if self.clock.merge == "arrival":
            if self.held_up[node]:
                self.held_up[node] = False
                self.at(self.up_at(node, time), READY, node)
            return
        back = self.up_at(node, time)
        if self.buffers[node]:
            self.at(back, MIX, node)
        self.go_on(back, node)

    # ---- merging -------------------------------------------------------------------------------------------------

    def mix(self, time: int, node: int, partner: int | None) -> None:
        """Merge what is in the buffer, or with a partner."""
        if partner is not None:
            if self.is_up(partner, time):
                self.out.append(Exchange(time / NANO, node, partner))
                self.change(node)
                self.change(partner)
            return
        self.mixes_at[node] = -1
        letters = sorted(self.buffers[node].values(), key=lambda letter: letter.sender)
        if not letters:
            return
        self.buffers[node] = {}
        weights, own_weight = self.links.weigh([letter.weight for letter in letters])
        last = self.done[node] - 1
        self.out.append(
            Mix(
                time=time / NANO,
                node=node,
                slots=tuple(letter.slot for letter in letters),
                senders=tuple(letter.sender for letter in letters),
                weights=weights,
                own_weight=own_weight,
                staleness=tuple(last - letter.tick for letter in letters),
                freed=tuple(letter.slot for letter in letters if self.mail.release(letter.slot)),
            )
        )
        self.change(node)

    def change(self, node: int) -> None:
        """Note that a node's model has changed otherwise than by its own work."""
        self.touched[node] = True
        self.version[node] += 1
