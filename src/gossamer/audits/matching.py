"""Inputs from a gradient: which B inputs, with known labels, would give this gradient of the loss?

Two ways. Where the first layer is dense, row i of its gradients is (sum_b d_ib x_b, sum_b d_ib), so the quotient is an
input wherever a neuron answered to one item of the batch only. Otherwise inputs are moved until their gradient points
where the given one points. The adversary knows the model, the labels and the range of the inputs, and takes of what it
finds that whose gradient fits best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gossamer.randomness import torch_seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

ALIKE = 1e-3
"""Quotients of two neurons count as the same input up to this distance, relative to their length."""
EXACT = 1e-4
"""A gradient that is so close to the given one, in 1 - cosine, is not improved on."""
SMOOTH = 1e-3
"""Weight of the total variation beside 1 - cosine."""
STEP = 0.1
"""First step of each number of an input, in standard deviations of all inputs; a tenth after 3/8, 5/8 and 7/8."""


@dataclass(frozen=True)
class Given:
    """What the adversary starts from."""

    module: nn.Module
    parameters: Sequence[nn.Parameter]
    gradient: Sequence[Tensor]
    """Of each of the parameters."""
    labels_B: Tensor
    low: Tensor
    high: Tensor
    """The range of the inputs, that broadcasts with [B, ...]."""

    def gradient_of(self, inputs: Tensor, labels: Tensor, further: bool = False) -> tuple[Tensor, ...]:
        """The gradient of the mean loss on other inputs; `further`: to be differentiated once more."""
        import torch
        from torch.nn.functional import cross_entropy

        loss = cross_entropy(self.module(inputs), labels)
        return torch.autograd.grad(loss, list(self.parameters), create_graph=further)

    def apart(self, gradient: Sequence[Tensor]) -> Tensor:
        """1 - cosine between a gradient and the given one."""
        pairs = list(zip(gradient, self.gradient, strict=True))
        inner, square, given = (
            sum(((a * b).sum() for a, b in group), pairs[0][0].new_zeros(()))
            for group in (pairs, [(a, a) for a, _ in pairs], [(b, b) for _, b in pairs])
        )
        return 1 - inner / (square * given).sqrt().clamp(min=1e-30)


def reconstruct(given: Given, shape: tuple[int, ...], steps: int, restarts: int, seed: int) -> tuple[Tensor, float]:
    """The inputs [B, *shape] whose gradient fits best, and how far it is from the given one, in 1 - cosine."""
    import torch

    count = len(given.labels_B)
    found = assigned(given, quotients(given, shape)[:count])
    tried: list[tuple[Tensor, float]] = []
    for attempt in range(restarts + 1):
        known = found if attempt == 0 else {}
        if attempt == 0 and not found:
            continue
        with torch_seeded(seed, "inversion", round=attempt):
            start = torch.randn((count, *shape), dtype=given.gradient[0].dtype)
        for place, value in known.items():
            start[place] = value
        free_B = torch.tensor([place not in known for place in range(count)])
        tried.append(descend(given, start.clamp(given.low, given.high), free_B, steps))
        if tried[-1][1] < EXACT:
            break
    return min(tried, key=lambda one: one[1])


def quotients(given: Given, shape: tuple[int, ...]) -> list[Tensor]:
    """Inputs that are the quotient of two neurons' gradients or more, those of the most neurons first.

    Of a mixture of items no two neurons have the same, so what agrees is an item. Empty where the first layer is not
    dense. Phong et al. 2018, Section 3, for one item; of several, neurons that are silent for all but one give it away,
    as ReLU makes many (Dimitrov et al. 2024, SPEAR).
    """
    import torch

    dense = next((part for part in given.module.modules() if list(part.parameters(recurse=False))), None)
    names = {id(parameter): gradient for parameter, gradient in zip(given.parameters, given.gradient, strict=True)}
    if not isinstance(dense, torch.nn.Linear) or dense.bias is None or dense.in_features != math.prod(shape):
        return []
    if id(dense.weight) not in names or id(dense.bias) not in names:
        return []
    weights_HF, biases_H = names[id(dense.weight)].double(), names[id(dense.bias)].double()
    loud = biases_H.abs() > 1e-6 * biases_H.abs().max()
    weights_HF, biases_H = weights_HF[loud], biases_H[loud]
    inputs_HF = weights_HF / biases_H[:, None]
    apart_HH = torch.cdist(inputs_HF, inputs_HF) / inputs_HF.norm(dim=1).clamp(min=1e-12)
    found: list[tuple[int, int]] = []
    left_H = torch.ones(len(inputs_HF), dtype=torch.bool)
    for neuron in torch.argsort(-biases_H.abs()).tolist():
        alike_H = (apart_HH[neuron] < ALIKE) & left_H
        if left_H[neuron] and int(alike_H.sum()) > 1:
            found.append((-int(alike_H.sum()), neuron))
            left_H &= ~alike_H
    return [inputs_HF[neuron].view(shape).to(given.gradient[0].dtype) for _, neuron in sorted(found)]


def assigned(given: Given, inputs: Sequence[Tensor]) -> dict[int, Tensor]:
    """Each of some inputs at the place of a label, so that their gradients point where the given one does."""
    import torch
    from scipy.optimize import linear_sum_assignment

    if not inputs:
        return {}
    cost = torch.stack(
        [
            torch.stack([given.apart(given.gradient_of(value[None], label[None])) for label in given.labels_B])
            for value in inputs
        ]
    )
    rows, places = linear_sum_assignment(cost.numpy())
    return {int(place): inputs[row] for row, place in zip(rows, places, strict=True)}


def descend(given: Given, start: Tensor, free_B: Tensor, steps: int) -> tuple[Tensor, float]:
    """Move the free ones of the inputs, within their range, until their gradient points where the given one does.

    Adam on the signs of the derivatives, with a little total variation (Geiping et al. 2020, Section 5).
    """
    import torch

    inputs = start.clone()
    if bool(free_B.any()):
        inputs.requires_grad_(True)
        adam = torch.optim.Adam([inputs], lr=STEP)
        slower = torch.optim.lr_scheduler.MultiStepLR(adam, [steps * part // 8 for part in (3, 5, 7)], 0.1)
        mask = free_B.view(-1, *[1] * (inputs.dim() - 1)).to(inputs.dtype)
        for _ in range(steps):
            apart = given.apart(given.gradient_of(inputs, given.labels_B, further=True))
            (slope,) = torch.autograd.grad(apart + SMOOTH * variation(inputs), inputs)
            inputs.grad = slope.sign() * mask
            adam.step()
            slower.step()
            with torch.no_grad():
                inputs.copy_(inputs.clamp(given.low, given.high))
    inputs = inputs.detach()
    return inputs, float(given.apart(given.gradient_of(inputs, given.labels_B)))


def variation(images: Tensor) -> Tensor:
    """Total variation of images [B, F, H, W]: the mean step between neighbours, down and across."""
    down, across = images[:, :, 1:] - images[:, :, :-1], images[..., 1:] - images[..., :-1]
    return down.abs().mean() + across.abs().mean()
