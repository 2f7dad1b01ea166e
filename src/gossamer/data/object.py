"""A `Dataset` that was passed as a Python object."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from gossamer.data import Data, Dataset
from gossamer.errors import ExperimentError


class ObjectData(Data):
    """A gossamer.Dataset passed from Python (not available from an experiment file)."""

    kind: Literal["object"] = "object"
    name: str = Field(default="", description="of the Dataset")
    value: Any = Field(default=None, exclude=True, repr=False, description="the Dataset itself")

    def model_post_init(self, context: Any, /) -> None:
        if self.value is not None and not self.name:
            object.__setattr__(self, "name", self.value.name)

    def load(self, folder: Path | None) -> Dataset:
        if not isinstance(self.value, Dataset):
            raise ExperimentError(
                f"data '{self.name}' was a Python object: pass it again, e.g. gossamer.resume(run, data=...)"
            )
        return self.value
