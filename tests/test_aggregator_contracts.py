"""What every robust rule promises, against a table of what the literature says of each.

The table is written out here: a rule says nothing about itself. A new rule needs a line, and every statement of a line
is put to the test, in both directions where that is possible: a rule without a breakdown point must break.

Shapes: N updates of D numbers, the first N - f honest, the first of all the receiver's own where a rule needs one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import robust_oracles as oracles
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gossamer.aggregators as rules
from gossamer.aggregators import Aggregator, Robust, Tolerant
from gossamer.errors import AggregationError
from gossamer.plugs import discover
from gossamer.preaggregators import PreAggregator
from gossamer.preaggregators.arc import ARC
from gossamer.preaggregators.bucketing import Bucketing
from gossamer.preaggregators.clipping import Clipping
from gossamer.preaggregators.nnm import NNM

Array = np.ndarray[Any, Any]
N, F, D = 11, 2, 12
"""Enough updates for Bulyan, which needs 4 f + 3; more dimensions than updates, so that Flag leaves some out."""


@dataclass(frozen=True)
class Line:
    """What is known of a rule."""

    make: Callable[[int], Aggregator]
    """The rule for f hostile updates."""
    holds: str
    """identical: n copies of g give g; order, shift, scale (by a positive number), rotation: equivariant to it (order:
    of all but the own); mean: f = 0 is the mean; weights: they count."""
    reach: Callable[[Array, Array], bool] | None = None
    """Where an output may be, given the honest updates, whatever fewer than f + 1 others say; None: anywhere."""
    hostile: str = "same scattered"
    """Whether that is so for hostile updates in one place, or in many."""
    least: Callable[[int], int] | None = None
    """Fewest updates for f hostile ones; None: the rule is told no f."""
    kappa: Callable[[int, int], float] | None = None
    """(f, kappa)-robustness for n and f: ||rule - mean_S||^2 <= kappa/|S| sum_S ||x_i - mean_S||^2 for all honest S."""
    own: bool = False
    """Whether it needs the receiver's own update."""
    wasted: Callable[[int], int] = lambda n: (n - 1) // 2
    """How many of n updates may be NaN where the rule is told no f."""


SLACK = 1e-6
"""Relative, for rounding in float32: one part in 1e18 of an update of 1e12."""


def box(out: Array, honest: Array) -> bool:
    """Between the smallest and the largest honest value of every coordinate."""
    slack = SLACK * np.abs(honest).max()
    return bool(((honest.min(0) - slack <= out) & (out <= honest.max(0) + slack)).all())


def radius(factor: float) -> Callable[[Array, Array], bool]:
    """So many times the largest honest distance away from the honest mean."""

    def within(out: Array, honest: Array) -> bool:
        farthest = np.linalg.norm(honest - honest.mean(0), axis=1).max()
        return bool(np.linalg.norm(out - honest.mean(0)) <= factor * farthest + SLACK * np.abs(honest).max())

    return within


def length(factor: float) -> Callable[[Array, Array], bool]:
    """No longer than so many times the longest honest update."""
    return lambda out, honest: np.linalg.norm(out) <= factor * (1 + SLACK) * np.linalg.norm(honest, axis=1).max()


def ball(size: float) -> Callable[[Array, Array], bool]:
    """No longer than so much."""
    return lambda out, honest: np.linalg.norm(out) <= size * (1 + SLACK)


def two_f(f: int) -> int:
    return 2 * f + 1


def trimmed_kappa(n: int, f: int) -> float:
    """Allouah et al. 2023, Proposition 2."""
    return 6 * f / (n - 2 * f) * (1 + f / (n - 2 * f))


def median_kappa(n: int, f: int) -> float:
    """Allouah et al. 2023, Propositions 4 (geometric median) and 5 (coordinate-wise median)."""
    return 4 * (1 + f / (n - 2 * f)) ** 2


def krum_kappa(n: int, f: int) -> float:
    """Proposition 3 there, 6 (1 + f / (n - 2f)), is for n - f neighbours. With the n - f - 2 others of Blanchard et al.

    the same proof gives this: a chosen update has n - 2f - 1 honest ones at least among itself and its neighbours, and
    the honest updates' scores are 2 (n - f) (n - f - 2) / (n - f - 1) variances on average. The n - f updates of
    Multi-Krum have no larger scores on average than the honest ones, and a mean is no farther than its parts are.
    """
    return 2 * (n - f) / (n - 2 * f - 1) * (2 * (n - f - 2) / (n - f - 1) + 1)


