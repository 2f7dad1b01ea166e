"""Top-k and random-k: which coordinates travel, in how many bytes, and what is lost with the others."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError
from transform_table import LAYOUT, Link, outline_of, same

from gossamer.bits import pack, unpack
from gossamer.errors import ExperimentError, WireError
from gossamer.passages import Passage
from gossamer.randomness import generator
from gossamer.transforms import RandomK, TopK, Transform
from gossamer.transforms.top_k import SAMPLE, largest

Array = np.ndarray[Any, Any]


def passage(seed: int = 0) -> Passage:
    return Passage(LAYOUT, lambda: generator(seed, "sparse"))


def normal(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(n)).to(dtype)


def by_sorting(values: Array, k: int) -> list[int]:
    """The first k of a stable sort by descending magnitude, NaN first, in ascending order."""
    sizes = np.where(np.isnan(values), np.inf, np.abs(values))
    keys = np.lexsort((np.arange(len(values)), -sizes, ~np.isnan(values)))
    return sorted(keys[:k].tolist())


# Few different values, so that there are ties, and all the odd ones.
ODD = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, -2.5, math.nan, math.inf, -math.inf, 1e-45, -3e38, 7e-6])


@given(
    values=st.one_of(
        arrays.arrays(np.float32, st.integers(1, 60), elements=ODD.map(np.float32)),
        arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32)),
    ),
    share=st.floats(0.01, 1),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
)
@example(values=np.zeros(50, np.float32), share=0.5, dtype=torch.float32)
@settings(max_examples=300, deadline=None)
def test_the_largest_are_those_of_a_sort(values: Array, share: float, dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(np.where(np.isnan(values), np.float32(np.nan), values)).to(dtype)
    k = max(1, math.ceil(share * len(values)))
    assert largest(tensor, k).tolist() == by_sorting(tensor.double().numpy(), k)


N = 3 * SAMPLE
SHAPES: dict[str, Array] = {
    "normal": np.random.default_rng(0).standard_normal(N),
    "all the same": np.full(N, -2.0),
    "ascending": np.arange(N) / N,
    "a few large ones in one place": np.where(np.arange(N) < 40, 1e6, 1.0) * np.random.default_rng(1).random(N),
    "columns of a matrix": np.random.default_rng(2).standard_normal(N) * np.tile(2.0 ** -np.arange(64), N // 64),
    "mostly zero": np.random.default_rng(3).standard_normal(N) * (np.random.default_rng(4).random(N) < 0.003),
    # Where a sample of this size looks; everything else is small.
    "what the sample shows": np.random.default_rng(6).random(N)
    + 9 * np.isin(np.arange(N), np.arange(N // 16 + 1) * 2_654_435_761 % N),
    "three values": np.random.default_rng(5).integers(-1, 2, N).astype(float),
}


@pytest.mark.parametrize("k", [1, 63, N // 100, N // 2, N - 1, N])
@pytest.mark.parametrize("name", SHAPES)
def test_a_sample_of_a_large_message_misleads_nobody(name: str, k: int) -> None:
    values = SHAPES[name].astype(np.float32)
    order = np.argsort(-np.abs(values), kind="stable")[:k]
    np.testing.assert_array_equal(largest(torch.from_numpy(values), k).numpy(), np.sort(order))


@given(n=st.integers(2, 3000), share=st.floats(1e-4, 1), double=st.booleans())
@settings(max_examples=60, deadline=None)
def test_bytes(n: int, share: float, double: bool) -> None:
    """k numbers, and k indices of ceil(log2 n) bits for top-k; random indices cost nothing."""
    given = {"row": normal(n, dtype=torch.float64 if double else torch.float32)}
    k = max(1, math.ceil(share * n * (1 - 1e-12)))
    width = next(bits for bits in range(1, 64) if 2**bits >= n)
    sent = TopK(share=share).forward(given, passage())
    assert sent["row.values"].shape == (k,)
    assert sent["row.values"].dtype == given["row"].dtype
    assert sent["row.indices"].dtype == torch.uint8
    assert sent["row.indices"].shape == (math.ceil(k * width / 8),)
    sent = RandomK(share=share).forward(given, passage())
    assert list(sent) == ["row.values"]
    assert sent["row.values"].shape == (k,)


@pytest.mark.parametrize("sparse", [TopK, RandomK])
@pytest.mark.parametrize(
    ("settings", "n", "k"),
    [
        ({}, 5_275_840, 52_759),
        ({}, 2, 1),
        ({"share": 0.07}, 100, 7),  # 0.07 * 100 is 7.000000000000001
        ({"share": 0.07}, 101, 8),
        ({"share": 1.0}, 33, 33),
        ({"share": 1e-9}, 33, 1),
        ({"count": 5}, 33, 5),
        ({"count": 50}, 33, 33),
    ],
)
def test_how_many(sparse: type[TopK], settings: dict[str, Any], n: int, k: int) -> None:
    assert sparse(**settings).kept(n) == k
    assert sparse(**settings).outline({"x": torch.empty(n, device="meta")}, LAYOUT)["x.values"].shape == (k,)


@pytest.mark.parametrize("sparse", [TopK, RandomK])
def test_settings_that_cannot_be(sparse: type[TopK]) -> None:
    for wrong in ({"share": 0}, {"share": 1.1}, {"share": math.nan}, {"count": 0}, {"count": 2.5}, {"k": 3}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            sparse(**wrong)
    with pytest.raises(ExperimentError, match=r"share = 0.1 and count = 3 say the same thing; give one"):
        sparse(share=0.1, count=3)


@pytest.mark.parametrize("step", [TopK(), TopK(count=3), TopK(share=0.2), RandomK(count=4, rescale=False, common=True)])
def test_settings_survive_a_file(step: Transform) -> None:
    table = tomllib.loads(tomli_w.dumps(step.dumped()))
    assert type(step).model_validate(table) == step


def test_what_top_k_loses() -> None:
    """Its squared length is that of the n - k smallest, and so at most 1 - k/n of all; equality where all are equal."""
    for values, k in ((normal(1000), 100), (torch.full((50,), -3.0), 20), (normal(64, dtype=torch.float64), 1)):
        received = Link([TopK(count=k)], {"row": values}).send({"row": values})[1]["row"]
        lost = float((values - received).double().square().sum())
        smallest = np.sort(values.double().square().numpy())[: len(values) - k]
        assert lost == pytest.approx(smallest.sum(), rel=1e-6)
        assert lost <= (1 - k / len(values)) * float(values.double().square().sum()) * (1 + 1e-6)
        assert int((received != 0).sum()) == k


@pytest.mark.parametrize(
    "indices",
    [[3, 3, 5], [5, 3, 4], [0, 1, 100], [0, 1, 127], [0, 0, 0]],
    ids=["twice", "order", "100", "127", "zeros"],
)
def test_indices_that_make_no_sense_are_refused(indices: list[int]) -> None:
    like = {"row": torch.empty(100, device="meta")}
    step = TopK(count=3)
    wire = {"row.values": torch.ones(3), "row.indices": pack(torch.tensor(indices), 7)}
    with pytest.raises(WireError, match="top_k: the indices of 'row' are not ascending numbers below 100"):
        step.reverse(wire, like, passage())
    wire["row.indices"] = pack(torch.tensor([0, 7, 99]), 7)
    assert step.reverse(wire, like, passage())["row"].nonzero()[:, 0].tolist() == [0, 7, 99]


def test_indices_on_the_wire() -> None:
    """As another implementation would write them: ascending, 4 bits each here, the first in the low bits."""
    given = {"row": torch.tensor([[0.0, -9, 1, 0, 0], [0, 0, 8, 0, 7]])}
    sent = TopK(count=3).forward(given, passage())
    assert sent["row.values"].tolist() == [-9, 8, 7]
    assert sent["row.indices"].tolist() == [1 | 7 << 4, 9]
    assert unpack(sent["row.indices"], 4, 3).tolist() == [1, 7, 9]


@pytest.mark.parametrize(("rescale", "factor"), [(True, 1000 / 50 - 1), (False, 1 - 50 / 1000)])
def test_what_random_k_loses_on_average(rescale: bool, factor: float) -> None:
    """E ||x - decoded||^2 = (n/k - 1) ||x||^2 rescaled, (1 - k/n) ||x||^2 as it is; five standard errors."""
    values, step = normal(1000), RandomK(count=50, rescale=rescale)
    losses = []
    for seed in range(400):
        received = Link([step], {"row": values}, seed=seed).send({"row": values})[1]["row"]
        losses.append(float((values - received).square().sum() / values.square().sum()))
    assert abs(np.mean(losses) - factor) < 5 * np.std(losses) / 20


def test_every_coordinate_is_drawn_as_often() -> None:
    """Chi-squared with n - 1 degrees of freedom, less than five standard deviations above its mean."""
    n, k, draws = 100, 10, 2000
    counts = np.zeros(n)
    for seed in range(draws):
        given = {"row": torch.arange(n).float()}
        drawn = RandomK(count=k).forward(given, passage(seed))["row.values"].numpy().astype(int)
        assert len(set(drawn)) == k
        counts[drawn] += 1
    expected = draws * k / n
    # Drawn without replacement, so the variance of a count is that of draws coin tosses.
    chi = ((counts - expected) ** 2 / (expected * (1 - k / n))).sum() * (n - 1) / n
    assert abs(chi - (n - 1)) < 5 * math.sqrt(2 * (n - 1))


def test_both_ends_draw_the_same_in_any_order_of_fields() -> None:
    given = {"b": normal(50, 1), "a": normal(70, 2), "c": torch.tensor(3.0)}
    step = RandomK(share=0.2, rescale=False)
    sent = step.forward(given, passage(5))
    back = {name: given[name] for name in ("c", "a", "b")}
    assert same(step.forward(back, passage(5)), sent)
    received = step.reverse(sent, outline_of(back), passage(5))
    for name in "ab":
        there = received[name] != 0
        assert int(there.sum()) == step.kept(len(given[name]))
        assert torch.equal(received[name][there], given[name][there])
    assert received["c"] == 3
    assert not same(step.forward(given, passage(6)), sent)


def test_common_coordinates_add_up() -> None:
    """The mean of what 8 nodes send, decoded, is right on average for their mean, and exact on what was drawn."""
    step = RandomK(share=0.25, common=True)
    rows = [{"row": normal(40, seed, torch.float64)} for seed in range(8)]
    sent = [step.forward(row, passage(9))["row.values"] for row in rows]
    received = step.reverse({"row.values": sum(sent[1:], sent[0]) / 8}, outline_of(rows[0]), passage(9))["row"]
    mean = sum((row["row"] for row in rows[1:]), rows[0]["row"]) / 8
    there = received != 0
    assert int(there.sum()) == 10
    torch.testing.assert_close(received[there], 4 * mean[there])
