"""What the parts of a network are: its head, its blocks, their attention and MLP, found by type, shape and place.

Names of parts differ from library to library and from version to version, so hardly any is written down here. Names
are relative to the module asked about.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    from torch import Tensor, nn

QUERY = {"q", "query", "q_proj", "q_lin", "query_proj", "wq", "to_q"}
VALUE = {"v", "value", "v_proj", "v_lin", "value_proj", "wv", "to_v"}
KEY = {"k", "key", "k_proj", "k_lin", "key_proj", "wk", "to_k"}
POSITION = {"pos_proj", "pos_q_proj", "pos_key_proj", "pos_query_proj"}
FUSED = {"c_attn", "qkv", "in_proj", "query_key_value", "qkv_proj", "wqkv", "to_qkv"}
INTO_ATTENTION = QUERY | KEY | VALUE | POSITION | FUSED
"""What libraries call the linear layers that go into an attention, in lower case; FUSED: several of them as one."""


def linear_like(layer: nn.Module) -> bool:
    """Whether a layer is W x + b: torch's own and what is derived from it (bitsandbytes), and the Conv1D of
    transformers. Not the output of `nn.MultiheadAttention`, whose weight is used without calling the layer."""
    from torch import nn
    from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

    if isinstance(layer, NonDynamicallyQuantizableLinear):
        return False
    return isinstance(layer, nn.Linear) or transposed(layer)


def transposed(layer: nn.Module) -> bool:
    """Whether a linear layer stores its weight as [inputs, outputs]."""
    return hasattr(layer, "nf") and hasattr(layer, "nx") and getattr(layer.weight, "ndim", 0) == 2


def linears(module: nn.Module) -> dict[str, nn.Module]:
    """The linear layers by name, in order; of one that occurs several times the first name."""
    return {name: layer for name, layer in module.named_modules() if linear_like(layer)}


def widths(layer: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer, also where its weight is stored in few bits; of a convolution the inputs of
    one output."""
    from torch import nn

    known: Any = layer
    if transposed(layer):
        return known.nx, known.nf
    if isinstance(layer, nn.Conv2d):
        return math.prod(layer.weight.shape[1:]), layer.out_channels
    return known.in_features, known.out_features


def head_of(module: nn.Module) -> tuple[str, ...]:
    """The modules that are the task's head: `module.head_names`, else the last `nn.Linear`; () if there is none."""
    from torch import nn

    told: Any = getattr(module, "head_names", None)
    if told is not None:
        return tuple(told)
    return tuple(name for name, layer in module.named_modules() if isinstance(layer, nn.Linear))[-1:]


def norms(module: nn.Module) -> dict[str, nn.Module]:
    """The normalising layers that have weights."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if "norm" in type(layer).__name__.lower() and any(True for _ in layer.parameters(recurse=False))
    }


def embeddings(module: nn.Module) -> dict[str, nn.Module]:
    """The first embedding, which is that of words (those of places come behind); {} where there is none."""
    from torch import nn

    found = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Embedding)]
    return dict(found[:1])


def blocks(module: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a transformer by name: members of lists of one class; {} where there are no such lists.

    Where there are several such classes, those that have attention count, of these the ones with no others inside, and
    then the most numerous.
    """
    from torch import nn

    classes: dict[type[nn.Module], dict[str, nn.Module]] = defaultdict(dict)
    for name, part in module.named_modules():
        if not isinstance(part, (nn.ModuleList, nn.Sequential)):
            continue
        members = {f"{name}.{place}" if name else place: member for place, member in part.named_children()}
        if len({type(member) for member in members.values()}) == 1 and all(
            any(linear_like(layer) for layer in member.modules() if layer is not member) for member in members.values()
        ):
            classes[type(next(iter(members.values())))] |= members
    attentive = {kind: found for kind, found in classes.items() if all(map(has_attention, found.values()))}
    chosen = attentive or classes
    innermost = [
        found
        for kind, found in chosen.items()
        if not any(type(part) in chosen and type(part) is not kind for m in found.values() for part in m.modules())
    ]
    return max(innermost, key=len, default={})


def has_attention(module: nn.Module) -> bool:
    from torch import nn

    return bool(queries_and_values(module)) or any(isinstance(m, nn.MultiheadAttention) for m in module.modules())


def queries_and_values(module: nn.Module) -> tuple[str, ...]:
    """The linear layers that make the queries and values of attention (and keys, where all come from one layer)."""
    return tuple(name for name in linears(module) if _last(name) in QUERY | VALUE | FUSED)


def keys_and_values(module: nn.Module) -> tuple[str, ...]:
    """The linear layers that make the keys and values of attention (and queries, where all come from one layer)."""
    return tuple(name for name in linears(module) if _last(name) in KEY | VALUE | FUSED)