def around(inner: float, n: int, f: int) -> float:
    """Of the mean of the n - f updates nearest to a centre that is itself `inner`-robust.

    At most f honest updates make way for others, each for one no farther from the centre c; so the mean is off by at
    most 2/(n - f) sum ||x_b - c|| over f honest b, and by Cauchy-Schwarz 4 f/(n - f) (1 + inner) variances.
    """
    return 4 * f / (n - f) * (1 + inner)


def near_own_kappa(n: int, f: int) -> float:
    """Nearest to an honest update, which is (n - f)-robust: its square is one of those in the variance."""
    return around(n - f, n, f)


def made(name: str, **fields: Any) -> Callable[[int], Aggregator]:
    """A rule that is told no f."""
    return lambda f: getattr(rules, name)(**fields)


def told(name: str, **fields: Any) -> Callable[[int], Aggregator]:
    """A rule that is told f."""
    return lambda f: getattr(rules, name)(f=f, **fields)


ALL = "identical order shift scale rotation"
COLUMNS = "identical order shift scale"
LINES: dict[str, Line] = {
    # Averages: one update moves them anywhere.
    "mean": Line(made("Mean"), f"{ALL} mean weights"),
    # Variances of a model's numbers change when different numbers are added to them, or when they are mixed.
    "variance_corrected": Line(made("VarianceCorrected"), "identical order scale weights"),
    # Column by column (Yin et al. 2018; Xie et al. 2018).
    "median": Line(made("Median"), COLUMNS, box, kappa=median_kappa),
    "trimmed_mean": Line(told("TrimmedMean"), f"{COLUMNS} mean", box, least=two_f, kappa=trimmed_kappa),
    "meamed": Line(
        told("MeaMed"), f"{COLUMNS} mean", box, least=two_f, kappa=lambda n, f: around(median_kappa(n, f), n, f)
    ),
    "phocas": Line(
        told("Phocas"), f"{COLUMNS} mean", box, least=two_f, kappa=lambda n, f: around(trimmed_kappa(n, f), n, f)
    ),
    "sign_majority": Line(made("SignMajority"), "identical order scale", length(3.0)),
    # By distances (Blanchard et al. 2017; El Mhamdi et al. 2018; Pillutla et al. 2022; Farhadkhani et al. 2023).
    "krum": Line(told("Krum"), ALL, box, least=lambda f: 2 * f + 3, kappa=krum_kappa),
    "multi_krum": Line(told("MultiKrum"), f"{ALL} mean", box, least=lambda f: 2 * f + 3, kappa=krum_kappa),
    "bulyan": Line(told("Bulyan"), f"{COLUMNS} mean", box, least=lambda f: 4 * f + 3),
    "geometric_median": Line(
        made("GeometricMedian"), f"{ALL} weights", radius(2 * (N - F) / (N - 2 * F)), kappa=median_kappa
    ),
    "monna": Line(told("MoNNA"), f"{ALL} mean", box, least=two_f, kappa=near_own_kappa, own=True),
    "nna": Line(told("NNA"), f"{ALL} mean", box, least=two_f, kappa=near_own_kappa, own=True),
    # The radius is a root-mean-square distance over the square root of the hostile weight (He et al. 2022).
    "clipped_gossip": Line(told("ClippedGossip"), f"{ALL} mean weights", radius(3.0), least=two_f, own=True),
    # A radius, of clipping or of a vote, is about an origin and in a unit: no shift, some of them no scale.
    "centered_clipping": Line(made("CenteredClipping", tau=2.0), "order rotation", ball(2.0)),
    "balance": Line(made("BALANCE"), "identical order scale rotation", length(1.3), own=True, wasted=lambda n: n - 1),
    # By principal directions (Allouah et al. 2025; Shejwalkar and Houmansadr 2021). One iteration of DnC looks along
    # one direction: hostile updates in two escape it.
    "caf": Line(told("CAF"), f"{ALL} mean", radius(1.0), least=two_f),
    "dnc": Line(told("DnC"), f"{ALL} mean", box, "same", least=two_f),
    # By angles: as they have lengths too, which FoolsGold and Flag leave as they are, one update moves these anywhere.
    "foolsgold": Line(made("FoolsGold"), "identical order scale rotation"),
    "sybilwall": Line(made("SybilWall"), "identical order scale rotation"),
    "twin_filter": Line(made("TwinFilter"), f"{ALL} weights"),
    "flag": Line(made("Flag"), "identical order scale rotation"),
    "flag_one_step": Line(made("FlagOneStep"), "order rotation", ball(N / 6)),
    # As many main directions as Flag, (N + 1) / 2; trimmed in each, every coordinate is at most an honest length.
    "flag_trimmed": Line(told("FlagTrimmed"), "identical order scale rotation", length(6**0.5), least=two_f),
    "flag_neighbours": Line(told("FlagNeighbours"), "identical order scale rotation", length(6**0.5), least=two_f),
    "flag_median": Line(made("FlagMedian"), "identical order scale rotation", length(1.0)),
    "normalised_mean": Line(made("NormalisedMean"), "identical order scale rotation", length(1.0)),
    "signguard": Line(made("SignGuard"), "identical order scale", length(1.0)),
    "fltrust": Line(made("FLTrust"), "identical order scale rotation", length(1.0), own=True, wasted=lambda n: n - 1),
}
KINDS = list(LINES)


