"""A secure sum is exact or refused, whoever leaves when and whatever is sent that does not belong."""

from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_sums import COHORT, SUM, Sum, constant, plain, takes

from gossamer.errors import ExperimentError, ProtocolError
from gossamer.secure.messages import STEPS, Advertise, Delivery, Masked
from gossamer.secure.protocol import Coordinator
from gossamer.secure.sizes import traffic


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
    left = [[node for node in values if takes(leaving, node, step)] for step in STEPS]
    run = Sum(values, threshold, leaving)
    short = next((k for k in range(4) if len(left[k]) < threshold), None)
    if short is not None:
        before = len(left[short - 1]) if short else len(values)
        told = rf"^the server, sum 7, step {STEPS[short]}: only {len(left[short])} of {before} nodes .*; threshold "
        with pytest.raises(ProtocolError, match=rf"{told}{threshold}$"):
            run.through("reveal")
    else:
        total_L = run.through("reveal")
        assert total_L.dtype == np.uint32
        expected_L = np.zeros_like(total_L)
        for node in left[2]:
            expected_L += values[node]
        np.testing.assert_array_equal(total_L, expected_L)
        assert (run.up, run.down) == traffic(len(total_L), *map(len, left))


@pytest.mark.parametrize("step", STEPS)
def test_a_third_may_leave_at_any_step(step):
    values, gone = constant(range(30)), range(0, 30, 3)
    run = Sum(values, 20, dict.fromkeys(gone, step))
    assert run.through("reveal").tolist() == plain(values, [node for node in values if step == "reveal" or node % 3])


def test_the_sum_is_that_of_python_s_integers():
    values = {0: np.array([1, 2**32 - 1], np.uint32), 1: np.array([2, 1], np.uint32), 9: np.array([3, 5], np.uint32)}
    assert Sum(values, 2).through("reveal").tolist() == plain(values, values) == [6, 5]


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_it_is_refused_and_the_rest_may_still_come(step):
    run = Sum(constant())
    if step != "advertise":
        run.through(STEPS[STEPS.index(step) - 1])
    run.collect(step, COHORT[:3])
    with pytest.raises(ProtocolError, match=f"^the server, sum 7, step {step}: only 3 of 6 nodes .*; threshold 4$"):
        run.close(step)
    run.collect(step, COHORT[3:]).close(step)


def test_a_reveal_of_exactly_the_threshold_is_enough():
    run = Sum(constant(), leaving={2: "mask", 3: "mask"})
    assert run.through("reveal").tolist() == plain(run.values, COHORT[2:])


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
        "node 8, .*: 1 ciphertexts, 5 are due: that of node 3 is missing",
    ),
    "a ciphertext to itself": (
        "share",
        lambda m: dataclasses.replace(m, node=8),
        "node 8, .*: 5 ciphertexts, 5 are due: that of node 5 is missing",
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
        "node 8, .*: 6 seed shares, 5 are due: that of node 21 does not belong",
    ),
    "key of a survivor": (
        "reveal",
        lambda m: dataclasses.replace(m, node=8, keys={**m.keys, 2: m.seeds[2]}),
        "node 8, .*: 2 key shares, 1 are due: that of node 2 does not belong",
    ),
    "one share for another": (
        "reveal",
        lambda m: dataclasses.replace(m, node=8, seeds=swapped(m.seeds, 2, 4)),
        "node 8, .*: 5 seed shares, 5 are due: that of node 2 is missing",
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
    run = Sum(constant(), leaving={21: "mask"})
    for step in STEPS:
        there = [node for node in COHORT if takes(run.leaving, node, step)]
        run.collect(step, [5])
        if step == at:
            with pytest.raises(ProtocolError, match=f"^{told}"):
                run.server.accept(make(run.sent[step][5]))
        run.collect(step, [node for node in there if node != 5])
        total_L = run.close(step)
    assert total_L.tolist() == plain(run.values, COHORT[:-1])


def test_messages_of_closed_steps_and_of_steps_to_come_are_refused():
    run = Sum(constant()).through("advertise").collect("share")
    replayed = dataclasses.replace(run.sent["advertise"][5], node=4)
    with pytest.raises(ProtocolError, match=r"^node 4, sum 7, step advertise: the step is closed"):
        run.server.accept(replayed)
    with pytest.raises(ProtocolError, match=r"^node 5, sum 7, step mask: the step is not open yet, share is"):
        run.server.accept(Masked(5, SUM, run.values[5]))
    with pytest.raises(ProtocolError, match=r"^the server, sum 7, step advertise: the step is closed"):
        run.server.roster()
    with pytest.raises(ProtocolError, match=r"^the server, sum 7, step reveal: the step is not open yet"):
        run.server.total()


def test_after_the_sum_nothing_is_taken():
    run = Sum(constant())
    run.through("reveal")
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
    run = Sum(constant()).through("share")
    masked = run.nodes[5].mask(run.values[5], run.deliveries[5])
    vector = weakref.ref(masked.values_L)
    run.server.accept(masked)
    del masked
    assert vector() is None


# Wrong shares


@pytest.mark.parametrize(("field", "owner", "what"), [("seeds", 8, "seed"), ("keys", 21, "key")])
@pytest.mark.parametrize("wrong", [bytes(33), b"\xff" * 33], ids=["another", "none"])
def test_a_wrong_share_is_noticed_by_name(field, owner, what, wrong):
    run = Sum(constant(), leaving={21: "mask"}).through("mask")
    for node in COHORT[:-1]:
        reveal = run.answer("reveal", node)
        if node == 5:
            reveal = dataclasses.replace(reveal, **{field: {**getattr(reveal, field), owner: wrong}})
        run.server.accept(reveal)
    with pytest.raises(ProtocolError, match=f"^node {owner}, sum 7, step reveal: shares of its {what} do not give"):
        run.server.total()


def test_a_node_that_shares_another_seed_than_it_committed_to_is_noticed():
    run = Sum(constant()).through("advertise")
    run.collect("share", COHORT[1:])
    run.server.accept(dataclasses.replace(run.answer("share", 2), commitment=bytes(32)))
    run.close("share")
    run.collect("mask").close("mask")
    run.collect("reveal")
    with pytest.raises(ProtocolError, match=r"^node 2, .*shares of its seed do not give the one it promised"):
        run.close("reveal")


@pytest.mark.parametrize("byte", [0, 40, 65, 81])
def test_a_ciphertext_that_was_changed_is_noticed_and_the_others_go_on(byte):
    run = Sum(constant()).through("share")
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
        total_L = run.close(step)
    assert total_L.tolist() == plain(run.values, others)
