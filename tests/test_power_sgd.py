"""PowerSGD: the algorithm by itself, its limits, and what goes around it as it is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transform_table import LAYOUT, Link, outline_of, same

from gossamer.layout import Entry, Layout
from gossamer.passages import Passage
from gossamer.randomness import generator
from gossamer.transforms import PowerSGD

Array = np.ndarray[Any, Any]

ONE = Layout((Entry("weight", (30, 50), 0, True),))


def row(matrix: Array, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {"row": torch.from_numpy(matrix).to(dtype).view(-1)}


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def orthonormalised(p_MR: Array) -> Array:
    """Gram-Schmidt, column by column, as in the paper."""
    columns: list[Array] = []
    for column in p_MR.T:
        for before in columns:
            column = column - (before @ column) * before
        columns.append(column / np.linalg.norm(column))
    return np.stack(columns, axis=1)


def rounds(layout: Layout, rank: int, rows: list[Array]) -> list[Array]:
    """Algorithm 1 of Vogels et al. for one worker without error feedback: what is received each round."""
    q = {
        entry: generator(0, f"power_sgd {entry.name} {entry.shape}").standard_normal((math.prod(entry.shape[1:]), rank))
        for entry in layout.entries
        if len(entry.shape) > 1
    }
    received = []
    for given in rows:
        out = given.copy()
        for entry in q:
            m, n = entry.shape[0], math.prod(entry.shape[1:])
            if not entry.trainable or rank * (m + n) >= m * n:
                continue
            matrix = given[entry.start : entry.stop].reshape(m, n)
            p = orthonormalised(matrix @ q[entry])
            q[entry] = matrix.T @ p
            out[entry.start : entry.stop] = (p @ q[entry].T).reshape(-1)
        received.append(out)
    return received


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("layout", [ONE, LAYOUT], ids=["matrix", "model"])
def test_algorithm_1(layout: Layout, rank: int) -> None:
    """Eight messages that change slowly: the memory counts."""
    rows = [normal(0, layout.size) + 0.3 * normal(1 + number, layout.size) for number in range(8)]
    link = Link([PowerSGD(rank=rank)], row(rows[0]), layout)
    for given, expected in zip(rows, rounds(layout, rank, rows), strict=True):
        np.testing.assert_allclose(link.send(row(given))[1]["row"], expected, atol=1e-10)


def test_matrices_of_low_rank_come_through() -> None:
    for seed in range(3):
        matrix = normal(seed, 30, 2) @ normal(seed + 9, 2, 50)
        received = Link([PowerSGD(rank=2)], row(matrix), ONE).send(row(matrix))[1]["row"]
        np.testing.assert_allclose(received, matrix.reshape(-1), atol=1e-10)
        # One rank short, and it cannot.
        received = Link([PowerSGD(rank=1)], row(matrix), ONE).send(row(matrix))[1]["row"]
        assert np.linalg.norm(received.numpy() - matrix.reshape(-1)) > 1


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_message_that_stays_the_same_gets_the_best_factors(rank: int) -> None:
    """Eckart and Young: nothing of that rank is nearer than sqrt(sum of the other squared singular values)."""
    left, right = np.linalg.qr(normal(0, 30, 30)).Q, np.linalg.qr(normal(1, 50, 30)).Q
    values = 2.0 ** -np.arange(30)
    matrix = left * values @ right.T
    best = math.sqrt((values[rank:] ** 2).sum())
    link = Link([PowerSGD(rank=rank)], row(matrix), ONE)
    errors = [float((link.send(row(matrix))[1]["row"] - row(matrix)["row"]).norm()) for _ in range(12)]
    assert errors[0] > 1.02 * best
    assert errors[-1] == pytest.approx(best, rel=1e-5)
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(errors))


def test_what_is_received_is_a_projection() -> None:
    """At right angles to what is lost, so never longer than the message."""
    link = Link([PowerSGD()], row(normal(0, 30, 50)), ONE)
    for seed in range(5):
        given = row(normal(seed, 30, 50))["row"]
        received = link.send({"row": given})[1]["row"]
        assert abs(float(received @ (given - received))) < 1e-9
        assert float(received.norm()) < float(given.norm())


def test_bytes_and_what_goes_as_it_is() -> None:
    """Vectors, buffers, and the 2 x 5 matrix, for which 2 (2 + 5) numbers would be more."""
    given = {"row": torch.randn(440), "drift": torch.randn(428), "other": torch.randn(441), "mass": torch.tensor(2.0)}
    sent, received = Link([PowerSGD(rank=2)], given).send(given)
    factors = {"p": 2 * (6 + 10), "q": 2 * (27 + 24)}
    sizes = {f"{name}.{part}": size for name in ("row", "drift") for part, size in factors.items()}
    sizes |= {"row.rest": 6 + 10 + 10 + 12, "drift.rest": 6 + 10 + 10, "other": 441, "mass": 1}
    assert {name: value.numel() for name, value in sent.items()} == sizes
    for name, size in (("row", 440), ("drift", 428)):
        for start, stop in ((162, 168), (408, size)):
            assert torch.equal(received[name][start:stop], given[name][start:stop])
    assert same(
        {"other": received["other"], "mass": received["mass"]}, {"other": given["other"], "mass": given["mass"]}
    )


def test_nothing_is_cut_where_nothing_gets_shorter() -> None:
    given = {"row": torch.randn(440)}
    sent, received = Link([PowerSGD(rank=8)], given).send(given)
    assert same(sent, given)
    assert same(received, given)
    assert PowerSGD(rank=8).memory(given, LAYOUT) == {}


def test_tensors_of_more_dimensions_are_first_against_rest() -> None:
    """A convolution as [out, in * height * width]."""
    kernels = Layout((Entry("convolution", (30, 2, 5, 5), 0, True),))
    matrix = normal(4, 30, 50)
    first = generator(0, "power_sgd convolution (30, 2, 5, 5)").standard_normal((50, 2))
    sent = Link([PowerSGD()], row(matrix), kernels).send(row(matrix))[0]
    p = sent["row.p"].numpy().reshape(30, 2)
    np.testing.assert_allclose(p.T @ p, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(p @ (p.T @ (matrix @ first)), matrix @ first, atol=1e-10)
    np.testing.assert_allclose(sent["row.q"].numpy().reshape(50, 2), matrix.T @ p, atol=1e-12)


def test_what_is_remembered() -> None:
    """The directions of Q, in no unit; all senders begin alike, and every matrix in its own way."""
    step = PowerSGD()
    twins = Layout((Entry("a", (20, 20), 0, True), Entry("b", (20, 20), 400, True)))
    like = {"row": torch.zeros(800)}
    first = step.memory(like, twins)
    assert same(first, step.memory(like, twins))
    assert list(first) == ["row.q"]
    assert not torch.equal(first["row.q"][:40], first["row.q"][40:])

    link = Link([step], like, twins)
    sent = link.send({"row": torch.randn(800)})[0]
    for part, was in zip(link.memories[0]["row.q"].split(40), sent["row.q"].split(40), strict=True):
        assert float(part.abs().max()) == 1
        torch.testing.assert_close(part * was.abs().max(), was)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_a_bad_message_is_not_remembered(bad: float) -> None:
    link = Link([PowerSGD()], row(normal(0, 30, 50)), ONE)
    link.send(row(normal(0, 30, 50)))
    before = {name: value.clone() for name, value in link.memories[0].items()}
    link.send({"row": torch.full((1500,), bad, dtype=torch.float64)})
    assert same(link.memories[0], before)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_unit_of_messages_does_not_matter(scale: float) -> None:
    """In float32, where Q would soon be zero or infinite if it kept its length."""
    matrices = [normal(seed, 30, 50) + 5 * normal(99, 30, 50) for seed in range(5)]
    plain, scaled = (Link([PowerSGD()], row(matrices[0], torch.float32), ONE) for _ in range(2))
    for matrix in matrices:
        expected = plain.send(row(matrix, torch.float32))[1]["row"]
        received = scaled.send(row(matrix * scale, torch.float32))[1]["row"]
        torch.testing.assert_close(received / scale, expected, rtol=1e-3, atol=1e-4)


def test_factors_of_narrow_types_are_computed_in_float32() -> None:
    matrix = normal(0, 30, 2) @ normal(1, 2, 50)
    for dtype, tolerance in ((torch.float16, 5e-3), (torch.bfloat16, 4e-2)):
        sent, received = Link([PowerSGD()], row(matrix, dtype), ONE).send(row(matrix, dtype))
        assert {value.dtype for value in (*sent.values(), *received.values())} == {dtype}
        assert np.linalg.norm(received["row"].double().numpy() - matrix.reshape(-1)) < tolerance * np.linalg.norm(
            matrix
        )


def test_a_message_decodes_by_itself() -> None:
    """The receiver needs no memory of the sender's earlier messages."""
    link = Link([PowerSGD()], row(normal(0, 30, 50)), ONE)
    link.send(row(normal(0, 30, 50)))
    sent, received = link.send(row(normal(1, 30, 50)))
    stranger = Passage(ONE, lambda: generator(0, "unused"))
    assert same(link.steps[0].reverse(sent, outline_of(row(normal(0, 30, 50))), stranger), received)


def test_ranks_that_cannot_be() -> None:
    for rank in (0, -1, 1.5):
        with pytest.raises(ValidationError, match="rank"):
            PowerSGD(rank=rank)
