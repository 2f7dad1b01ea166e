"""A sub-network of random weights: only scores of the edges are trained, and the best of each layer are its edges."""

from __future__ import annotations

import fnmatch
import functools
import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.parametrisations import Parametrisation

if TYPE_CHECKING:
    from torch import Tensor, nn


Array = np.ndarray[Any, Any]
Share = Annotated[float, Field(gt=0, le=1)]


class Supermask(Parametrisation):
    """Edge-popup: the row is a score for each weight; the model uses the share k of each layer with the best scores.

        weight = signs * mask(scores),    d loss / d scores = signs * d loss / d weight    (straight through the mask)

    Every tensor of two or more dimensions is a layer. Its signs are sqrt(2 / fan_in), plus or minus at random, drawn
    from the seed and never changed; its scores start uniform in +-1 / sqrt(fan_in). Biases are zero, and norm layers
    stay as they are. A mask has exactly n - floor((1 - k) n) of n edges, the later ones where scores tie.
    """

    source: ClassVar[str] = "Ramanujan et al. 2020 (edge-popup); Zhou et al. 2019 for signed constants"
    drawn: ClassVar[bool] = True

    kind: Literal["supermask"] = "supermask"
    k: Share = Field(default=0.5, description="share of the edges of each layer that the model uses")
    layers: dict[str, Share] = Field(
        default={}, description="k of some layers, by name patterns, e.g. { '0.*' = 0.8 }; the first that fits counts"
    )
    semantics: Literal["intended", "reference"] = Field(
        default="intended",
        description="what the best scores are: the highest; or, as in the reference code of Federated Rank Learning, "
        "whose vote sorts scores with their signs, the largest in magnitude, whose gradient has the score's sign",
    )

    def applied(self, module: nn.Module) -> nn.Module:
        import torch
        from torch import nn
        from torch.nn.utils import parametrize

        masked = _masked(module)
        for pattern in self.layers:
            if not fnmatch.filter(masked, pattern):
                raise ExperimentError(
                    f"parametrisation.layers: '{pattern}' matches no layer; there are: {', '.join(masked)}"
                )
        for owner in list(module.modules()):
            for name, parameter in owner.named_parameters(recurse=False):
                if parameter.dim() < 2:
                    parameter.requires_grad_(False)
                    if "bias" in name and any(p.dim() >= 2 for p in owner.parameters(recurse=False)):
                        nn.init.zeros_(parameter)
        for name, (owner, leaf) in masked.items():
            scores = getattr(owner, leaf)
            n, fan_in = scores.numel(), math.prod(scores.shape[1:])
            kept = self.kept(name, n)
            if kept == n and self._share(name) < 1:
                raise ExperimentError(
                    f"parametrisation.k = {self._share(name):g}: layer '{name}' with {n} edges is too small to lose "
                    f"one; give it a k of its own, e.g. layers = {{ '{name}' = 1.0 }}, or use wider layers"
                )
            with torch.no_grad():
                signs = torch.full_like(scores, math.sqrt(2 / fan_in)).copysign_(torch.randn_like(scores))
                scores.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
            parametrize.register_parametrization(owner, leaf, _edges()(signs, n - kept, self.semantics == "reference"))
        return module

    def kept(self, name: str, count: int) -> int:
        return max(1, count - math.floor((1 - self._share(name)) * count + 1e-9))

    def _share(self, name: str) -> float:
        """k of a layer, by its name in the plain module or in the parametrised one."""
        plain = name.replace("parametrizations.", "").removesuffix(".original")
        return next((k for pattern, k in self.layers.items() if fnmatch.fnmatch(plain, pattern)), self.k)


def _masked(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The tensors to be masked, by name: whose they are, and their name there."""
    from torch import nn
    from torch.nn.utils import parametrize

    found: dict[str, tuple[nn.Module, str]] = {}
    whose: dict[int, str] = {}
    for prefix, owner in module.named_modules():
        for leaf, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.dim() < 2 or not parameter.requires_grad:
                continue
            name = f"{prefix}.{leaf}" if prefix else leaf
            if isinstance(owner, (nn.RNNBase, parametrize.ParametrizationList)):
                raise ExperimentError(
                    f"parametrisation.kind = 'supermask': '{name}' belongs to a {type(owner).__name__}, whose weights "
                    "cannot be masked; use linear, convolutional, embedding or attention layers without weight norms"
                )
            if id(parameter) in whose:
                raise ExperimentError(
                    f"parametrisation.kind = 'supermask': '{whose[id(parameter)]}' and '{name}' are one tensor, which "
                    "cannot be two layers; give each its own"
                )
            found[name], whose[id(parameter)] = (owner, leaf), name
    if not found:
        raise ExperimentError(
            "parametrisation.kind = 'supermask': the model has no trainable tensor of two or more dimensions"
        )
    return found


def best(scores_Ln: Array, dropped: int) -> Array:
    """Where all but the `dropped` lowest of each of L rows of n scores are, the later ones of equals: bool [L, n]."""
    if dropped == 0:
        return np.ones(scores_Ln.shape, dtype=bool)
    # NumPy's vectorised selection takes a tenth of the time of torch's.
    bar_L1 = np.partition(scores_Ln, dropped - 1, axis=1)[:, dropped - 1 : dropped]
    best_Ln: Array = scores_Ln > bar_L1
    kept = scores_Ln.shape[1] - dropped
    if np.count_nonzero(best_Ln) < len(best_Ln) * kept:
        equal_Ln = scores_Ln == bar_L1
        missing_L1 = kept - np.count_nonzero(best_Ln, axis=1, keepdims=True)
        best_Ln |= equal_Ln & (equal_Ln[:, ::-1].cumsum(axis=1)[:, ::-1] <= missing_L1)
    return best_Ln


@functools.cache
def _edges() -> Any:
    """The module that makes weights of scores, for torch's parametrisations."""
    import torch
    from torch import nn

    def weights(scores_N: Tensor, signs: Tensor, dropped: int) -> Tensor:
        if scores_N.is_meta:
            return torch.empty_like(scores_N)
        mask_N = best(scores_N.numpy().reshape(len(scores_N), -1), dropped).view(np.uint8)
        return signs * torch.from_numpy(mask_N).view(scores_N.shape)

    class Popup(torch.autograd.Function):
        """signs * mask(scores) of one layer, or under vmap of one layer at N nodes."""

        @staticmethod
        def forward(scores: Tensor, signs: Tensor, dropped: int) -> Tensor:
            return weights(scores[None], signs, dropped)[0]

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.save_for_backward(inputs[1])

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
            return gradient * ctx.saved_tensors[0], None, None

        @staticmethod
        def vmap(
            info: Any, in_dims: tuple[Any, ...], scores: Tensor, signs: Tensor, dropped: int
        ) -> tuple[Tensor, int]:
            return weights(scores.movedim(in_dims[0], 0), signs, dropped), 0

    class Edges(nn.Module):
        def __init__(self, signs: Tensor, dropped: int, magnitude: bool) -> None:
            super().__init__()
            self.signs = nn.Parameter(signs, requires_grad=False)
            self.dropped, self.magnitude = dropped, magnitude

        def forward(self, scores: Tensor) -> Tensor:
            seen = scores.abs() if self.magnitude else scores
            weight: Tensor = Popup.apply(seen, self.signs, self.dropped)  # type: ignore[no-untyped-call]
            return weight

    return Edges
