"""A model from the user's own Python file."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.models import Model
from gossamer.plugs import run_user_file

if TYPE_CHECKING:
    from torch import nn


class FileModel(Model):
    """Your own torch.nn.Module from a Python file: `model = { file = "my_model.py" }`. This runs the file's code."""

    kind: Literal["file"] = "file"
    name: str = Field(default="", description="class or function in the file; default: its only nn.Module class")
    arguments: dict[str, Any] = Field(default={}, description="keyword arguments of the class or function")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        if not self.file:
            raise ExperimentError("model.file is missing: name the Python file, e.g. model = { file = 'my_model.py' }")
        source = run_user_file(self.file)
        if self.name:
            maker = getattr(source, self.name, None)
            if maker is None:
                raise ExperimentError(f"model.name: '{self.file}' defines no '{self.name}'")
        else:
            makers = [
                c
                for _, c in inspect.getmembers(source, inspect.isclass)
                if issubclass(c, nn.Module) and c.__module__ == source.__name__
            ]
            if len(makers) != 1:
                raise ExperimentError(
                    f"model.file: '{self.file}' defines {len(makers)} nn.Module classes; say which with model.name"
                )
            maker = makers[0]
        try:
            module = maker(**self.arguments)
        except TypeError as error:
            raise ExperimentError(f"model.arguments: {self.name or maker.__name__} refused them: {error}") from error
        if not isinstance(module, nn.Module):
            raise ExperimentError(f"model '{self.name}' gave a {type(module).__name__}, not a torch.nn.Module")
        return module
