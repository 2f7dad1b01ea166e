"""Sums that do not depend on who computed what, and state that lives in arrays."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossamer.population import BLOCK, Fold, Population, shared


@given(n=st.integers(1, 40), seed=st.integers(0, 100))
def test_fold_is_the_weighted_mean_in_blocks(n: int, seed: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    rows, weights = torch.randn(n, 5, generator=dice), torch.rand(n, generator=dice).double() + 0.1
    fold = Fold()
    for row, weight in zip(rows, weights, strict=True):
        fold.add(row, float(weight))
    expected = (weights @ rows.double()) / weights.sum()
    assert torch.allclose(fold.mean().double(), expected, atol=1e-6)
    blocks = [
        sum(
            (float(w) * r for r, w in zip(rows[i + 1 : i + BLOCK], weights[i + 1 : i + BLOCK], strict=True)),
            float(weights[i]) * rows[i],
        )
        for i in range(0, n, BLOCK)
    ]
    total = blocks[0]
    for block in blocks[1:]:
        total = total + block
    assert torch.allclose(fold.mean(), total / float(weights.sum()), atol=1e-7)


def test_fold_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Fold().mean()


def test_population_holds_one_row_for_each_receiver_and_node() -> None:
    population = Population.start(
        lambda k: ({"row": torch.full((3,), float(k))}, {"momentum": torch.full((2,), -float(k))}), 4, 4
    )
    assert population.state["row"].shape == (4, 3)
    assert population.own["momentum"].tolist() == [[0, 0], [-1, -1], [-2, -2], [-3, -3]]
    population.write_own(2, {"momentum": torch.tensor([7.0, 8.0])})
    assert population.own_of(2)["momentum"].tolist() == [7, 8]
    assert not population.own["momentum"][3].equal(population.own["momentum"][2])


def test_forked_processes_see_and_write_the_same_numbers() -> None:
    rows = shared(2, torch.zeros(3, dtype=torch.float64))
    child = os.fork()
    if child == 0:
        rows[1, 2] = 5.0
        os._exit(0)
    os.waitpid(child, 0)
    assert rows.tolist() == [[0, 0, 0], [0, 0, 5]]
    assert shared(0, torch.zeros(3)).shape == (0, 3)


def test_a_server_has_one_row_and_stateless_nodes_none() -> None:
    population = Population.start(lambda k: ({"row": torch.ones(3)}, {}), 1, 1000)
    assert population.state["row"].shape == (1, 3)
    assert population.own == {}
