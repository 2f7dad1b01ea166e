"""What a `study.toml` says, read and checked: the arms of a study, its claims, its plots."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from gossamer.arms import experiments_of, read_file
from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment, Section
from gossamer.studies.claims import Expression, Term, parse
from gossamer.studies.crossing import Cross, crossed_experiments, kept_pairs, read_cross
from gossamer.studies.outcomes import METRICS
from gossamer.studies.verdicts import Bar

Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Table = dict[str, Any]


class Claim(Section):
    """What the paper says, as a value with a bar."""

    name: str = Field(min_length=1)
    about: str = ""
    value: str
    at_least: Number | None = None
    at_most: Number | None = None
    between: tuple[Number, Number] | None = None
    every_seed: bool = False

    @model_validator(mode="after")
    def _has_one_bar(self) -> Claim:
        if [self.at_least, self.at_most, self.between].count(None) != 2:
            raise ValueError("give one bar: at_least = 0.1, at_most = 0.1 or between = [0.1, 0.2]")
        if self.between and self.between[0] > self.between[1]:
            raise ValueError(f"between = {list(self.between)}: the lower end comes first")
        return self

    @cached_property
    def expression(self) -> Expression:
        """The value, parsed. Raises ExperimentError."""
        return parse(self.value)

    @property
    def bar(self) -> Bar:
        """The bar as an interval, open on one side but for `between`."""
        low, high = self.between or (self.at_least, self.at_most)
        ends = {"low": low, "high": high}
        return Bar(**{end: value for end, value in ends.items() if value is not None}, every_seed=self.every_seed)


class Plot(Section):
    """A figure of the results."""

    kind: Literal["curves", "bars", "heatmap", "lines"]
    name: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", description="of the file; default: kind and metrics")
    title: str = ""
    arms: list[str] = Field(default=[], description="default: all arms")
    metric: str = Field(
        default="",
        description="curves: what is drawn after each round, a line for each arm; heatmap, lines: the end of crossed "
        "arms, in colours, or a line for each level of the first factor along those of the second",
    )
    over: Literal["rounds", "bytes"] = Field(default="rounds", description="curves: what they run along")
    metrics: list[str] = Field(default=[], description="bars: what is drawn of the end, a group of bars for each arm")

    @model_validator(mode="after")
    def _has_its_metrics(self) -> Plot:
        if self.kind == "curves" and (not self.metric or self.metrics):
            raise ValueError('curves show one metric: metric = "merged"')
        if self.kind in ("heatmap", "lines") and (not self.metric or self.metrics or self.arms):
            what = "heat maps" if self.kind == "heatmap" else "lines"
            raise ValueError(f'{what} show one metric of all crossed arms: metric = "merged"')
        if self.kind == "bars" and (not self.metrics or self.metric):
            raise ValueError('bars show a list of metrics: metrics = ["merged", "local"]')
        if self.kind != "curves" and self.over != "rounds":
            raise ValueError(f'over = "{self.over}" is for curves')
        return self

    @property
    def shown(self) -> list[str]:
        """The metrics it shows."""
        return self.metrics or [self.metric]

    @property
    def file_name(self) -> str:
        """Name of the file, without its ending."""
        return self.name or "-".join([self.kind, *self.shown, *(["bytes"] if self.over == "bytes" else [])])


class _Head(Section):
    """The plain keys of a study beside those of an experiment."""

    title: str = Field(min_length=1)
    about: str = ""
    seeds: Seeds = Field(default=[0, 1, 2])


class _Quick(Section):
    """The keys of [quick] beside those of an experiment."""

    arms: list[str] | None = None
    cross: dict[str, list[str]] = Field(default={})
    seeds: Seeds | None = None


class Contents(NamedTuple):
    """All that a study says; `quick` are the reduced experiments of the arms that are kept for a quick look."""

    title: str
    about: str
    seeds: tuple[int, ...]
    experiments: Mapping[str, Experiment]
    quick_seeds: tuple[int, ...]
    quick: Mapping[str, Experiment]
    claims: tuple[Claim, ...]
    plots: tuple[Plot, ...]
    cross: Cross | None


def contents(path: Path, name: str) -> Contents:
    """What the file says; `name` names its experiments. Raises ExperimentError that names file and key."""
    base, arms, grid = read_file(path)
    try:
        if grid:
            raise ExperimentError("sweep: a study has arms and no grid; write one arm for each point")
        return _contents({"name": name, **base}, arms)
    except ExperimentError as error:
        raise ExperimentError(f"{path}: {error}") from None


def _contents(table: Table, arms: Mapping[str, Table]) -> Contents:
    crossed = read_cross(table.pop("cross", {}), arms)
    if not arms and not crossed:
        raise ExperimentError("arms: a study needs one table for each arm, e.g. [arms.single]")
    cross, levels = crossed or (None, {})
    names = dict.fromkeys([*arms, *(cross.arms if cross else ())])
    claims, plots = _tables(table, "claims"), _tables(table, "plots")
    reduced = table.pop("quick", {})
    if not isinstance(reduced, dict):
        raise ExperimentError("quick: write a table of overrides, e.g. [quick] with rounds = 10")
    head, base = _split(_Head, table, "")
    kept, overrides = _split(_Quick, reduced, "quick.")
    _require(kept.arms or (), names, "quick.arms", "arm")
    chosen = set(kept.arms or names)
    if kept.cross:
        chosen = {*(arms if kept.arms is None else kept.arms), *kept_pairs(cross, kept.cross)}

    def experiments_for(which: Collection[str], over: Table | None = None) -> dict[str, Experiment]:
        plain = {arm: arms[arm] for arm in arms if arm in which}
        found = experiments_of(base, plain, over) if plain else {}
        return found | (crossed_experiments(base, cross, levels, which, over) if cross else {})

    experiments = experiments_for(names)
    try:
        quick = experiments_for(chosen, overrides)
    except ExperimentError as error:
        raise ExperimentError(f"with [quick]: {error}") from None
    if any(experiment.seed for experiment in (*experiments.values(), *quick.values())):
        raise ExperimentError("seed: all arms of a study run with the same seeds; write seeds = [0, 1, 2]")
    return Contents(
        title=head.title,
        about=" ".join(head.about.split()),
        seeds=_distinct(head.seeds, "seeds"),
        experiments=experiments,
        quick_seeds=_distinct(kept.seeds or head.seeds, "quick.seeds"),
        quick=quick,
        claims=_claims(claims, names, cross),
        plots=tuple(_plot(one, names, cross, f"plots, table {number}") for number, one in enumerate(plots, 1)),
        cross=cross,
    )


def _tables(table: Table, key: str) -> list[Table]:
    """Take a list of tables out of a table."""
    found = table.pop(key, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ExperimentError(f"{key}: write one table for each, headed [[{key}]]")
    return found


Model = TypeVar("Model", bound=BaseModel)


def _split(model: type[Model], table: Table, where: str) -> tuple[Model, Table]:
    """A table of both kinds of keys as those of `model` and those of an experiment."""
    own = {key: value for key, value in table.items() if key in model.model_fields}
    rest = {key: value for key, value in table.items() if key not in own}
    tables = [] if where else ["arms", "cross", "quick", "claims", "plots"]
    known = [*model.model_fields, *tables, *Experiment.model_fields]
    for key in rest:
        if key.partition(".")[0] not in known:
            raise ExperimentError(f"unknown key '{where}{key}'; {_near(key, known)}valid keys: {', '.join(known)}")
    return _read(model, own, where), rest


def _read(model: type[Model], table: Table, where: str) -> Model:
    """The table as a model. Raises ExperimentError with the first problem: the key, its value, what is allowed."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    key, known = ".".join(map(str, problem["loc"][:1])), list(model.model_fields)
    if problem["type"] == "extra_forbidden":
        raise ExperimentError(f"{where}unknown key '{key}'; {_near(key, known)}valid keys: {', '.join(known)}")
    if problem["type"] == "missing":
        raise ExperimentError(f"{where}{key} is missing")
    message = problem["msg"].removeprefix("Value error, ")
    raise ExperimentError(
        f"{where}{key} = {table[key]!r}: {message[0].lower()}{message[1:]}" if key else where + message
    )