@dataclass(frozen=True)
class Step:
    """What is known of a pre-aggregator: `holds` as for rules, of which the rule behind it may have fewer."""

    make: Callable[[int], PreAggregator]
    holds: str
    withstands: bool = True
    """Whether a robust rule behind it still withstands f updates of 1e12, with N updates in all."""


STEPS: dict[str, Step] = {
    "nnm": Step(lambda f: NNM(f=f), f"{ALL} mean"),
    # Dealt at random by place.
    "bucketing": Step(lambda f: Bucketing(s=2), "identical shift scale rotation"),
    "clipping": Step(lambda f: Clipping(c=1.0), "order rotation"),
    "arc": Step(lambda f: ARC(f=f), "identical order scale rotation mean"),
}
BEHIND: dict[str, Callable[[int, tuple[PreAggregator, ...]], Aggregator]] = {
    "median": lambda f, before: rules.Median(before=before),
    "krum": lambda f, before: rules.Krum(f=f, before=before),
    "mean": lambda f, before: rules.TrimmedMean(f=0, before=before),
}
COMBINED = [(step, rule) for step in STEPS for rule in BEHIND]


def combined_line(step: str, rule: str) -> Line:
    """What a rule with a pre-aggregator in front keeps: what both have. Krum cannot take two of six buckets."""
    f_of = (lambda f: min(f, 1)) if (step, rule) == ("bucketing", "krum") else (lambda f: f)

    def make(f: int) -> Aggregator:
        return BEHIND[rule](f_of(f), (STEPS[step].make(f),))

    kept = set(STEPS[step].holds.split()) & set(LINES[rule].holds.split())
    return Line(make, " ".join(kept), least=LINES[rule].least)


def lines(word: str) -> list[Any]:
    """The rules, alone and behind pre-aggregators, of which something holds."""
    alone = [(kind, line) for kind, line in LINES.items() if word in line.holds.split()]
    behind = [(f"{step}-{rule}", combined_line(step, rule)) for step, rule in COMBINED]
    return [pytest.param(line, id=name) for name, line in [*alone, *behind] if word in line.holds.split()]


def every() -> list[Any]:
    """All rules, alone and behind pre-aggregators."""
    behind = [(f"{step}-{rule}", combined_line(step, rule)) for step, rule in COMBINED]
    return [pytest.param(line, id=name) for name, line in [*LINES.items(), *behind]]


def updates(seed: int = 0, n: int = N, d: int = D, dtype: Any = np.float64) -> Array:
    """n updates around (1, ..., 1): somewhat alike, none equal to another."""
    return (1.0 + 0.6 * np.random.default_rng(seed).standard_normal((n, d))).astype(dtype)


def apply(line: Line, rows: Any, f: int = F, **how: Any) -> Any:
    """The rule for f hostile updates on rows, of which the first is its own if it needs one."""
    return line.make(f)(rows[1:], own=rows[0], **how) if line.own else line.make(f)(rows, **how)


def attacked(pattern: str, seed: int = 0, n: int = N, f: int = F) -> Array:
    """`updates`, of which the last f are 1e12 and more away: in one place, or each somewhere else."""
    rows = updates(seed, n)
    dice = np.random.default_rng(seed + 1)
    rows[n - f :] = 1e12 * (dice.standard_normal(D) if pattern == "same" else dice.standard_normal((f, D)))
    return rows


def close(found: Any, expected: Any, tolerance: float = 1e-8) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * float(np.abs(expected).max()))


def test_there_is_a_line_for_every_rule() -> None:
    """A rule or pre-aggregator that is added, or taken away, needs its line added or taken away."""
    assert set(LINES) == set(discover(Aggregator))
    assert set(STEPS) == set(discover(PreAggregator))


