"""What a node in a secure sum refuses to do, and what nobody can read in what it sends."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, pearsonr
from secure_sums import COHORT, LENGTH, SUM, THRESHOLD, Sum, constant

from gossamer.errors import ProtocolError
from gossamer.secure.agreement import Link, linked, mask_seed, private_key, public_of, seal, unseal
from gossamer.secure.masks import add_masks
from gossamer.secure.messages import STEPS, Delivery, Roster, Survivors
from gossamer.secure.protocol import Participant
from gossamer.secure.shamir import SHARE, join

VALUES = np.arange(LENGTH, dtype=np.uint32)


def taken(run, step, node=5):
    """What a node would be asked at a step, as a call."""
    asked = {
        "advertise": lambda: run.nodes[node].advertise(),
        "share": lambda: run.nodes[node].share(run.roster or Roster(SUM, {})),
        "mask": lambda: run.nodes[node].mask(VALUES, run.deliveries[node] if run.deliveries else Delivery(SUM, {})),
        "reveal": lambda: run.nodes[node].reveal(run.survivors or Survivors(SUM, COHORT)),
    }
    return asked[step]


@pytest.mark.parametrize("step", STEPS)
def test_no_step_twice(step):
    run = Sum(constant())
    run.through(step)
    with pytest.raises(ProtocolError, match=f"^node 5, sum 7, step {step}: taken before; a second answer could open"):
        taken(run, step)()


@pytest.mark.parametrize("step", STEPS[1:])
def test_no_step_before_the_one_before(step):
    run = Sum(constant())
    before = STEPS[: STEPS.index(step) - 1]
    if before:
        run.through(before[-1])
    with pytest.raises(ProtocolError, match=f"^node 5, sum 7, step {step}: comes after step {STEPS[len(before)]}, "):
        taken(run, step)()


@pytest.mark.parametrize("step", STEPS[1:])
def test_nothing_for_another_sum(step):
    run = Sum(constant())
    run.through(STEPS[STEPS.index(step) - 1])
    told = {"share": run.roster, "mask": run.deliveries and run.deliveries[5], "reveal": run.survivors}[step]
    replayed = dataclasses.replace(told, sum_id=6)
    with pytest.raises(ProtocolError, match=f"^node 5, sum 7, step {step}: the server's message is for sum 6"):
        getattr(run.nodes[5], step)(*[VALUES] * (step == "mask"), replayed)
    assert run.collect(step)


ROSTERS = {
    "without it": (lambda keys: {u: pair for u, pair in keys.items() if u != 5}, "does not have this node with"),
    "with other keys for it": (lambda keys: {**keys, 5: (bytes(32), keys[5][1])}, "does not have this node with"),
    "too short": (lambda keys: {u: keys[u] for u in COHORT[:3]}, "only 3 nodes on the roster; threshold 4"),
    "too long": (
        lambda keys: {**keys, **{u: (public_of(bytes([u]) * 32), public_of(bytes([u, 1] * 16))) for u in (30, 31)}},
        "threshold 4 is not more than half of the 8 nodes on the roster: two halves could open",
    ),
    "one key for two nodes": (lambda keys: {**keys, 8: (keys[3][0], keys[8][1])}, "nodes 3 and 8 .* the same key"),
    "one key for two ends": (lambda keys: {**keys, 8: (keys[8][0],) * 2}, "nodes 8 and 8 .* the same key"),
    "no key": (lambda keys: {**keys, 8: (bytes(32), keys[8][1])}, "a key of node 8 on the roster is no public key"),
    "half a key": (lambda keys: {**keys, 8: (keys[8][0], bytes(16))}, "a key of node 8 on the roster is no public key"),
}


@pytest.mark.parametrize("name", ROSTERS)
def test_rosters_that_are_refused(name):
    change, told = ROSTERS[name]
    run = Sum(constant()).through("advertise")
    with pytest.raises(ProtocolError, match=f"^node 5, sum 7, step share: .*{told}"):
        run.nodes[5].share(Roster(SUM, change(run.roster.keys)))
    assert run.collect("share")


def test_a_threshold_of_one_is_refused():
    node = Participant(0, SUM, 1, LENGTH)
    advert = node.advertise()
    with pytest.raises(ProtocolError, match="a sum of one node is what the node sent"):
        node.share(Roster(SUM, {0: (advert.channel_key, advert.mask_key)}))


DELIVERIES = {
    "of a stranger": (
        lambda sealed: {**sealed, 4: sealed[3]},
        "shares of node 4, which is not another one on the roster",
    ),
    "of itself": (lambda sealed: {**sealed, 5: sealed[3]}, "shares of node 5, which is not another one"),
    "of too few": (lambda sealed: {u: sealed[u] for u in (2, 3)}, "only 3 nodes shared; threshold 4"),
    "empty": (lambda sealed: {**sealed, 3: b""}, "the shares of node 3 are not as that node sealed them"),
}


@pytest.mark.parametrize("name", DELIVERIES)
def test_deliveries_that_are_refused(name):
    change, told = DELIVERIES[name]
    run = Sum(constant()).through("share")
    with pytest.raises(ProtocolError, match=f"^node 5, sum 7, step mask: {told}"):
        run.nodes[5].mask(VALUES, Delivery(SUM, change(run.deliveries[5].sealed)))
    assert run.collect("mask")


@pytest.mark.parametrize("values", [VALUES[:3], VALUES.astype(np.int32), VALUES[None]])
def test_values_are_integers_of_the_ring(values):
    run = Sum(constant()).through("share")
    with pytest.raises(ProtocolError, match=r"^node 5, sum 7, step mask: values are .*, not uint32 \[5\]$"):
        run.nodes[5].mask(values, run.deliveries[5])


SURVIVORS = {
    "a stranger": ((2, 3, 4, 5), "node 4 is said to survive, and never shared with this one"),
    "one that never shared": ((2, 3, 5, 21), "node 21 is said to survive, and never shared with this one"),
    "one twice": ((2, 3, 3, 5), "a survivor is listed twice"),
    "not itself": ((2, 3, 8, 13), "this node is not among the survivors"),
    "too few": ((2, 3, 5), "only 3 nodes survive; threshold 4"),
}


@pytest.mark.parametrize("name", SURVIVORS)
def test_survivors_that_are_refused(name):
    listed, told = SURVIVORS[name]
    run = Sum(constant(), leaving={21: "share"}).through("mask")
    with pytest.raises(ProtocolError, match=f"^node 5, sum 7, step reveal: {told}"):
        run.nodes[5].reveal(Survivors(SUM, listed))
    assert run.collect("reveal")


@given(asked=st.lists(st.sets(st.sampled_from(COHORT)).map(tuple), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_never_both_secrets_of_one_node(asked):
    """Whatever lists of survivors a server asks with: of each node at most one of the two, by enough survivors."""
    run = Sum(constant(length=1)).through("mask")
    seeds, keys = set(), set()
    for listed in asked:
        try:
            said = run.nodes[5].reveal(Survivors(SUM, listed))
        except ProtocolError:
            continue
        assert len(said.seeds) >= THRESHOLD
        seeds |= said.seeds.keys()
        keys |= said.keys.keys()
    assert not seeds & keys
    assert seeds | keys in (set(), set(COHORT))


# Secrecy


def test_a_masked_vector_is_uniform_and_says_nothing_of_another():
    """Chi-square of each of the four bytes of a constant vector, and correlations between nodes and neighbours."""
    run = Sum(constant(COHORT[:4], 100_000), 3).through("mask")
    masked = {node: message.values_L for node, message in run.sent["mask"].items()}
    for values_L in masked.values():
        for byte_L in values_L.view(np.uint8).reshape(-1, 4).T:
            assert chisquare(np.bincount(byte_L, minlength=256)).pvalue > 1e-5
    for one, two in ((2, 3), (2, 8), (3, 5)):
        assert pearsonr(masked[one], masked[two]).pvalue > 1e-5
    assert pearsonr(masked[2][1:], masked[2][:-1]).pvalue > 1e-5
    difference = masked[2] - masked[3]
    assert chisquare(np.bincount(difference >> 24, minlength=256)).pvalue > 1e-5


def test_a_vector_that_comes_too_late_stays_hidden():
    """The server opens the key of a node whose vector is late, and so all the masks that it shares with others."""
    values = constant(COHORT, 20_000)
    run = Sum(values, leaving={8: "mask"}).through("share")
    late_L = run.nodes[8].mask(values[8], run.deliveries[8]).values_L
    for step in ("mask", "reveal"):
        run.collect(step).close(step)
    numbers = {node: number for number, node in enumerate(COHORT, start=1)}
    raw = join({numbers[u]: said.keys[8] for u, said in run.sent["reveal"].items()}, THRESHOLD)
    assert public_of(raw) == run.sent["advertise"][8].mask_key
    seeds = {u: mask_seed(private_key(raw), run.sent["advertise"][u].mask_key, SUM, 8, u) for u in COHORT if u != 8}
    add_masks(late_L, [seed for u, seed in seeds.items() if u > 8], [seed for u, seed in seeds.items() if u < 8])
    assert chisquare(np.bincount(late_L.view(np.uint8), minlength=256)).pvalue > 1e-5
    # Only the self-mask is left, and no share of its seed was revealed.
    assert all(8 not in said.seeds for said in run.sent["reveal"].values())
    add_masks(late_L, [], [run.nodes[8]._seed])
    assert (late_L == 8).all()


def test_fewer_than_the_threshold_cannot_open_what_they_hold():
    """Three nodes that pool all their shares of node 21's seed get none."""
    run = Sum(constant()).through("share")
    held = {}
    for number, node in enumerate(COHORT[:3], start=1):
        own, channel = run.nodes[node], run.roster.keys[21]
        link = linked(own._channel, own._mask, channel, SUM, node, 21)
        held[number] = unseal(link.inward, run.deliveries[node].sealed[21])[:SHARE]
    with pytest.raises(ProtocolError, match="only 3 shares; threshold 4"):
        join(held, THRESHOLD)


