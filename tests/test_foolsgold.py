"""FoolsGold's scores: closed forms, invariances, and the published steps written as loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossamer.aggregators import FoolsGold
from gossamer.aggregators.foolsgold import cosines, scores
from gossamer.gram import Gram


def scored(histories_ND: Any) -> list[float]:
    found: list[float] = scores(cosines(Gram.of(torch.from_numpy(np.array(histories_ND, np.float64))))).tolist()
    return found


def transcribed(cosines_NN: list[list[float]]) -> list[float]:
    n = len(cosines_NN)
    alike = [[0.0 if i == j else cosines_NN[i][j] for j in range(n)] for i in range(n)]
    most = [max(row) + 1e-5 for row in alike]
    for i in range(n):
        for j in range(n):
            if i != j and most[i] < most[j]:
                alike[i][j] *= most[i] / most[j]
    alpha = [min(1.0, max(0.0, 1.0 - max(row))) for row in alike]
    largest = max(alpha)
    if largest < 1e-6:
        return [1.0] * n
    result = []
    for value in alpha:
        share = value / largest
        if share == 1:
            result.append(1.0)
        elif share == 0:
            result.append(0.0)
        else:
            result.append(min(1.0, max(0.0, math.log(share / (1 - share)) + 0.5)))
    return result


def test_two_copies_among_orthogonal_ones_score_nothing() -> None:
    basis = np.eye(4)
    assert scored([basis[0], basis[0], basis[1], basis[2], basis[3]]) == [0, 0, 1, 1, 1]


def test_orthogonal_histories_all_score_one() -> None:
    assert scored(np.diag([1.0, 5.0, 0.01])) == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_histories_that_are_all_the_same_cannot_be_told_apart(n: int, dtype: torch.dtype) -> None:
    row_D = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=dtype)
    rows_ND = row_D * torch.linspace(1, 3, n, dtype=dtype)[:, None]
    assert scores(cosines(Gram.of(rows_ND))).tolist() == [1.0] * n
    torch.testing.assert_close(FoolsGold()(row_D.repeat(n, 1)), row_D)


def test_a_sender_that_sent_nothing_resembles_nobody() -> None:
    assert scored([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]) == [1, 0, 0]
    assert scored(np.zeros((3, 2))) == [1, 1, 1]


@settings(max_examples=150, deadline=None)
@given(rows_ND=st.integers(1, 6).flatmap(lambda n: arrays(np.float64, (n, 4), elements=st.integers(-3, 3).map(float))))
def test_equals_the_published_steps(rows_ND: np.ndarray[Any, Any]) -> None:
    lengths_N = np.linalg.norm(rows_ND, axis=1)
    safe_N = np.where(lengths_N > 0, lengths_N, np.inf)
    cosines_NN = rows_ND @ rows_ND.T / safe_N[:, None] / safe_N
    found = scores(torch.tensor(cosines_NN))
    assert bool(((found >= 0) & (found <= 1)).all())
    assert float(found.max()) == 1.0
    np.testing.assert_allclose(found.numpy(), transcribed(cosines_NN.tolist()), atol=1e-9)


def test_pardoning_spares_an_honest_sender_that_a_sybil_resembles() -> None:
    # The third is like the two Sybils by a cosine of .6; the fourth like nobody.
    rows_ND = np.array([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1.0, 0]])
    pardoned = 1 - 0.6 * 0.60001 / 1.00001
    found = scored(rows_ND)
    assert found == pytest.approx([0, 0, min(1.0, math.log(pardoned / (1 - pardoned)) + 0.5), 1], abs=1e-9)
    assert found[2] > 0.9
    unpardoned = math.log(0.4 / 0.6) + 0.5
    assert found[2] > unpardoned + 0.8


def test_the_ends_of_the_logit() -> None:
    low = math.exp(-0.5) / (1 + math.exp(-0.5))
    for alpha, expected in ((low - 1e-3, 0.0), (low + 1e-3, None), (1 - low + 1e-3, 1.0)):
        # Two alike at 1 - alpha, a third orthogonal: alpha is divided by 1.
        cosines_NN = torch.eye(3, dtype=torch.float64)
        cosines_NN[0, 1] = cosines_NN[1, 0] = 1 - alpha
        found = scores(cosines_NN).tolist()
        assert found[2] == 1
        assert (
            found[0] == found[1] == pytest.approx(math.log(alpha / (1 - alpha)) + 0.5 if expected is None else expected)
        )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(6)))
def test_order_and_length_of_histories_do_not_matter(seed: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    rows_ND = rng.normal(size=(6, 12)) + 1.5
    found = np.array(scored(rows_ND))
    scaled_ND = rows_ND * rng.uniform(0.1, 10, (6, 1))
    np.testing.assert_allclose(np.array(scored(scaled_ND[order])), found[order], atol=1e-7)


def test_updates_are_weighed_by_the_histories_of_their_senders() -> None:
    history = Gram.of(torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64))
    weights_N = torch.ones(4, dtype=torch.float64)
    assert FoolsGold().coefficients_of(history, weights_N, None).tolist() == [0, 0, 0.5, 0.5]


def test_the_result_is_the_mean_weighted_by_the_scores() -> None:
    rows_ND = np.random.default_rng(3).normal(size=(6, 4))
    scores_N = np.array(scored(rows_ND))
    assert len(set(scores_N)) > 1
    np.testing.assert_allclose(FoolsGold()(rows_ND), scores_N @ rows_ND / scores_N.sum(), rtol=1e-12)
