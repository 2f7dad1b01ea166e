"""MeaMed and Phocas against their definitions written as loops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossamer.aggregators import MeaMed, Phocas, Tolerant
from gossamer.errors import AggregationError

RULES: list[type[Tolerant]] = [MeaMed, Phocas]
both = pytest.mark.parametrize("rule", RULES)


def centre(rule: type[Tolerant], values: list[float], f: int) -> float:
    ordered = sorted(values)
    n = len(ordered)
    if rule is Phocas:
        return sum(ordered[f : n - f]) / (n - 2 * f)
    return ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2


def transcribed(rule: type[Tolerant], rows_ND: np.ndarray[Any, Any], f: int) -> np.ndarray[Any, Any]:
    """Column by column: sort by distance from the centre, of equally far values the smaller first, and take n - f."""
    result = []
    for column in rows_ND.T.tolist():
        middle = centre(rule, column, f)
        nearest = sorted(column, key=lambda x, c=middle: (abs(x - c), x))[: len(column) - f]
        result.append(sum(nearest) / len(nearest))
    return np.array(result)


whole = st.integers(-20, 20).map(float)
stacks = st.integers(1, 9).flatmap(lambda n: st.tuples(arrays(np.float64, (n, 3), elements=whole), st.integers(0, 4)))


@both
@settings(max_examples=150, deadline=None)
@given(given_stack=stacks)
def test_equals_the_definition_ties_included(
    rule: type[Tolerant], given_stack: tuple[np.ndarray[Any, Any], int]
) -> None:
    rows_ND, f = given_stack
    f = min(f, (len(rows_ND) - 1) // 2)
    np.testing.assert_allclose(rule(f=f)(rows_ND), transcribed(rule, rows_ND, f), rtol=1e-13, atol=1e-13)


@both
@pytest.mark.parametrize("n", range(1, 8))
def test_no_other_choice_of_values_is_closer_to_the_centre(rule: type[Tolerant], n: int) -> None:
    rng = np.random.default_rng(n)
    for f in range((n - 1) // 2 + 1):
        rows_ND = rng.normal(size=(n, 5))
        found_D = rule(f=f)(rows_ND)
        for column, found in zip(rows_ND.T.tolist(), found_D, strict=True):
            middle = centre(rule, column, f)
            best = min(itertools.combinations(column, n - f), key=lambda chosen: sum(abs(x - middle) for x in chosen))
            assert found == pytest.approx(sum(best) / (n - f), abs=1e-12)


@both
def test_many_columns_are_the_same_as_few(rule: type[Tolerant]) -> None:
    rows_ND = np.random.default_rng(0).normal(size=(11, 20_001))
    whole_D = rule(f=3)(rows_ND)
    np.testing.assert_array_equal(whole_D[8000:8400], rule(f=3)(rows_ND[:, 8000:8400]))
    np.testing.assert_allclose(whole_D[::499], transcribed(rule, rows_ND[:, ::499], 3), rtol=1e-12, atol=1e-14)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("f", [1, 2, 3])
def test_huge_rows_that_are_left_out_leave_no_trace(rule: type[Tolerant], dtype: torch.dtype, f: int) -> None:
    honest_HD = torch.randn((7 - f, 40), generator=torch.Generator().manual_seed(f), dtype=dtype)
    signs_F1 = torch.tensor([1.0, -1.0, 1.0], dtype=dtype)[:f, None]
    for size in (1e12, 1e30):
        rows_ND = torch.cat([honest_HD, size * signs_F1.expand(f, 40)])
        found_D = rule(f=f)(rows_ND)
        # All that is left are the n - f honest rows.
        torch.testing.assert_close(found_D, honest_HD.mean(0), rtol=1e-6, atol=1e-6)


@both
def test_without_hostile_rows_it_is_the_mean(rule: type[Tolerant]) -> None:
    rows_ND = np.random.default_rng(1).normal(size=(6, 9))
    np.testing.assert_allclose(rule(f=0)(rows_ND), rows_ND.mean(0), rtol=1e-13)


@both
@settings(max_examples=60, deadline=None)
@given(
    rows_ND=arrays(np.float64, (7, 2), elements=st.integers(-1000, 1000).map(float)),
    scale=st.sampled_from([0.25, 1.0, 8.0]),
    shift=st.integers(-64, 64),
    order=st.permutations(range(7)),
)
def test_order_scale_and_origin_do_not_matter(
    rule: type[Tolerant], rows_ND: np.ndarray[Any, Any], scale: float, shift: int, order: list[int]
) -> None:
    expected_D = rule(f=2)(rows_ND) * scale + shift
    np.testing.assert_allclose(rule(f=2)(rows_ND[list(order)] * scale + shift), expected_D, rtol=1e-12, atol=1e-9)


def test_of_two_equally_far_values_the_smaller_is_taken() -> None:
    rows_ND = np.array([[0.0, 3.0], [1.0, 1.0], [2.0, -1.0]])
    np.testing.assert_array_equal(MeaMed(f=1)(rows_ND), [0.5, 0.0])
    np.testing.assert_array_equal(Phocas(f=1)(rows_ND), [0.5, 0.0])


def test_the_two_centres_differ() -> None:
    column_N1 = np.array([[-9.0], [0.0], [0.0], [3.0], [4.0]])
    # The median 0 is as far from -9 as from 9; the trimmed mean is 1.
    assert MeaMed(f=1)(column_N1)[0] == pytest.approx((0 + 0 + 3 + 4) / 4)
    column_N1 = np.array([[-3.0], [0.0], [0.0], [3.5], [3.5]])
    assert MeaMed(f=2)(column_N1)[0] == pytest.approx((-3 + 0 + 0) / 3)
    assert Phocas(f=1)(column_N1)[0] == pytest.approx((0 + 0 + 3.5 + 3.5) / 4)


@both
def test_too_few_updates_are_refused(rule: type[Tolerant]) -> None:
    with pytest.raises(AggregationError, match="withstands 1 hostile of 4 updates, not f = 2"):
        rule(f=2)(np.zeros((4, 2)))


@both
def test_what_goes_before_is_seen(rule: type[Tolerant]) -> None:
    rows_ND = np.random.default_rng(2).normal(size=(7, 5))
    squares_NN = ((rows_ND[:, None] - rows_ND) ** 2).sum(2)
    mixed_ND = np.stack([rows_ND[np.argsort(row)[:5]].mean(0) for row in squares_NN])
    np.testing.assert_allclose(rule(f=2, before=["nnm"])(rows_ND), rule(f=2)(mixed_ND), rtol=1e-9, atol=1e-12)