def test_fresh_nodes_make_fresh_keys():
    """From the operating system, unless told otherwise; so the same values are masked otherwise in every sum."""
    keys = {
        key
        for _ in range(4)
        for advert in [Participant(0, SUM, 2, 1).advertise()]
        for key in (advert.channel_key, advert.mask_key)
    }
    assert len(keys) == 8


# Agreement


def test_two_ends_of_a_link_agree_and_nobody_else_does():
    raws = {u: (bytes([u]) * 32, bytes([u, 0] * 16)) for u in (1, 2, 3)}
    private = {u: tuple(map(private_key, pair)) for u, pair in raws.items()}
    public = {u: tuple(map(public_of, pair)) for u, pair in raws.items()}

    def link(node, other, sum_id=SUM):
        return linked(*private[node], public[other], sum_id, node, other)

    assert link(1, 2) == Link(link(2, 1).inward, link(2, 1).outward, link(2, 1).seed)
    secrets = [key for pair in ((1, 2), (1, 3), (2, 3)) for key in link(*pair)] + list(link(1, 2, sum_id=8))
    assert len(set(secrets)) == 12
    assert {len(key) for key in secrets} == {32}


def test_sealed_is_opened_by_its_key_only():
    sealed = seal(b"k" * 32, b"shares")
    assert len(sealed) == 6 + 16
    assert unseal(b"k" * 32, sealed) == b"shares"
    assert unseal(b"l" * 32, sealed) is None
    assert unseal(b"k" * 32, sealed[:-1]) is None
