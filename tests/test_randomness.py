"""Dice keyed by purpose: independent of order, distinct for every key."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossamer.randomness import ANY, generator, torch_seed, torch_seeded


@given(seed=st.integers(0, 2**63 - 1), node=st.integers(-1, 10**6), round=st.integers(-1, 10**6))
def test_the_same_key_gives_the_same_stream(seed: int, node: int, round: int) -> None:
    first = generator(seed, "batches", node, round).random(8)
    generator(seed, "other", node, round).random(100)
    assert np.array_equal(first, generator(seed, "batches", node, round).random(8))


def test_different_keys_give_different_streams() -> None:
    keys = list(itertools.product([0, 1], ["a", "b"], [ANY, 0, 1], [ANY, 0, 1], [ANY, 0]))
    draws = {generator(s, p, n, r, t).integers(2**63) for s, p, n, r, t in keys}
    assert len(draws) == len(keys)
    assert len({torch_seed(s, p, n, r, t) for s, p, n, r, t in keys}) == len(keys)


def test_streams_of_neighbouring_nodes_are_uncorrelated() -> None:
    draws = np.stack([generator(0, "x", node=n).standard_normal(10_000) for n in range(10)])
    off = np.corrcoef(draws)[~np.eye(10, dtype=bool)]
    assert abs(off).max() < 0.05


def test_torch_dice_are_restored() -> None:
    before = torch.get_rng_state()
    with torch_seeded(0, "init", 3):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with torch_seeded(0, "init", 3):
        assert torch.equal(torch.rand(3), inside)


@given(seed=st.integers(0, 2**63 - 1), node=st.integers(-1, 10**6))
def test_the_stream_is_philox_with_that_key_and_counter(seed: int, node: int) -> None:
    word = int.from_bytes(hashlib.blake2b(b"batches", digest_size=8).digest(), "little")
    key, counter = np.array([seed, word], dtype=np.uint64), np.array([0, 4, 3, node + 1], dtype=np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(5)
    assert np.array_equal(generator(seed, "batches", node, round=2, step=3).random(5), expected)