@pytest.mark.parametrize("line", lines("identical"))
def test_copies_of_one_update_give_that_update(line: Line) -> None:
    one = updates(3, n=1)[0]
    close(apply(line, np.tile(one, (N, 1))), one)
    # Far from the origin too, where differences drown in rounding.
    close(apply(line, np.tile(1e6 + one, (N, 1)).astype(np.float32)), 1e6 + one, 1e-5)


@pytest.mark.parametrize("line", lines("order"))
def test_the_order_of_updates_does_not_matter(line: Line) -> None:
    rows = updates(1)
    weights = np.random.default_rng(2).uniform(0.5, 2, N)
    order = np.random.default_rng(4).permutation(N)
    if line.own:
        order = np.concatenate([[0], 1 + np.random.default_rng(4).permutation(N - 1)])
    close(apply(line, rows[order], weights=weights[order]), apply(line, rows, weights=weights))


@pytest.mark.parametrize("line", lines("shift"))
@pytest.mark.parametrize("seed", range(3))
def test_shifted_updates_give_a_shifted_result(line: Line, seed: int) -> None:
    rows, shift = updates(seed), 5 * np.random.default_rng(seed).standard_normal(D)
    close(apply(line, rows + shift), apply(line, rows) + shift, 1e-7)


@pytest.mark.parametrize("line", lines("scale"))
@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e6])
def test_multiplied_updates_give_a_multiplied_result(line: Line, factor: float) -> None:
    rows = updates(5)
    close(apply(line, factor * rows), factor * apply(line, rows), 1e-7)


@pytest.mark.parametrize("line", lines("rotation"))
@pytest.mark.parametrize("seed", range(3))
def test_rotated_updates_give_a_rotated_result(line: Line, seed: int) -> None:
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D))).Q
    rows = updates(seed)
    close(apply(line, rows @ rotation), apply(line, rows) @ rotation, 1e-7)


@pytest.mark.parametrize("word", ["shift", "scale", "rotation", "identical"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_table_denies_is_not_so(kind: str, word: str) -> None:
    """An example for each property that a rule lacks: else the line is too modest."""
    line, differs = LINES[kind], []
    if word in line.holds.split():
        return
    for seed in range(10):
        rows = updates(seed)
        if word == "shift":
            shift = 5 * np.random.default_rng(seed).standard_normal(D)
            pair = apply(line, rows + shift), apply(line, rows) + shift
        elif word == "scale":
            pair = apply(line, 7 * rows), 7 * apply(line, rows)
        elif word == "rotation":
            rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D))).Q
            pair = apply(line, rows @ rotation), apply(line, rows) @ rotation
        else:
            pair = apply(line, np.tile(3 * rows[0], (N, 1))), 3 * rows[0]
        differs.append(not np.allclose(*pair, rtol=1e-6))
    assert any(differs)


@pytest.mark.parametrize("line", [p for p in lines("mean") if "-" not in str(p.id)])
def test_nobody_hostile_gives_the_mean(line: Line) -> None:
    rows = updates(6)
    close(apply(line, rows, f=0), rows.mean(0))


@pytest.mark.parametrize("kind", KINDS)
def test_who_looks_at_weights(kind: str) -> None:
    line, rows = LINES[kind], updates(7)
    weights = np.ones(N)
    weights[4] = 3.0
    plain, weighted = apply(line, rows), apply(line, rows, weights=weights)
    assert np.allclose(plain, weighted, rtol=1e-12) == ("weights" not in line.holds.split())
    # What is equal is a share: only ratios of weights count.
    close(apply(line, rows, weights=5 * weights), weighted)


@pytest.mark.parametrize("name", ["Mean", "GeometricMedian"])
def test_a_whole_weight_stands_for_copies(name: str) -> None:
    rows = updates(8, n=5)
    weights = [1, 2, 1, 3, 1]
    close(getattr(rules, name)()(rows, weights=weights), getattr(rules, name)()(rows.repeat(weights, 0)))


@pytest.mark.parametrize("pattern", ["same", "scattered"])
@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.reach])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_updates_of_1e12_have_no_effect_or_a_bounded_one(kind: str, pattern: str, dtype: Any) -> None:
    line = LINES[kind]
    assert line.reach is not None
    if pattern not in line.hostile:
        return
    for seed in range(5):
        rows = attacked(pattern, seed).astype(dtype)
        out = np.asarray(apply(line, rows), np.float64)
        assert np.isfinite(out).all()
        assert line.reach(out, rows[: N - F].astype(np.float64)), (seed, out)


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.reach is None])
def test_rules_without_a_breakdown_point_break(kind: str) -> None:
    moved = [np.abs(apply(LINES[kind], attacked(pattern))).max() for pattern in ("same", "scattered")]
    assert max(moved) > 1e9


