"""Secure sums in runs: the mean of what arrived, to a rounding; nothing where too few are left; noise in shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import small, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import gossamer
from gossamer.errors import AggregationError, ExperimentError
from gossamer.experiment import SecureSum
from gossamer.privacy.distributed import Distributed
from gossamer.sealing import Seal, attendance, protocol_bytes, seal
from gossamer.secure.ring import l2_bound
from gossamer.secure.sizes import traffic

LIKE = {"delta": torch.zeros(40, 3), "below": torch.zeros(1)}


def sealing(heaviest: float = 1.0, noise: float = 0.0, length: int = 0, **secure: Any) -> Seal:
    like = {"delta": torch.zeros(length)} if length else LIKE
    distributed = Distributed(noise_multiplier=noise, clip=0.5) if noise else None
    return Seal(SecureSum(**secure), like, 3, heaviest, distributed, noise)


def summed(one: Seal, messages: list[dict[str, torch.Tensor]], weights: list[float], round: int = 0) -> Any:
    """The sum as the server has it: integers modulo 2^32."""
    parts = [
        one.integers(message, weight, len(messages), node, round)[0]["values"].numpy().view(np.uint32)
        for node, (message, weight) in enumerate(zip(messages, weights, strict=True))
    ]
    return np.sum(parts, axis=0, dtype=np.uint32)


@given(
    seed=st.integers(0, 2**32),
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=8),
    bits=st.integers(4, 20),
)
@settings(max_examples=40, deadline=None)
def test_opened_is_the_weighted_mean_to_a_level(seed: int, weights: list[int], bits: int) -> None:
    """Each number of each message is off by less than one integer."""
    rng = np.random.default_rng(seed)
    messages = [{k: torch.from_numpy(rng.uniform(-1, 1, v.shape)).float() for k, v in LIKE.items()} for _ in weights]
    one = sealing(heaviest=float(max(weights)), bits=bits, range=1.0)
    opened, weight = one.opened(summed(one, messages, [float(w) for w in weights]))
    assert weight == sum(weights)
    for name, value in opened.items():
        mean = sum(w * message[name].double() for w, message in zip(weights, messages, strict=True)) / sum(weights)
        assert value.shape == LIKE[name].shape
        level = max(weights) * len(weights) / sum(weights) / one.scale
        assert float((value.double() - mean).abs().max()) <= level * (1 + 1e-6) + 1e-7


def test_rounding_is_right_on_average() -> None:
    one, message = sealing(bits=3, length=1), {"delta": torch.tensor([0.1])}
    found = [float(one.opened(summed(one, [message], [1.0], round))[0]["delta"]) for round in range(3000)]
    assert len(set(found)) == 2
    assert np.mean(found) == pytest.approx(0.1, abs=4 * np.std(found) / np.sqrt(3000))


def test_what_is_too_large_is_cut_off_and_counted() -> None:
    one = sealing(length=4, range=0.5)
    message = {"delta": torch.tensor([0.1, -0.7, 9.0, 0.5])}
    assert one.integers(message, 1.0, 1, 0, 0)[1] == 2
    opened = one.opened(summed(one, [message], [1.0]))[0]["delta"]
    assert opened.tolist() == pytest.approx([0.1, -0.5, 0.5, 0.5], abs=1 / one.scale)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(AggregationError, match="NaN or infinite"):
        sealing(length=2).integers({"delta": torch.tensor([0.0, float("nan")])}, 1.0, 1, 0, 0)


def test_shares_of_noise_add_up_to_that_of_a_server() -> None:
    """As many messages as the threshold: variance (z D)^2, D the norm of rounded messages, and it looks normal."""
    one = sealing(noise=1.3, length=120_000, threshold=0.6)
    cohort, needed = 10, 6
    parts = [one.integers({"delta": torch.zeros(120_000)}, 1.0, cohort, node, 0)[0]["values"] for node in range(needed)]
    total_L = np.sum([part.numpy()[:-1] for part in parts], axis=0, dtype=np.int64)
    std = 1.3 * l2_bound(one.scale * 0.5, 120_000)
    assert std / one.scale == pytest.approx(1.3 * 0.5, rel=0.01), "near z C, as there are many levels"
    assert stats.kstest(total_L / std, "norm").pvalue > 1e-4
    below = stats.chi2(len(total_L)).cdf(float(np.square(total_L / std).sum()))
    assert 1e-4 < below < 1 - 1e-4


def test_no_message_is_longer_than_its_bound_before_the_noise() -> None:
    one = sealing(noise=1e-9, length=500)
    for size in (1e-3, 0.5, 1e20):
        message = {"delta": torch.full((500,), size)}
        integers_L = one.integers(message, 1.0, 1, 0, 0)[0]["values"].numpy()[:-1].astype(np.int64)
        assert np.sqrt(np.dot(integers_L, integers_L)) <= l2_bound(one.scale * 0.5, 500)


def test_a_sum_that_could_run_over_is_refused_beforehand() -> None:
    with pytest.raises(ExperimentError, match=r"secure_sum.bits = 24: a sum of 1000 nodes .* use bits = 21"):
        sealing(bits=24).check(1000)
    sealing(bits=16).check(1000)
    with pytest.raises(ExperimentError, match="weights up to 5000000 of 1000 nodes"):
        sealing(bits=4, heaviest=5e6).check(1000)


def test_the_extremes_of_all_nodes_do_not_run_over() -> None:
    """As many nodes as are let through, all at the largest number."""
    one = sealing(length=1, bits=20)
    one.check(4000)
    integer = one.integers({"delta": torch.tensor([1.0])}, 1.0, 4000, 0, 0)[0]["values"].numpy().view(np.uint32)
    opened, weight = one.opened(integer * np.uint32(4000))
    assert weight == 4000
    assert float(opened["delta"]) == pytest.approx(1.0)


# ---- in runs -------------------------------------------------------------------------------------------------------


def test_masks_change_nothing(tmp_path: Path) -> None:
    """The protocol with all its keys, and the integers added up: the same bits, the same bytes."""
    runs = [
        gossamer.run(small(secure_sum={"dropout": 0.15, "threshold": 6, "masked": masked}), tmp_path / str(masked))
        for masked in (True, False)
    ]
    for name, value in state_of(runs[0]).items():
        assert torch.equal(value, state_of(runs[1])[name]), name
    assert runs[0].rounds["bytes"].equals(runs[1].rounds["bytes"])
    assert min(runs[0].rounds["summed"].to_pylist()) < 10


def test_a_run_in_secret_is_the_run_in_the_open(tmp_path: Path) -> None:
    """Sums of rounded numbers: nearly the same model, weighted by items."""
    plain = gossamer.run(small(rounds=3), tmp_path / "plain")
    secret = gossamer.run(small(rounds=3, secure_sum={"bits": 24}), tmp_path / "secret")
    for name, value in plain.model().state_dict().items():
        assert torch.allclose(value, secret.model().state_dict()[name], atol=2e-5), name
    assert secret.rounds["summed"].to_pylist() == [10, 10, 10]


def test_where_too_few_are_left_the_model_stays(tmp_path: Path) -> None:
    """The server opens nothing rather than a sum of few, and goes on with the next round."""
    run = gossamer.run(small(rounds=3, secure_sum={"dropout": 0.97, "threshold": 9}), tmp_path / "run")
    assert run.rounds["summed"].to_pylist() == [0, 0, 0]
    fresh = gossamer.run(small(rounds=1, learner={"lr": 0.1, "steps": 0}), tmp_path / "fresh")
    for name, value in run.model().state_dict().items():
        assert torch.equal(value, fresh.model().state_dict()[name])
    plan = gossamer.plan(small(rounds=3, secure_sum={"dropout": 0.97, "threshold": 9}))
    assert plan.secure_sum["unopened"] == 3
    assert any("in 3 of 3 rounds too few nodes are left" in text for text in plan.warnings)
    assert any("in 3 of 3 rounds too few" in event.get("text", "") for event in run.events)
    assert plan.bytes_total == run.summary()["bytes"]


def test_numbers_cut_off_are_told_once(tmp_path: Path) -> None:
    run = gossamer.run(small(rounds=3, secure_sum={"range": 1e-4}), tmp_path / "run")
    told = [event["text"] for event in run.events if event["event"] == "warning"]
    assert len(told) == 1
    assert "cut off; give more" in told[0]


def test_a_common_part_of_the_coordinates_is_summed(tmp_path: Path) -> None:
    """Linear transforms go with it: what is decoded is the mean, not each message."""
    chain = [{"kind": "random_k", "share": 0.3, "common": True}]
    plain = gossamer.run(small(rounds=2, transforms=chain), tmp_path / "plain")
    secret = gossamer.run(small(rounds=2, transforms=chain, secure_sum={"bits": 24}), tmp_path / "secret")
    for name, value in plain.model().state_dict().items():
        assert torch.allclose(value, secret.model().state_dict()[name], atol=2e-5), name


@pytest.mark.parametrize("method", ["fedadam", "scaffold", "fedprox", "fedper"])
def test_other_methods_sum_in_secret_too(method: str, tmp_path: Path) -> None:
    experiment = small(rounds=2, method=method, secure_sum={"range": 4.0})
    run = gossamer.run(experiment, tmp_path / method)
    assert run.summary()["bytes"] == gossamer.plan(experiment).bytes_total


def test_attendance_falls_off_and_what_is_sent_with_it() -> None:
    experiment = small(secure_sum={"dropout": 0.4, "threshold": 6})
    participants, seen = np.arange(10), set()
    for round in range(60):
        attended = attendance(experiment, participants, round)
        counts = [len(left) for left in attended.left]
        assert counts == sorted(counts, reverse=True)
        assert all(count >= 6 for count in counts[:-1])
        assert attended.opens == (len(counts) == 4 and counts[-1] >= 6)
        assert len(attended.summed) == (counts[2] if attended.opens else 0)
        sent_N, received_N = protocol_bytes(attended, 10, 100)
        assert (sent_N > 0).sum() == counts[0]
        assert (received_N > 0).sum() == (counts[0] if counts[0] >= 6 else 0)
        if attended.opens:
            assert (sent_N.sum(), received_N.sum()) == traffic(100, *counts)
        seen.add(attended.opens)
    assert seen == {True, False}


def test_nobody_is_lost_without_dropout() -> None:
    attended = attendance(small(secure_sum={}), np.arange(10), 0)
    assert attended.summed == tuple(range(10))


def test_integers_have_no_mean_of_their_own() -> None:
    with pytest.raises(ExperimentError, match="'codes' is sent as int8"):
        seal(small(secure_sum={}), {"codes": torch.zeros(3, dtype=torch.int8)}, [1] * 10, 0.0)
