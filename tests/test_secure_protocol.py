"""Secure sums: exact or refused, whoever leaves when; and what each side must never say."""

from __future__ import annotations

import dataclasses
import re
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gossamer import wire
from gossamer.errors import ExperimentError, ProtocolError
from gossamer.secure import messages
from gossamer.secure.agreement import linked, private_key, public_bytes, public_of, unseal
from gossamer.secure.masks import add_masks, expand
from gossamer.secure.messages import STEPS, Advertise, Delivery, Masked, Reveal, Roster, Shares, Survivors
from gossamer.secure.protocol import Coordinator, Participant
from gossamer.secure.sizes import sizes, traffic
from gossamer.secure.shamir import split

SUM, LENGTH = 7, 5
COHORT = (2, 3, 5, 8, 13, 21)
THRESHOLD = 4


class Sum:
    """A secure sum in one process in which every message goes through a frame. `leaving`: who sends nothing from which
    step on."""

    def __init__(self, values, threshold, leaving=None, sum_id=SUM):
        self.values, self.leaving, length = values, leaving or {}, len(next(iter(values.values())))
        rng = np.random.default_rng(0)
        self.nodes = {node: Participant(node, sum_id, threshold, length, rng.bytes) for node in values}
        self.server = Coordinator(sum_id, values, threshold, length)
        self.sent, self.up, self.down = {step: {} for step in STEPS}, 0, 0
        self.roster = self.deliveries = self.survivors = None

    def framed(self, message):
        frame = wire.encode(message.to_tensors(), getattr(message, "node", messages.SERVER), message.sum_id)
        return type(message).from_tensors(*wire.decode(frame)), len(frame)

    def answer(self, step, node):
        """A node's message of a step, from what the server told it in frames."""
        if step == "advertise":
            return self.nodes[node].advertise()
        told = self.deliveries[node] if step == "mask" else {"share": self.roster, "reveal": self.survivors}[step]
        told, length = self.framed(told)
        self.down += length
        extra = (self.values[node],) if step == "mask" else ()
        return getattr(self.nodes[node], step)(*extra, told)

    def collect(self, step, nodes):
        """Have nodes take a step and the server hear of it."""
        for node in nodes:
            self.sent[step][node], length = self.framed(self.answer(step, node))
            self.server.accept(self.sent[step][node])
            self.up += length

    def until(self, last, short=False):
        """Take all steps before `last`; of that one only what the nodes send."""
        there = sorted(self.values)
        for step in STEPS:
            there = [node for node in there if STEPS.index(self.leaving.get(node, "reveal")) > STEPS.index(step)
                     or node not in self.leaving]
            self.collect(step, there)
            if step == last:
                return self
            self.close(step)
        return self

    def close(self, step):
        if step == "advertise":
            self.roster = self.server.roster()
        elif step == "share":
            self.deliveries = self.server.deliveries()
        elif step == "mask":
            self.survivors = self.server.survivors()

    def total(self):
        return self.until("reveal").server.total()


def constant(nodes=COHORT, length=LENGTH):
    return {node: np.full(length, node, np.uint32) for node in nodes}


def plain(values, nodes):
    """The sum that must come out, in Python's integers."""
    return [sum(int(values[node][i]) for node in nodes) % 2**32 for i in range(len(next(iter(values.values()))))]