def test_dnc_looks_along_one_direction() -> None:
    """Why its line says `same`: of two hostile updates at right angles the shorter hides behind the longer."""
    rows = updates(0)
    rows[-1, 0], rows[-2, 1] = 1e8, 1e3
    assert rules.DnC(f=2)(rows)[0] < 3
    assert rules.DnC(f=2)(rows)[1] > 50


@pytest.mark.parametrize(("step", "rule"), [pair for pair in COMBINED if pair[1] != "mean"])
@pytest.mark.parametrize("pattern", ["same", "scattered"])
def test_a_robust_rule_behind_a_pre_aggregator_withstands(step: str, rule: str, pattern: str) -> None:
    f = 1 if (step, rule) == ("bucketing", "krum") else F
    rows = attacked(pattern, f=f)
    out = combined_line(step, rule).make(f)(rows)
    # Clipping mixes nothing: a clipped hostile update may be as long as an honest one, and lies outside the box.
    assert (length(1.0) if step in {"clipping", "arc"} else box)(out, rows[: N - f])


@pytest.mark.parametrize("step", STEPS)
def test_points_are_combinations_that_keep_what_they_should(step: str) -> None:
    """Averages have coefficients of at least zero that sum to one; clipped updates no more than one."""
    from gossamer.gram import Gram

    rows = torch.from_numpy(updates(9))
    matrix = STEPS[step].make(F).matrix(Gram.of(rows), F, None)
    assert matrix.dtype == torch.float64
    assert (matrix >= 0).all()
    if "shift" in STEPS[step].holds:
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64))
    else:
        assert (matrix.sum(1) <= 1 + 1e-12).all()


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.least])
@pytest.mark.parametrize("f", [1, 2])
def test_too_few_updates_are_refused_and_enough_are_not(kind: str, f: int) -> None:
    line = LINES[kind]
    assert line.least is not None
    enough = line.least(f)
    assert np.isfinite(apply(line, updates(n=enough), f)).all()
    with pytest.raises(AggregationError, match=rf"{kind} withstands {f - 1} hostile of {enough - 1} .*f = {f}"):
        apply(line, updates(n=enough - 1), f)


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.least and not line.own])
def test_too_few_buckets_are_refused_and_enough_are_not(kind: str) -> None:
    """f updates may sit in as many buckets, so the rule must withstand f of the buckets."""
    line, f = LINES[kind], 2
    assert line.least is not None
    rule = line.make(f).model_copy(update={"before": (Bucketing(s=2),)})
    enough = 2 * line.least(f) - 1
    assert np.isfinite(rule(updates(n=enough))).all()
    with pytest.raises(AggregationError, match=f"{kind}.* f = {f}"):
        rule(updates(n=enough - 1))


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.least])
def test_a_share_means_as_many_as_the_rule_can_at_most(kind: str) -> None:
    """f = 0.49 with too few updates for it is the most there can be: the rule with that number."""
    line = LINES[kind]
    assert line.least is not None
    n = line.least(2)
    share = line.make(2).model_copy(update={"f": 0.49})
    rows = updates(n=n)
    assert np.array_equal(apply(line, rows, 2), apply(Line(lambda f: share, "", own=line.own), rows))


@pytest.mark.parametrize("line", every())
def test_inputs_are_only_read(line: Line) -> None:
    for rows in (updates(1), updates(1, dtype=np.float32), torch.from_numpy(updates(1))):
        before = np.asarray(rows).copy()
        weights = np.ones(N)
        apply(line, rows, weights=weights)
        assert np.array_equal(np.asarray(rows), before)
        assert (weights == 1).all()


@pytest.mark.parametrize("line", every())
def test_the_same_input_gives_the_same_result_to_the_bit(line: Line) -> None:
    """From the same rule, another one, and whatever the global generators are."""
    rows, rule = updates(1), line.make(F)
    first = apply(Line(lambda f: rule, "", own=line.own), rows)
    torch.manual_seed(5)
    np.random.seed(5)
    apply(Line(lambda f: rule, "", own=line.own), updates(2))
    for again in (rule, line.make(F)):
        assert np.array_equal(apply(Line(lambda f, again=again: again, "", own=line.own), rows), first)


