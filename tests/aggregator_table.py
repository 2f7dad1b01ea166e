"""What the literature says of each robust rule and each pre-aggregator, as a table to be put to the test.

It is written out here: a rule says nothing about itself. A new rule needs a line.

Shapes: N updates of D numbers, the first N - f honest, the first of all the receiver's own where a rule needs one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import gossamer.aggregators as rules
from gossamer.aggregators import Aggregator
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


def near(reach: float) -> Callable[[Array, Array], bool]:
    """Between the smallest and the largest honest value of every coordinate, or so much off."""

    def within(out: Array, honest: Array) -> bool:
        off = reach + SLACK * np.abs(honest).max()
        return bool(((honest.min(0) - off <= out) & (out <= honest.max(0) + off)).all())

    return within


def span(out: Array, honest: Array) -> bool:
    """Between the smallest and the largest honest value of all."""
    slack = SLACK * np.abs(honest).max()
    return bool(honest.min() - slack <= out.min() and out.max() <= honest.max() + slack)


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
    # Of rows without low-rank factors it is the mean.
    "product_mean": Line(made("ProductMean"), f"{ALL} mean weights"),
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
    # Votes on rankings. A cap is in places of a row: no scale. Of F in N a cap moves the median and the mean about it.
    "margin_cap": Line(made("MarginCap", cap=0.05), "identical order shift", near(0.05 * D * F / N)),
    "rank_agreement": Line(told("RankAgreement"), f"{COLUMNS} mean", box, least=two_f),
    # Who approves of what changes where different numbers are added; the numbers are medians of the sorted rows.
    "approval": Line(made("Approval"), "identical order scale", span),
    "approval_filtered": Line(told("ApprovalFiltered"), "identical order scale", span, least=two_f),
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