def _distinct(seeds: list[int], where: str) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ExperimentError(f"{where} = {seeds}: a seed is given twice; the same seed gives the same run again")
    return tuple(seeds)


def _claims(tables: list[Table], arms: Mapping[str, Any], cross: Cross | None) -> tuple[Claim, ...]:
    claims: dict[str, Claim] = {}
    for number, table in enumerate(tables, 1):
        where = f"claim '{table['name']}'" if isinstance(table.get("name"), str) else f"claims, table {number}"
        claim = _read(Claim, table, f"{where}: ")
        if claim.name in claims:
            raise ExperimentError(f"{where}: there are two of this name; give each its own")
        try:
            terms = claim.expression.terms
        except ExperimentError as error:
            raise ExperimentError(f"{where}: {error}") from None
        for term in terms:
            _require_arm(term, arms, cross, where)
            _require([term.metric], METRICS, where, "metric")
            if term.over == "worst" and METRICS[term.metric].low_is_good:
                raise ExperimentError(f"{where}: {term}: of '{term.metric}' more is worse; write most(...)")
            if term.target is not None and term.metric not in CLIMBING:
                raise ExperimentError(f"{where}: {term}: what can be reached is {', '.join(CLIMBING)}")
            if term.budget is not None and term.metric not in CURVES:
                raise ExperimentError(f"{where}: {term}: what has a value round by round is {', '.join(CURVES)}")
        claims[claim.name] = claim
    return tuple(claims.values())


