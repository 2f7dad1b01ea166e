"""CAF: a filter along the direction of the largest variance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.aggregators import GramRule, Tolerant

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class CAF(Tolerant, GramRule):
    """Covariance-bound-agnostic filter: weights fall along the top principal direction; the tightest mean wins.

        c_i <- 1;  while sum_i c_i > n - 2f:
            mu, Sigma <- mean and covariance of the updates under the weights c
            lambda, v <- top eigenvalue and eigenvector of Sigma;  t_i <- <x_i - mu, v>^2
            c_i <- c_i (1 - t_i / max {t_j : c_j > 0})
        the mu of the least lambda

    The eigenvector is that of the centred n x n Gram matrix, exact. f = 0 gives the mean. Needs n >= 2f + 1. Ignores
    weights.

        >>> import numpy as np
        >>> from gossamer.aggregators import CAF
        >>> CAF(f=1)(np.array([[1.0, 1.0], [1.2, 0.8], [0.8, 1.2], [1.0, 1.0], [70.0, 90.0]])).round(3)
        array([1., 1.])
    """

    source: ClassVar[str] = "Allouah, Guerraoui and Stephan 2025, Algorithm 2"

    kind: Literal["caf"] = "caf"

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        import torch

        squares_NN = gram.squares
        n, least = len(squares_NN), math.inf
        counts_N = torch.ones_like(weights_N)
        tightest_N = counts_N / n
        while counts_N.sum() > n - 2 * f:
            shares_N = counts_N / counts_N.sum()
            centred_NN = centred(squares_NN, shares_N)
            roots_N = shares_N.sqrt()
            values_N, vectors_NN = torch.linalg.eigh(roots_N[:, None] * centred_NN * roots_N)
            if values_N[-1] < least:
                least, tightest_N = float(values_N[-1]), shares_N
            along_N = (centred_NN @ (roots_N * vectors_NN[:, -1])).abs()
            farthest = along_N[counts_N > 0].max()
            if not farthest > 0:
                break
            counts_N = counts_N * (1 - (along_N / farthest).square()).clamp(min=0.0)
        return tightest_N


def centred(squares_NN: Tensor, shares_N: Tensor) -> Tensor:
    """<x_i - mu, x_j - mu> from squared distances, where mu = sum_i p_i x_i and the shares p sum to one."""
    means_N = squares_NN @ shares_N
    return (means_N[:, None] + means_N - squares_NN - shares_N @ means_N) / 2
