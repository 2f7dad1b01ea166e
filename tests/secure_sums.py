"""Secure sums in one process, for the tests of the protocol: every message goes through a wire frame."""

from __future__ import annotations

import numpy as np

from gossamer import wire
from gossamer.secure.messages import SERVER, STEPS
from gossamer.secure.protocol import Coordinator, Participant

SUM, LENGTH = 7, 5
COHORT = (2, 3, 5, 8, 13, 21)
THRESHOLD = 4


def constant(nodes=COHORT, length=LENGTH):
    """Each node's number, as often as there are numbers."""
    return {node: np.full(length, node, np.uint32) for node in nodes}


def plain(values, nodes):
    """The sum that must come out, in Python's integers."""
    return [sum(int(values[node][i]) for node in nodes) % 2**32 for i in range(len(next(iter(values.values()))))]


def takes(leaving, node, step):
    """Whether a node still takes a step; `leaving` says of some which is the first that they do not."""
    return node not in leaving or STEPS.index(step) < STEPS.index(leaving[node])


class Sum:
    """The server and the nodes of one sum, all keys drawn from one seed, and bytes up and down so far."""

    def __init__(self, values, threshold=THRESHOLD, leaving=None):
        self.values, self.leaving, length = values, leaving or {}, len(next(iter(values.values())))
        entropy = np.random.default_rng(0).bytes
        self.nodes = {node: Participant(node, SUM, threshold, length, entropy) for node in values}
        self.server = Coordinator(SUM, values, threshold, length)
        self.sent = {step: {} for step in STEPS}
        self.up = self.down = 0
        self.roster = self.deliveries = self.survivors = None

    def answer(self, step, node):
        """A node's message of a step, from what the server told it."""
        if step == "advertise":
            return self.nodes[node].advertise()
        told = {"share": self.roster, "mask": self.deliveries and self.deliveries[node], "reveal": self.survivors}[step]
        return getattr(self.nodes[node], step)(*[self.values[node]] * (step == "mask"), framed(told)[0])

    def collect(self, step, nodes=None):
        """Have nodes take a step (all that are left, if none are named), and the server hear of it."""
        for node in nodes or [node for node in sorted(self.values) if takes(self.leaving, node, step)]:
            self.sent[step][node], length = framed(self.answer(step, node))
            self.server.accept(self.sent[step][node])
            self.up += length
        return self

    def close(self, step):
        """Have the server close a step and answer all whose message of it arrived; the total in the end."""
        if step == "advertise":
            self.roster = self.server.roster()
            self.down += len(self.sent[step]) * framed(self.roster)[1]
        elif step == "share":
            self.deliveries = self.server.deliveries()
            self.down += sum(framed(told)[1] for told in self.deliveries.values())
        elif step == "mask":
            self.survivors = self.server.survivors()
            self.down += len(self.sent[step]) * framed(self.survivors)[1]
        else:
            return self.server.total()
        return self

    def through(self, last):
        """Take and close all steps up to this one."""
        for step in STEPS[: STEPS.index(last) + 1]:
            result = self.collect(step).close(step)
        return result


def framed(message):
    """A message as it arrives, and the bytes that it took."""
    frame = wire.encode(message.to_tensors(), getattr(message, "node", SERVER), message.sum_id)
    return type(message).from_tensors(*wire.decode(frame)), len(frame)
