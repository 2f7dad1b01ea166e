"""Flag from the Gram matrix against Flag in D dimensions; invariances; colluders, and what resists them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.aggregators import (
    Flag,
    FlagMedian,
    FlagNeighbours,
    FlagOneStep,
    FlagTrimmed,
    NormalisedMean,
    Robust,
)
from gossamer.aggregators.flag import FlagResult, flag
from gossamer.aggregators.flag_median import geometric_median
from gossamer.gram import Gram, combined
from gossamer.preaggregators.nnm import NNM

Array = np.ndarray[Any, Any]
ALL: list[Robust] = [
    Flag(),
    Flag(weight=1.0),
    Flag(normalise=True),
    Flag(components=2),
    FlagOneStep(),
    FlagTrimmed(f=2),
    FlagNeighbours(f=2),
    FlagMedian(),
    NormalisedMean(),
]
every = pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.kind)
RESISTANT: list[Robust] = [FlagTrimmed(f=3), FlagNeighbours(f=3), FlagMedian()]


def gradients(p: int = 15, d: int = 300, seed: int = 0, spread: float = 1.0) -> Array:
    """One direction in common, and noise of its own in each of the p rows, which also differ in length."""
    rng = np.random.default_rng(seed)
    common_D = rng.normal(size=d)
    return (common_D + spread * rng.normal(size=(p, d))) * rng.uniform(0.5, 2, (p, 1))


def in_all_dimensions(
    rows_PD: Array, iterations: int, weight: float = 0.0, components: int | None = None, epsilon: float = 1e-12
) -> tuple[Array, list[float], Array]:
    """Flag by singular value decompositions of D-dimensional columns: result, objectives, reconstruction ratios."""
    p = len(rows_PD)
    m = math.ceil((p + 1) / 2) if components is None else components
    columns = [row / np.linalg.norm(row) for row in rows_PD]
    shares = [1.0] * p
    if weight:
        for i in range(p):
            for j in range(p):
                if i != j:
                    columns.append((rows_PD[i] - rows_PD[j]) / np.linalg.norm(rows_PD[i] - rows_PD[j]))
                    shares.append(weight / (p - 1))
    columns_DC, shares_C = np.stack(columns, 1), np.array(shares)
    weights_C, objective = shares_C, []
    for _ in range(iterations):
        basis_DM = np.linalg.svd(columns_DC * np.sqrt(weights_C), full_matrices=False)[0][:, :m]
        missing_C = np.sqrt(np.clip(1 - ((basis_DM.T @ columns_DC) ** 2).sum(0), 0, None))
        objective.append(float(shares_C @ missing_C))
        weights_C = shares_C / (2 * missing_C + epsilon)
    ratios_P = ((basis_DM.T @ columns_DC[:, :p]) ** 2).sum(0)
    return (basis_DM @ (basis_DM.T @ rows_PD.T)).mean(1), objective, ratios_P


def solved(rows_PD: Array, **settings: Any) -> tuple[Array, FlagResult]:
    rows = torch.from_numpy(rows_PD)
    found = flag(Gram.of(rows), **settings)
    return combined(rows, found.coefficients).numpy(), found


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("p", "components"), [(15, None), (15, 1), (7, None), (6, 3)])
@pytest.mark.parametrize("iterations", [1, 2, 6])
def test_equals_the_path_in_all_dimensions(weight: float, p: int, components: int | None, iterations: int) -> None:
    rows_PD = gradients(p)
    found_D, found = solved(rows_PD, components=components, weight=weight, max_iterations=iterations, tolerance=0.0)
    expected_D, objective, ratios_P = in_all_dimensions(rows_PD, iterations, weight, components)
    assert np.linalg.norm(found_D - expected_D) <= 1e-9 * np.linalg.norm(expected_D)
    assert len(found.objective) == iterations
    np.testing.assert_allclose(found.objective, objective, rtol=1e-9)
    np.testing.assert_allclose(found.ratios.numpy(), ratios_P, rtol=1e-9)


def test_one_step_equals_the_reference_code() -> None:
    rows_PD = gradients()
    units_DP = (rows_PD / np.linalg.norm(rows_PD, axis=1, keepdims=True)).T
    basis_DM = np.linalg.svd(units_DP, full_matrices=False)[0][:, :8]
    expected_D = basis_DM @ (basis_DM.T @ units_DP).sum(1) / 8
    np.testing.assert_allclose(FlagOneStep()(rows_PD), expected_D, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    p=st.integers(2, 12),
    weight=st.sampled_from([0.0, 1.0, 16.0]),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    copies=st.integers(0, 3),
)
def test_the_objective_never_increases_and_ratios_are_ratios(
    seed: int, p: int, weight: float, spread: float, copies: int
) -> None:
    rows_PD = gradients(p, 20, seed, spread)
    rows_PD[: min(copies, p)] = rows_PD[0]
    _, found = solved(rows_PD, weight=weight, max_iterations=200)
    assert all(after <= before for before, after in zip(found.objective, found.objective[1:], strict=False))
    assert bool(((found.ratios >= 0) & (found.ratios <= 1)).all())
    assert bool(found.coefficients.isfinite().all())


def test_it_reports_convergence_and_later_iterations_explain_more() -> None:
    rows_PD = gradients(12, spread=2.0)
    assert not solved(rows_PD, max_iterations=2)[1].converged
    found = solved(rows_PD, max_iterations=5000)[1]
    assert found.converged
    assert found.objective[-1] < 0.99 * found.objective[0]


@pytest.mark.parametrize("length", [0.1, 1.0, 40.0])
def test_equal_gradients(length: float) -> None:
    row_D = gradients(1)[0] * length
    rows_PD = np.tile(row_D, (15, 1))
    for rule in ALL:
        if rule.kind != "flag_one_step":
            np.testing.assert_allclose(rule(rows_PD), row_D, rtol=1e-9)
    # The reference code forgets their length, and is longer than one by the ratio of p and m.
    assert np.linalg.norm(FlagOneStep()(rows_PD)) == pytest.approx(15 / 8)


@pytest.mark.parametrize("components", [7, 8, 30])
def test_as_many_dimensions_as_gradients_give_the_mean(components: int) -> None:
    rows_PD = gradients(7)
    found_D, found = solved(rows_PD, components=components)
    np.testing.assert_allclose(found_D, rows_PD.mean(0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.ratios.numpy(), 1.0, rtol=1e-12)
    assert found.converged
    np.testing.assert_allclose(Flag()(rows_PD[:2]), rows_PD[:2].mean(0), rtol=1e-10)


def test_what_a_subspace_can_explain() -> None:
    """The ratios sum to m for orthonormal gradients, and in the first step to the m largest eigenvalues of cosines."""
    orthonormal_PD = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 9)))[0].T
    for iterations in (1, 50):
        ratios_P = solved(orthonormal_PD, components=4, max_iterations=iterations)[1].ratios
        assert float(ratios_P.sum()) == pytest.approx(4, abs=1e-9)
    rows_PD = gradients(9)
    units_PD = rows_PD / np.linalg.norm(rows_PD, axis=1, keepdims=True)
    most = np.linalg.eigvalsh(units_PD @ units_PD.T)[-4:].sum()
    assert float(solved(rows_PD, components=4, max_iterations=1)[1].ratios.sum()) == pytest.approx(most)
    assert float(solved(rows_PD, components=4)[1].ratios.sum()) <= most + 1e-9


def test_positive_rescaling_of_single_gradients_leaves_the_subspace() -> None:
    rows_PD = gradients()
    scales_P = 10 ** np.random.default_rng(1).uniform(-3, 3, 15)
    plain, scaled = solved(rows_PD)[1], solved(rows_PD * scales_P[:, None])[1]
    np.testing.assert_allclose(scaled.ratios.numpy(), plain.ratios.numpy(), atol=1e-6)
    assert scaled.objective[0] == pytest.approx(plain.objective[0])
    # With directions alone the result changes only by the median length.
    one_D, other_D = Flag(normalise=True)(rows_PD), Flag(normalise=True)(rows_PD * scales_P[:, None])
    np.testing.assert_allclose(one_D / np.linalg.norm(one_D), other_D / np.linalg.norm(other_D), atol=1e-6)


@every
def test_order_does_not_matter(rule: Robust) -> None:
    rows_PD = gradients(11)
    order = np.random.default_rng(2).permutation(11)
    np.testing.assert_allclose(rule(rows_PD[order]), rule(rows_PD), rtol=1e-6, atol=1e-8)


@every
def test_a_rotation_rotates_the_result(rule: Robust) -> None:
    rows_PD = gradients(11, 40)
    rotation_DD = np.linalg.qr(np.random.default_rng(3).normal(size=(40, 40)))[0]
    np.testing.assert_allclose(rule(rows_PD @ rotation_DD), rule(rows_PD) @ rotation_DD, rtol=1e-6, atol=1e-7)


@every
def test_zeros_have_no_direction(rule: Robust) -> None:
    rows_PD = gradients(9)
    found_D = rule(np.concatenate([rows_PD, np.zeros((2, 300))]))
    assert np.isfinite(found_D).all()
    if rule.kind in ("flag", "normalised_mean"):
        np.testing.assert_allclose(found_D, rule(rows_PD) * 9 / 11, rtol=1e-7, atol=1e-8)
    np.testing.assert_array_equal(rule(np.zeros((5, 4))), np.zeros(4))
    ratios = solved(np.concatenate([rows_PD, np.zeros((1, 300))]))[1].ratios
    assert float(ratios[-1]) == 0.0


@every
def test_on_a_graph_it_is_about_the_receivers_own(rule: Robust) -> None:
    changes_PD, own_D = gradients(9), np.random.default_rng(4).normal(size=300) * 50
    found_D = rule(own_D + changes_PD, own=own_D)
    expected_D = own_D + rule(np.concatenate([np.zeros((1, 300)), changes_PD]))
    np.testing.assert_allclose(found_D, expected_D, rtol=1e-6, atol=1e-6)


@every
def test_float32_and_a_huge_row(rule: Robust) -> None:
    rows_PD = torch.from_numpy(gradients(15, 5000)).float()
    before = rows_PD.clone()
    found_D = rule(rows_PD)
    assert found_D.dtype == torch.float32
    assert torch.equal(rows_PD, before)
    torch.testing.assert_close(found_D, torch.from_numpy(rule(rows_PD.double().numpy())).float(), rtol=1e-3, atol=1e-4)
    if rule.kind == "flag" and not getattr(rule, "normalise", False):
        return
    rows_PD[3] *= 1e12
    mean_D = before[:3].mean(0)
    assert float(rule(rows_PD).norm()) < 3 * float(mean_D.norm())


def test_it_goes_after_pre_aggregators() -> None:
    rows_PD = gradients(9)
    rows = torch.from_numpy(rows_PD)
    mixed_PD = (NNM().matrix(Gram.of(rows), 4, None) @ rows).numpy()
    np.testing.assert_allclose(Flag(before=["nnm"])(rows_PD), Flag()(mixed_PD), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        FlagTrimmed(f=4, before=["nnm"])(rows_PD), FlagTrimmed(f=4)(mixed_PD), rtol=1e-6, atol=1e-8
    )


def test_trimmed_equals_the_path_in_all_dimensions() -> None:
    rows_PD = gradients()
    lengths_P = np.linalg.norm(rows_PD, axis=1)
    units_PD = rows_PD / lengths_P[:, None]
    basis_DM = np.linalg.svd(units_PD.T, full_matrices=False)[0][:, :8]
    coordinates_PM = units_PD @ basis_DM
    for f in (0, 3, 7):
        centre_M = np.sort(coordinates_PM, 0)[f : 15 - f].mean(0)
        expected_D = basis_DM @ centre_M * np.median(lengths_P)
        np.testing.assert_allclose(FlagTrimmed(f=f)(rows_PD), expected_D, rtol=1e-8, atol=1e-10)
        distances_PP = np.linalg.norm(coordinates_PM[:, None] - coordinates_PM, axis=2)
        mixed_PM = np.stack([coordinates_PM[np.argsort(row)[: 15 - f]].mean(0) for row in distances_PP])
        expected_D = basis_DM @ np.sort(mixed_PM, 0)[f : 15 - f].mean(0) * np.median(lengths_P)
        np.testing.assert_allclose(FlagNeighbours(f=f)(rows_PD), expected_D, rtol=1e-8, atol=1e-10)


def test_the_geometric_median_is_where_unit_vectors_to_the_points_cancel() -> None:
    points_PM = torch.from_numpy(np.random.default_rng(5).normal(size=(11, 4)) / 5)
    centre_M = geometric_median(points_PM)
    away_PM = points_PM - centre_M
    assert float((away_PM / away_PM.norm(dim=1, keepdim=True)).sum(0).norm()) < 1e-5
    # More than half in one place: that place.
    points_PM[:6] = points_PM[0]
    torch.testing.assert_close(geometric_median(points_PM), points_PM[0], rtol=0, atol=1e-6)


def colluders(kind: str, honest_HD: Array, count: int) -> Array:
    mean_D, rng = honest_HD.mean(0), np.random.default_rng(9)
    if kind == "copies":
        row_D = rng.normal(size=honest_HD.shape[1])
        row_D *= np.median(np.linalg.norm(honest_HD, axis=1)) / np.linalg.norm(row_D)
    else:
        row_D = {"alie": mean_D + 1.5 * honest_HD.std(0), "ipm": -0.1 * mean_D, "shout": -10 * mean_D}[kind]
    return np.tile(row_D, (count, 1))


def cosine(one_D: Array, other_D: Array) -> float:
    return float(one_D @ other_D / np.linalg.norm(one_D) / np.linalg.norm(other_D))


@pytest.mark.parametrize("kind", ["copies", "alie", "ipm", "shout"])
@pytest.mark.parametrize("rule", RESISTANT, ids=lambda rule: rule.kind)
def test_colluders_gain_little_by_agreeing(rule: Robust, kind: str) -> None:
    rng = np.random.default_rng(8)
    honest_HD = rng.normal(size=4000) + rng.normal(size=(12, 4000))
    rows_PD = np.concatenate([honest_HD, colluders(kind, honest_HD, 3)])
    mean_D = honest_HD.mean(0)
    reached = cosine(rule(rows_PD), mean_D)
    assert reached > 0.98
    assert reached > cosine(Flag()(rows_PD), mean_D) - (0.002 if kind == "ipm" else 0)


def test_flag_itself_explains_colluders_best_and_follows_them() -> None:
    rng = np.random.default_rng(8)
    honest_HD = rng.normal(size=4000) + rng.normal(size=(12, 4000))
    found_D, found = solved(np.concatenate([honest_HD, colluders("shout", honest_HD, 3)]))
    assert float(found.ratios[12:].min()) > float(found.ratios[:12].max()) - 1e-9
    assert cosine(found_D, honest_HD.mean(0)) < -0.9
