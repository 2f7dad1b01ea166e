"""Small bottleneck networks inside frozen blocks are trained."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.adapting import blocks_of, freeze, no_short_cuts, train_head
from gossamer.anatomy import attention_outputs, mlp_output, widths
from gossamer.errors import ExperimentError
from gossamer.parametrisations import Parametrisation

if TYPE_CHECKING:
    from torch import Tensor, nn


class Bottleneck(Parametrisation):
    """Adapters: the row is a bottleneck behind each block's MLP (and attention), and the head.

        h + up(gelu(down(h))),    down: d -> d / reduction,    up: d / reduction -> d

    on what comes out of the last linear layer, before its residual is added. Down starts as N(0, 0.02), up and all
    biases at zero: the model is the base at first, bit for bit, and both projections learn (two at zero never would).
    """

    source: ClassVar[str] = "Houlsby et al. 2019; Pfeiffer et al. 2021; Sun et al. 2022 (FedPEFT)"

    kind: Literal["bottleneck"] = "bottleneck"
    reduction: int = Field(default=8, ge=1, description="width of a block over the width of its adapter")
    position: Literal["mlp", "both"] = Field(
        default="mlp", description="after each block's MLP (Pfeiffer), or after its attention and its MLP (Houlsby)"
    )
    shared: bool = Field(
        default=False, description="one adapter for all blocks and positions (the reference code of FedPEFT)"
    )

    def applied(self, module: nn.Module) -> nn.Module:
        freeze(module)
        adapter: Any = None
        for layer in self._places(module):
            width, narrow = widths(layer)[1], widths(layer)[1] // self.reduction
            if narrow < 1:
                raise ExperimentError(
                    f"parametrisation.reduction = {self.reduction}: a block is only {width} wide; use at most {width}"
                )
            if adapter is None or not self.shared:
                adapter = _adapter()(width, narrow, layer.weight.device)
                layer.add_module("adapter", adapter)
            elif adapter.down.in_features != width:
                raise ExperimentError(
                    f"parametrisation.shared = true: blocks are {adapter.down.in_features} and {width} wide; use false"
                )
            # Not as a second submodule where it is shared, which `torch.func` would not put back.
            layer.adapters = (adapter,)
            layer.register_forward_hook(_adapted)
        train_head(module, self.kind)
        no_short_cuts(module)
        return module

    def _places(self, module: nn.Module) -> list[Any]:
        """The layers that an adapter follows."""
        places = []
        for name, block in blocks_of(module, self.kind).items():
            mlp, attention = mlp_output(block), attention_outputs(block)
            if not mlp or (self.position == "both" and not attention):
                part = "MLP" if not mlp else "attention"
                raise ExperimentError(
                    f"parametrisation.position = '{self.position}': block '{name}' has no {part} that ends in a linear "
                    f"layer of its width; use {'position = mlp, or ' if mlp else ''}parametrisation.kind = 'lora'"
                )
            places += [block.get_submodule(place) for place in (*(attention if self.position == "both" else ()), mlp)]
        return places


def _adapted(layer: Any, given: tuple[Any, ...], h: Tensor) -> Tensor:
    (adapter,) = layer.adapters
    adapted: Tensor = adapter(h)
    return adapted


@functools.cache
def _adapter() -> type[nn.Module]:
    import torch
    from torch import nn
    from torch.nn.functional import gelu

    class Adapter(nn.Module):
        """h + up(gelu(down(h))), computed in the adapter's own precision."""

        def __init__(self, width: int, narrow: int, device: Any) -> None:
            super().__init__()
            self.down = nn.Linear(width, narrow, device=device, dtype=torch.float32)
            self.up = nn.Linear(narrow, width, device=device, dtype=torch.float32)
            nn.init.normal_(self.down.weight, std=0.02)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                nn.init.zeros_(zero)

        def forward(self, h: Tensor) -> Tensor:
            change: Tensor = self.up(gelu(self.down(h.to(self.down.weight.dtype))))
            return h + change.to(h.dtype)

    return Adapter
