"""How far a forged message can go in a direction and still lie no further out than honest ones do.

Both limits are exact: along a line the squared distance to an honest message is a quadratic in how far one has gone,
whose coefficients are in the Gram matrix of the honest messages and one point of the line.

Shapes: G honest messages of D numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gossamer.gram import Gram

if TYPE_CHECKING:
    from torch import Tensor

Direction = Literal["std", "unit", "sign"]


def direction(kind: Direction, honest_GD: Tensor, base_D: Tensor) -> Tensor:
    """[D]: against the honest mean change coordinate by coordinate (-sign), against it as a whole (-unit vector), or
    down by the standard deviation of each coordinate (-std, over the honest messages).
    """
    change_D = honest_GD.mean(0) - base_D
    if kind == "sign":
        return -change_D.sign()
    if kind == "unit":
        length = change_D.norm()
        return -change_D / length if length > 0 else change_D
    return -deviation(honest_GD)


def deviation(honest_GD: Tensor) -> Tensor:
    """[D]: the sample standard deviation of each coordinate over the messages, zero for a single one."""
    return honest_GD.std(0, correction=1) if len(honest_GD) > 1 else honest_GD.new_zeros(honest_GD.shape[1])


def within_largest_distance(honest_GD: Tensor, direction_D: Tensor) -> Tensor:
    """The point [D] furthest from the mean along the direction whose distance to every honest message is no more than
    the largest distance between two of them: mean + min_i gamma_i * direction, where gamma_i is the positive root of
    ||mean - x_i||^2 + 2 gamma <direction, mean - x_i> + gamma^2 ||direction||^2 = max_jk ||x_j - x_k||^2.
    """
    step_D = _scaled(honest_GD, direction_D)
    squares_GG, q_G, b_G, a = _geometry(honest_GD, step_D)
    if a <= 0:
        return honest_GD.mean(0)
    c_G = (squares_GG.max() - q_G).clamp(min=0.0)
    root_G = (b_G.square() + a * c_G).sqrt()
    gamma_G = (root_G - b_G) / a
    # The same root without cancellation where b > 0.
    gamma_G[b_G > 0] = (c_G / (root_G + b_G))[b_G > 0]
    return honest_GD.mean(0) + float(gamma_G.min()) * step_D


def within_largest_sum(honest_GD: Tensor, direction_D: Tensor) -> Tensor:
    """The point [D] furthest from the mean along the direction whose squared distances to the honest messages sum to
    no more than those of any honest one: mean + gamma * direction, where G gamma^2 ||direction||^2 +
    sum_i ||mean - x_i||^2 = max_j sum_k ||x_j - x_k||^2 (what is linear in gamma sums to zero about the mean).
    """
    step_D = _scaled(honest_GD, direction_D)
    squares_GG, q_G, _, a = _geometry(honest_GD, step_D)
    if a <= 0:
        return honest_GD.mean(0)
    room = (squares_GG.sum(1).max() - q_G.sum()).clamp(min=0.0)
    return honest_GD.mean(0) + float((room / (len(honest_GD) * a)).sqrt()) * step_D


def _scaled(honest_GD: Tensor, direction_D: Tensor) -> Tensor:
    """The direction as long as the honest messages are wide, so that one Gram matrix is accurate for both."""
    width, length = deviation(honest_GD).norm(), direction_D.norm()
    return direction_D * (width / length) if length > 0 else direction_D


def _geometry(honest_GD: Tensor, step_D: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """||x_j - x_k||^2 [G, G], ||mean - x_i||^2 [G], <step, mean - x_i> [G] and ||step||^2, in float64."""
    import torch

    g = len(honest_GD)
    gram = Gram.of(torch.cat([honest_GD, (honest_GD.mean(0) + step_D)[None]]))
    with_mean = torch.zeros((g + 2, g + 1), dtype=torch.float64, device=honest_GD.device)
    with_mean[: g + 1] = torch.eye(g + 1, dtype=torch.float64, device=honest_GD.device)
    with_mean[g + 1, :g] = 1.0 / g
    points = gram.through(with_mean)
    about = points.about(g + 1)
    return points.squares[:g, :g], about.diagonal()[:g], -about[g, :g], float(about[g, g])
