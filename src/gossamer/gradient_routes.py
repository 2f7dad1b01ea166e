"""How the gradient of every example alone comes about: by one of three routes, tried against each other.

Shapes: B examples, t columns of a part of the row; at a layer, inputs a [B, i] and gradients b [B, o] of what came out.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gossamer.errors import ExperimentError
from gossamer.randomness import torch_seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gossamer.resident import Resident

NUMBERS = {"loop": 2_000_000, "vmap": 2_000_000, "opacus": 16_000_000}
"""Numbers that a route holds at once for the gradients of single examples: 8 MB in float32, to stay near the cache; by
opacus, which holds few of them at the same time, 64 MB."""

TRIAL = 3
"""Examples on which the routes are compared."""


@dataclass(frozen=True)
class Outer:
    """The gradients b_i a_i^T of a linear layer's weight, which nobody needs to write out.

    ||b a^T|| = ||b|| ||a|| (Goodfellow 2015), and sum_i c_i b_i a_i^T is one matrix product.
    """

    b_Bo: Tensor
    a_Bi: Tensor


Gradient = Any
"""Of B examples, for one part of the row: a tensor [B, t], an `Outer`, or None where the loss does not depend on it."""

Found = tuple[list[Gradient], "Tensor", int]
"""Gradients for each part of the row, losses [B], and how many labels were right."""

Samplers = Mapping[type["nn.Module"], Callable[..., dict["nn.Parameter", "Tensor"]]]
"""For each type of layer, what makes gradients of single examples of the layer, [a] and b."""


def written_out(gradient: Gradient) -> Tensor:
    """[B, t]."""
    if isinstance(gradient, Outer):
        return (gradient.b_Bo.unsqueeze(2) * gradient.a_Bi.unsqueeze(1)).flatten(1)
    return gradient  # type: ignore[no-any-return]


class Routes:
    """Gradients of single examples for the parameters that a resident module trains.

    In a trial at the start every route must agree with the one before it; the last that does is `taken`:

        loop    a backward pass for each example
        vmap    the module for one example, vectorised by `torch.func`; recurrent layers too
        opacus  one pass for all; from what the layers saw, the samplers of opacus make the gradients of the examples,
                and those of linear layers stay outer products

    The first two see one example at a time. The last does not, so it is open only to modules that can be vectorised (no
    step of them depends on what the numbers are) and where the loss of an example depends on no other example.
    """

    def __init__(self, resident: Resident, smoothing: float, inputs_B: Tensor, labels_B: Tensor) -> None:
        """`smoothing` is that of labels; `inputs_B` and `labels_B` are a few items for the trial.

        Raises ExperimentError where there is no gradient at all, or it depends on the examples before.
        """
        import torch

        self.resident, self.smoothing = resident, smoothing
        self._place = {parameter: place for place, parameter in enumerate(resident.trained)}
        layers = list(resident.module.modules())
        self._layers = [layer for layer in layers if self._place.keys() & set(layer.parameters(recurse=False))]
        self._recurrent = [layer for layer in layers if isinstance(layer, torch.nn.RNNBase)]
        self._samplers = _opacus_samplers()
        names = [entry.name for entry in resident.layout.entries if entry.trainable]
        self._named = {name: p.detach() for name, p in zip(names, resident.trained, strict=True)}
        self._vectorised = torch.func.vmap(
            torch.func.grad_and_value(self._one, has_aux=True), in_dims=(None, 0, 0), randomness="different"
        )
        self._by = {"loop": self._by_loop, "vmap": self._by_vmap, "opacus": self._by_layers}
        self._held = dict.fromkeys(self._by, resident.layout.trainable)
        """Numbers that a route holds for one example."""
        self.taken = "loop"
        self._choose(inputs_B[:TRIAL], labels_B[:TRIAL])

    @property
    def size(self) -> int:
        """Examples at once."""
        return max(1, NUMBERS[self.taken] // self._held[self.taken])

    def gradients(self, inputs_B: Tensor, labels_B: Tensor) -> Found:
        """Of B items; the loss of a sequence is the mean over its positions that count."""
        return self._by[self.taken](inputs_B, labels_B)

    def _losses(self, logits: Tensor, labels_B: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        flat, wanted = logits.flatten(0, -2), labels_B.flatten()
        each = cross_entropy(flat, wanted, label_smoothing=self.smoothing, reduction="none")
        counted_B = (labels_B.reshape(len(labels_B), -1) >= 0).sum(1)
        return each.view(len(labels_B), -1).sum(1) / counted_B

    # ---- one example at a time ---------------------------------------------------------------------------------------

    def _by_loop(self, inputs_B: Tensor, labels_B: Tensor) -> Found:
        import torch

        found, losses, hits = [], [], 0
        for input, label in zip(torch.split(inputs_B, 1), torch.split(labels_B, 1), strict=True):
            logits = self.resident.module(input)
            loss = self._losses(logits, label)
            found.append(self.resident.gradients(loss.sum()))
            losses.append(loss.detach())
            hits += _right(logits, label)
        return [torch.stack(parts) for parts in zip(*found, strict=True)], torch.cat(losses), hits

    def _by_vmap(self, inputs_B: Tensor, labels_B: Tensor) -> Found:
        hooks = [layer.register_forward_pre_hook(_started) for layer in self._recurrent]
        try:
            found, (losses_B, hits_B) = self._vectorised(self._named, inputs_B, labels_B)
        finally:
            for hook in hooks:
                hook.remove()
        return [gradient.flatten(1) for gradient in found.values()], losses_B, int(hits_B.sum())

    def _one(self, named: dict[str, Tensor], input: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and hits of one example, as a function of the parameters."""
        import torch

        logits = torch.func.functional_call(self.resident.module, named, (input.unsqueeze(0),))
        loss = self._losses(logits, label.unsqueeze(0)).sum()
        return loss, (logits.squeeze(0).argmax(-1) == label).sum()

    # ---- all at once, layer by layer ---------------------------------------------------------------------------------

    def _by_layers(self, inputs_B: Tensor, labels_B: Tensor) -> Found:
        import torch

        logits, seen = self._watched(inputs_B)
        losses_B = self._losses(logits, labels_B)
        # Nothing is computed for the parameters: only what comes out of layers is asked for.
        bs = torch.autograd.grad(losses_B.sum(), [out for _, _, out in seen], allow_unused=True)
        found: list[Gradient] = [None] * len(self.resident.parts)
        for (layer, a, _), b in zip(seen, bs, strict=True):
            for parameter, gradient in self._of_layer(layer, a, b).items() if b is not None else ():
                place = self._place[parameter]
                known = found[place]
                found[place] = gradient if known is None else written_out(known) + written_out(gradient)
        return found, losses_B.detach(), _right(logits, labels_B)

    def _watched(self, inputs_B: Tensor) -> tuple[Tensor, list[tuple[nn.Module, Tensor, Any]]]:
        """Logits; and layers that are trained as often as they ran, what came in, and where in the graph it came out.

        Raises ValueError where a layer does not get one row for each example.
        """
        from torch.autograd.graph import get_gradient_edge

        seen: list[tuple[nn.Module, Tensor, Any]] = []

        def note(layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            (a,) = given
            if len(a) != len(inputs_B) or len(result) != len(inputs_B):
                raise ValueError(f"{layer} does not get one row for each example")
            # Not the result itself, which may be changed in place by whoever gets it.
            seen.append((layer, a.detach(), get_gradient_edge(result)))

        hooks = [layer.register_forward_hook(note) for layer in self._layers]
        try:
            return self.resident.module(inputs_B), seen
        finally:
            for hook in hooks:
                hook.remove()

    def _of_layer(self, layer: nn.Module, a: Tensor, b: Tensor) -> dict[nn.Parameter, Gradient]:
        from torch import nn

        if type(layer) is nn.Linear and a.dim() == 2:
            mine: tuple[tuple[Any, Gradient], ...] = ((layer.weight, Outer(b, a)), (layer.bias, b))
            return {parameter: gradient for parameter, gradient in mine if parameter in self._place}
        if getattr(layer, "padding_idx", None) is not None or getattr(layer, "scale_grad_by_freq", False):
            raise ValueError(f"no sampler knows what {layer} asks for")
        found = self._samplers[type(layer)](layer, [a], b)
        return {parameter: gradient.flatten(1) for parameter, gradient in found.items()}

    # ---- which route -------------------------------------------------------------------------------------------------

    def _choose(self, inputs_B: Tensor, labels_B: Tensor) -> None:
        import torch

        resident, module = self.resident, self.resident.module
        row, training = resident.row.clone(), module.training
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        with torch_seeded(0, "trial of example gradients"):
            for part in resident.parts:  # At weights of 0 wrong gradients may be 0 like the right ones.
                part.add_(torch.randn(len(part), dtype=part.dtype), alpha=0.01)
            try:
                module.train()
                truth, again = (self._by_loop(inputs_B, labels_B)[0] for _ in range(2))
                if not all(map(torch.equal, truth, again)):
                    module.eval()  # It draws, as dropout does, so that routes can only agree without.
                    truth = self._by_loop(inputs_B, labels_B)[0]
            except Exception as error:
                text = f"model: one example alone has no gradient: {type(error).__name__}: {error}"
                raise ExperimentError(" ".join(text.split())) from error
            for name, buffer in module.named_buffers():
                if not buffer.equal(buffers[name]):
                    raise ExperimentError(
                        f"model: buffer '{name}' changes in training, and by it an example what others do; build the "
                        "model without, as nn.GroupNorm is"
                    )
            for route in ("vmap", "opacus"):
                if not self._suits(route, inputs_B, labels_B, truth):
                    break
                self.taken = route
        resident.load(row)
        module.train(training)

    def _suits(self, route: str, inputs_B: Tensor, labels_B: Tensor, truth: list[Tensor]) -> bool:
        """Whether a route works, in training too, and finds these gradients [B, t] in the mode the module is in."""
        import torch

        module, deterministic = self.resident.module, self.resident.module.training
        try:
            found = [torch.zeros(1) if g is None else written_out(g) for g in self._by[route](inputs_B, labels_B)[0]]
            module.train()
            self._by[route](inputs_B, labels_B)
            if route == "opacus" and not self._separate(inputs_B, labels_B):
                return False
        except Exception:  # noqa: BLE001 - whatever it is, the module is not for this route
            return False
        finally:
            module.train(deterministic)
        tolerance = 1e-3 if truth[0].dtype == torch.float32 else 1e-9
        apart = max(float((one - other).abs().max()) for one, other in zip(found, truth, strict=True))
        return apart <= tolerance * max(float(part.abs().max()) for part in truth)

    def _separate(self, inputs_B: Tensor, labels_B: Tensor) -> bool:
        """Whether the loss of the first example depends on nothing of the others; notes what opacus holds of one."""
        import torch

        inputs_B = inputs_B.clone().requires_grad_(inputs_B.is_floating_point())
        logits, seen = self._watched(inputs_B)
        into = [out for _, _, out in seen] + ([inputs_B] if inputs_B.requires_grad else [])
        moved = torch.autograd.grad(self._losses(logits, labels_B)[0], into, allow_unused=True)
        unfolded = [a[0].numel() * math.prod(getattr(layer, "kernel_size", (1,))) for layer, a, _ in seen]
        rows = [layer for layer, a, _ in seen if not (type(layer) is torch.nn.Linear and a.dim() == 2)]
        self._held["opacus"] = max(unfolded) + sum(p.numel() for layer in rows for p in layer.parameters())
        return not any(gradient is not None and gradient[1:].any() for gradient in moved)


def _opacus_samplers() -> Samplers:
    try:
        samplers: Samplers = importlib.import_module("opacus.grad_sample").GradSampleModule.GRAD_SAMPLERS
    except ModuleNotFoundError as missing:
        raise ExperimentError("privacy of examples needs opacus: pip install 'gossamer[privacy]'") from missing
    return samplers


def _right(logits: Tensor, labels_B: Tensor) -> int:
    return int((logits.detach().argmax(-1) == labels_B).sum())


def _started(layer: nn.RNNBase, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs of a recurrent layer with its first state, zeros of its own for each example: torch's are for all."""
    from torch import nn

    inputs = given[0]
    if len(given) > 1 or inputs.dim() != 3:
        return given
    shape = (layer.num_layers * (1 + layer.bidirectional), inputs.shape[0 if layer.batch_first else 1])
    state = inputs.new_zeros((*shape, layer.proj_size or layer.hidden_size))
    return inputs, (state, inputs.new_zeros((*shape, layer.hidden_size))) if isinstance(layer, nn.LSTM) else state
