"""The Gram matrix of long rows and order statistics of their columns, against direct computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.arrays import as_rows
from gossamer.columns import by_columns, network, order
from gossamer.errors import AggregationError
from gossamer.gram import Gram, combined


def rows(seed: int, n: int, d: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d))).to(dtype)


def squares(x: torch.Tensor) -> torch.Tensor:
    return (x.double()[:, None] - x.double()[None]).square().sum(-1)


class TestGram:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("n", [1, 2, 7, 20])
    def test_products_and_distances(self, dtype, n):
        x = rows(n, n, 10_001, dtype)
        gram, tolerance = Gram.of(x), 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(gram.products, x.double() @ x.double().T, rtol=tolerance, atol=tolerance * 1e4)
        torch.testing.assert_close(gram.squares, squares(x), rtol=tolerance, atol=0)
        torch.testing.assert_close(gram.norms, x.double().norm(dim=1), rtol=tolerance, atol=0)

    def test_models_that_differ_in_the_sixth_digit_keep_their_distances(self):
        """Norm 3000, differences of 1e-3 a number: without centring float32 products would know nothing of them."""
        x = 30.0 + 1e-3 * rows(1, 30, 10_000)
        torch.testing.assert_close(Gram.of(x).squares, squares(x), rtol=1e-5, atol=0)

    @pytest.mark.parametrize("shout", [1e6, 1e12, 1e30])
    def test_a_loud_minority_does_not_blur_the_others(self, shout):
        x = rows(2, 15, 5000)
        x[:7] = shout
        found = Gram.of(x).squares[7:, 7:]
        torch.testing.assert_close(found, squares(x[7:]), rtol=1e-5, atol=0)

    def test_identical_rows_are_at_distance_zero(self):
        x = rows(3, 1, 9000).expand(6, -1)
        assert Gram.of(x).squares.abs().max() == 0

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 1000), n=st.integers(2, 8), q=st.integers(1, 9))
    def test_points_through_a_matrix_are_the_rows_multiplied(self, seed, n, q):
        x, m = rows(seed, n, 50, torch.float64), rows(seed + 1, q, n, torch.float64)
        gram, y = Gram.of(x).through(m), m @ x
        torch.testing.assert_close(gram.products, y @ y.T)
        torch.testing.assert_close(gram.squares, squares(y), rtol=1e-7, atol=1e-7)
        a = rows(seed + 2, 1, q, torch.float64)[0]
        torch.testing.assert_close(combined(x, gram.to_rows(a)), a @ y)

    def test_twice_through_is_once_through_the_product(self):
        x, m, k = rows(4, 6, 40, torch.float64), rows(5, 5, 6, torch.float64), rows(6, 3, 5, torch.float64)
        torch.testing.assert_close(Gram.of(x).through(m).through(k).products, Gram.of(x).through(k @ m).products)

    def test_some_of_the_points(self):
        x, chosen = rows(7, 6, 40), torch.tensor([4, 1, 5])
        torch.testing.assert_close(Gram.of(x).part(chosen).squares, Gram.of(x).squares[chosen][:, chosen])

    def test_about_one_of_the_points(self):
        x = rows(8, 6, 40, torch.float64)
        torch.testing.assert_close(Gram.of(x).about(2), (x - x[2]) @ (x - x[2]).T)

    def test_rows_that_are_not_used_are_not_looked_at(self):
        x = rows(9, 4, 10)
        x[1], x[3] = torch.nan, torch.inf
        a = torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
        torch.testing.assert_close(combined(x, a), (x[0] + x[2]) / 2)
        assert combined(x, torch.zeros(4)).eq(0).all()


class TestColumns:
    @pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 15, 16, 33, 50])
    def test_a_network_sorts(self, n):
        x = rows(n, n, 300)
        x[:, ::7] = x[:1, ::7]
        assert torch.equal(torch.stack(order(x.clone())), x.sort(0).values)

    @settings(max_examples=60, deadline=None)
    @given(n=st.integers(2, 20), data=st.data())
    def test_the_places_asked_for_are_right(self, n, data):
        low = data.draw(st.integers(0, n - 1))
        high = data.draw(st.integers(low + 1, n))
        x = rows(n, n, 200)
        assert torch.equal(torch.stack(order(x.clone(), low, high)), x.sort(0).values[low:high])
        assert len(network(n, low, high)) <= len(network(n, 0, n))

    def test_a_network_that_sorts_every_zero_and_one_sorts_everything(self):
        """The 0-1 principle (Knuth), for all sequences of 11."""
        bits = torch.tensor([[(i >> k) & 1 for i in range(2048)] for k in range(11)], dtype=torch.float32)
        assert torch.equal(torch.stack(order(bits.clone())), bits.sort(0).values)

    def test_blocks_are_joined_and_rows_left_alone(self):
        x, m = rows(1, 4, 20_000), rows(2, 3, 4)
        before = x.clone()
        torch.testing.assert_close(by_columns(x, lambda block: block.mul_(2).sum(0)), 2 * x.sum(0))
        torch.testing.assert_close(by_columns(x, lambda block: block.sum(0), m), (m @ x).sum(0), rtol=1e-4, atol=1e-5)
        assert torch.equal(x, before)


class TestArrays:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
    def test_numpy_comes_back_as_it_came(self, dtype):
        given_rows = np.arange(12).reshape(3, 2, 2).astype(dtype)
        row_nd, back = as_rows(given_rows)
        assert row_nd.shape == (3, 4)
        assert back(row_nd[1]).shape == (2, 2)
        assert back(row_nd[1]).dtype == (np.float64 if dtype == np.int64 else dtype)

    def test_lists_and_tensors(self):
        assert isinstance(as_rows([torch.ones(2), torch.zeros(2)])[1](torch.ones(2)), torch.Tensor)
        assert isinstance(as_rows([[1.0, 2.0], [3.0, 4.0]])[1](torch.ones(2)), np.ndarray)
        assert as_rows(torch.ones(3, 2, dtype=torch.bfloat16))[1](torch.ones(2)).dtype == torch.bfloat16

    @pytest.mark.parametrize(
        ("bad", "told"),
        [
            ([], "no updates"),
            (np.ones((0, 3)), "no updates"),
            ([np.ones(2), np.ones(3)], "different shapes"),
            (np.ones((2, 2), dtype=complex), "real numbers"),
        ],
    )
    def test_what_cannot_be_stacked_is_refused(self, bad, told):
        with pytest.raises(AggregationError, match=told):
            as_rows(bad)
