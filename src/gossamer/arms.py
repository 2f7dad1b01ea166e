"""Arms and grids: one experiment file, several experiments that differ in a few keys.

    name = "first"                      # the base: any experiment
    rounds = 20

    [arms.fedavg]                       # differences from the base; an arm may be empty
    [arms.ring]
    method = "dsgd"
    topology = "ring"

    [sweep]                             # a grid over any keys, for `gossamer sweep`
    "learner.lr" = [0.1, 0.01]

A difference is merged key by key. A table of another `kind` replaces what was there, since its fields are others; what
every kind of a family has (a learner's batch size, a topology's weights) is kept. Importing this module loads no plug.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
import tomllib
from typing import TYPE_CHECKING, Any, get_args, get_origin

from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pydantic import BaseModel

    from gossamer.experiment import Experiment

Table = dict[str, Any]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
EITHER = frozenset({"epochs", "steps"})
"""Fields of which only one can be given."""
OF_ITS_KIND = frozenset({"kind", "file", "lr", "weight_decay"})
"""Fields of a family that another kind does not take over: the right rate of one learner is wrong for another."""


def load_arms(path: str | Path, settings: Sequence[str] = ()) -> dict[str, Experiment]:
    """The experiments of a file by the name of their arm; a file without arms has one, named after the experiment.

    `settings` ("learner.lr=0.05") are applied last, to every arm. An experiment's name is that of the base, a hyphen
    and that of the arm. Raises ExperimentError, which names the arm where an arm is at fault.
    """
    base, arms, _ = read_file(path)
    return experiments_of(base, arms, settings=settings)


def experiments_of(
    base: Table, arms: Mapping[str, Table], overrides: Table | None = None, settings: Sequence[str] = ()
) -> dict[str, Experiment]:
    """The experiments of tables as `read_file` gives them, by arm; `overrides` are put over every arm's differences.

    Names, `settings` and errors are as for `load_arms`.
    """
    from gossamer.experiment import with_default_kinds

    base = with_default_kinds(base)
    settings = sorted(settings, key=lambda setting: _choice_first(setting.partition("=")[0].strip()))
    base_name = functools.reduce(apply, settings, base).get("name", "experiment")
    experiments = {}
    for arm, differences in (arms or {"": {}}).items():
        table = merge(merge(base, differences, arm), overrides or {}, arm)
        table = functools.reduce(apply, settings, table)
        if arm:
            table["name"] = f"{base_name}-{arm}"
        experiment = _experiment(table, arm)
        experiments[arm or experiment.name] = experiment
    return experiments


def load_sweep(path: str | Path, settings: Sequence[str] = ()) -> dict[str, list[Any]]:
    """The grid of a file: the values to try for each dotted key; empty where the file has no `[sweep]`.

    Raises ExperimentError where one of the `settings` would be overridden by the grid.
    """
    grid = read_file(path)[2]
    for setting in settings:
        if (key := setting.partition("=")[0].strip()) in grid:
            raise ExperimentError(f"--set {setting}: the file sweeps over '{key}'; remove one of the two")
    return grid


def read_file(path: str | Path) -> tuple[Table, dict[str, Table], dict[str, list[Any]]]:
    """(base, arms, grid) of an experiment file as plain tables, none of them checked against the experiment yet.

    Raises ExperimentError where the file cannot be read or the shape of `arms` or `sweep` is wrong.
    """
    from gossamer.experiment import parse_toml, read_text

    text = read_text(path)
    try:
        base = parse_toml(text)
    except ExperimentError as error:
        raise ExperimentError(f"{path}: {error}") from None
    arms = base.pop("arms", {})
    sweep = base.pop("sweep", {})
    if not isinstance(arms, dict):
        raise ExperimentError("arms: write one table for each arm, e.g. [arms.ring]")
    for arm, differences in arms.items():
        if not NAME.fullmatch(arm):
            raise ExperimentError(f"arms.'{arm}': a name holds letters, digits, '.', '_' and '-' only")
        if not isinstance(differences, dict):
            raise ExperimentError(f"arms.{arm}: write a table of differences, e.g. [arms.{arm}]")
    if not isinstance(sweep, dict):
        raise ExperimentError('sweep: write a table of lists, e.g. [sweep] with "learner.lr" = [0.1, 0.01]')
    grid = flattened(sweep)
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ExperimentError(f'sweep."{key}" = {values!r}: give a list with at least one value')
    return base, arms, grid


def expand(
    arms: Mapping[str, Experiment], sweep: Mapping[str, list[Any]], seeds: Sequence[int] = ()
) -> dict[str, list[Experiment]]:
    """Every arm at every point of the grid, each with every seed: {label: experiments that differ in the seed only}.

    A grid over `seed` counts as the seeds unless `seeds` are given; without either, each arm keeps its own seed.
    Raises ExperimentError that names the point where the experiment is not valid.
    """
    axes = {key: values for key, values in sweep.items() if key != "seed"}
    seeds = list(seeds) or list(sweep.get("seed", []))
    if repeated := [seed for i, seed in enumerate(seeds) if seed in seeds[:i]]:
        raise ExperimentError(f"seed {repeated[0]} is given twice; the same seed gives the same run again")
    expanded: dict[str, list[Experiment]] = {}
    for arm, experiment in arms.items():
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            words = [_short_key(key, value, axes) + _short_value(value) for key, value in point.items()]
            # The one arm of a file without arms has the experiment's name, which tells nothing here.
            label = "-".join(words if words and arm == experiment.name else [arm, *words])
            if label in expanded:
                raise ExperimentError(f"sweep: two points of the grid have the name '{label}'; remove the double value")
            table = {**_at(experiment, point, label), "name": "-".join([experiment.name, *words])}
            expanded[label] = [_experiment({**table, "seed": seed}, label) for seed in seeds or [experiment.seed]]
    return expanded


def _at(experiment: Experiment, point: Table, label: str) -> Table:
    """The table of an experiment at a point of the grid. Raises ExperimentError that names the keys at fault."""
    base = experiment.to_dict()
    keys = sorted(point, key=_choice_first)
    table = functools.reduce(lambda table, key: merge(table, _nested(key, point[key]), label), keys, base)
    if error := _error(table):
        alone = {key: merge(base, _nested(key, value), label) for key, value in point.items()}
        at_fault = "".join(f'sweep."{key}": ' for key in alone if _error(alone[key]))
        raise ExperimentError(f"arm '{label}': {at_fault}{error}")
    return table


def apply(table: Table, setting: str) -> Table:
    """A copy of the table with one setting "key=value" applied; the key may be dotted.

    The value is read as TOML (0.05, true, [1, 2], { kind = "ring" }); a bare word is a string. Raises ExperimentError.
    """
    key, equals, text = setting.partition("=")
    key, text = key.strip(), text.strip()
    if key.partition(".")[0] == "arms":
        raise ExperimentError(
            f"--set {setting}: --set changes every arm (--set learner.lr=0.05); for one, edit the file"
        )
    if not equals or not key or not all(key.split(".")):
        raise ExperimentError(f"--set {setting}: write key=value, e.g. --set learner.lr=0.05")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if not text or text[0] in "[{\"'":
            raise ExperimentError(f"--set {setting}: the value is not valid TOML") from None
        value = text
    return merge(table, _nested(key, value))


def merge(base: Table, differences: Table, arm: str = "") -> Table:
    """`base` with `differences` put over it, table by table; neither is changed.

    Keys may be dotted. A table of another `kind` or `file` replaces, but keeps what every kind of the family has; one
    without a kind keeps the kind that was there (also where that was written as a bare string, or is the experiment's
    default).
    """
    merged = copy.deepcopy(base)
    for key, value in _undotted(differences).items():
        before = merged.get(key)
        if isinstance(before, str) and isinstance(value, dict):
            before = {"kind": before}
        if isinstance(before, dict) and isinstance(value, str) and _family(key):
            value = {"kind": value}
        if isinstance(before, list) and isinstance(value, dict):
            place = f"arm '{arm}': " if arm else ""
            raise ExperimentError(f"{place}'{key}' is a list: give the whole list")
        if not (isinstance(before, dict) and isinstance(value, dict)):
            merged[key] = copy.deepcopy(value)
        elif _other_kind(before, value):
            merged[key] = copy.deepcopy({**value, **_kept(key, before, value)})
        else:
            merged[key] = merge(_without_other(before, value), value, arm)
    return merged


def _without_other(before: Table, value: Table) -> Table:
    """A table without its epochs where steps are given now, and the other way round: only one of them can be said."""
    given = EITHER & value.keys()
    return {k: v for k, v in before.items() if k not in EITHER - given} if len(given) == 1 else before


def _choice_first(key: str) -> bool:
    """Sorts the keys that choose a kind before those that set a field of it."""
    return "." in key and not key.endswith((".kind", ".file"))


def _kept(key: str, before: Table, value: Table) -> Table:
    """What the choice `key` keeps of the table `before` when it gets another kind, in the table `value`.

    That is what the base class of its family defines, but for OF_ITS_KIND and what `value` itself gives.
    """
    family = _family(key)
    left = OF_ITS_KIND | value.keys() | (EITHER if value.keys() & EITHER else set())
    return {name: old for name, old in before.items() if family and name in family.model_fields and name not in left}


def _family(key: str) -> type[BaseModel] | None:
    """The base class of a choice of the experiment, e.g. Learner for 'learner'; None where the key is no choice."""
    from gossamer.experiment import Experiment

    field = Experiment.model_fields.get(key)
    annotation: Any = field.annotation if field else None
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0].__origin__
    return annotation if hasattr(annotation, "model_fields") else None


def in_words(key: str, table: Table) -> str:
    """A choice of an experiment in words: its kind and what is set otherwise than by default."""
    from gossamer.plugs import discover

    family: Any = _family(key)
    cls = discover(family).get(table["kind"], family)
    told = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in sorted(table.items())
        if name not in ("kind", "file", "weights", "participation")
        and isinstance(value, (int, float, str))
        and not (name in cls.model_fields and value == cls.model_fields[name].default)
    ]
    return str(table["kind"]) + (f" ({', '.join(told)})" if told else "")


def _other_kind(before: Table, value: Table) -> bool:
    """Whether a table names another kind than the one before, or a file, which brings its own."""
    if "kind" in value:
        return bool(value["kind"] != before.get("kind"))
    return "file" in value and value["file"] != before.get("file")


def _experiment(table: Table, arm: str) -> Experiment:
    from gossamer.experiment import Experiment

    try:
        return Experiment.from_dict(table)
    except ExperimentError as error:
        raise ExperimentError(f"arm '{arm}': {error}" if arm else str(error)) from None


def _error(table: Table) -> str:
    """What is wrong with the table of an experiment; empty for nothing."""
    try:
        _experiment(table, "")
    except ExperimentError as error:
        return str(error)
    return ""


def _nested(key: str, value: Any) -> Table:
    """'a.b' and a value as {'a': {'b': value}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _undotted(table: Table) -> Table:
    """The table with its dotted keys as nested tables."""
    if not any("." in key for key in table):
        return table
    nested: Table = {}
    for key, value in table.items():
        nested = merge(nested, _nested(key, value))
    return nested


def flattened(table: Table, prefix: str = "") -> Table:
    """Nested tables as dotted keys."""
    flat: Table = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _short_key(key: str, value: Any, keys: Mapping[str, object]) -> str:
    """The last part of a dotted key where that says which key is meant; nothing where the value is a word."""
    if isinstance(value, (str, dict)):
        return ""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _short_value(value: Any) -> str:
    """A value as part of a name: letters, digits, '.', '_' and '-'."""
    if isinstance(value, dict):
        parts = [str(value.get("kind", "")), *(f"{k}{_short_value(v)}" for k, v in value.items() if k != "kind")]
        return "_".join(part for part in parts if part)
    if isinstance(value, list):
        return "_".join(_short_value(part) for part in value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_")
