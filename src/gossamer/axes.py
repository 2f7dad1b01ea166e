"""Runs on axes: by which keys of their experiments runs are told apart, and what each is called there.

An axis is one key or several. A key is a path such as aggregator, aggregator.f or partition.alpha; it stands for all
that lies below it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gossamer.compare import ASIDE
from gossamer.errors import ExperimentError
from gossamer.units import NONE

if TYPE_CHECKING:
    from gossamer.runs import Run

Table = dict[str, Any]
CHOSEN = frozenset({"aggregator", "init", "learner", "method", "model", "parametrisation", "root", "rounds", "schedule",
                    "transforms", "downlink"})  # fmt: skip
"""Keys that a defender may choose; in all others the runs of a table must agree."""


def where(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """The runs for which every condition "key=value" holds, such as "partition.alpha=0.1"; a plug is its kind.

    Raises ExperimentError for a condition that is none, a key that no run has, and where nothing is left.
    """
    kept = list(runs)
    for condition in conditions:
        key, equals, text = (part.strip() for part in condition.partition("="))
        tables = [flat(run.record["experiment"]) for run in kept]
        if not equals:
            raise ExperimentError(f"--where {condition}: write KEY=VALUE, e.g. --where partition.alpha=0.1")
        check_keys([key], tables)
        found = [_word(table.get(f"{key}.kind", table.get(key))) for table in tables]
        kept = [run for run, word in zip(kept, found, strict=True) if word == text or _number(word) == _number(text)]
        if not kept:
            raise ExperimentError(f"--where {condition}: no run has that; there are {listed(in_order(found))}")
    return kept


def axis_labels(tables: Sequence[Table], keys: Sequence[str]) -> list[str]:
    """What each run is called on an axis: its values of the keys, a plug as its kind and the settings in which plugs of
    that kind differ. Of several keys a number is called by its key, too. No keys: the same for all."""
    parts = [_labels(tables, key) for key in keys]
    if len(keys) > 1:
        lasts = [key.rpartition(".")[2] for key in keys]
        parts = [
            [f"{last} {word}" if isinstance(_number(word), float) else word for word in words]
            for last, words in zip(lasts, parts, strict=True)
        ]
    return [", ".join(words) for words in zip(*parts, strict=True)] if parts else [""] * len(tables)


def _labels(tables: Sequence[Table], key: str) -> list[str]:
    inside = [{k: v for k, v in table.items() if k == key or k.startswith(f"{key}.")} for table in tables]
    kinds = [_in_front(table, key) + _word(table.get(f"{key}.kind", table.get(key))) for table in inside]
    labels = []
    for table, kind in zip(inside, kinds, strict=True):
        alike = [other for other, its in zip(inside, kinds, strict=True) if its == kind]
        fronts = [
            name for other in alike for name in other if name.startswith(f"{key}.before.") and name.endswith(".kind")
        ]
        names = dict.fromkeys(name for o in alike for name in o if name not in (key, f"{key}.kind", *fronts))
        differing = [name for name in names if len({repr(other.get(name)) for other in alike}) > 1]
        told = named({name: table.get(name) for name in differing}, names)
        labels.append(f"{kind} ({told})" if told else kind)
    return labels


def _in_front(table: Table, key: str) -> str:
    """The kinds of pre-aggregators in front of a rule: 'nnm + '."""
    return "".join(
        f"{value} + " for name, value in table.items() if name.startswith(f"{key}.before.") and name.endswith(".kind")
    )


def named(settings: Table, keys: Iterable[str]) -> str:
    """'f 2, nnm': settings by the last part of their key where that says which, a kind by itself; none is left out."""
    lasts = [key.rpartition(".")[2] for key in keys]
    words = []
    for key, value in settings.items():
        last = key.rpartition(".")[2]
        if value is not None:
            name = last if lasts.count(last) == 1 else key
            words.append(_word(value) if last == "kind" else f"{name} {_word(value)}")
    return ", ".join(words)


def _word(value: object) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def in_order(labels: Iterable[str]) -> list[str]:
    """Each label once: numbers by size, others as they come."""
    found = list(dict.fromkeys(labels))
    numbers = [_number(label) for label in found]
    return sorted(found, key=float) if all(isinstance(number, float) for number in numbers) else found


def flat(table: Any, prefix: str = "") -> Table:
    """Nested tables and lists as dotted keys: {'aggregator.before.0.kind': 'nnm'}."""
    if isinstance(table, dict):
        parts = table.items()
    elif isinstance(table, list) and any(isinstance(part, (dict, list)) for part in table):
        parts = {str(i): part for i, part in enumerate(table)}.items()
    else:
        return {prefix: table} if table != [] else {}
    return {k: v for key, part in parts for k, v in flat(part, f"{prefix}.{key}" if prefix else str(key)).items()}


def check_keys(keys: Sequence[str], tables: Sequence[Table]) -> None:
    """Raises ExperimentError for a key that no run has, and for one that lies in another."""
    known = {key[:end] for table in tables for key in table for end in _ends(key)}
    for i, key in enumerate(keys):
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"; did you mean '{near[0]}'?" if near else "; give one such as aggregator or partition.alpha"
            raise ExperimentError(f"no run has the key '{key}'{hint}")
        for other in keys[:i]:
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise ExperimentError(f"'{key}' is given twice ('{other}'); each key belongs to one axis")


def _ends(key: str) -> list[int]:
    return [i for i, letter in enumerate(key) if letter == "."] + [len(key)]


def differing(tables: Sequence[Table], keys: Sequence[str]) -> list[str]:
    """The keys outside the axes in which runs differ. Raises ExperimentError for one that is no choice."""
    taken = (*ASIDE, *keys)
    names = dict.fromkeys(name for table in tables for name in table)
    found = []
    for name in names:
        values = [table.get(name) for table in tables]
        if any(f"{name}.".startswith(f"{key}.") for key in taken) or all(value == values[0] for value in values):
            continue
        if name.partition(".")[0] not in CHOSEN:
            words = in_order(map(_word, values))
            raise ExperimentError(
                f"the runs differ in {name} ({listed(words)}), which is not a defender's to choose: give it to "
                f"--rows, --columns or --over, or keep one: --where {name}={words[0]}"
            )
        found.append(name)
    return found


def listed(values: Sequence[object]) -> str:
    """The first eight of several values, for a message."""
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
