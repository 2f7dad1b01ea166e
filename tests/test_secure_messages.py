"""Masks against published key streams; messages of secure sums as frames: what they take, and what is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_sums import COHORT, SUM, Sum, constant, framed

from gossamer import wire
from gossamer.errors import ProtocolError
from gossamer.secure.masks import add_masks, expand
from gossamer.secure.messages import Advertise, Delivery, Masked, Reveal, Roster, Shares, Survivors
from gossamer.secure.sizes import sizes, traffic

ZEROS = (
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a37"
    "6a43b8f41518a11cc387b669b2ee65869f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
    "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
)
"""RFC 8439, A.1, test vectors 1 and 2: key and nonce 0, blocks 0 and 1."""
SECOND = (
    "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b"
    "7374f4872e99f096"
)
"""Test vector 4: key 00 ff 00 ... 00, nonce 0, block 2."""


# Masks


def test_a_mask_is_the_key_stream_of_rfc_8439():
    assert expand(bytes(32), 32).astype("<u4").tobytes().hex() == ZEROS
    assert expand(b"\x00\xff" + bytes(30), 48).astype("<u4").tobytes()[128:].hex() == SECOND


@pytest.mark.parametrize("length", [0, 1, 15, 2**15 - 1, 2**15, 2**15 + 1, 2**16 + 17])
def test_blocks_leave_no_seam(length):
    seed = bytes(range(32))
    longer_L = expand(seed, 2**17)
    np.testing.assert_array_equal(expand(seed, length), longer_L[:length])


@given(
    plus=st.lists(st.binary(min_size=32, max_size=32), max_size=4),
    minus=st.lists(st.binary(min_size=32, max_size=32), max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_masks_are_added_and_taken_modulo_2_to_the_32(plus, minus):
    vector_L = np.arange(40, dtype=np.uint32) * np.uint32(10**8)
    expected_L = vector_L.astype(object) + sum(expand(seed, 40).astype(object) for seed in plus)
    expected_L = expected_L - sum(expand(seed, 40).astype(object) for seed in minus)
    add_masks(vector_L, plus, minus)
    np.testing.assert_array_equal(vector_L, expected_L % 2**32)


# Frames


@pytest.fixture(scope="module")
def said():
    """One message of each kind, of six nodes of which one leaves before it sends its vector."""
    run = Sum(constant(), 4, leaving={21: "mask"})
    run.through("reveal")
    nodes = {Advertise: "advertise", Shares: "share", Masked: "mask", Reveal: "reveal"}
    messages = {kind: run.sent[step][5] for kind, step in nodes.items()}
    return {**messages, Roster: run.roster, Delivery: run.deliveries[5], Survivors: run.survivors}


def test_messages_come_through_frames_as_they_were_and_as_long_as_planned(said):
    planned = sizes(5, 6, 6, 5)
    assert planned.keys() == said.keys()
    for kind, message in said.items():
        arrived, length = framed(message)
        assert length == planned[kind] == wire.size(message.to_tensors())
        if kind is Masked:
            np.testing.assert_array_equal(arrived.values_L, message.values_L)
        else:
            assert arrived == message


def test_traffic_adds_up_the_frames_of_all_nodes():
    size = sizes(5, 6, 5, 4)
    up = 6 * size[Advertise] + 5 * size[Shares] + 4 * size[Masked] + 3 * size[Reveal]
    assert traffic(5, 6, 5, 4, 3) == (up, 6 * size[Roster] + 5 * size[Delivery] + 4 * size[Survivors])


def test_what_a_million_numbers_cost():
    """Four bytes for each, and for each other node some 200: of its keys, its shares, sealed both ways, and opened."""
    masked, total = sizes(10**6, 100, 100, 100)[Masked], traffic(10**6, 100, 100, 100, 100)
    assert 4 * 10**6 < masked < 4 * 10**6 + 200
    assert total.up < 100 * (masked + 100 * 150)
    assert total.down < 100 * 100 * 200


def test_tensors_that_are_no_message_are_refused_by_name(said):
    for kind, message in said.items():
        tensors, sender = message.to_tensors(), getattr(message, "node", -1)
        who = "node 5" if sender == 5 else "the server"
        for name, value in tensors.items():
            for wrong in (value.double(), value[..., None]):
                with pytest.raises(ProtocolError, match=f"^{who}, sum 7, step {kind.step}: '.*' "):
                    kind.from_tensors({**tensors, name: wrong}, sender, SUM)
            with pytest.raises(ProtocolError, match=f"'{name}' is missing|has shape"):
                kind.from_tensors({key: other for key, other in tensors.items() if key != name}, sender, SUM)
        with pytest.raises(ProtocolError, match="unknown field 'more'"):
            kind.from_tensors({**tensors, "more": torch.zeros(1)}, sender, SUM)


@pytest.mark.parametrize("kind", [Roster, Shares, Delivery, Survivors, Reveal])
def test_a_node_listed_twice_is_refused(said, kind):
    tensors = said[kind].to_tensors()
    name = "survivors" if kind is Reveal else "nodes"
    tensors[name] = tensors[name].clone()
    tensors[name][1] = tensors[name][0]
    with pytest.raises(ProtocolError, match=f"node {COHORT[0]} is listed twice"):
        kind.from_tensors(tensors, getattr(said[kind], "node", -1), SUM)


@pytest.mark.parametrize("kind", [Roster, Delivery, Survivors])
def test_what_the_server_says_no_node_can_say(said, kind):
    with pytest.raises(ProtocolError, match=r"^node 3, sum 7, step \w+: only the server sends this"):
        kind.from_tensors(said[kind].to_tensors(), 3, SUM)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Advertise(5, SUM, bytes(32), bytes(31)), "step advertise: 31 bytes where 32 belong"),
        (lambda: Shares(5, SUM, bytes(31), {}), "step share: 31 bytes where 32 belong"),
        (lambda: Shares(5, SUM, bytes(32), {2: bytes(81)}), "step share: 81 bytes where 82 belong"),
        (lambda: Reveal(5, SUM, {2: bytes(33)}, {3: bytes(32)}), "step reveal: 32 bytes where 33 belong"),
    ],
)
def test_keys_and_shares_have_their_length(make, told):
    with pytest.raises(ProtocolError, match=f"^node 5, sum 7, {told}"):
        make()
