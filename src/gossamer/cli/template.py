"""The experiment file that `gossamer new` writes: every key with its default and its meaning, taken from the model."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, get_args

import tomli_w

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from gossamer.plugs import Plug

HEAD = """\
# An experiment for Gossamer. Every key may be left out; the values written here are the defaults.
#
#   gossamer validate FILE     is it right?
#   gossamer plan FILE         what will it be: nodes, graph, bytes, memory
#   gossamer run FILE          run it, then read the report
#   gossamer list              every kind there is, with its source
#
# A table with another kind has other fields. Your own code: kind = "NAME" and file = "my_plug.py", which is run.
"""
TAIL = """

# ---- several experiments in one file -------------------------------------------------------------------------

# Arms are differences from what is above; `gossamer run` runs and compares them all.
#
# [arms.server]
#
# [arms.ring]
# method = "dsgd"
# topology = "ring"

# A grid over any keys, for `gossamer sweep`.
#
# [sweep]
# "learner.lr" = [0.1, 0.03, 0.01]
"""


def template(name: str) -> str:
    """The text of a commented experiment file; it loads as `Experiment(name=name)`."""
    from gossamer.experiment import Experiment

    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).lstrip("._-") or "experiment"
    default = Experiment(name=safe)
    plain, tables = [HEAD], []
    for key, field in Experiment.model_fields.items():
        value = getattr(default, key)
        if hasattr(type(value), "model_fields"):
            tables.append(_table(key, value, field))
        elif isinstance(value, tuple):
            plain.append(_line(key, list(value), f"{_meaning(field)}; kinds: {_kinds(_inner(field))}"))
        else:
            plain.append(_line(key, value, _meaning(field)))
    return "\n".join([*plain, *tables]) + TAIL


def _table(key: str, value: Any, field: FieldInfo) -> str:
    """One table: a plug with the kinds there are, or a plain section."""
    lines = [f"\n[{key}]"]
    if "kind" in type(value).model_fields and "file" in type(value).model_fields:
        family = _family(value)
        lines.append(_comment(f"kinds: {_kinds(family)}"))
        lines.append(_line("kind", value.kind, type(value).summary()))
    for name, inner in type(value).model_fields.items():
        if not inner.exclude and (name not in ("kind", "file") or "file" not in type(value).model_fields):
            lines.append(_line(name, getattr(value, name), _meaning(inner)))
    return "\n".join(lines)


def _family(plug: Plug) -> type[Plug]:
    from gossamer.plugs import families

    return next(base for base in families().values() if isinstance(plug, base))


def _inner(field: FieldInfo) -> type[Plug]:
    """The plug class of a tuple of plugs."""
    annotation: Any = field.annotation
    base: type[Plug] = annotation.__args__[0].__origin__
    return base


def _kinds(family: type[Plug]) -> str:
    from gossamer.plugs import discover

    return ", ".join(discover(family))


def _meaning(field: FieldInfo) -> str:
    """The description of a field, and the words it allows."""
    allowed = [str(part) for part in get_args(field.annotation) if isinstance(part, str)]
    meaning = field.description or ""
    if len(allowed) < 2 or all(word in meaning for word in allowed):
        return meaning
    return "; ".join(filter(None, [meaning, f"one of: {', '.join(allowed)}"]))


def _line(key: str, value: Any, meaning: str) -> str:
    """'key = value  # meaning', the meaning above where the line would be long; what is not set is a comment."""
    text = f"# {key} =" if value is None else f"{key} = {_toml(value)}"
    meaning = " ".join(meaning.split()) + (" (not set)" if value is None else "")
    if not meaning:
        return text
    if len(text) + len(meaning) > 100:
        return f"{_comment(meaning)}\n{text}"
    return f"{text:<28}  # {meaning}"


def _toml(value: Any) -> str:
    """A value as TOML on one line."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml(part) for part in value)}]"
    return tomli_w.dumps({"value": value}).strip().removeprefix("value = ")


def _comment(text: str) -> str:
    return textwrap.fill(text, 100, initial_indent="# ", subsequent_indent="#   ")
