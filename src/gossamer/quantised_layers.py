"""Frozen linear layers in 4 or 8 bits, in the formats of bitsandbytes, on any device.

Layers are bitsandbytes' own classes, so that peft knows them, with a product of ours: it dequantises a layer when it is
used and keeps nothing of it for the gradient, batches under `torch.func.vmap`, works out shapes on the meta device, and
never repacks or casts what it stores, as theirs does on some processors.

Shapes: N inputs, M outputs.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from gossamer.wrapping import library

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

BLOCK = 64
"""Weights that share a scale in 4 bits."""


def quantise(part: nn.Module, bits: int, but: tuple[nn.Module, ...] = ()) -> None:
    """Replace the linear layers inside a module (also those stored [N, M]) by frozen ones of `bits` bits.

    Raises ExperimentError where bitsandbytes is not installed.
    """
    from torch import nn

    transposed = library("transformers.pytorch_utils").Conv1D
    layer_of = _layers()[bits]
    layer: Any
    for owner in list(part.modules()):
        for name, layer in list(owner.named_children()):
            # Of subclasses the owner may use the weight itself.
            if type(layer) in (nn.Linear, transposed) and not any(layer is kept for kept in but):
                weight = layer.weight.data.T if type(layer) is transposed else layer.weight.data
                setattr(owner, name, layer_of(weight.float().contiguous(), layer.bias))


@functools.cache
def _layers() -> dict[int, Any]:
    import torch
    from torch import nn

    bnb = library("bitsandbytes")

    class Product(torch.autograd.Function):
        """inputs @ weight.T of a layer whose weight is frozen."""

        generate_vmap_rule = True

        @staticmethod
        def forward(inputs: Tensor, layer: Any) -> Tensor:
            kind, dtype = inputs.device.type, inputs.dtype
            if kind != "meta" and torch.is_autocast_enabled(kind):
                dtype = torch.get_autocast_dtype(kind)
            product: Tensor = inputs.to(dtype) @ layer.dequantised(dtype).T
            return product

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:
            ctx.layer = inputs[1]

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return grads[0] @ ctx.layer.dequantised(grads[0].dtype), None

    def product(layer: Any, inputs: Tensor) -> Tensor:
        found: Tensor = Product.apply(inputs, layer)  # type: ignore[no-untyped-call]
        return found if layer.bias is None else found + layer.bias.to(found.dtype)

    class FourBits(bnb.nn.Linear4bit):  # type: ignore[misc, name-defined]
        """NormalFloat of 4 bits: the nearest of 16 levels, times the largest magnitude of a block."""

        def __init__(self, weight_MN: Tensor, bias: nn.Parameter | None) -> None:
            outputs, inputs = weight_MN.shape
            super().__init__(inputs, outputs, bias=False, compress_statistics=False, quant_type="nf4", device="meta")
            self.bias = bias
            if weight_MN.is_meta:
                codes = weight_MN.new_empty((math.ceil(weight_MN.numel() / 2), 1), dtype=torch.uint8)
                state, absmax = None, weight_MN.new_empty(math.ceil(weight_MN.numel() / BLOCK))
            else:
                codes, state = bnb.functional.quantize_4bit(weight_MN, blocksize=BLOCK, quant_type="nf4")
                absmax = state.absmax
            self.weight = bnb.nn.Params4bit(
                codes,
                quant_state=state,
                blocksize=BLOCK,
                compress_statistics=False,
                quant_type="nf4",
                bnb_quantized=True,
            )
            # A parameter, so that what a base takes is counted whole.
            self.absmax = nn.Parameter(absmax, requires_grad=False)

        _save_to_state_dict = nn.Module._save_to_state_dict

        def dequantised(self, dtype: torch.dtype) -> Tensor:
            """The weight [M, N]."""
            outputs, inputs = self.out_features, self.in_features
            if self.weight.is_meta:
                return torch.empty(outputs, inputs, dtype=dtype, device="meta")
            state = bnb.functional.QuantState(
                absmax=self.absmax.data.float(),
                # As one row: on some processors rows that are no multiple of a block come out wrong.
                shape=torch.Size((1, outputs * inputs)),
                dtype=dtype if dtype in (torch.float16, torch.bfloat16) else torch.float32,
                blocksize=BLOCK,
                quant_type="nf4",
                code=self.weight.quant_state.code,
            )
            weights: Tensor = bnb.functional.dequantize_4bit(self.weight.data, state)
            return weights.view(outputs, inputs).to(dtype)

        forward = product

    class EightBits(bnb.nn.Linear8bitLt):  # type: ignore[misc, name-defined]
        """Whole numbers in [-127, 127], times a scale for each output. Inputs are not quantised."""

        def __init__(self, weight_MN: Tensor, bias: nn.Parameter | None) -> None:
            outputs, inputs = weight_MN.shape
            super().__init__(inputs, outputs, bias=False, has_fp16_weights=False, device="meta")
            self.bias = bias
            if weight_MN.is_meta:
                codes, scales = torch.empty_like(weight_MN, dtype=torch.int8), weight_MN.new_empty(outputs)
            else:
                codes, scales, _ = bnb.functional.int8_vectorwise_quant(weight_MN)
            self.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, SCB=scales)
            self.scales = nn.Parameter(scales, requires_grad=False)

        _save_to_state_dict = nn.Module._save_to_state_dict

        def dequantised(self, dtype: torch.dtype) -> Tensor:
            """The weight [M, N]."""
            weight_MN: Tensor = self.weight.data.float() * (self.scales.data.float() / 127)[:, None]
            return weight_MN.to(dtype)

        forward = product

    return {4: FourBits, 8: EightBits}
