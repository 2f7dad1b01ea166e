"""A `torch.nn.Module` that was passed as a Python object."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.models import Model
from gossamer.plugs import Plug

if TYPE_CHECKING:
    from torch import nn


class ObjectModel(Model):
    """A torch.nn.Module, or a function that makes one, passed from Python (not available from an experiment file)."""

    kind: Literal["object"] = "object"
    name: str = Field(default="", description="of the class or function")
    value: Any = Field(default=None, exclude=True, repr=False, description="the module, or a function that builds it")

    @classmethod
    def wrap(cls, value: object) -> Plug | None:
        """A module (or a class or function that builds one without arguments) as a model; None for anything else."""
        if hasattr(value, "state_dict") and hasattr(value, "forward") and not isinstance(value, type):
            return cls(name=type(value).__name__, value=value)
        if callable(value):
            return cls(name=getattr(value, "__name__", "model"), value=value)
        return None

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        if self.value is None:
            raise ExperimentError(
                f"model '{self.name}' was a Python object: pass it again, e.g. gossamer.resume(run, model=...)"
            )
        module = (
            copy.deepcopy(self.value)
            if hasattr(self.value, "state_dict") and not isinstance(self.value, type)
            else self.value()
        )
        if not hasattr(module, "state_dict"):
            raise ExperimentError(f"model '{self.name}' gave a {type(module).__name__}, not a torch.nn.Module")
        return module  # type: ignore[no-any-return]
