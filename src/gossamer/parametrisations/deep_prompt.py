"""Tokens that are added to the sequence of every block are trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.adapting import blocks_of, freeze, no_short_cuts, train_head
from gossamer.anatomy import linears, patch_embedding, widths
from gossamer.errors import ExperimentError
from gossamer.parametrisations import Parametrisation

if TYPE_CHECKING:
    from torch import nn


class DeepPrompt(Parametrisation):
    """VPT-deep: the row is `tokens` prompts for each block of a vision transformer, and the head.

    They are appended to the sequence [B, T, d] before each block and cut off behind it. They start uniform in
    +-sqrt(6 / (3 p^2 + d)), for patches of p x p pixels.
    """

    source: ClassVar[str] = "Jia et al. 2022 (VPT), deep; Sun et al. 2022 (FedPEFT)"

    kind: Literal["deep_prompt"] = "deep_prompt"
    tokens: int = Field(default=10, ge=1, description="prompts of each block")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of the prompts' numbers dropped (FedPEFT: 0.1)")

    def applied(self, module: nn.Module) -> nn.Module:
        import torch
        from torch import nn

        patches = patch_embedding(module)
        if patches is None:
            raise _no_place("it is no image encoder that cuts images into patches")
        freeze(module)
        side, width = patches
        bound = math.sqrt(6 / (3 * side**2 + width))
        for name, block in blocks_of(module, self.kind).items():
            if not _takes(block, width):
                raise _no_place(f"block '{name}' does not take a sequence of vectors {width} wide")
            device = next(block.parameters()).device
            prompt = nn.Parameter(torch.empty(self.tokens, width, device=device, dtype=torch.float32))
            block.register_parameter("prompt", prompt)
            nn.init.uniform_(prompt, -bound, bound)
            block.add_module("prompt_dropout", nn.Dropout(self.dropout))
            block.register_forward_pre_hook(_append, with_kwargs=True)
            block.register_forward_hook(_cut)
        train_head(module, self.kind)
        no_short_cuts(module)
        return module


def _takes(block: nn.Module, width: int) -> bool:
    """Whether a block takes sequences [B, T, width], as far as can be seen without running it."""
    from torch import nn

    if any(isinstance(part, nn.MultiheadAttention) and not part.batch_first for part in block.modules()):
        return False
    first = next(iter(linears(block).values()))
    return not isinstance(block, nn.ModuleList) and widths(first)[0] == width


def _append(block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import torch

    hidden_BTd, *rest = given
    for other in (*rest, *named.values()):
        if isinstance(other, torch.Tensor) or (isinstance(other, tuple) and any(map(torch.is_tensor, other))):
            raise _no_place("its blocks take masks or positions besides the sequence")
    prompts_BPd = block.prompt_dropout(block.prompt).to(hidden_BTd.dtype).expand(len(hidden_BTd), -1, -1)
    return (torch.cat([hidden_BTd, prompts_BPd], dim=1), *rest), named


def _cut(block: Any, given: tuple[Any, ...], result: Any) -> Any:
    if isinstance(result, tuple):
        return _cut(block, given, result[0]), *result[1:]
    return result[:, : -len(block.prompt)]


def _no_place(why: str) -> ExperimentError:
    return ExperimentError(
        f"parametrisation.kind = 'deep_prompt': the model has no place for prompts: {why}; use kind = 'peft' with "
        "method = 'prompt_tuning' or 'prefix_tuning' (text), or kind = 'lora'"
    )
