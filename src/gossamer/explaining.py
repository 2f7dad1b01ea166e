"""What is wrong with an experiment, in words: the field, its value, what is allowed, the nearest valid key."""

from __future__ import annotations

import difflib
from types import UnionType
from typing import Any

from pydantic import BaseModel, ValidationError

from gossamer.plugs import Plug, discover, families

UNION_PARTS = ("int", "float", "constrained-float", "literal['all']")
"""What pydantic adds to the location of an error in a field of several types."""


def explain(error: ValidationError, experiment: type[BaseModel]) -> str:
    """The problems, joined: of each the field, the value, what is allowed, the nearest valid key."""
    found: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False):
        # A field of several types fails once for each of them.
        location = tuple(part for part in problem["loc"] if part not in UNION_PARTS)
        text = _explain_one({**problem, "loc": location}, experiment)
        where, _, what = text.partition(": ")
        found.setdefault(where, []).append(what)
    return "; ".join(f"{where}: {' or '.join(what)}" if any(what) else where for where, what in found.items())


def _explain_one(problem: dict[str, Any], experiment: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    model = _model_at(location[:-1], experiment) if problem["type"] == "extra_forbidden" else None
    kinds = {part for part in location if not part.isdigit()} & _kinds()
    kept: list[str] = []
    before = ""
    for part in location:
        # The kind of a choice stands after its field; a field may have the name of a kind.
        tag = bool(kept) and before == kept[-1] and part in kinds
        kept += [] if tag else [part]
        before = "" if tag else part
    field = ".".join(kept)
    if problem["type"] == "extra_forbidden":
        known = list(model.model_fields) if model else []
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"unknown key '{field}'; {hint}valid keys: {', '.join(known)}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:] if message else message
    value = problem.get("input")
    shown = "" if isinstance(value, (dict, BaseModel)) or problem["type"] == "missing" else f" = {_short(value)}"
    return f"{field}{shown}: {message}" if field else message


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kinds() -> set[str]:
    return {kind for base in families().values() for kind in discover(base)}


def _model_at(location: list[str], experiment: type[BaseModel]) -> type[BaseModel] | None:
    """The pydantic model that a location of an error points into."""
    model = experiment
    for part in location:
        if part.isdigit():
            continue
        field = model.model_fields.get(part)
        if field is not None:
            annotation: Any = field.annotation
            if isinstance(annotation, UnionType):  # a table that may be absent
                annotation = annotation.__args__[0]
            if getattr(annotation, "__origin__", None) is tuple:
                annotation = annotation.__args__[0].__origin__
            model = annotation
        elif isinstance(model, type) and issubclass(model, Plug):
            base = next((b for b in families().values() if issubclass(b, model) or issubclass(model, b)), None)
            found = discover(base).get(part) if base else None
            if found is None:
                return None
            model = found
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None
