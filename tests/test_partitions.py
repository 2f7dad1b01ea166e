"""Partitions: what is dealt, to whom, and what is refused.

M items, N nodes, C classes. `histogram_NC[i, c]` counts the items of class c at node i.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gossamer.errors import ExperimentError
from gossamer.partitions import Array, Partition, Parts
from gossamer.partitions.dirichlet import Dirichlet
from gossamer.partitions.dirichlet_pool import DirichletPool
from gossamer.partitions.iid import IID
from gossamer.partitions.label_count import LabelCount
from gossamer.partitions.natural import Natural
from gossamer.partitions.quantity import Quantity
from gossamer.partitions.shards import LabelShards
from gossamer.randomness import generator

LABELS_M = np.repeat(np.arange(10), 60)[np.random.default_rng(5).permutation(600)]
GROUPS_M = np.random.default_rng(6).integers(0, 12, size=600)
SPLITTING: list[Partition] = [
    IID(),
    Dirichlet(alpha=0.5, min_size=5),
    Quantity(alpha=0.5, min_size=5),
    LabelShards(per_node=2),
    LabelCount(classes=3),
]
BY_LABEL: list[Partition] = [Dirichlet(), DirichletPool(), LabelShards(), LabelCount()]
ids: Callable[[object], str] = lambda plug: getattr(plug, "kind", str(plug))  # noqa: E731


def deal(plug: Partition, nodes: int | None = 12, seed: int = 0, labels: Array = LABELS_M) -> Parts:
    return plug.deal(labels, GROUPS_M[: len(labels)], nodes, generator(seed, "partition"))


def histogram(parts: Parts, labels: Array = LABELS_M) -> Array:
    return np.stack([np.bincount(labels[items], minlength=10) for items in parts.items])


@pytest.mark.parametrize("plug", SPLITTING, ids=ids)
@settings(max_examples=25, deadline=None)
@given(nodes=st.integers(4, 30), seed=st.integers(0, 2**40))
def test_every_item_is_dealt_exactly_once(plug: Partition, nodes: int, seed: int) -> None:
    parts = deal(plug, nodes, seed)
    assert len(parts.items) == nodes
    assert all(items.dtype == np.int64 and len(items) > 0 for items in parts.items)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts.items)), np.arange(600))
    assert parts.draw_NC is None


@pytest.mark.parametrize("plug", [*SPLITTING, Natural(), DirichletPool(resample=False)], ids=ids)
def test_the_generator_alone_decides(plug: Partition) -> None:
    first, again, other = deal(plug, 8, 1), deal(plug, 8, 1), deal(plug, 8, 2)
    assert all(np.array_equal(a, b) for a, b in zip(first.items, again.items, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first.items, other.items, strict=True))


@pytest.mark.parametrize("plug", [*SPLITTING, DirichletPool(resample=False)], ids=ids)
def test_the_names_of_the_classes_do_not_matter(plug: Partition) -> None:
    """Labels 0..9 and 100, 107, ... deal the same items: only which items share a label counts."""
    plain, renamed = deal(plug), deal(plug, labels=LABELS_M * 7 + 100)
    assert all(np.array_equal(a, b) for a, b in zip(plain.items, renamed.items, strict=True))


@settings(max_examples=25, deadline=None)
@given(nodes=st.integers(1, 600))
def test_iid_sizes_differ_by_one_at_most(nodes: int) -> None:
    sizes = [len(items) for items in deal(IID(), nodes).items]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=50, deadline=None)
@given(alpha=st.floats(0.3, 100), min_size=st.integers(1, 10), seed=st.integers(0, 1000))
def test_min_size_holds(alpha: float, min_size: int, seed: int) -> None:
    for plug in (Dirichlet(alpha=alpha, min_size=min_size), Quantity(alpha=alpha / 10, min_size=min_size)):
        assert min(len(items) for items in deal(plug, 12, seed).items) >= min_size


@settings(max_examples=25, deadline=None)
@given(min_size=st.integers(1, 50), seed=st.integers(0, 1000))
def test_quantity_can_always_meet_a_minimum_that_fits(min_size: int, seed: int) -> None:
    sizes = [len(items) for items in deal(Quantity(alpha=0.01, min_size=min_size), 600 // min_size, seed).items]
    assert sum(sizes) == 600
    assert min(sizes) >= min_size


def test_dirichlet_shares_have_the_moments_of_the_dirichlet() -> None:
    """Share of a class at a node: mean 1/N, variance (1/N)(1 - 1/N)/(N alpha + 1). 40 splits x 10 classes x 5 nodes."""
    labels, nodes, alpha = np.repeat(np.arange(10), 1000), 5, 0.5
    plug = Dirichlet(alpha=alpha, min_size=1)
    shares = np.stack([histogram(deal(plug, nodes, s, labels), labels) / 1000 for s in range(40)])
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert abs(shares.mean() - 1 / nodes) < 1e-12
    expected = (1 / nodes) * (1 - 1 / nodes) / (nodes * alpha + 1)
    assert shares.var() == pytest.approx(expected, rel=0.1)
    # One share alone is Beta(alpha, (N - 1) alpha); the counts round it to thousandths.
    one_node = shares[:, 0].ravel()
    assert stats.kstest(one_node, stats.beta(alpha, (nodes - 1) * alpha).cdf).pvalue > 0.01


def test_small_alpha_is_uneven_and_large_alpha_even() -> None:
    def spread(alpha: float) -> float:
        return float(histogram(deal(Dirichlet(alpha=alpha, min_size=1))).std())

    assert spread(0.1) > 2 * spread(1) > 4 * spread(1000)
    assert spread(1e6) < 0.51


def test_pool_shares_all_items_and_draws_from_a_dirichlet() -> None:
    labels = LABELS_M * 2
    parts = deal(DirichletPool(alpha=0.3), 2000, labels=np.tile(labels, 4)[:2000])
    assert parts.draw_NC is not None
    assert parts.draw_NC.shape == (2000, 19)
    assert (parts.draw_NC[:, 1::2] == 0).all(), "labels that no item has are never drawn"
    np.testing.assert_allclose(parts.draw_NC.sum(axis=1), 1)
    present = parts.draw_NC[:, ::2]
    assert present.var() == pytest.approx(0.1 * 0.9 / (10 * 0.3 + 1), rel=0.05)
    assert all(items is parts.items[0] for items in parts.items), "one array, not one a node"
    np.testing.assert_array_equal(parts.items[0], np.arange(2000))
    assert parts.sizes == (1,) * 2000


def test_pool_drawn_once_has_the_probabilities_of_the_resampled_pool() -> None:
    """Same generator, same pi: the labels of 20,000 fixed items follow draw_NC; items are uniform within a class."""
    resampled = deal(DirichletPool(size=20_000), 4)
    fixed = deal(DirichletPool(size=20_000, resample=False), 4)
    assert resampled.draw_NC is not None
    assert resampled.sizes == (20_000,) * 4
    np.testing.assert_allclose(histogram(fixed) / 20_000, resampled.draw_NC, atol=0.015)
    counts_M = np.bincount(fixed.items[0], minlength=600)
    largest = int(resampled.draw_NC[0].argmax())
    of_class = counts_M[largest == LABELS_M]
    assert stats.chisquare(of_class).pvalue > 1e-3


def test_shards_follow_mcmahan() -> None:
    """600 items, 20 nodes, 2 shards each: 40 shards of 15 items in label order, so a shard has one class (60 / 15)."""
    parts = deal(LabelShards(per_node=2), 20)
    assert all(len(items) == 30 for items in parts.items)
    counts_NC = histogram(parts)
    assert set(np.unique(counts_NC)) <= {0, 15, 30}
    assert ((counts_NC > 0).sum(axis=1) <= 2).all()


@settings(max_examples=40, deadline=None)
@given(nodes=st.integers(1, 40), classes=st.integers(1, 10), seed=st.integers(0, 1000))
def test_label_count_is_exact_balanced_and_covers_all(nodes: int, classes: int, seed: int) -> None:
    if nodes * classes < 10:
        with pytest.raises(ExperimentError, match="at least"):
            deal(LabelCount(classes=classes), nodes, seed)
        return
    counts_NC = histogram(deal(LabelCount(classes=classes), nodes, seed))
    assert ((counts_NC > 0).sum(axis=1) == classes).all()
    owners_C = (counts_NC > 0).sum(axis=0)
    assert owners_C.min() >= 1
    assert owners_C.max() - owners_C.min() <= 1
    for counts_N in counts_NC.T:
        own = counts_N[counts_N > 0]
        assert own.max() - own.min() <= 1


def test_quantity_skews_sizes_but_not_labels() -> None:
    labels = np.tile(np.arange(10), 2000)
    counts_NC = histogram(deal(Quantity(alpha=0.5), 10, labels=labels), labels)
    sizes_N = counts_NC.sum(axis=1)
    assert sizes_N.max() > 5 * sizes_N.min()
    assert stats.chi2_contingency(counts_NC).pvalue > 1e-3


def test_natural_deals_groups_and_knows_them() -> None:
    sizes = np.bincount(GROUPS_M)
    parts = deal(Natural(min_size=int(np.median(sizes))), None)
    expected = np.flatnonzero(sizes >= int(np.median(sizes)))
    assert parts.names == tuple(str(group) for group in expected)
    for group, items in zip(expected, parts.items, strict=True):
        np.testing.assert_array_equal(items, np.flatnonzero(group == GROUPS_M))
    few = deal(Natural(), 3)
    assert len(few.items) == len(set(few.names)) == 3
    for name, items in zip(few.names, few.items, strict=True):
        np.testing.assert_array_equal(items, np.flatnonzero(int(name) == GROUPS_M))


def test_sequences_can_be_split_without_labels() -> None:
    labels_ML = np.zeros((600, 80), np.int64)
    for plug in (IID(), Quantity(), Natural()):
        assert sum(map(len, deal(plug, 4, labels=labels_ML).items)) <= 600


@pytest.mark.parametrize("plug", BY_LABEL, ids=ids)
def test_label_partitions_refuse_sequences(plug: Partition) -> None:
    with pytest.raises(ExperimentError, match="use 'natural', 'iid' or 'quantity'"):
        deal(plug, 4, labels=np.zeros((600, 80), np.int64))


@pytest.mark.parametrize(
    ("plug", "nodes", "message"),
    [
        (IID(), 601, "nodes = 601 is too many for partition = 'iid': there are 600 training items"),
        (Dirichlet(min_size=10), 61, "each needs at least 10; use 60 nodes or fewer"),
        (Quantity(min_size=10), 61, "use 60 nodes or fewer"),
        (LabelShards(per_node=2), 301, "use 300 nodes or fewer"),
        (DirichletPool(), 601, "use 600 nodes or fewer"),
        (LabelCount(classes=11), 5, "partition.classes = 11 .* at least 2 and at most 10"),
        (LabelCount(classes=1), 5, "it must be at least 2"),
        (Dirichlet(alpha=0.01, min_size=20), 25, "alpha = 0.01 .* nodes = 25 has min_size = 20"),
        (Natural(min_size=500), None, "of 12 natural groups 0 have partition.min_size = 500"),
        (Natural(min_size=1), 13, "nodes = 13: of 12 natural groups 12"),
        *[(plug, None, "nodes is not given") for plug in (*SPLITTING, DirichletPool())],
    ],
    ids=ids,
)
def test_impossible_requests_are_named(plug: Partition, nodes: int | None, message: str) -> None:
    with pytest.raises(ExperimentError, match=message) as error:
        deal(plug, nodes)
    assert "\n" not in str(error.value)


def test_a_class_too_small_for_its_nodes_is_named() -> None:
    labels = np.array([0] * 2 + [1] * 98)
    with pytest.raises(ExperimentError, match=r"has 2 items: lower partition\.classes or nodes"):
        LabelCount(classes=2).deal(labels, None, 10, generator(0, "partition"))


def test_natural_without_groups_says_where_there_are_some() -> None:
    with pytest.raises(ExperimentError, match="shakespeare"):
        Natural().deal(LABELS_M, None, 5, generator(0, "partition"))


@pytest.mark.parametrize("plug", [Dirichlet, DirichletPool, Quantity])
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_alpha_must_be_positive(plug: type[Partition], alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        plug(alpha=alpha)  # type: ignore[call-arg]