@st.composite
def federations(draw):
    """Values of a cohort with any ids, a threshold, and who leaves before which step: up to a third."""
    nodes = draw(st.lists(st.integers(0, 2**31 - 2), min_size=2, max_size=12, unique=True))
    threshold = draw(st.integers(len(nodes) // 2 + 1, len(nodes)))
    gone = draw(st.lists(st.sampled_from(nodes), max_size=len(nodes) // 3, unique=True))
    leaving = {node: draw(st.sampled_from(STEPS)) for node in gone}
    length, seed = draw(st.sampled_from([0, 1, 3, 40_000])), draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    values = {node: rng.integers(0, 2**32, length, dtype=np.uint32) for node in nodes}
    return values, threshold, leaving


@given(federation=federations())
@settings(max_examples=60, deadline=None)
def test_the_sum_is_exact_or_refused_and_as_long_as_planned(federation):
    values, threshold, leaving = federation
    left = [[u for u in values if STEPS.index(leaving.get(u, STEPS[-1])) > k or u not in leaving] for k in range(4)]
    run = Sum(values, threshold, leaving)
    short = next((k for k in range(4) if len(left[k]) < threshold), None)
    if short is not None:
        before = len(left[short - 1]) if short else len(values)
        told = rf"^the server, sum 7, step {STEPS[short]}: only {len(left[short])} of {before} nodes .*; threshold "
        with pytest.raises(ProtocolError, match=rf"{told}{threshold}$"):
            run.total()
    else:
        total_L = run.total()
        assert total_L.dtype == np.uint32
        expected_L = np.zeros_like(total_L)
        for node in left[2]:
            expected_L += values[node]
        np.testing.assert_array_equal(total_L, expected_L)
        length, counts = len(total_L), [len(nodes) for nodes in left]
        planned = traffic(length, *counts)
        assert run.up == planned.up
        size = sizes(length, *counts[:3])
        # Whoever sent a message of the next step was told what the last one closed with.
        heard = counts[1] * size[Roster] + counts[2] * size[Delivery] + counts[3] * size[Survivors]
        assert run.down == heard <= planned.down
        if not leaving:
            assert run.down == planned.down


def test_the_sum_is_that_of_python_s_integers():
    values = {0: np.array([1, 2**32 - 1], np.uint32), 1: np.array([2, 1], np.uint32), 9: np.array([3, 5], np.uint32)}
    assert Sum(values, 2).total().tolist() == plain(values, values) == [6, 5]


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_it_is_refused_and_the_rest_may_still_come(step):
    run = Sum(constant(), THRESHOLD)
    if step != "advertise":
        run.until(STEPS[STEPS.index(step) - 1])
        run.close(STEPS[STEPS.index(step) - 1])
    close = {"advertise": run.server.roster, "share": run.server.deliveries, "mask": run.server.survivors,
             "reveal": run.server.total}[step]
    run.collect(step, COHORT[:3])
    with pytest.raises(ProtocolError, match=f"^the server, sum 7, step {step}: only 3 of 6 nodes .*; threshold 4$"):
        close()
    run.collect(step, COHORT[3:])
    assert close() is not None


def test_a_reveal_of_exactly_the_threshold_is_enough():
    run = Sum(constant(), THRESHOLD, {2: "mask", 3: "mask"})
    assert run.total().tolist() == plain(run.values, COHORT[2:])


# What the server refuses


def swapped(mapping, old, new):
    return {new if node == old else node: value for node, value in mapping.items()}


HOSTILE = {
    # name: (step at which it is sent, what is made of node 5's honest message, the error)
    "twice": ("share", lambda m: m, "node 5, sum 7, step share: sent twice"),
    "stranger": ("share", lambda m: dataclasses.replace(m, node=4), "node 4, .*: the node is not one of the 6"),
    "other sum": ("share", lambda m: dataclasses.replace(m, sum_id=6), "node 5, sum 6, step share: this is sum 7"),
    "one ciphertext less": (
        "share",
        lambda m: dataclasses.replace(m, node=8, sealed={2: m.sealed[2]}),
        "node 8, .*: 1 ciphertexts for nodes, not the 5 due; node 3 makes the difference",
    ),
    "a ciphertext to itself": (
        "share",
        lambda m: dataclasses.replace(m, node=8),
        "node 8, .*: 5 ciphertexts for nodes, not the 5 due; node 5 makes",
    ),
    "masked twice": ("mask", lambda m: m, "node 5, sum 7, step mask: sent twice"),
    "shorter": (
        "mask",
        lambda m: Masked(8, SUM, m.values_L[:4]),
        r"node 8, .*: values are uint32 \[4\], not uint32 \[5\]",
    ),
    "numbers": (
        "mask",
        lambda m: Masked(8, SUM, m.values_L.astype(float)),
        r"node 8, .*: values are float64 \[5\], not uint32 \[5\]",
    ),
    "seed of a node that dropped": (
        "reveal",
        lambda m: dataclasses.replace(m, node=8, seeds={**m.seeds, 21: m.keys[21]}),
        "node 8, .*: 6 seed shares of nodes, not the 5 due; node 21 makes",
    ),
    "key of a survivor": (
        "reveal",
        lambda m: dataclasses.replace(m, node=8, keys={**m.keys, 2: m.seeds[2]}),
        "node 8, .*: 2 key shares of nodes, not the 1 due; node 2 makes",
    ),
    "one share for another": (
        "reveal",
        lambda m: dataclasses.replace(m, node=8, seeds=swapped(m.seeds, 2, 4)),
        "node 8, .*: 5 seed shares of nodes, not the 5 due; node 2 makes",
    ),
    "revealed by one that dropped": (
        "reveal",
        lambda m: dataclasses.replace(m, node=21),
        "node 21, .*: the node is not one of the 5",
    ),
    "its keys again": ("advertise", lambda m: m, "node 5, sum 7, step advertise: sent twice"),
    "keys of another": (
        "advertise",
        lambda m: dataclasses.replace(m, node=8),
        "node 8, .*: one of its keys is another key of node 5",
    ),
    "one key for both": (
        "advertise",
        lambda m: Advertise(8, SUM, bytes(range(32)), bytes(range(32))),
        "node 8, .*: one of its keys is another key of node 8",
    ),
    "a key of low order": (
        "advertise",
        lambda m: Advertise(8, SUM, bytes(32), bytes(range(32))),
        "node 8, .*: one of its keys is no public key",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_message_that_does_not_belong_is_refused_and_changes_nothing(name):
    """It comes when only node 5 has answered; the sum is then finished and exact."""
    at, make, told = HOSTILE[name]
    run = Sum(constant(), THRESHOLD, {21: "mask"})
    for step in STEPS:
        there = [node for node in COHORT if node != 21 or step in ("advertise", "share")]
        run.collect(step, [5])
        if step == at:
            with pytest.raises(ProtocolError, match=f"^{told}"):
                run.server.accept(make(run.sent[step][5]))
        run.collect(step, [node for node in there if node != 5])
        run.close(step)
    assert run.server.total().tolist() == plain(run.values, COHORT[:-1])


def test_messages_of_closed_steps_and_of_steps_to_come_are_refused():
    run = Sum(constant(), THRESHOLD).until("share")
    replayed = dataclasses.replace(run.sent["advertise"][5], node=4)
    with pytest.raises(ProtocolError, match="^node 4, sum 7, step advertise: the step is closed"):
        run.server.accept(replayed)
    with pytest.raises(ProtocolError, match="^node 5, sum 7, step mask: the step is not open yet, share is"):
        run.server.accept(Masked(5, SUM, run.values[5]))
    with pytest.raises(ProtocolError, match="^the server, sum 7, step advertise: the step is closed"):
        run.server.roster()
    with pytest.raises(ProtocolError, match="^the server, sum 7, step reveal: the step is not open yet"):
        run.server.total()


def test_after_the_sum_nothing_is_taken():
    run = Sum(constant(), THRESHOLD)
    run.total()
    with pytest.raises(ProtocolError, match="step reveal: the step is closed"):
        run.server.total()
    with pytest.raises(ProtocolError, match="step reveal: sent twice"):
        run.server.accept(run.sent["reveal"][5])


@pytest.mark.parametrize(("cohort", "threshold"), [((1, 1, 2), 2), ((-1, 2), 2), ((4,), 1), ((), 0)])
def test_cohorts_that_are_none(cohort, threshold):
    with pytest.raises(ExperimentError, match="it takes two nodes or more, each once, from 0 on"):
        Coordinator(SUM, cohort, threshold, 1)


@pytest.mark.parametrize("threshold", [0, 3, 7])
def test_the_threshold_is_more_than_half_and_at_most_all(threshold):
    with pytest.raises(ExperimentError, match=rf"secure_sum.threshold = {threshold} of 6 nodes: .* 4 to 6$"):
        Coordinator(SUM, COHORT, threshold, 1)


def test_the_server_keeps_no_vector_but_the_sum():
    run = Sum(constant(), THRESHOLD).until("share")
    run.close("share")
    masked = run.nodes[5].mask(run.values[5], run.deliveries[5])
    vector = weakref.ref(masked.values_L)
    run.server.accept(masked)
    del masked
    assert vector() is None


# Wrong shares


@pytest.mark.parametrize(("field", "owner", "what"), [("seeds", 8, "seed"), ("keys", 21, "key")])
@pytest.mark.parametrize("wrong", [bytes(33), b"\xff" * 33], ids=["another", "none"])
def test_a_wrong_share_is_noticed_by_name(field, owner, what, wrong):
    run = Sum(constant(), THRESHOLD, {21: "mask"}).until("mask")
    run.close("mask")
    for node in COHORT[:-1]:
        reveal = run.answer("reveal", node)
        if node == 5:
            reveal = dataclasses.replace(reveal, **{field: {**getattr(reveal, field), owner: wrong}})
        run.server.accept(reveal)
    with pytest.raises(ProtocolError, match=f"^node {owner}, sum 7, step reveal: shares of its {what} do not give"):
        run.server.total()


def test_a_node_that_shares_another_seed_than_it_committed_to_is_noticed():
    run = Sum(constant(), THRESHOLD).until("advertise")
    run.close("advertise")
    run.collect("share", COHORT[1:])
    run.server.accept(dataclasses.replace(run.answer("share", 2), commitment=bytes(32)))
    run.close("share")
    for step in ("mask", "reveal"):
        run.collect(step, COHORT)
        run.close(step)
    with pytest.raises(ProtocolError, match="^node 2, .*shares of its seed do not give the one it promised"):
        run.server.total()


@pytest.mark.parametrize("byte", [0, 40, 65, 81])
def test_a_ciphertext_that_was_changed_is_noticed_and_the_others_go_on(byte):
    run = Sum(constant(), THRESHOLD).until("share")
    run.close("share")
    honest = run.deliveries[8]
    sealed = bytearray(honest.sealed[3])
    sealed[byte] ^= 1
    told = "^node 8, sum 7, step mask: the shares of node 3 are not as that node sealed them for this one"
    # Changed; another node's; what node 3 sent to another one.
    for wrong in (bytes(sealed), honest.sealed[2], run.deliveries[5].sealed[3]):
        with pytest.raises(ProtocolError, match=told):
            run.nodes[8].mask(run.values[8], Delivery(SUM, {**honest.sealed, 3: wrong}))
    others = [node for node in COHORT if node != 8]
    for step in ("mask", "reveal"):
        run.collect(step, others)
        run.close(step)
    assert run.server.total().tolist() == plain(run.values, others)
