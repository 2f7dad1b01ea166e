"""Imports go down, as the list of layers in docs/architecture.md says; that list is what is tested here."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "gossamer"
FAMILIES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
FAMILIES -= {"audits", "backends", "cli", "engines", "secure"}
HEAVY = {"torch", "sklearn", "scipy", "networkx", "matplotlib", "PIL", "pyarrow", "safetensors"}
HEAVY |= {"cryptography", "dp_accounting", "opacus", "transformers", "peft", "tokenizers", "bitsandbytes"}
UP = {("runs", "plots"), ("runs", "report"), ("runs", "rounds")}
"""Imports inside functions that go up: `Run.plot` and `Run.report` are conveniences, `Run.model` needs one thread."""


@dataclass
class Imports:
    """What a module imports: when it is loaded, inside functions; imports for type checkers do not count."""

    loading: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)


@cache
def modules() -> dict[str, Path]:
    """All modules by dotted name below gossamer ('' is gossamer itself)."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str) -> Imports:
    found = Imports()

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}: relative import"
                full = [f"{child.module}.{alias.name}" for alias in child.names]
                names = [name if own(name) in modules() else str(child.module) for name in full]
            (found.later if inside else found.loading).update(names)
            visit(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(ast.parse(modules()[module].read_text(encoding="utf-8")), inside=False)
    return found


def own(name: str) -> str | None:
    """The part of a dotted name below gossamer; None for other packages."""
    return name.removeprefix("gossamer").removeprefix(".") if name.split(".")[0] == "gossamer" else None


def within(names: set[str]) -> set[str]:
    """Those of the names that are modules of gossamer, without gossamer itself."""
    return {found for name in names if (found := own(name))}


def top(module: str) -> str:
    return module.split(".")[0]


@cache
def layers() -> dict[str, int]:
    """The layer of each top-level module or package, 0 at the bottom, read from the documentation."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.search(r"<!-- layers -->\n+```text\n(.*?)```", text, re.DOTALL)
    assert drawn is not None
    lines = [line.partition("|")[0].split() for line in reversed(drawn[1].splitlines())]
    return {name: height for height, names in enumerate(lines) for name in names}


MODULES = sorted(module for module in modules() if module)


def test_every_module_has_a_layer_and_every_layer_a_module():
    assert layers().keys() == {top(module) for module in MODULES}


def test_gossamer_itself_imports_nothing():
    assert within(imports("").loading) == set()


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    """When loaded: to lower layers or within its own package. Inside functions: likewise, but for a few."""
    found = imports(module)
    for target in within(found.loading):
        below = layers()[top(target)] < layers()[top(module)]
        assert below or (top(target) == top(module) and target != module), f"{module} imports {target}"
    for target in within(found.later):
        below = layers()[top(target)] <= layers()[top(module)]
        assert below or (module, target) in UP, f"{module} imports {target} in a function"


def test_exceptions_are_used():
    for module, target in UP:
        assert target in within(imports(module).later), f"{module} no longer imports {target}: shorten UP"


def test_families_of_plugs_do_not_know_each_other():
    for module in MODULES:
        if top(module) in FAMILIES:
            others = {top(target) for target in within(imports(module).loading)} & (FAMILIES - {top(module)})
            # What goes before an aggregator is part of one, and lies below all families.
            others -= {"preaggregators"}
            assert not others, f"{module} imports {others}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_are_imported_inside_functions(module):
    assert {top(name) for name in imports(module).loading}.isdisjoint(HEAVY)


def test_no_module_is_loaded_in_a_circle():
    done: set[str] = set()

    def follow(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(within(imports(module).loading)):
                follow(target, (*path, module))
            done.add(module)

    for module in MODULES:
        follow(module, ())


def test_method_names_appear_in_no_other_layer():
    """One file, one idea: nothing outside a method's file asks which method it is."""
    kinds = {path.stem for path in (PACKAGE / "methods").glob("*.py")} - {"__init__", "local"}
    for module in MODULES:
        if top(module) in ("methods", "cli", "report"):
            continue
        tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
        compared = {
            part.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare)
            for part in ast.walk(node)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        }
        assert not compared & kinds, f"{module} asks for {compared & kinds}"