@pytest.mark.parametrize("line", every())
def test_what_comes_out_is_of_the_kind_that_went_in(line: Line) -> None:
    plain = apply(line, updates(1))
    assert type(plain) is np.ndarray
    assert plain.dtype == np.float64
    for dtype, tolerance in ((np.float32, 1e-5), (np.float16, 1e-2)):
        found = apply(line, updates(1).astype(dtype))
        assert found.dtype == dtype
        if dtype == np.float32:
            close(found, plain, tolerance)
        assert isinstance(apply(line, list(updates(1).astype(dtype))), np.ndarray)
    for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        rows = torch.from_numpy(updates(1)).to(kind)
        found = apply(line, rows)
        assert (type(found), found.dtype, found.device, found.shape) == (torch.Tensor, kind, rows.device, (D,))
        assert torch.equal(apply(line, list(rows)), found)
    # A gradient's graph is not followed; the shape of a layer stays.
    shaped = torch.from_numpy(updates(1)).reshape(N, 3, 4).requires_grad_()
    assert not apply(line, shaped).requires_grad
    close(apply(line, shaped).reshape(-1).numpy(), plain)
    whole = np.round(10 * updates(1)).astype(np.int64)
    assert apply(line, whole).dtype == np.float64


@pytest.mark.parametrize("line", every())
def test_strided_views_are_as_good(line: Line) -> None:
    rows = updates(1)
    wide = np.zeros((2 * N, 3 * D))
    wide[::2, ::3] = rows
    close(apply(line, wide[::2, ::3]), apply(line, rows), 1e-12)
    close(apply(line, torch.from_numpy(wide)[::2, ::3]), apply(line, rows), 1e-12)


ROBUST = [kind for kind in KINDS if issubclass(discover(Aggregator)[kind], Robust)]


def test_only_the_averages_are_not_robust() -> None:
    assert set(KINDS) - set(ROBUST) == {"mean", "variance_corrected"}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ROBUST)
def test_updates_that_are_not_finite_are_dropped_and_counted(kind: str, bad: float) -> None:
    """The result is that of the others with f less one for each."""
    line, rows = LINES[kind], updates(1)
    rows[3, 2] = bad
    assert np.array_equal(apply(line, rows), apply(line, np.delete(rows, 3, 0), F - 1))
    rows[8] = -bad
    assert np.array_equal(apply(line, rows), apply(line, np.delete(rows, [3, 8], 0), F - 2))


@pytest.mark.parametrize("kind", ROBUST)
def test_more_of_them_than_there_may_be_are_refused(kind: str) -> None:
    line, rows = LINES[kind], updates(1)
    most = F if issubclass(discover(Aggregator)[kind], Tolerant) else line.wasted(N)
    rows[N - most :] = np.nan
    assert np.isfinite(apply(line, rows)).all()
    if most < N - 1:
        rows[N - most - 1] = np.inf
        with pytest.raises(AggregationError, match=f"{most + 1} of {N} updates hold NaN or infinity"):
            apply(line, rows)


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.own])
def test_an_own_update_that_is_not_finite_is_refused(kind: str) -> None:
    rows = updates(1)
    rows[0, 0] = np.nan
    if kind == "monna":
        # Told a place instead, it refuses that place.
        with pytest.raises(AggregationError, match="monna"):
            rules.MoNNA(f=F)(rows)
        return
    with pytest.raises(AggregationError, match=kind):
        apply(LINES[kind], rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_mean_names_the_first_update_that_is_not_finite(bad: float) -> None:
    rows = updates(1)
    rows[3, 5], rows[7, 1] = bad, np.nan
    with pytest.raises(AggregationError, match=r"^update 3 of 11 \(counted from 0\) holds NaN or infinity"):
        rules.Mean()(rows)


@pytest.mark.parametrize("kind", ROBUST)
@pytest.mark.parametrize(("dtype", "huge"), [(np.float32, 1e38), (np.float64, 1e300)])
def test_updates_whose_squares_overflow_do_no_harm(kind: str, dtype: Any, huge: float) -> None:
    """Those beyond float64 are dropped like infinity; those beyond float32 are only large."""
    line, rows = LINES[kind], updates(1, dtype=dtype)
    rows[N - F :] = huge * np.array([[1.0], [-1.0]])
    out = apply(line, rows)
    if line.reach is not None and ("scattered" in line.hostile or huge > 1e200):
        assert line.reach(out.astype(np.float64), rows[: N - F].astype(np.float64)), out


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_in_one_line(kind: str) -> None:
    line, rows = LINES[kind], updates(1)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ([], {}, "there are no updates"),
        (rows[:0], {}, "there are no updates"),
        ([rows[0], rows[1][:3]], {}, "updates have different shapes"),
        (rows + 1j, {}, "must be real numbers"),
        (rows, {"weights": -np.ones(N)}, "weights must be"),
        (rows, {"weights": np.zeros(N)}, "weights must be"),
        (rows, {"weights": np.full(N, np.nan)}, "weights must be"),
        (rows, {"weights": np.full(N, np.inf)}, "weights must be"),
        (rows, {"weights": np.ones(N - 3)}, "weights of shape"),
        (rows, {"own": np.ones(D + 1)}, f"own has {D + 1} numbers"),
        (rows, {"own": []}, "own has 0 numbers"),
    ]
    for vectors, how, message in cases:
        with pytest.raises(AggregationError, match=message) as caught:
            line.make(0)(vectors, **how)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.own and kind != "monna"])
