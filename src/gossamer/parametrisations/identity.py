"""All weights are trained, but for those named as frozen."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.parametrisations import Parametrisation

if TYPE_CHECKING:
    from torch import nn

    from gossamer.layout import Layout


class Identity(Parametrisation):
    """The row is the model's weights and buffers; parameters matching `freeze` stay frozen and shared."""

    kind: Literal["identity"] = "identity"
    freeze: tuple[str, ...] = Field(default=(), description="name patterns of frozen parameters, e.g. 'features.*'")

    def layout(self, module: nn.Module) -> Layout:
        from gossamer.layout import Layout

        names = [name for name, _ in module.named_parameters()]
        for pattern in self.freeze:
            if not fnmatch.filter(names, pattern):
                raise ExperimentError(
                    f"parametrisation.freeze: '{pattern}' matches no parameter; there are: {', '.join(names)}"
                )
        frozen = tuple(n for n in names if any(fnmatch.fnmatch(n, p) for p in self.freeze))
        layout = Layout.of(module, frozen)
        if layout.trainable == 0:
            raise ExperimentError("parametrisation.freeze: nothing is left to train; freeze fewer parameters")
        return layout
