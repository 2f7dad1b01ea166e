"""Mixing straight into the states is the same as merging receiver by receiver, and only done where merging is that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from federations import small, state_of

import gossamer
from gossamer.engines import Round, local
from gossamer.federation import Federation
from gossamer.methods import Inbox, View
from gossamer.methods.dsgd import DSGD

WIDE: dict[str, Any] = {
    "nodes": 70,
    "rounds": 3,
    "method": "dsgd",
    "partition": "iid",
    "topology": {"kind": "random_regular", "degree": 3},
    "learner": {"kind": "sgd", "lr": 0.1, "batch_size": 4, "steps": 2, "momentum": 0.9},
}


@pytest.mark.parametrize("backend", ["eager", "parallel", "vmap"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_states_are_the_same_bits_as_merged_one_by_one(backend, dtype, tmp_path, monkeypatch):
    straight = gossamer.run(small(**WIDE, backend=backend, workers=3, dtype=dtype), tmp_path / "straight")
    monkeypatch.setattr(local, "_straight", lambda *_: False)
    one_by_one = gossamer.run(small(**WIDE, backend=backend, workers=3, dtype=dtype), tmp_path / "one by one")
    first, second = state_of(straight), state_of(one_by_one)
    for name in first:
        assert torch.equal(first[name], second[name]), name


class Halved(DSGD):
    """A method whose merge does something else with the aggregate."""

    def merge(self, state: dict[str, Any], inbox: Inbox, view: View) -> dict[str, Any]:
        return {"row": inbox.fields["row"] / 2}


@pytest.mark.parametrize(
    ("method", "adopts"),
    [
        (DSGD(), True),
        (DSGD(pull_back=0.1), True),
        (DSGD(reset_at_merge=True), False),
        (Halved(), False),
    ],
    ids=["plain", "pulled back", "reset at merges", "a merge of its own"],
)
def test_a_merge_that_does_more_is_asked(method, adopts):
    assert method.adopts == adopts


def test_whoever_overrides_merge_is_asked_in_a_run(tmp_path):
    """The state after a round of a method that halves is half of what DSGD's is."""
    base = {**WIDE, "rounds": 1, "dtype": "float64"}
    plain = gossamer.run(small(**base), tmp_path / "plain")
    half = gossamer.run(small(**{**base, "method": Halved()}), tmp_path / "half")
    torch.testing.assert_close(state_of(half)["state.row"], state_of(plain)["state.row"] / 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "changes",
    [{"transforms": ["cast"]}, {"aggregator": "median"}, {"schedule": {"participation": 0.5}}],
    ids=str,
)
def test_other_exchanges_are_merged_one_by_one(changes):
    federation = Federation(small(**{**WIDE, **changes}))
    participants = federation.participants(0)
    exchange = federation.exchanges.of(0, participants, 0)[0]
    assert not local._straight(federation, exchange, Round(0, participants, federation.nodes))