def test_a_rule_that_needs_the_own_update_says_so(kind: str) -> None:
    with pytest.raises(AggregationError, match=f"{kind} needs"):
        LINES[kind].make(F)(updates(1))


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if not line.least])
def test_one_update_alone(kind: str) -> None:
    """Rules that are told no f take it; those that keep the length give it back."""
    line, one = LINES[kind], updates(1, n=1)
    out = line.make(0)([*one[:0], one[0]], own=one[0]) if line.own else line.make(0)(one)
    if "identical" in line.holds.split():
        close(out, one[0])


@pytest.mark.parametrize("n", range(1, 8))
def test_the_median_of_an_even_number_is_the_mean_of_the_two_in_the_middle(n: int) -> None:
    rows = updates(n, n=n, d=1)
    close(rules.Median()(rows), np.median(rows, 0), 1e-15)
    ordered = np.sort(rows[:, 0])
    close(rules.Median()(rows)[0], (ordered[(n - 1) // 2] + ordered[n // 2]) / 2, 1e-15)


@pytest.mark.parametrize("n", range(3, 8))
def test_in_one_dimension_the_geometric_median_is_a_median(n: int) -> None:
    """For even n any point between the two in the middle is."""
    rows = updates(n, n=n, d=1)
    ordered = np.sort(rows[:, 0])
    found = rules.GeometricMedian()(rows)[0]
    assert ordered[(n - 1) // 2] - 1e-7 <= found <= ordered[n // 2] + 1e-7


ORACLES = {
    "median": oracles.median,
    "trimmed_mean": oracles.trimmed_mean,
    "meamed": oracles.meamed,
    "phocas": oracles.phocas,
    "krum": oracles.krum,
    "multi_krum": oracles.multi_krum,
    "bulyan": oracles.bulyan,
    "geometric_median": oracles.geometric_median,
    "monna": oracles.nearest_to_first,
    "nna": oracles.nearest_to_first,
    "caf": oracles.caf,
}


@pytest.mark.parametrize("n", [5, 7])
@pytest.mark.parametrize("kind", ORACLES)
def test_agreement_with_enumeration(kind: str, n: int) -> None:
    line = LINES[kind]
    for f, d, seed in itertools.product((0, 1, 2), (1, 2, 5), range(3)):
        if line.least is None or n >= line.least(f):
            rows = updates(100 * n + seed, n, d)
            rows[n - f :] *= 3
            if kind == "geometric_median" and d == 1 and n % 2 == 0:
                continue
            close(apply(line, rows, f), ORACLES[kind](rows, f), 1e-6 if kind == "geometric_median" else 1e-9)


@pytest.mark.parametrize("n", [5, 7])
def test_nnm_agrees_with_enumeration(n: int) -> None:
    from gossamer.gram import Gram

    for f, d in itertools.product((0, 1, 2), (1, 3)):
        rows = updates(n, n, d)
        matrix = NNM().matrix(Gram.of(torch.from_numpy(rows)), f, None).numpy()
        close(matrix @ rows, oracles.nnm(rows, f), 1e-12)


@pytest.mark.parametrize("f", [1, 2])
def test_rules_that_leave_out_all_that_is_far_away_coincide(f: int) -> None:
    """MDA, SMEA, Multi-Krum, CAF, NNA, DnC, MeaMed and Phocas: the mean of the honest ones."""
    n = 2 * f + 3
    rows = updates(1, n)
    rows[n - f :] += 1e4
    honest = rows[: n - f].mean(0)
    close(oracles.mda(rows, f), honest)
    close(oracles.smea(rows, f), honest)
    for kind in ("multi_krum", "monna", "nna", "dnc", "meamed", "phocas"):
        close(apply(LINES[kind], rows, f), honest)


def test_in_one_dimension_mda_is_the_shortest_interval_and_smea_that_of_least_variance() -> None:
    """The oracles themselves, on numbers where the two differ."""
    numbers = np.array([[0.0], [1.1], [1.2], [2.2], [3.0]])
    assert oracles.mda(numbers, 1)[0] == pytest.approx(np.mean([1.1, 1.2, 2.2, 3.0]))
    assert oracles.smea(numbers, 1)[0] == pytest.approx(np.mean([1.1, 1.2, 2.2, 3.0]))
    numbers = np.array([[0.0], [0.1], [2.0], [2.1], [4.0]])
    assert oracles.mda(numbers, 1)[0] == pytest.approx(np.mean([0.0, 0.1, 2.0, 2.1]))


KAPPA = [kind for kind, line in LINES.items() if line.kappa]


def clouds(n: int, d: int, f: int, seed: int) -> list[Array]:
    """Inputs that are hard for one rule or another: bell-shaped, heavy tails, two camps, on a grid, one far away."""
    dice = np.random.default_rng([n, d, f, seed])
    camps = 0.1 * dice.standard_normal((n, d))
    camps[n // 2 :] += 1.0
    leaning = dice.standard_normal((n, d))
    leaning[n - f :] = leaning[: n - f].mean(0) + 1.5 * leaning[: n - f].std(0)
    far = dice.standard_normal((n, d))
    far[-1] = 100.0
    return [
        dice.standard_normal((n, d)),
        dice.standard_cauchy((n, d)),
        camps,
        leaning,
        dice.integers(0, 3, (n, d)).astype(float),
        far,
    ]


def worst_ratio(rule: Aggregator, rows: Array, f: int, own: bool) -> float:
    """Largest ||rule - mean_S||^2 / (1/|S| sum_S ||x_i - mean_S||^2) over all S of n - f updates (with the own)."""
    out = rule(rows[1:], own=rows[0]) if own else rule(rows)
    worst = 0.0
    for places in oracles.subsets(len(rows), len(rows) - f):
        if own and 0 not in places:
            continue
        mean = rows[places].mean(0)
        variance = ((rows[places] - mean) ** 2).sum(1).mean()
        off = ((out - mean) ** 2).sum()
        worst = max(worst, off / variance if variance > 1e-12 else (0.0 if off < 1e-12 else np.inf))
    return worst


@pytest.mark.parametrize("kind", KAPPA)
@pytest.mark.parametrize(("n", "f"), [(5, 1), (7, 1), (7, 2), (7, 3)])
def test_no_honest_majority_is_farther_from_the_result_than_kappa_allows(kind: str, n: int, f: int) -> None:
    line = LINES[kind]
    assert line.kappa is not None
    if line.least is None or n >= line.least(f):
        worst = [
            worst_ratio(line.make(f), rows, f, line.own)
            for d, seed in itertools.product((1, 3), range(3))
            for rows in clouds(n, d, f, seed)
        ]
        assert 0.01 < max(worst) <= line.kappa(n, f) * (1 + 1e-6)


@pytest.mark.parametrize("kind", ["trimmed_mean", "krum", "geometric_median", "median"])
@pytest.mark.parametrize(("n", "f"), [(5, 1), (7, 1), (7, 2)])
def test_nearest_neighbour_mixing_tightens_kappa(kind: str, n: int, f: int) -> None:
    """Allouah et al. 2023, Lemma 1: 8 f / (n - f) (kappa + 1) behind NNM."""
    kappa = LINES[kind].kappa
    assert kappa is not None
    rule = LINES[kind].make(f).model_copy(update={"before": (NNM(f=f),)})
    worst = [
        worst_ratio(rule, rows, f, False)
        for d, seed in itertools.product((1, 3), range(3))
        for rows in clouds(n, d, f, seed)
    ]
    assert 0.01 < max(worst) <= 8 * f / (n - f) * (kappa(n, f) + 1) * (1 + 1e-6)


def test_the_mean_has_no_kappa() -> None:
    """The same measure, on one far update: as large as one likes."""
    rows = updates(0, 7)
    rows[-1] = 1e6
    assert worst_ratio(rules.Mean(), rows, 1, False) > 1e6


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([kind for kind in KINDS if LINES[kind].reach is box]),
    st.integers(0, 10_000),
    st.floats(-15, 15),
    st.integers(1, 2),
)
def test_a_box_holds_however_far_away_the_hostile_are(kind: str, seed: int, power: float, f: int) -> None:
    """Hostile updates in one place at any distance that is not among the honest ones."""
    rows = updates(seed)
    rows[N - f :] = 1.0 + np.sign(rows[N - f]) * (20 + 10.0**power)
    assert box(apply(LINES[kind], rows, f), rows[: N - f])
