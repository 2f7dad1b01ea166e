"""Averaging that gives every tensor of the mean the variance that its models had."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import Aggregator
from gossamer.layout import Entry, Layout

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 65536
"""Numbers turned into float64 at a time: they stay in cache, and no row is ever copied as a whole."""

NEGLIGIBLE = 1e-12
"""Share of the target below which a variance is rounding error, which is not blown up."""


class VarianceCorrected(Aggregator):
    """Weighted mean whose tensors are rescaled around their means until their variances equal a target.

        x <- sum_j w_j x_j;   for each tensor l of x:   l <- mean(l) + sqrt(target / Var(l)) * (l - mean(l))

    The mean of N models with pairwise correlation rho has (1 + (N-1) rho) / N of their variance, which starves signals
    and gradients where models did not start alike. Var is the population variance, summed in float64, and its ratio to
    the target is exact: no epsilon, because the correction is applied again and again and any bias compounds. A tensor
    whose target is 0, or whose variance is below 1e-12 of it, is left alone. One model alone is returned as it is.

    What is corrected: tensors of two or more dimensions, embeddings among them, as in the first author's C++ simulator.
    Biases and norm parameters join with tensors = "all"; single numbers and buffers never do: they are averaged. Only
    whole models are corrected, not the changes or gradients that some methods send.

    The share of a node's own model in the mean (the paper's beta) is `topology.own_weight`. Targets, over the models
    with a weight above 0: `others`: mean variance of the models received; `own`: variance of the own model;
    `conservative`: `share` times `own` and the rest `others`; `all`: mean over all that were averaged; `median`:
    median over all that were averaged, which a minority cannot move far (breakdown point 1/2; the means' is 0). Where
    no own model is in the mean (an all-reduce, own_weight = 0) `others`, `own` and `conservative` are `all`.
    """

    source: ClassVar[str] = "Tian et al. 2024 (arXiv 2404.04616), Algorithm 3 (target `all`), and their simulator"
    linear: ClassVar[bool] = True

    kind: Literal["variance_corrected"] = "variance_corrected"
    target: Literal["others", "own", "conservative", "all", "median"] = Field(
        default="others", description="whose variance each tensor gets"
    )
    share: float = Field(default=0.5, ge=0, le=1, description="of the own variance in the target `conservative`")
    tensors: Literal["weights", "all"] = Field(
        default="weights", description="weights (2 or more dimensions), or all parameters of more than one number"
    )
    ratio: float = Field(default=1.0, ge=0, le=1, description="partial correction: the factor is (f - 1) * ratio + 1")
    cap: bool = Field(default=False, description="no factor above sqrt(N), that of N uncorrelated models (ours)")

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        """The weighted mean, corrected; without a layout the whole update is taken as one tensor."""
        import torch

        if layout is None:
            layout = Layout((Entry("update", (1, updates_ND.shape[1]), 0, True),))
        weights_N = weights_N.to(updates_ND.dtype)
        mixed_D = (weights_N @ updates_ND) / weights_N.sum()
        found = [self.statistics(update_D, layout) for update_D in updates_ND]
        stats = [stats_S for stats_S in found if stats_S is not None]
        if len(stats) < len(updates_ND):
            return mixed_D
        # Any row that equals the own one has its variances too.
        own = None if own_D is None else int((updates_ND == own_D).all(1).int().argmax())
        return self.finish(mixed_D, torch.stack(stats), weights_N, own, layout)

    def statistics(self, update_D: Tensor, layout: Layout) -> Tensor | None:
        """Population variances [S] of the corrected tensors of a model, in float64; None for what is no whole row."""
        import torch

        if update_D.shape != (layout.size,):
            return None
        found = [moments(update_D[entry.start : entry.stop])[1] for entry in self.corrected(layout)]
        return torch.tensor(found, dtype=torch.double)

    def finish(self, mixed_D: Tensor, stats_NS: Tensor, weights_N: Tensor, own: int | None, layout: Layout) -> Tensor:
        """The mean with each corrected tensor rescaled; `mixed_D` is only read."""
        import torch

        if len(stats_NS) < 2:
            return mixed_D
        averaged_N = weights_N > 0
        targets_S = self.targets(stats_NS, averaged_N, own)
        bound = math.sqrt(int(averaged_N.sum())) if self.cap else math.inf
        row_D = mixed_D.clone()
        for entry, target in zip(self.corrected(layout), targets_S.tolist(), strict=True):
            part = mixed_D[entry.start : entry.stop]
            mean, variance = moments(part)
            if not target > 0 or variance < NEGLIGIBLE * target:
                continue
            factor = (min(math.sqrt(target / variance), bound) - 1) * self.ratio + 1
            shift = torch.tensor(mean * (1 - factor), dtype=torch.double)
            torch.add(shift, part, alpha=factor, out=row_D[entry.start : entry.stop])
        return row_D

    def targets(self, stats_NS: Tensor, averaged_N: Tensor, own: int | None) -> Tensor:
        """The variance [S] that each corrected tensor of the mean gets."""
        import torch

        if self.target == "median":
            return torch.quantile(stats_NS[averaged_N], 0.5, dim=0)
        if self.target == "all" or own is None or not averaged_N[own]:
            return stats_NS[averaged_N].mean(0)
        if self.target == "own":
            return stats_NS[own]
        others_N = averaged_N.clone()
        others_N[own] = False
        others_S = stats_NS[others_N].mean(0)
        return others_S if self.target == "others" else torch.lerp(others_S, stats_NS[own], self.share)

    def corrected(self, layout: Layout) -> list[Entry]:
        """The tensors of a row that are corrected."""
        least = 2 if self.tensors == "weights" else 1
        return [e for e in layout.entries if e.trainable and len(e.shape) >= least and e.stop - e.start > 1]


def moments(part: Tensor) -> tuple[float, float]:
    """Mean and population variance of a flat tensor, summed in float64."""
    mean, variance = _moments_about(0.0, part)
    # Squares of numbers far from zero would cancel: once more, around their mean.
    return _moments_about(mean, part) if mean * mean > variance else (mean, variance)


def _moments_about(pivot: float, part: Tensor) -> tuple[float, float]:
    import torch

    total = squares = 0.0
    for block in torch.split(part, BLOCK):
        block = block.double()
        if pivot:
            block = block - pivot
        total += block.sum().item()
        squares += torch.dot(block, block).item()
    offset = total / len(part)
    return pivot + offset, max(0.0, squares / len(part) - offset * offset)
