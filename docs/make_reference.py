"""Print the reference of an experiment, in Markdown, from the typed model and the plugs themselves.

python docs/make_reference.py > docs/experiment.md
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

from gossamer.aggregators import Aggregator, Robust
from gossamer.experiment import Experiment, Section
from gossamer.plugs import Plug, discover, families
from gossamer.privacy import Mechanism, Privacy

IMAGES = Path(__file__).parent / "images"

HEAD = """\
# An experiment, field by field

*Printed by `python docs/make_reference.py > docs/experiment.md`; a test compares.*

An experiment is a TOML file or a `gossamer.Experiment(...)` with the same keys. Every key has a default, an unknown key
is an error that names the nearest valid one, and `gossamer new FILE` writes a file with all of them.

A choice such as `partition` is a table with a `kind`, and the fields of a table are those of its kind. Three ways to
write one:

```toml
partition = "iid"                               # the kind alone: its fields have their defaults
model = { kind = "mlp", hidden = [32] }         # a kind and some fields
learner = { lr = 0.05 }                         # no kind: that of the default, here sgd
```

Your own code is a choice too: `{ file = "my_file.py" }` names a Python file that defines one plug of that family (a
model's file defines an `nn.Module`). Naming a file runs its code. Paths are looked up from the current folder. In
Python, an `nn.Module`, a `gossamer.Dataset`, a function or a networkx graph can stand in the place of a table.

A file may also hold `[arms.NAME]` tables (differences from what stands above, compared by `gossamer run`) and a
`[sweep]` table of lists (a grid, for `gossamer sweep`); see the [tutorial](tutorial.md).

Rules as functions of arrays, what each withstands and what each attack knows: [robust.md](robust.md). Whom a privacy
mechanism hides from whom: [privacy.md](privacy.md); what a secure sum shows: [secure-sums.md](secure-sums.md).

The pictures of partitions show the digits dealt to 16 nodes, and for natural groups the hospitals of `heart_disease`.
"""


def page() -> str:
    """The whole page."""
    sections = {key: found for key, field in Experiment.model_fields.items() if (found := _section_of(field))}
    bases: dict[str, str] = {}
    for key in Experiment.model_fields:
        if family := _family_of(key):
            bases.setdefault(family, key)
    parts = [HEAD, "## Plain keys\n", _table(Experiment, skip=sections.keys() | set(bases.values()))]
    for key, section in sections.items():
        absent = " Default: not there." if Experiment.model_fields[key].default is None else ""
        parts += [f"## `{key}`\n", f"{inspect.getdoc(section)}{absent}\n", _table(section, skip=set())]
    for family, key in sorted(bases.items(), key=lambda pair: list(Experiment.model_fields).index(pair[1])):
        parts += [f"## `{key}`\n", *_family(family, key)]
        if family == "aggregators":
            parts += [f"## `{key}.before`\n", *_family("preaggregators", "before")]
    return re.sub("\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def _section_of(field: Any) -> type[Section] | None:
    """The plain table that a key of the experiment holds, also where it may be left out; None where it holds none."""
    for kind in getattr(field.annotation, "__args__", None) or [field.annotation]:
        if inspect.isclass(kind) and issubclass(kind, Section):
            return kind
    return None


def _family_of(key: str) -> str:
    """The name of the family of plugs that a key of the experiment chooses from; empty where it does not."""
    annotation: Any = Experiment.model_fields[key].annotation
    while getattr(annotation, "__args__", None) and not inspect.isclass(getattr(annotation, "__origin__", None)):
        annotation = annotation.__args__[0]
    if getattr(annotation, "__origin__", None) is tuple:
        annotation = annotation.__args__[0].__origin__
    return next((name for name, base in families().items() if annotation is base), "")


def _family(family: str, key: str) -> list[str]:
    """What the family is, the fields of all its kinds, then each kind with the fields that are its own."""
    base = families()[family]
    default = Experiment.model_fields[key].default if key in Experiment.model_fields else None
    lead = (inspect.getdoc(importlib.import_module(base.__module__)) or "").split("\n\n")[0]
    default_kind = f"Default: `{default.kind}`." if isinstance(default, Plug) else "A list of tables; default: none."
    apart: dict[type[Plug], tuple[type[Plug], str]] = {
        Aggregator: (Robust, "robust kind"),
        Privacy: (Mechanism, "mechanism"),
    }
    common, who = apart.get(base, (base, "kind"))
    shared = set(common.model_fields)
    parts = [f"{lead} {default_kind}\n"]
    if shared - {"kind", "file"}:
        parts += [f"Fields of every {who}:\n", _table(common, skip={"kind", "file"})]
    for kind, cls in discover(base).items():
        parts += [f'### {key} = "{kind}"\n', (inspect.getdoc(cls) or "") + "\n"]
        if cls.source:
            parts.append(f"Source: {cls.source}.\n")
        if (IMAGES / f"{key}-{kind}.png").is_file():
            parts.append(f"![{key} {kind}](images/{key}-{kind}.png)\n")
        same = {name for name in shared & set(cls.model_fields) if _row(cls, name) == _row(common, name)}
        parts.append(_table(cls, skip=same | {"kind", "file"}))
    return parts


def _table(model: type[Any], skip: set[str]) -> str:
    """Key, type, default and meaning of the fields; nothing where there are none."""
    names = [name for name, field in model.model_fields.items() if name not in skip and not field.exclude]
    if not names:
        return ""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|", *(_row(model, name) for name in names)]
    return "\n".join(lines) + "\n"


def _row(model: type[Any], name: str) -> str:
    schema = model.model_json_schema()["properties"].get(name, {})
    if "default" not in schema:
        default = "required"
    else:
        default = "not set" if schema["default"] is None else f"`{json.dumps(schema['default'], ensure_ascii=False)}`"
    cells = [f"`{name}`", _type(schema), default, " ".join(schema.get("description", "").split())]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(schema: dict[str, Any]) -> str:
    """A JSON Schema in words: 'number > 0', 'integer >= 1', '`"a"` or `"b"`'."""
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"] if part.get("type") != "null")
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(_type(part) for part in schema['prefixItems'])}]"
        inner = _type(schema.get("items", {}))
        return f"list of {inner}" if inner else "list"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:,g}" for key, sign in signs.items() if key in schema and abs(schema[key]) < 2**53]
    words = {"object": "table", "boolean": "true or false", "string": "text"}
    return " ".join([words.get(schema.get("type", ""), schema.get("type", "")), ", ".join(bounds)]).strip()


if __name__ == "__main__":
    print(page(), end="")