def _require_arm(term: Term, arms: Mapping[str, Any], cross: Cross | None, where: str) -> None:
    """Raises ExperimentError where a claim is about an arm, or a level of crossed arms, that is not there."""
    if not term.over:
        _require([term.arm], arms, where, "arm")
    elif cross is None:
        raise ExperimentError(f"{where}: {term} is about crossed arms, and there is no table [cross]")
    else:
        _require([term.arm], dict.fromkeys([*cross.rows, *cross.columns]), where, "level")


CURVES = [name for name, metric in METRICS.items() if metric.by_round]
"""The metrics that have a value after each round."""
CLIMBING = [name for name in CURVES if METRICS[name].unit == "accuracy"]
"""Those of them that are better the higher."""


def _plot(table: Table, arms: Mapping[str, Any], cross: Cross | None, where: str) -> Plot:
    plot = _read(Plot, table, f"{where}: ")
    _require(plot.arms, arms, f"{where}: arms", "arm")
    _require(plot.shown, METRICS, where, "metric")
    if plot.kind in ("heatmap", "lines") and cross is None:
        what = "a heat map is" if plot.kind == "heatmap" else "lines are"
        raise ExperimentError(f"{where}: {what} of crossed arms, and there is no table [cross]")
    if plot.kind == "curves" and plot.metric not in CURVES:
        raise ExperimentError(
            f"{where}: metric = '{plot.metric}' is no curve over rounds; these are: {', '.join(CURVES)}"
        )
    if len({METRICS[name].unit for name in plot.shown}) > 1:
        raise ExperimentError(f"{where}: metrics = {plot.metrics}: give each unit a plot of its own")
    return plot


def _require(names: Iterable[str], known: Mapping[str, Any], where: str, what: str) -> None:
    for name in names:
        if name not in known:
            raise ExperimentError(f"{where}: no {what} '{name}'; {_near(name, known)}{what}s: {few(known)}")
        if what == "metric" and not METRICS[name].recorded:
            raise ExperimentError(f"{where}: runs of this version of Gossamer do not record '{name}'")


MANY = 24
"""Names that a message lists, at most."""


def few(names: Collection[str]) -> str:
    """Names in a row; of more than 24 the first ones and how many there are."""
    listed = list(names)
    return ", ".join(listed[:MANY]) + (f", ... ({len(listed)} in all)" if len(listed) > MANY else "")


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{near[0]}'? " if near else ""
