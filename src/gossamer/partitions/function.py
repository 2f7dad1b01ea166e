"""A split of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.partitions import Array, Partition, Parts
from gossamer.plugs import Plug, run_user_file


class FunctionPartition(Partition):
    """Your own split: a function (labels, nodes, rng) -> list of index arrays, or the list itself.

    In an experiment file: `{ kind = "function", file = "my_split.py", name = "split" }`, which runs that file's code.
    """

    kind: Literal["function"] = "function"
    name: str = Field(default="split", description="name of the function in the file")
    value: Any = Field(default=None, exclude=True, repr=False, description="the function or list, from Python")

    @classmethod
    def wrap(cls, value: object) -> Plug | None:
        """A function or a list of index arrays as a partition; None for anything else."""
        if callable(value) and not inspect.isclass(value):
            return cls(name=getattr(value, "__name__", "split"), value=value)
        if isinstance(value, (list, tuple)):
            return cls(name="list", value=[np.asarray(part, dtype=np.int64) for part in value])
        return None

    def deal(self, labels_M: Array, groups_M: Array | None, nodes: int | None, rng: np.random.Generator) -> Parts:
        parts = self._parts(labels_M, nodes, rng)
        if nodes is not None and len(parts) != nodes:
            raise ExperimentError(f"partition '{self.name}' gave {len(parts)} parts for nodes = {nodes}")
        for node, part in enumerate(parts):
            if len(part) == 0:
                raise ExperimentError(f"partition '{self.name}' gave node {node} no items")
            if part.min() < 0 or part.max() >= len(labels_M):
                raise ExperimentError(
                    f"partition '{self.name}': node {node} has index {part.min()}..{part.max()}, "
                    f"but the items are 0..{len(labels_M) - 1}"
                )
        return Parts(parts)

    def _parts(self, labels_M: Array, nodes: int | None, rng: np.random.Generator) -> list[Array]:
        value = self.value
        if value is None:
            if not self.file:
                raise ExperimentError(
                    f"partition '{self.name}' was a Python object: pass it again, or name its file = \"...\""
                )
            value = getattr(run_user_file(self.file), self.name, None)
            if value is None:
                raise ExperimentError(f"partition.file: '{self.file}' defines no '{self.name}'")
        dealt: Callable[..., Any] | list[Array] = value
        items = dealt(labels_M, nodes, rng) if callable(dealt) else dealt
        return [np.asarray(part, dtype=np.int64) for part in items]
