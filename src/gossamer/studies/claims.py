"""Claims: arithmetic over what runs reached, a bar, and the verdict that the seeds allow.

    value = "single.merged - single.local"                        arms and their metrics, + - * / ( )
    value = 'max("R0.2".local, ring.local) / 2'                   min, max, abs; arms with '-', '.' or digits quoted
    value = "reaches(late, local, 0.7) - reaches(even, local, 0.7)"   rounds until a metric is first at 0.7
    value = "worst(krum, merged) - worst(mean, merged)"           arms that are crossed: the lowest value of all arms of
                                                                  a level, seed by seed; most(krum, attack): the highest

Values are paired: one for each seed, from the runs of all arms with that seed. What stands in a claim is parsed, never
executed. Which arms and metrics there are is not known here.
"""

from __future__ import annotations

import ast
import keyword
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gossamer.compare import estimate
from gossamer.errors import ExperimentError

Verdict = Literal["holds", "does not hold", "not decided at this budget"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
OPEN: Verdict = "not decided at this budget"

ROUNDING = 1e-12
"""A value this close to a bar is at the bar: differences of accuracies carry rounding errors of about 1e-16."""
DEEPEST = 50
"""Brackets within brackets of a value, at most."""
QUOTES = "a name with '-', '.' or a digit in front is quoted, e.g. \"all-reduce\".merged"


@dataclass(frozen=True)
class Term:
    """What a claim asks of one run: a metric of an arm, or (with a target) the rounds until it is first that high.

    With `over` the arm is a level of crossed arms, and what is asked is the extreme over all arms of that level.
    """

    arm: str
    metric: str
    target: float | None = None
    over: Literal["", "worst", "most"] = ""

    def __str__(self) -> str:
        plain = self.arm.isidentifier() and not keyword.iskeyword(self.arm)
        arm = self.arm if plain else f'"{self.arm}"'
        if self.over:
            return f"{self.over}({arm}, {self.metric})"
        return f"{arm}.{self.metric}" if self.target is None else f"reaches({arm}, {self.metric}, {self.target:g})"


Lookup = Callable[[Term], float]
Formula = Callable[[Lookup], float]


@dataclass(frozen=True)
class Expression:
    """A value of a claim as it was written, the terms in it, and how to compute it from them."""

    text: str
    terms: tuple[Term, ...]
    value: Formula


def parse(text: str) -> Expression:
    """Read the value of a claim. Raises ExperimentError that says what cannot be understood."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own advice on odd spellings, e.g. of numbers
            tree = ast.parse(" ".join(text.split()), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ExperimentError(f"value = '{_short(text)}' is no arithmetic over arm.metric; {QUOTES}") from None
    terms: list[Term] = []
    try:
        formula = _formula(tree, terms, 0)
    except ExperimentError as error:
        raise ExperimentError(f"value = '{_short(text)}': {error}") from None
    if not terms:
        raise ExperimentError(f"value = '{_short(text)}' names no arm; write e.g. single.merged - single.local")
    return Expression(text, tuple(dict.fromkeys(terms)), formula)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def _formula(node: ast.expr, terms: list[Term], depth: int) -> Formula:
    """What a part of a value computes; the terms found in it are added to `terms`."""
    if depth > DEEPEST:
        raise ExperimentError(f"more than {DEEPEST} operations within each other; split the claim")

    def inner(part: ast.expr) -> Formula:
        return _formula(part, terms, depth + 1)

    match node:
        case ast.Constant(value=bool() | str() | bytes() | complex() | None):
            pass
        case ast.Constant():
            number = _number(node)
            return lambda _: number
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return inner(operand)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            positive = inner(operand)
            return lambda lookup: -positive(lookup)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as sign, right=right):
            a, b, operation = inner(left), inner(right), OPERATIONS[type(sign)]
            return lambda lookup: operation(a(lookup), b(lookup))
        case ast.Attribute(value=ast.Name() | ast.Constant(value=str()) as arm, attr=metric):
            return _looked_up(Term(_arm(arm), metric), terms)
        case ast.Call(func=ast.Name(id="reaches"), args=args, keywords=[]):
            return _looked_up(_reaches(args), terms)
        case ast.Call(func=ast.Name(id="worst" | "most" as over), args=args, keywords=[]):
            return _looked_up(_extreme(over, args), terms)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            function, least, most = FUNCTIONS[name]
            if not least <= len(args) <= most:
                raise ExperimentError(f"{name}() takes {'one value' if most == 1 else 'two values or more'}")
            parts = [inner(part) for part in args]
            return lambda lookup: function(*(part(lookup) for part in parts))
        case ast.Call(func=ast.Name(id=name), keywords=[_, *_]):
            raise ExperimentError(f"{name}() takes values without names")
        case ast.Call(func=ast.Name(id=name)):
            known = f"{', '.join(FUNCTIONS)} and reaches(arm, metric, 0.7), worst(level, metric), most(level, metric)"
            raise ExperimentError(f"no function '{name}'; there are {known}")
        case ast.Name(id=name):
            raise ExperimentError(f"'{name}' is no number and no arm.metric; {QUOTES}")
    raise ExperimentError(f"'{_short(ast.unparse(node))}' is no arithmetic over arm.metric; {QUOTES}")


def _looked_up(term: Term, terms: list[Term]) -> Formula:
    terms.append(term)
    return lambda lookup: lookup(term)


def _arm(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Constant(value=str() as name):
            return name
    raise ExperimentError(f"'{_short(ast.unparse(node))}' is no name of an arm; {QUOTES}")


def _reaches(args: list[ast.expr]) -> Term:
    match args:
        case [arm, ast.Name(id=metric), ast.Constant(value=int() | float()) as target] if target.value is not True:
            return Term(_arm(arm), metric, _number(target))
    raise ExperimentError("reaches() takes an arm, a metric and a number, e.g. reaches(single, local, 0.7)")


def _extreme(over: Literal["worst", "most"], args: list[ast.expr]) -> Term:
    match args:
        case [level, ast.Name(id=metric)]:
            return Term(_arm(level), metric, over=over)
    raise ExperimentError(f"{over}() takes a level of crossed arms and a metric, e.g. {over}(krum, merged)")


def _number(node: ast.Constant) -> float:
    try:
        number = float(node.value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ExperimentError(f"the number {_short(ast.unparse(node))} is too large")
    return number


def _divided(a: float, b: float) -> float:
    """a / b; NaN (undefined) where b is zero."""
    return a / b if b else math.nan


def _chosen(choose: Callable[[Sequence[float]], float]) -> Callable[..., float]:
    """min or max, but undefined where one of the values is."""
    return lambda *values: math.nan if any(map(math.isnan, values)) else choose(values)


OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: _divided,
}
FUNCTIONS: dict[str, tuple[Callable[..., float], int, float]] = {
    "min": (_chosen(min), 2, math.inf),
    "max": (_chosen(max), 2, math.inf),
    "abs": (abs, 1, 1),
}
"""What can be called, with the least and the largest number of values it takes."""


@dataclass(frozen=True)
class Bar:
    """What a value must be: within [low, high], on average over seeds; with `every_seed`, for each seed too."""

    low: float = -math.inf
    high: float = math.inf
    every_seed: bool = False

    def met_by(self, value: float) -> bool:
        """Whether a value is on the right side; never for NaN."""
        return self.low - ROUNDING <= value <= self.high + ROUNDING

    def missed_by(self, low: float, high: float) -> bool:
        """Whether a whole interval is on the wrong side."""
        return high < self.low - ROUNDING or low > self.high + ROUNDING

    def to_dict(self) -> dict[str, object]:
        """As it is written in a study: {"at_least": 0.15}."""
        every: dict[str, object] = {"every_seed": True} if self.every_seed else {}
        if self.low == -math.inf:
            return {"at_most": self.high, **every}
        return {"at_least": self.low, **every} if self.high == math.inf else {"between": [self.low, self.high], **every}

    def __str__(self) -> str:
        every = ", in every seed" if self.every_seed else ""
        if self.low == -math.inf:
            return f"at most {self.high:g}{every}"
        return (f"at least {self.low:g}" if self.high == math.inf else f"{self.low:g} to {self.high:g}") + every


@dataclass(frozen=True)
class Judgement:
    """A verdict with what it rests on: the middle of the values and its 95 % interval (None where there is none)."""

    verdict: Verdict
    value: float | None
    interval: tuple[float, float] | None
    note: str = ""


def judge(bar: Bar, values: Sequence[float | None]) -> Judgement:
    """The verdict over one value for each seed; None where a run is missing, NaN where a value is undefined.

    - *holds*: the whole 95 % interval is on the right side of the bar, and with `every_seed` each seed is.
    - *does not hold*: the whole interval is on the wrong side; or `every_seed` is asked for and one seed fails, which
      no further seed can mend (so this may be said of a single seed).
    - *not decided at this budget*: otherwise; always with a single seed, which says nothing of the spread, and where a
      run is missing or a value undefined, since what is left may be a choice of the lucky ones.
    """
    there = [value for value in values if value is not None and not math.isnan(value)]
    value, interval = middle(there)
    notes = []
    if failing := [number for number in there if not bar.met_by(number)]:
        notes = [f"{len(failing)} of {len(there)} seeds on the wrong side"]
    if absent := sum(number is None for number in values):
        notes.append(f"{absent} of {len(values)} seeds missing")
    if undefined := len(values) - absent - len(there):
        notes.append(f"no value in {undefined} of {len(values)} seeds (neither was reached, or a division by zero)")
    if unreached := sum(map(math.isinf, there)):
        notes.append(f"a target never reached in {unreached} of {len(there)} seeds")
    if there and interval is None:
        notes.append("one seed has no interval" if len(there) == 1 else "an interval then needs 6 seeds")
    verdict = OPEN
    if bar.every_seed and failing:
        verdict = FAILS
    elif interval is not None and not absent and not undefined:
        if bar.missed_by(*interval):
            verdict = FAILS
        elif bar.met_by(interval[0]) and bar.met_by(interval[1]):
            verdict = HOLDS
    return Judgement(verdict, value, interval, "; ".join(notes))


def middle(values: Sequence[float]) -> tuple[float | None, tuple[float, float] | None]:
    """The middle of values over seeds with a two-sided 95 % interval: mean and Student's t.

    Where a value is infinite (a target was never reached) there is no mean: then the median, and the interval between
    order statistics that holds for any distribution, which takes six values; or, if all are the same, that value.
    """
    if not values:
        return None, None
    if all(map(math.isfinite, values)):
        found = estimate(values)
        assert found is not None
        half = found.half_width
        return found.mean, None if half is None else (found.mean - half, found.mean + half)
    ordered = sorted(values)
    median = statistics.median(ordered)
    if len(values) > 1 and ordered[0] == ordered[-1]:
        return median, (ordered[0], ordered[-1])
    from scipy.stats import binom

    # The smallest k with P(fewer than k of n seeds lie below the median) > 2.5 % is one too many.
    outer = int(binom.ppf(0.025, len(values), 0.5))
    interval = (ordered[outer - 1], ordered[-outer]) if outer else None
    return None if math.isnan(median) else median, interval
