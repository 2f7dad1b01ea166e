"""Rankings: what votes must hold, and wire forms that say any ranking and nothing else in the bits that they claim."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.errors import WireError
from gossamer.layout import Entry, Layout
from gossamer.passages import Passage
from gossamer.randomness import generator
from gossamer.rankings import Packed, borda, elected, ranks_of, scores_of

WIDTHS = [3, 64, 64, 128, 128, 256, 256, 512, 512]
CONV8 = [9 * a * b for a, b in itertools.pairwise(WIDTHS)] + [2048 * 256, 256 * 256, 2560]
LENET = [9 * 32, 9 * 32 * 64, 12544 * 128, 1280]


def layout_of(*sizes: int) -> Layout:
    return Layout(tuple(Entry(f"{i}", (n,), sum(sizes[:i]), True) for i, n in enumerate(sizes)))


def random_ranks(layout: Layout, seed: int = 0) -> Tensor:
    rng = generator(seed, "ranks")
    return torch.from_numpy(np.concatenate([rng.permutation(e.stop - e.start) for e in layout.entries])).int()


def reversed_ranks(ranks_T: Tensor, layout: Layout) -> Tensor:
    return torch.cat([part.numel() - 1 - part for _, part in layout.views(ranks_T)])


def passage(layout: Layout) -> Passage:
    return Passage(layout, lambda: generator(0, "step"))


def sent(ranks_T: Tensor, layout: Layout, step: Packed) -> Tensor:
    return step.forward({"ranks": ranks_T}, passage(layout))["ranks"]


def heard(stream: Tensor, layout: Layout, step: Packed) -> Tensor:
    return step.reverse({"ranks": stream}, {"ranks": stream}, passage(layout))["ranks"]


def is_ranking(ranks_T: Tensor, layout: Layout) -> bool:
    return all(part.sort().values.tolist() == list(range(part.numel())) for _, part in layout.views(ranks_T))


layouts = st.lists(st.integers(1, 300), min_size=1, max_size=4).map(lambda sizes: layout_of(*sizes))
seeds = st.integers(0, 2**32)
patient = settings(deadline=None)

# ---- scores and rankings -----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1e-30, 3.0, math.inf, -math.inf]), min_size=1, max_size=40))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_are_those_of_a_stable_sort(dtype: torch.dtype, values: list[float]) -> None:
    scores_T = torch.tensor(values, dtype=dtype)
    ranks_T = ranks_of(scores_T, layout_of(len(values)))
    order = sorted(range(len(values)), key=lambda edge: (scores_T[edge].item(), edge))
    assert ranks_T.dtype == torch.int32
    assert [int(ranks_T[edge]) for edge in order] == list(range(len(values)))


def test_layers_are_ranked_apart_and_nan_with_infinity() -> None:
    layout = layout_of(3, 2)
    assert ranks_of(torch.tensor([0.3, -5.0, 0.1, 9.0, 8.0]), layout).tolist() == [2, 0, 1, 1, 0]
    assert ranks_of(torch.tensor([math.nan, math.inf, -math.nan, 1.0, math.nan]), layout).tolist() == [0, 1, 2, 0, 1]


@given(layouts, seeds)
@patient
def test_scores_are_dealt_out_by_position(layout: Layout, seed: int) -> None:
    start_T = torch.from_numpy(generator(seed, "scores").normal(size=layout.trainable).round(1))
    ranks_T = random_ranks(layout, seed)
    scores_T = scores_of(ranks_T, start_T, layout)
    for entry in layout.entries:
        part = slice(entry.start, entry.stop)
        assert sorted(scores_T[part].tolist()) == sorted(start_T[part].tolist())
        assert scores_T[part].tolist() == [sorted(start_T[part].tolist())[r] for r in ranks_T[part].tolist()]
    own = scores_of(ranks_of(start_T, layout), start_T, layout)
    torch.testing.assert_close(own, start_T, rtol=0, atol=0)


def test_all_of_it_works_without_numbers() -> None:
    layout = layout_of(5, 3)
    row_T = torch.empty(8, device="meta")
    ranks_T = ranks_of(row_T, layout)
    assert (ranks_T.is_meta, ranks_T.dtype, ranks_T.shape) == (True, torch.int32, row_T.shape)
    assert scores_of(ranks_T, row_T, layout).is_meta
    assert elected(torch.empty(8, dtype=torch.float64, device="meta"), layout).is_meta


# ---- votes -------------------------------------------------------------------------------------------------------


@given(layouts, seeds, st.integers(1, 7))
@patient
def test_identical_rankings_elect_themselves(layout: Layout, seed: int, voters: int) -> None:
    ranks_T = random_ranks(layout, seed)
    assert torch.equal(borda(ranks_T.expand(voters, -1), layout), ranks_T)


@given(layouts, seeds, st.integers(2, 7))
@patient
def test_a_vote_is_a_stable_sort_of_sums_whoever_comes_first(layout: Layout, seed: int, voters: int) -> None:
    ranks_UT = torch.stack([random_ranks(layout, seed + u) for u in range(voters)])
    result_T = borda(ranks_UT, layout)
    for entry, part_Un in zip(layout.entries, (part for _, part in layout.views(ranks_UT)), strict=True):
        total = part_Un.sum(0).tolist()
        order = sorted(range(len(total)), key=lambda edge: (total[edge], edge))
        assert result_T[entry.start : entry.stop][order].tolist() == list(range(len(total)))
    shuffled = torch.from_numpy(generator(seed, "order").permutation(voters))
    assert torch.equal(borda(ranks_UT[shuffled], layout), result_T)


@pytest.mark.parametrize("voters", [9, 10])
def test_reversal_wins_exactly_from_half_of_the_votes(voters: int) -> None:
    layout = layout_of(40, 7)
    honest_T = random_ranks(layout)
    reversed_T = reversed_ranks(honest_T, layout)
    by_number = torch.cat([torch.arange(40), torch.arange(7)]).int()
    for f in range(voters + 1):
        ranks_UT = torch.stack([reversed_T] * f + [honest_T] * (voters - f))
        wins = honest_T if 2 * f < voters else reversed_T if 2 * f > voters else by_number
        assert torch.equal(borda(ranks_UT, layout), wins), f


def test_other_numbers_for_the_edges_make_no_difference() -> None:
    layout, seen = layout_of(9), 0
    for seed in range(200):
        ranks_UT = torch.stack([random_ranks(layout, 10 * seed + u) for u in range(2 + seed % 5)])
        if len(set(ranks_UT.sum(0).tolist())) < 9:
            continue  # Ties go by the numbers.
        relabelled = torch.from_numpy(generator(seed, "labels").permutation(9))
        assert torch.equal(borda(ranks_UT[:, relabelled], layout), borda(ranks_UT, layout)[relabelled])
        seen += 1
    assert seen > 10


def test_sums_that_differ_by_rounding_alone_tie() -> None:
    # Each edge gets each of the positions 0 to 9 once, in another order.
    votes_T = torch.zeros(10, dtype=torch.float64)
    for u in range(10):
        votes_T += torch.arange(10).roll(u).double() / 7
    assert len(set(votes_T.tolist())) > 1
    assert elected(votes_T, layout_of(10)).tolist() == list(range(10))
    assert elected(votes_T + torch.tensor([1e-5] + [0.0] * 9), layout_of(10)).tolist() == [9, *range(9)]


@pytest.mark.parametrize(("k", "overlap"), [(0.25, 0.0), (0.5, 0.0), (0.8, 0.75)])
def test_the_best_and_the_worst_edges_overlap_as_little_as_they_must(k: float, overlap: float) -> None:
    assert overlap == pytest.approx(max(0.0, 2 * k - 1) / k)
    ranks_T = random_ranks(layout_of(400))
    kept = round(400 * k)
    top, bottom = ranks_T >= 400 - kept, reversed_ranks(ranks_T, layout_of(400)) >= 400 - kept
    assert int((top & bottom).sum()) / kept == pytest.approx(overlap)


# ---- on the wire -------------------------------------------------------------------------------------------------


@given(layouts, seeds, st.sampled_from([Packed(), Packed("optimal")]))
@patient
def test_a_ranking_comes_back(layout: Layout, seed: int, step: Packed) -> None:
    ranks_T = random_ranks(layout, seed)
    kept = ranks_T.clone()
    stream = sent(ranks_T, layout, step)
    outline = step.outline({"ranks": ranks_T.to("meta")}, layout)["ranks"]
    assert (outline.is_meta, outline.dtype, outline.shape) == (True, stream.dtype, stream.shape)
    back_T = heard(stream, layout, step)
    assert back_T.dtype == torch.int32
    assert torch.equal(back_T, ranks_T)
    assert torch.equal(ranks_T, kept)


@pytest.mark.parametrize("coder", ["packed", "optimal"])
def test_every_ranking_of_few_edges_has_its_own_form(coder: str) -> None:
    layout, step = layout_of(5), Packed(coder)  # type: ignore[arg-type]
    forms = set()
    for order in itertools.permutations(range(5)):
        ranks_T = torch.tensor(order, dtype=torch.int32)
        stream = sent(ranks_T, layout, step)
        assert torch.equal(heard(stream, layout, step), ranks_T)
        forms.add(tuple(stream.tolist()))
    assert len(forms) == 120


@given(layouts, seeds, st.floats(0.001, 1))
@patient
def test_only_the_top_is_sent_and_keeps_its_positions(layout: Layout, seed: int, top: float) -> None:
    ranks_T, step = random_ranks(layout, seed), Packed(top=top)
    stream = sent(ranks_T, layout, step)
    back_T = heard(stream, layout, step)
    size = 0
    for entry in layout.entries:
        n, part = entry.stop - entry.start, slice(entry.start, entry.stop)
        m = max(1, math.ceil(round(top * n, 9)))
        size += math.ceil(m * math.ceil(math.log2(n)) / 8)
        assert back_T[part].tolist() == [rank if rank >= n - m else 0 for rank in ranks_T[part].tolist()]
    assert len(stream) == size


@pytest.mark.parametrize(
    ("sizes", "edges", "payload", "megabytes"),
    [(LENET, 1_625_632, 4_251_428, 4.25), (CONV8, 5_275_840, 13_704_264, 13.70)],
    ids=["lenet", "conv8"],
)
def test_bytes_of_the_networks_of_the_paper(sizes: list[int], edges: int, payload: int, megabytes: float) -> None:
    layout = layout_of(*sizes)
    like = {"ranks": torch.empty(edges, dtype=torch.int32, device="meta")}
    assert sum(sizes) == edges
    packed = Packed().outline(like, layout)["ranks"].numel()
    assert packed == payload == sum(math.ceil(n * math.ceil(math.log2(n)) / 8) for n in sizes)
    assert round(packed / 1e6, 2) == megabytes
    least = sum(math.lgamma(n + 1) for n in sizes) / math.log(2) / 8
    assert 1 <= Packed("optimal").outline(like, layout)["ranks"].numel() / least < 1.01


def test_the_optimal_coder_is_within_three_percent_of_the_least() -> None:
    step = Packed("optimal")
    for n in [*range(1000, 5000), *range(5000, 200_000, 331)]:
        least = math.lgamma(n + 1) / math.log(2)
        assert least <= 8 * step.layer_bytes(n) < 1.03 * least, n


def test_small_layers_take_exactly_the_least_bytes() -> None:
    # Up to 20 edges a ranking is one number below n! < 2^63.
    for n in range(1, 21):
        assert Packed("optimal").layer_bytes(n) == math.ceil((math.factorial(n) - 1).bit_length() / 8), n


@pytest.mark.parametrize("step", [Packed(), Packed("optimal"), Packed(top=0.3)], ids=["packed", "optimal", "top"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whatever_is_written_in_a_forged_message_is_a_ranking(step: Packed, dtype: torch.dtype) -> None:
    layout = layout_of(130, 1, 6)
    rng = generator(1, "forged")
    junk_T = torch.from_numpy(rng.choice([math.nan, math.inf, -math.inf, 0.0, 1e300, -3.0], size=137)).to(dtype)
    received_T = heard(sent(junk_T, layout, step), layout, step)
    whole_T = ranks_of(junk_T, layout)
    assert is_ranking(whole_T, layout)
    assert torch.equal(received_T, heard(sent(whole_T, layout, step), layout, step))


def test_other_fields_go_on_as_they_are() -> None:
    layout, step, note = layout_of(6), Packed(), torch.tensor([1.5])
    message = step.forward({"ranks": random_ranks(layout), "note": note}, passage(layout))
    assert message["note"] is note
    assert step.reverse(message, message, passage(layout))["note"] is note


@pytest.mark.parametrize("step", [Packed(), Packed("optimal"), Packed(top=0.5)], ids=["packed", "optimal", "top"])
@pytest.mark.parametrize("sizes", [[4], [5, 3], [100], [300, 7]], ids=str)
def test_any_bytes_are_a_ranking_or_refused(step: Packed, sizes: list[int]) -> None:
    layout = layout_of(*sizes)
    good, rng, refused = sent(random_ranks(layout), layout, step), generator(0, "bytes"), 0
    for trial in range(300):
        stream = good.clone()
        if trial % 2:
            stream[int(rng.integers(len(stream)))] ^= 1 << int(rng.integers(8))
        else:
            stream = torch.from_numpy(rng.integers(0, 256, len(stream), dtype=np.uint8))
        try:
            ranks_T = heard(stream, layout, step)
        except WireError:
            refused += 1
            continue
        assert is_ranking(ranks_T, layout) or step.top < 1
        assert torch.equal(heard(sent(ranks_T, layout, step), layout, step), ranks_T)
    assert refused > 20


def test_what_is_wrong_with_a_ranking_is_said() -> None:
    six = layout_of(6)  # 3 bits an edge: numbers 6 and 7 are none.
    with pytest.raises(WireError, match="edge 7 in a layer of 6 edges"):
        heard(torch.full((3,), 255, dtype=torch.uint8), six, Packed())
    with pytest.raises(WireError, match="an edge is listed twice in a layer of 6 edges"):
        heard(torch.zeros(3, dtype=torch.uint8), six, Packed())
    with pytest.raises(WireError, match="listed twice"):
        heard(torch.zeros(2, dtype=torch.uint8), six, Packed(top=0.5))
    with pytest.raises(WireError, match="stands for no order of 6 places"):
        heard(torch.full((2,), 255, dtype=torch.uint8), six, Packed("optimal"))
    hundred = layout_of(100)
    stream = sent(random_ranks(hundred), hundred, Packed("optimal"))
    stream[0] ^= 1  # The first edge is now in the other bucket.
    with pytest.raises(WireError, match="buckets do not hold as many as they must"):
        heard(stream, hundred, Packed("optimal"))
