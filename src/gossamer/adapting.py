"""A frozen base with a small trained part: what the parametrisations that adapt a model have in common."""

from __future__ import annotations

import difflib
import fnmatch
import re
from typing import TYPE_CHECKING

from gossamer.anatomy import blocks, head_of, linears, queries_and_values
from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn


def freeze(module: nn.Module) -> None:
    """Nothing of the module is trained."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def train_head(module: nn.Module, kind: str, required: bool = False) -> None:
    """Let the task's head be trained, where there is one. Raises ExperimentError where it is `required` and there is
    none."""
    names = head_of(module)
    if required and not names:
        raise ExperimentError(
            f"parametrisation.kind = '{kind}': the model has no head of its own (a language model); train something "
            "inside it, e.g. parametrisation.kind = 'lora'"
        )
    for name in names:
        module.get_submodule(name).requires_grad_(True)


def blocks_of(module: nn.Module, kind: str) -> dict[str, nn.Module]:
    """The blocks of a transformer by name. Raises ExperimentError where the model has none."""
    found = blocks(module)
    if not found:
        raise ExperimentError(
            f"parametrisation.kind = '{kind}': the model has no blocks (a list of modules of one class with linear "
            "layers inside); use a transformer, or parametrisation.kind = 'head', 'bias' or 'lora'"
        )
    return found


def targets(module: nn.Module, patterns: tuple[str, ...], head: bool) -> tuple[str, ...]:
    """The linear layers whose full or last names match a pattern (or convolutions, if it matches no linear layer).

    Without patterns: the queries and values of attention; in blocks without such, all linear layers of them; without
    blocks, all linear layers but the head. The head is never among them where it is trained whole (`head`). Raises
    ExperimentError, with the nearest names, where a pattern matches nothing.
    """
    from torch import nn

    heads = head_of(module)

    def free(names: Iterable[str], of: tuple[str, ...]) -> list[str]:
        return [name for name in names if not any(f"{name}.".startswith(f"{part}.") for part in of)]

    layers = free(linears(module), heads if head else ())
    if patterns:
        convolutions = [name for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
        return matching(layers, free(convolutions, heads if head else ()), patterns)
    attention, outside = set(queries_and_values(module)), set(free(layers, tuple(blocks(module))))
    inside = [name for name in layers if name not in outside]
    found = [name for name in inside if name in attention] or inside or free(layers, heads)
    if not found:
        raise ExperimentError(
            "parametrisation.targets: the model has no linear layers to change besides its head; name convolutions, or "
            "use parametrisation.kind = 'head'"
        )
    return tuple(found)


def matching(names: list[str], others: list[str], patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the names that, or the last part of which, match a pattern; of the others where none of them does.

    Raises ExperimentError, with the nearest names, where a pattern matches nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        hits = _matching(names, pattern) or _matching(others, pattern)
        if not hits:
            known = list(dict.fromkeys(part for name in (*names, *others) for part in (_last(name), name)))
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:6]
            raise ExperimentError(
                f"parametrisation.targets: '{pattern}' matches no layer; nearest: {', '.join(near) or 'there are none'}"
            )
        found |= hits
    return tuple(name for name in (*names, *others) if name in found)


def _matching(names: list[str], pattern: str) -> set[str]:
    return {name for name in names if any(fnmatch.fnmatchcase(part, pattern) for part in (name, _last(name)))}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def boxed(module: nn.Module) -> nn.Module:
    """The module as `box.module`, to be changed there by the peft library.

    It knows better than we do what a model of the transformers library is made of, and would rewrite names in such.
    """
    from torch import nn

    box = nn.Module()
    box.add_module("module", module)
    return box


def exactly(names: Iterable[str]) -> str:
    """A pattern for just these modules of a boxed one."""
    return "|".join(re.escape(f"module.{name}" if name else "module") for name in names)


def settle(module: nn.Module, before: Iterable[Tensor]) -> None:
    """Store what was added to the tensors there were before as it is needed.

    Parameters are in float32, whatever the base is stored in. Buffers are constants that follow from the seed and the
    base, so they belong to no row.
    """
    import torch

    known = {id(tensor) for tensor in before}
    for parameter in module.parameters():
        if id(parameter) not in known and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    for owner in module.modules():
        for name, buffer in list(owner.named_buffers(recurse=False)):
            if id(buffer) not in known:
                owner.register_buffer(name, buffer, persistent=False)


def no_short_cuts(module: nn.Module) -> None:
    """Let torch's own transformer layers call the layers inside them when they are measured too.

    Their short cut computes with the weights of these, past what is changed about them.
    """
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = 0
        elif isinstance(layer, nn.TransformerEncoder):
            layer.use_nested_tensor = False
