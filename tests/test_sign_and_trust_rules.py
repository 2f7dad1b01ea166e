"""Sign majority, SignGuard and FLTrust: closed forms, transcriptions, and what hostile updates cannot do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossamer.aggregators import FLTrust, SignGuard, SignMajority
from gossamer.aggregators.signguard import largest_cluster, sign_shares
from gossamer.errors import AggregationError

Array = np.ndarray[Any, Any]
stacks = st.integers(1, 8).flatmap(lambda n: arrays(np.float64, (n, 4), elements=st.integers(-9, 9).map(float)))


@settings(max_examples=100, deadline=None)
@given(rows_ND=stacks)
def test_sign_majority_counts_votes(rows_ND: Array) -> None:
    votes_D = [np.sign(sum((x > 0) - (x < 0) for x in column)) for column in rows_ND.T.tolist()]
    np.testing.assert_array_equal(SignMajority(scale=0.5)(rows_ND), np.array(votes_D) * 0.5)
    np.testing.assert_allclose(SignMajority()(rows_ND), np.array(votes_D) * np.median(np.abs(rows_ND), 0))


@settings(max_examples=50, deadline=None)
@given(rows_ND=stacks, own_D=arrays(np.float64, 4, elements=st.integers(-9, 9).map(float)))
def test_sign_majority_on_a_graph_moves_the_own_model(rows_ND: Array, own_D: Array) -> None:
    for rule in (SignMajority(), SignMajority(scale=2.0)):
        np.testing.assert_allclose(rule(rows_ND, own=own_D), own_D + rule(rows_ND - own_D), atol=1e-12)


def test_sign_majority_sees_what_goes_before() -> None:
    rng = np.random.default_rng(0)
    rows_ND = rng.normal(size=(9, 30))

    def mixed(stacked_ND: Array, f: int) -> Array:
        squares_NN = ((stacked_ND[:, None] - stacked_ND) ** 2).sum(2)
        return np.stack([stacked_ND[np.argsort(row)[: len(row) - f]].mean(0) for row in squares_NN])

    rule = SignMajority(before=[{"kind": "nnm", "f": 3}])
    np.testing.assert_allclose(rule(rows_ND), SignMajority()(mixed(rows_ND, 3)), atol=1e-12)
    own_D = rng.normal(size=30)
    # The receiver's own takes part in the mixing, and what became of it in the vote.
    all_ND = mixed(np.concatenate([own_D[None], rows_ND]), 3)
    np.testing.assert_allclose(rule(rows_ND, own=own_D), own_D + SignMajority()(all_ND - own_D), atol=1e-12)


def test_a_minority_of_signs_changes_nothing_where_the_honest_agree() -> None:
    rng = np.random.default_rng(1)
    signs_D = np.sign(rng.normal(size=50))
    honest_HD = signs_D * rng.uniform(1, 2, (5, 50))
    found_D = SignMajority()(np.concatenate([honest_HD, -1e30 * honest_HD[:4]]))
    np.testing.assert_array_equal(np.sign(found_D), signs_D)
    assert (np.abs(found_D) <= honest_HD.max()).all()


def test_sign_shares_are_counted_over_all_blocks() -> None:
    rows_ND = np.random.default_rng(2).integers(-1, 2, (4, 20_000)).astype(np.float32)
    expected_N3 = np.stack([(rows_ND > 0).mean(1), (rows_ND == 0).mean(1), (rows_ND < 0).mean(1)], 1)
    np.testing.assert_allclose(sign_shares(torch.from_numpy(rows_ND)).numpy(), expected_N3, atol=1e-12)
    apart_N3 = sign_shares(torch.from_numpy(rows_ND), own=2).numpy()
    np.testing.assert_allclose(apart_N3[:, 0], (rows_ND > rows_ND[2]).mean(1), atol=1e-12)
    assert apart_N3[2].tolist() == [0, 1, 0]


@pytest.mark.parametrize("seed", range(8))
def test_clusters_are_those_of_another_mean_shift(seed: int) -> None:
    from sklearn.cluster import MeanShift

    rng = np.random.default_rng(seed)
    centres_K3 = rng.normal(size=(3, 3)) * 4
    points_NK = np.concatenate([centres_K3[k] + rng.normal(size=(5 + 2 * k, 3)) / 4 for k in range(3)])
    for width in (0.8, 1.5):
        labels_N = MeanShift(bandwidth=width).fit(points_NK).labels_
        sizes = np.sort(np.bincount(labels_N))
        assert len(sizes) == 1 or sizes[-1] > sizes[-2]
        found_N = largest_cluster(torch.from_numpy(points_NK), width).numpy()
        np.testing.assert_array_equal(found_N, labels_N == np.bincount(labels_N).argmax())


def test_largest_cluster_of_few_points() -> None:
    assert largest_cluster(torch.zeros((1, 3), dtype=torch.float64)).tolist() == [True]
    assert largest_cluster(torch.zeros((5, 3), dtype=torch.float64)).all()
    line_N1 = torch.tensor([[0.0], [0.1], [5.0]], dtype=torch.float64)
    assert largest_cluster(line_N1, 1.0).tolist() == [True, True, False]


def honest(n: int = 9, d: int = 2000, seed: int = 3) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(size=d) + 0.3 * rng.normal(size=(n, d)) + 0.5


def test_signguard_takes_the_mean_of_the_usual_clipped() -> None:
    rows_HD = honest()
    lengths_H = np.linalg.norm(rows_HD, axis=1)
    clipped_HD = rows_HD * np.minimum(1, np.median(lengths_H) / lengths_H)[:, None]
    taken_H = largest_cluster(sign_shares(torch.from_numpy(rows_HD))).numpy()
    assert taken_H.sum() >= 5
    np.testing.assert_allclose(SignGuard()(rows_HD), clipped_HD[taken_H].mean(0), rtol=1e-9)


@pytest.mark.parametrize("factor", [-1.0, -0.2, 50.0, 1e-3, 1e12])
def test_signguard_leaves_out_odd_lengths_and_turned_signs(factor: float) -> None:
    honest_HD = honest()
    before_HD = honest_HD.copy()
    rows_ND = np.concatenate([honest_HD, factor * honest_HD[:3]])
    found_D = SignGuard()(rows_ND)
    shares_N3 = sign_shares(torch.from_numpy(rows_ND))
    lengths_N = np.linalg.norm(rows_ND, axis=1)
    median = np.sort(lengths_N)[5]
    kept_N = (lengths_N >= 0.1 * median) & (lengths_N <= 3 * median) & largest_cluster(shares_N3).numpy()
    assert not kept_N[9:].any()
    clipped_ND = rows_ND * np.minimum(1, median / lengths_N)[:, None]
    np.testing.assert_allclose(found_D, clipped_ND[kept_N].mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(rows_ND[:9], before_HD)


def test_signguard_on_a_graph_is_about_the_receivers_own() -> None:
    changes_HD, own_D = honest(), np.random.default_rng(4).normal(size=2000) * 20
    found_D = SignGuard()(own_D + changes_HD, own=own_D)
    alone_D = SignGuard()(changes_HD)
    taken = int(largest_cluster(sign_shares(torch.from_numpy(changes_HD))).sum())
    np.testing.assert_allclose(found_D, own_D + alone_D * taken / (taken + 1), rtol=1e-7, atol=1e-7)
    np.testing.assert_array_equal(SignGuard()([own_D], own=own_D), own_D)


def trusted_mean(rows_ND: Array, own_D: Array) -> Array:
    """The published algorithm, row by row."""
    total_D, trust = np.zeros_like(own_D), 0.0
    for row_D in rows_ND:
        length = np.linalg.norm(row_D)
        if length > 0:
            score = max(0.0, row_D @ own_D / length / np.linalg.norm(own_D))
            total_D = total_D + score * row_D / length * np.linalg.norm(own_D)
            trust += score
    return total_D / trust if trust > 0 else own_D


@settings(max_examples=100, deadline=None)
@given(rows_ND=stacks, own_D=arrays(np.float64, 4, elements=st.integers(-9, 9).map(float)))
def test_fltrust_equals_the_published_algorithm(rows_ND: Array, own_D: Array) -> None:
    expected_D = trusted_mean(rows_ND, own_D) if own_D.any() else own_D
    np.testing.assert_allclose(FLTrust()(rows_ND, own=own_D), expected_D, rtol=1e-7, atol=1e-7)


def test_fltrust_finds_the_trusted_update_among_the_others_or_not() -> None:
    rows_ND = torch.from_numpy(honest(6, 40))
    own_D, weights_N = rows_ND[2].clone(), torch.ones(6, dtype=torch.float64)
    among_D = FLTrust().aggregate(rows_ND, weights_N, own_D)
    others_ND = torch.cat([rows_ND[:2], rows_ND[3:]])
    torch.testing.assert_close(FLTrust().aggregate(others_ND, weights_N[1:], own_D), among_D)
    np.testing.assert_allclose(among_D.numpy(), trusted_mean(others_ND.numpy(), own_D.numpy()), rtol=1e-9)


def test_fltrust_mixes_the_others_only() -> None:
    rows_ND, own_D = honest(7, 40), honest(1, 40, seed=4)[0]
    squares_NN = ((rows_ND[:, None] - rows_ND) ** 2).sum(2)
    mixed_ND = np.stack([rows_ND[np.argsort(row)[:5]].mean(0) for row in squares_NN])
    found_D = FLTrust(before=[{"kind": "nnm", "f": 2}])(rows_ND, own=own_D)
    np.testing.assert_allclose(found_D, trusted_mean(mixed_ND, own_D), rtol=1e-9)


def test_fltrust_withstands_any_number_of_hostile_updates() -> None:
    own_D = honest(1, 40)[0]
    hostile_ND = np.concatenate([-1e9 * honest(6, 40), np.full((2, 40), np.nan), np.full((1, 40), np.inf)])
    np.testing.assert_array_equal(FLTrust()(hostile_ND, own=own_D), own_D)
    found_D = FLTrust()(np.concatenate([hostile_ND, 1e12 * honest(2, 40)]), own=own_D)
    assert np.linalg.norm(found_D) <= np.linalg.norm(own_D) * (1 + 1e-9)
    assert found_D @ own_D > 0


@pytest.mark.parametrize(
    ("own", "message"),
    [(None, "root data of its own, or pass own="), (np.array([np.nan, 0.0]), "the trusted update holds NaN")],
)
def test_fltrust_says_what_it_lacks(own: Array | None, message: str) -> None:
    assert FLTrust.trusts
    with pytest.raises(AggregationError, match=message):
        FLTrust()(np.ones((3, 2)), own=own)


@pytest.mark.parametrize("rule", [SignGuard(), SignMajority(), FLTrust()], ids=lambda rule: rule.kind)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_and_inputs_are_kept_and_results_repeat(rule: Any, dtype: type) -> None:
    rows_ND = honest(7, 10_000).astype(dtype)
    before_ND = rows_ND.copy()
    own = {"own": rows_ND[0]} if rule.trusts else {}
    found_D = rule(rows_ND, **own)
    assert found_D.dtype == dtype
    np.testing.assert_array_equal(rows_ND, before_ND)
    np.testing.assert_array_equal(found_D, rule(rows_ND, **own))
    np.testing.assert_allclose(rule(rows_ND[::-1].copy(), **own), found_D, rtol=1e-4, atol=1e-5)
