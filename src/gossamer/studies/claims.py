"""Claims: arithmetic over what runs reached. What is said of the values over seeds is in `verdicts`.

    value = "single.merged - single.local"                        arms and their metrics, + - * / ( )
    value = 'max("R0.2".local, ring.local) / 2'                   min, max, abs; arms with '-', '.' or digits quoted
    value = "reaches(late, local, 0.7) - reaches(even, local, 0.7)"   rounds until a metric is first at 0.7
    value = "within(late, merged, 2e6) - within(even, merged, 2e6)"   a metric as it was last measured before the run
                                                                  had sent more than 2,000,000 bytes
    value = "worst(krum, merged) - worst(mean, merged)"           arms that are crossed: the lowest value of all arms of
                                                                  a level, seed by seed; most(krum, attack): the highest

Values are paired: one for each seed, from the runs of all arms with that seed. What stands in a claim is parsed, never
executed. Which arms and metrics there are is not known here.
"""

from __future__ import annotations

import ast
import keyword
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gossamer.errors import ExperimentError

DEEPEST = 50
"""Brackets within brackets of a value, at most."""
QUOTES = "a name with '-', '.' or a digit in front is quoted, e.g. \"all-reduce\".merged"


@dataclass(frozen=True)
class Term:
    """What a claim asks of one run: a metric of an arm at the end, or (with a target) the rounds until it is first that
    high, or (with a budget) what it was when the run had sent that many bytes.

    With `over` the arm is a level of crossed arms, and what is asked is the extreme over all arms of that level.
    """

    arm: str
    metric: str
    target: float | None = None
    over: Literal["", "worst", "most"] = ""
    budget: float | None = None

    def __str__(self) -> str:
        plain = self.arm.isidentifier() and not keyword.iskeyword(self.arm)
        arm = self.arm if plain else f'"{self.arm}"'
        if self.over:
            return f"{self.over}({arm}, {self.metric})"
        if self.budget is not None:
            return f"within({arm}, {self.metric}, {self.budget:.15g})"
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
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float()):
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
            one, metric, target = _numbered("reaches", "0.7", args)
            return _looked_up(Term(one, metric, target), terms)
        case ast.Call(func=ast.Name(id="within"), args=args, keywords=[]):
            one, metric, budget = _numbered("within", "2e6", args)
            return _looked_up(Term(one, metric, budget=budget), terms)
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
            known = "reaches(arm, metric, 0.7), within(arm, metric, 2e6), worst(level, metric), most(level, metric)"
            raise ExperimentError(f"no function '{name}'; there are {', '.join(FUNCTIONS)} and {known}")
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


def _numbered(name: str, example: str, args: list[ast.expr]) -> tuple[str, str, float]:
    """The arm, the metric and the number that a function of all three is called with."""
    match args:
        case [_, ast.Name(), ast.Constant(value=bool())]:
            pass
        case [arm, ast.Name(id=metric), ast.Constant(value=int() | float()) as number]:
            return _arm(arm), metric, _number(number)
    raise ExperimentError(f"{name}() takes an arm, a metric and a number, e.g. {name}(single, local, {example})")


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
