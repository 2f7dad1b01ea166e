"""Private local work: gradients of single examples, clipped, summed and hidden in noise.

Shapes: B examples, T trainable columns in parts of t each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gossamer.errors import ExperimentError, NodeError
from gossamer.gradient_routes import Gradient, Outer, Routes
from gossamer.normalisation import overlapping
from gossamer.preprocessing import augment
from gossamer.privacy.per_example import rate_of
from gossamer.randomness import gaussian, generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor, nn

    from gossamer.experiment import Experiment
    from gossamer.preprocessing import Shards
    from gossamer.privacy import Mechanism
    from gossamer.resident import Resident
    from gossamer.training import NodeItems


def squares(gradient: Gradient) -> Tensor:
    """Squared Euclidean norms [B], in float64: no square of a float32 number is too large or too small for it."""
    import torch

    if isinstance(gradient, Outer):
        return squares(gradient.b_Bo) * squares(gradient.a_Bi)
    norms_B: Tensor = torch.linalg.vector_norm(gradient, dim=1, dtype=torch.float64)
    return norms_B.square_()


def weighted(gradient: Gradient, factors_B: Tensor) -> Tensor:
    """sum_i c_i g_i, [t]."""
    if isinstance(gradient, Outer):
        return ((gradient.b_Bo * factors_B.unsqueeze(1)).T @ gradient.a_Bi).flatten()
    return factors_B @ gradient  # type: ignore[no-any-return]


def clip_factors(squares_B: Tensor, clip: float, dtype: torch.dtype) -> Tensor:
    """min(1, C / ||g_i||) from squared norms, in `dtype`: never more, at most a few roundings less.

    Raises FloatingPointError where a norm is NaN or infinite.
    """
    import torch

    norms_B = squares_B.sqrt()
    for norm in norms_B[~norms_B.isfinite()][:1].tolist():
        raise FloatingPointError(f"the gradient of an example has norm {norm}")
    margin = 2.0**-20 if dtype == torch.float32 else 2.0**-40
    exact_B = (clip * (1 - margin) / norms_B).clamp_(max=1.0)
    factors_B = exact_B.to(dtype)
    # Those that are denormal numbers are rounded by more than the margin.
    return torch.where(factors_B > exact_B, torch.nextafter(factors_B, factors_B.new_zeros(())), factors_B)


class ExampleGradients:
    """Sums of clipped gradients of single examples, for the parameters that a resident module trains."""

    def __init__(self, resident: Resident, smoothing: float, clip: float, inputs_B: Tensor, labels_B: Tensor) -> None:
        """`smoothing` is that of labels, `clip` is C; `inputs_B` and `labels_B` are a few items to try routes on.

        Raises ExperimentError where an example has no gradient of its own.
        """
        check_examples(resident.module)
        self.resident, self.clip = resident, clip
        self.routes = Routes(resident, smoothing, inputs_B, labels_B)

    @property
    def route(self) -> str:
        """How gradients come about: 'opacus', 'vmap' or 'loop'."""
        return self.routes.taken

    def clipped_sum(
        self, inputs_B: Tensor, labels_B: Tensor, rests: Sequence[bool] = ()
    ) -> tuple[list[Tensor], float, int]:
        """sum_i g_i min(1, C / ||g_i||) for each part of the row, the mean loss, and how many labels were right.

        Parts that `rests` names are not trained: they count in no norm, and their sum is zero.

        An example is an item of the batch; the loss of a sequence is the mean over its positions. No summand is longer
        than C, whatever rounding does. Raises FloatingPointError where a gradient is not finite.
        """
        import torch

        sums = [part.new_zeros(len(part)) for part in self.resident.parts]
        loss, hits, size = 0.0, 0, self.routes.size
        for start in range(0, len(inputs_B), size):
            chunk = slice(start, start + size)
            gradients, losses_B, right = self.routes.gradients(inputs_B[chunk], labels_B[chunk])
            if rests:
                gradients = [None if rest else found for found, rest in zip(gradients, rests, strict=True)]
            squares_B = torch.zeros(len(losses_B), dtype=torch.float64)
            for gradient in gradients:
                squares_B += 0 if gradient is None else squares(gradient)
            factors_B = clip_factors(squares_B, self.clip, losses_B.dtype)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total.add_(weighted(gradient, factors_B))
            loss, hits = loss + float(losses_B.double().sum()), hits + right
        return sums, loss / len(inputs_B) if len(inputs_B) else math.nan, hits


@dataclass(frozen=True)
class Step:
    """The gradient of one private step, and what only the node knows of it."""

    grads: list[Tensor]
    """For each part of the row."""
    seen: int
    """Labels."""
    right: int
    loss: float
    """Sum over the labels."""


class PrivateSteps:
    """(sum_i g_i min(1, C / ||g_i||) + N(0, (z C)^2)) / B: Abadi et al. 2016, Algorithm 1.

    The sum is over the examples that a step draws, each of the node's n by a coin of chance B / n; maybe none. B is the
    size of a batch, or n if that is less, however many were drawn.
    """

    def __init__(
        self, experiment: Experiment, mechanism: Mechanism, resident: Resident, items: NodeItems, noise: float
    ) -> None:
        """`noise` is the noise multiplier z. Raises ExperimentError where that hides no example."""
        check_sharing(experiment.partition.kind, items.shards)
        self.experiment, self.resident, self.items, self.std = experiment, resident, items, noise * mechanism.clip
        smoothing = experiment.learner.label_smoothing
        self.examples = ExampleGradients(resident, smoothing, mechanism.clip, items.test_inputs, items.test_labels)

    def step(self, node: int, round: int, step: int, rests: Sequence[bool] = ()) -> Step:
        """One step of a node's work in a round; parts of the row may rest. Raises NodeError where a gradient is not
        finite."""
        import torch

        seed, preprocess = self.experiment.seed, self.experiment.preprocess
        mine, batch = self.items.shards.items_of(node), self.experiment.learner.batch_size
        coins = generator(seed, "examples", node, round, step).random(len(mine)) < rate_of(batch, len(mine))
        index = torch.from_numpy(mine[coins])
        inputs, labels = self.items.inputs.index_select(0, index), self.items.labels.index_select(0, index)
        if preprocess.crop or preprocess.flip:
            dice = generator(seed, "augment", node, round, step)
            inputs = augment(inputs, preprocess.crop, preprocess.flip, dice)
        try:
            grads, loss, right = self.examples.clipped_sum(inputs, labels, rests)
        except FloatingPointError as error:
            reason = f"{error} at local step {step}; lower learner.lr, or look for NaN in the data"
            raise NodeError(node, round + 1, "train", reason) from error
        if self.std:
            row_T = self.resident.row[: self.resident.layout.trainable]
            noise_T = gaussian(row_T, self.std, generator(seed, "privacy", node, round, step))
            for grad, part in zip(grads, self.resident.split(noise_T), strict=True):
                grad.add_(part)
        for grad in grads:
            grad.div_(min(batch, len(mine)))
        seen = int((labels >= 0).sum())
        return Step(grads, seen, right, loss * seen if len(inputs) else 0.0)


# ---- what has no gradient of single examples -------------------------------------------------------------------------


def check_examples(module: nn.Module) -> None:
    """Raise ExperimentError where a layer mixes the examples of a batch, or keeps what noise would not cover."""
    from torch import nn

    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) or type(layer).__name__.startswith("BatchNorm"):
            channels = getattr(layer, "num_features", 1)
            groups = max(g for g in range(1, max(1, channels // 4) + 1) if channels % g == 0)
            what = f"nn.{type(layer).__name__}({channels})"
            raise ExperimentError(
                f"model: layer '{name}' is {what}, which mixes the examples of a batch, so that none has a gradient of "
                f"its own; replace {what} by nn.GroupNorm({groups}, {channels}), or use "
                "opacus.validators.ModuleValidator.fix(module)"
            )
        if getattr(layer, "track_running_stats", False):
            raise ExperimentError(
                f"model: layer '{name}' keeps statistics of the examples, which no noise covers; build "
                f"nn.{type(layer).__name__} with track_running_stats=False, or use nn.GroupNorm"
            )
        if getattr(layer, "max_norm", None) is not None:
            raise ExperimentError(
                f"model: layer '{name}' has max_norm = {layer.max_norm}, which changes the weights of the tokens that "
                "occur, and no noise covers that; build it without"
            )
    lasting = module.state_dict().keys()
    for name, _ in module.named_buffers():
        if name in lasting:
            raise ExperimentError(
                f"model: buffer '{name}' is sent with the model, and no noise covers what is in it; if it never "
                "changes register it with persistent=False"
            )


def check_sharing(kind: str, shards: Shards) -> None:
    """Raise ExperimentError where nodes share examples: what one spends would then be spent by several."""
    if shards.draw_NC is not None or overlapping(shards.train):
        raise ExperimentError(
            f"partition.kind = '{kind}': nodes share examples, or hold one more than once, but privacy of examples is "
            "accounted for each node alone; use a partition that splits them, such as 'dirichlet' or 'iid'"
        )