def attention_outputs(block: nn.Module) -> tuple[str, ...]:
    """The last linear layer of each attention: the first one after those that make queries, keys and values."""
    found: list[str] = []
    inside = False
    for name in linears(block):
        makes = _last(name) in INTO_ATTENTION
        if inside and not makes:
            found.append(name)
        inside = makes
    return tuple(found)


def mlp_output(block: nn.Module) -> str:
    """The last linear layer of a block's MLP, which is the last of the block; '' where there is no MLP of such."""
    found, attention = linears(block), attention_outputs(block)
    if not found:
        return ""
    last = next(reversed(found))
    width = {widths(found[name])[1] for name in attention} or {widths(found[last])[1]}
    makes = _last(last) in INTO_ATTENTION
    return "" if last in attention or makes or widths(found[last])[1] not in width else last


def patch_embedding(module: nn.Module) -> tuple[int, int] | None:
    """(side p of a patch, width d) of an image encoder that cuts images into patches; else None."""
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride:
            return int(layer.kernel_size[0]), layer.out_channels
    return None


# ---- what goes into the head -----------------------------------------------------------------------------------------


def features(module: nn.Module, inputs_B: Tensor) -> Tensor:
    """What goes into the head for each of B inputs, [B, d].

    Raises ExperimentError where the head is not one module, at the end, that takes one tensor [B, d].
    """
    import torch

    heads = head_of(module)
    if len(heads) != 1:
        raise _no_features(f"the model has {len(heads)} modules that are its head ({', '.join(heads)})")
    (name,) = heads
    seen: list[tuple[tuple[object, ...], dict[str, object], object]] = []

    def note(head: nn.Module, given: tuple[object, ...], named: dict[str, object], result: object) -> None:
        seen.append((given, named, result))

    hook = module.get_submodule(name).register_forward_hook(note, with_kwargs=True)
    try:
        logits = module(inputs_B)
    finally:
        hook.remove()
    if len(seen) != 1:
        raise _no_features(f"its head '{name}' is used {len(seen)} times for a batch")
    (given, named, result) = seen[0]
    if len(given) != 1 or named or not isinstance(given[0], torch.Tensor) or given[0].dim() != 2:
        raise _no_features(f"its head '{name}' does not take one vector for each item")
    if not isinstance(result, torch.Tensor) or not torch.equal(result, logits):
        raise _no_features(f"what comes out of its head '{name}' is not yet its result")
    return given[0]


def from_features(module: nn.Module) -> nn.Module:
    """The model from what goes into its head on: features [B, d] to logits.

    It has the head itself, and the persistent buffers of the whole, under the names that they have there; so its layout
    is that of the whole module with all but the head frozen.
    """
    (head,) = head_of(module)
    if not head:
        return module
    whole = module.state_dict(keep_vars=True)
    rest: nn.Module = _tail()(head)
    for name, owner in module.named_modules():
        if name == head:
            parent, _, leaf = name.rpartition(".")
            _container(rest, parent).add_module(leaf, owner)
        elif not f"{name}.".startswith(f"{head}."):
            for leaf, buffer in owner.named_buffers(recurse=False):
                if (f"{name}.{leaf}" if name else leaf) in whole:
                    _container(rest, name).register_buffer(leaf, buffer)
    return rest


def steady(module: nn.Module, inputs_B: Tensor) -> bool:
    """Whether what goes into the head is the same for an item whenever it is computed: nothing before the head draws
    random numbers or changes buffers in training, and items do not see each other. Tried on two or more inputs.

    Raises ExperimentError as `features` does.
    """
    import torch

    training, dice = module.training, torch.get_rng_state()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        with torch.no_grad():
            trained_Bd = features(module.train(), inputs_B)
            drawn = not torch.equal(torch.get_rng_state(), dice)
            changed = not all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
            alone_1d = features(module.eval(), inputs_B[:1])
    finally:
        torch.set_rng_state(dice)
        for name, buffer in module.named_buffers():
            buffer.copy_(before[name])
        module.train(training)
    return not drawn and not changed and torch.allclose(trained_Bd[:1], alone_1d, rtol=1e-4, atol=1e-5)


@functools.cache
def _tail() -> type[nn.Module]:
    from torch import nn

    class FromFeatures(nn.Module):
        """Empty modules along the path to the head, and the head."""

        def __init__(self, head: str) -> None:
            super().__init__()
            self.head = head

        def forward(self, features_Bd: Tensor) -> Tensor:
            logits: Tensor = self.get_submodule(self.head)(features_Bd)
            return logits

    return FromFeatures


def _container(root: nn.Module, name: str) -> nn.Module:
    """The submodule of this name, made with those on the way to it where they are not there."""
    from torch import nn

    for leaf in name.split(".") if name else ():
        if not hasattr(root, leaf):
            root.add_module(leaf, nn.Module())
        root = root.get_submodule(leaf)
    return root


def _no_features(why: str) -> ExperimentError:
    return ExperimentError(f"parametrisation.cache = true: {why}; set cache = false")


def _last(name: str) -> str:
    return name.rpartition(".")[2].lower()
