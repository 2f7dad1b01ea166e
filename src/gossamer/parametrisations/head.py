"""Only the head is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.adapting import freeze, train_head
from gossamer.parametrisations import Parametrisation

if TYPE_CHECKING:
    from torch import nn


class Head(Parametrisation):
    """The row is the task's head alone, on frozen features: a model's `head_names`, else its last linear layer."""

    source: ClassVar[str] = "Sun et al. 2022 (FedPEFT), head tuning"

    kind: Literal["head"] = "head"
    cache: bool = Field(
        default=True,
        description="compute what goes into the head once for every item, where nothing before it draws or changes",
    )

    def applied(self, module: nn.Module) -> nn.Module:
        freeze(module)
        train_head(module, self.kind, required=True)
        return module
