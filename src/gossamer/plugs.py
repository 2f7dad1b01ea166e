"""Plugs: one idea, one file, found by its name.

A *plug* is a frozen pydantic model with a literal `kind` that equals the name of its file. Its fields are the
hyper-parameters, its few methods the idea. Putting `partitions/my_split.py` beside the others is all it takes:
the typed experiment, `gossamer list`, the JSON Schema and the contract tests find it by looking into the folder.
Plug modules import torch only inside functions.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from gossamer.errors import ExperimentError


class Plug(BaseModel):
    """Base of every choice in an experiment: frozen, typed, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True)

    source: ClassVar[str] = ""
    """Authors, year and equation or algorithm number of the idea; empty for common knowledge."""

    kind: str
    file: str = Field(default="", description="your own plug: the Python file that defines it (its code is run)")

    @classmethod
    def adopt(cls, value: object) -> Plug | None:
        """Wrap a Python object that is no plug (an `nn.Module`, arrays, a function), or None to refuse it."""
        return None

    @classmethod
    def default_kind(cls) -> str | None:
        """The kind meant by a table without `kind`, where one is obvious."""
        return None

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring: what `gossamer list` prints."""
        return (inspect.getdoc(cls) or "").split("\n")[0]

    def dumped(self) -> dict[str, Any]:
        """All fields with `kind` first, ready for TOML: what the experiment file holds."""
        table = self.model_dump(mode="json", exclude_none=True, exclude={"kind"} if self.file else {"kind", "file"})
        return {"kind": self.kind, **table}


P = TypeVar("P", bound=Plug)


class Choice:
    """Annotation marker: `Annotated[Partition, Choice()]` takes a plug, its table, its kind, or what `adopt` takes."""

    def __get_pydantic_core_schema__(self, base: type[Plug], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        known = discover(base)
        tagged = core_schema.tagged_union_schema(
            choices={kind: handler.generate_schema(cls) for kind, cls in known.items()},
            discriminator=lambda value: value["kind"],
        )

        def pick(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if isinstance(value, base):
                return value
            if isinstance(value, str):
                value = {"kind": value}
            if not isinstance(value, dict):
                if isinstance(value, type) and issubclass(value, base):
                    text = "{name} is a class: pass an instance, {name}()"
                    raise PydanticCustomError("plug_class", text, {"name": value.__name__})
                adopted = base.adopt(value)
                if adopted is None:
                    raise PydanticCustomError(
                        "not_a_plug",
                        "{what} cannot be used as {base}: give a kind, a table with a kind, or such an object",
                        {"what": type(value).__name__, "base": base.__name__},
                    )
                return adopted
            if "kind" not in value and (default := base.default_kind()):
                value = {"kind": default, **value}
            # A model of kind 'file' is no plug of its own.
            if value.get("file") and value.get("kind") != "file":
                return from_file(base, value)
            if value.get("kind") not in known:
                raise PydanticCustomError("unknown_kind", "{text}", {"text": unknown_kind(value.get("kind"), known)})
            return inner(value)

        return core_schema.no_info_wrap_validator_function(
            pick, tagged, serialization=core_schema.plain_serializer_function_ser_schema(lambda plug: plug.dumped())
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        inner: Any = schema
        return handler(inner["schema"])


def unknown_kind(kind: object, known: dict[str, Any]) -> str:
    """One line that says which kinds there are and which one was probably meant."""
    if kind is None:
        return f"'kind' is missing; one of: {', '.join(known)}"
    near = difflib.get_close_matches(str(kind), list(known), n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown kind '{kind}'; {hint}allowed: {', '.join(known)}"


def by_class(base: type[Plug], name: str) -> type[Plug]:
    """The plug of a family whose class has this name, for `from gossamer.aggregators import Krum`.

    Raises AttributeError that names the nearest.
    """
    found = {plug.__name__: plug for plug in discover(base).values()}
    if name not in found:
        near = difflib.get_close_matches(name, list(found), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise AttributeError(f"module {base.__module__!r} has no attribute {name!r}{hint}")
    return found[name]


@functools.cache
def discover(base: type[P]) -> dict[str, type[P]]:
    """All plugs of a family, by kind, in alphabetical order: one class for each file of the package of `base`."""
    package = importlib.import_module(base.__module__)
    found: dict[str, type[P]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{base.__module__}.{info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, base) and cls.__module__ == module.__name__ and "kind" in cls.__annotations__:
                found[cls.model_fields["kind"].default] = cls
    return dict(sorted(found.items()))


def families() -> dict[str, type[Plug]]:
    """The families of plugs by the name of their package: {'aggregators': Aggregator, ...}."""
    import gossamer

    found: dict[str, type[Plug]] = {}
    for info in pkgutil.iter_modules(gossamer.__path__):
        if info.ispkg:
            package = importlib.import_module(f"gossamer.{info.name}")
            for _, cls in inspect.getmembers(package, inspect.isclass):
                if issubclass(cls, Plug) and Plug in cls.__bases__ and cls.__module__ == package.__name__:
                    found[info.name] = cls
    return found


@functools.cache
def _run_file(file: Path, changed: int, size: int) -> Any:
    name = f"gossamer_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ExperimentError(f"file '{file}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        line = getattr(error, "lineno", None) or traceback.extract_tb(error.__traceback__)[-1].lineno
        raise ExperimentError(f"file '{file}', line {line}: {type(error).__name__}: {error}") from error
    return module


def run_user_file(path: str) -> Any:
    """Execute a user's Python file and return it as a module; once, until it changes. This runs the file's code."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ExperimentError(f"file '{path}' does not exist (looked from {Path.cwd()})")
    stat = file.stat()
    return _run_file(file, stat.st_mtime_ns, stat.st_size)


def from_file(base: type[P], table: dict[str, Any]) -> P:
    """Build the one plug of family `base` that a user's file defines. This runs the file's code."""
    module = run_user_file(str(table["file"]))
    classes = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, base) and cls.__module__ == module.__name__
    ]
    if "kind" in table:
        classes = [cls for cls in classes if cls.model_fields["kind"].default == table["kind"]]
    if len(classes) != 1:
        raise PydanticCustomError(
            "plug_file",
            "file '{file}' must define exactly one {base} (of that kind, if a kind is given), found {found}",
            {"file": str(table["file"]), "base": base.__name__, "found": len(classes)},
        )
    return classes[0].model_validate(table)
