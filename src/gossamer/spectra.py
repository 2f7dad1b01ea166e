"""Spectra of mixing matrices: what an exchange preserves, and how fast exchanges lead to consensus.

Consensus is J x, the mean of x at every node (J = 11'/N); an exchange takes x to W x. What it keeps of the squared
distance to consensus, ||(I - J) W x||^2 / ||(I - J) x||^2, is told for the worst x: the largest eigenvalue of
W' (I - J) W on the complement of 1, and of its mean where W is drawn anew every round.

Shapes: N nodes, K matrices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gossamer.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import csr_array

Array = np.ndarray[Any, Any]
Stochasticity = Literal["doubly", "row", "column", "none"]

DENSE_NODES = 2000
"""Up to this many nodes all eigenvalues are computed."""

STEPS = 64
"""A fixed matrix is raised to powers up to this one to see whether they are the exact average."""


def stochasticity(W_NN: csr_array) -> Stochasticity:
    """Whether rows, columns or both are averages: no negative weight, and sums of 1 (to 1e-9)."""
    if W_NN.nnz and W_NN.data.min() < 0:
        return "none"
    rows = np.allclose(W_NN.sum(axis=1), 1, rtol=0, atol=1e-9)
    columns = np.allclose(W_NN.sum(axis=0), 1, rtol=0, atol=1e-9)
    return "doubly" if rows and columns else "row" if rows else "column" if columns else "none"


def spectral_gap(W_NN: csr_array) -> float | None:
    """1 - the second largest modulus of an eigenvalue: how fast repeated mixing reaches consensus.

    0: never, 1: at once; for normal W (symmetric, circulant) each exchange shrinks the distance to consensus by 1 - gap
    or more. None above 2,000 nodes where W is not normal or the gap is too small for the iterative solver.
    """
    nodes = W_NN.shape[0]
    if nodes == 1:
        return 1.0
    symmetric = _symmetric(W_NN)
    normal = symmetric or is_normal(W_NN)
    if nodes <= DENSE_NODES:
        dense_NN = W_NN.toarray()
        if symmetric:
            modulus_N = np.abs(np.linalg.eigvalsh(dense_NN))
        elif normal:
            modulus_N = np.sqrt(np.abs(np.linalg.eigvalsh(dense_NN.T @ dense_NN)))
        else:
            modulus_N = np.abs(np.linalg.eigvals(dense_NN))
        return max(0.0, float(1 - np.sort(modulus_N)[-2]))
    if not normal:
        return None
    from scipy.sparse.csgraph import connected_components

    if connected_components(W_NN, directed=False)[0] > 1:
        return 0.0  # Lanczos iterations from one vector cannot see that the eigenvalue 1 is repeated.
    if symmetric:
        values = _largest(W_NN, 2)
        return None if values is None else max(0.0, float(1 - np.abs(values).min()))
    values = _largest(W_NN.T @ W_NN, 2)
    return None if values is None else max(0.0, float(1 - np.sqrt(np.abs(values).min())))


def contraction(matrices: Sequence[csr_array], alike: bool = False) -> float | None:
    """Largest eigenvalue, on the complement of 1, of the mean of W' (I - J) W over matrices whose rows sum to 1.

    If the law of the matrices is the same for every numbering of the nodes, all directions are `alike` and the trace
    tells the eigenvalue; the largest one of a mean of few draws would exceed it. None above 2,000 nodes where the
    iterative solver does not converge.
    """
    nodes = matrices[0].shape[0]
    if nodes == 1:
        return 0.0
    mean_KN = np.stack([W_NN.sum(axis=0) / nodes for W_NN in matrices])
    if alike:
        squares = np.mean([np.square(W_NN.data).sum() for W_NN in matrices])
        kept = squares - nodes * np.square(mean_KN).sum() / len(matrices)
        return float(kept / (nodes - 1))
    if nodes <= DENSE_NODES:
        product_NN = sum(_square(W_NN) for W_NN in matrices) - nodes * mean_KN.T @ mean_KN
        off_NN = product_NN - product_NN.mean(axis=0)
        off_NN = (off_NN - off_NN.mean(axis=1, keepdims=True)) / len(matrices)
        return max(0.0, float(np.linalg.eigvalsh(off_NN)[-1]))
    from scipy.sparse.linalg import LinearOperator

    def product(x_N: Array) -> Array:
        off_N = x_N.reshape(-1) - x_N.mean()
        mixed = (W_NN @ off_N for W_NN in matrices)
        total_N = sum(W_NN.T @ (y_N - y_N.mean()) for W_NN, y_N in zip(matrices, mixed, strict=True))
        return np.asarray((total_N - np.mean(total_N)) / len(matrices))

    if np.abs(product(generator(0, "spectral gap").standard_normal(nodes))).max() < 1e-12:
        return 0.0  # The solver takes no matrix of zeros.
    values = _largest(LinearOperator((nodes, nodes), matvec=product, dtype=np.float64), 1)
    return None if values is None else max(0.0, float(values[0]))


def _square(W_NN: csr_array) -> Array:
    """W' W, dense."""
    if W_NN.nnz > W_NN.shape[0] ** 2 // 8:
        dense_NN = W_NN.toarray()
        return np.asarray(dense_NN.T @ dense_NN)
    return np.asarray((W_NN.T @ W_NN).toarray())


def drift(matrices: Sequence[csr_array], alike: bool = False) -> float:
    """Largest mean over the matrices of N (mean(W x) - mean(x))^2 / ||x - mean(x)||^2, rows summing to 1."""
    nodes = matrices[0].shape[0]
    off_KN = np.stack([(W_NN.sum(axis=0) - 1) / nodes for W_NN in matrices])
    if np.abs(off_KN).max() < 1e-9 / nodes or nodes == 1:
        return 0.0
    gram_KK = nodes * off_KN @ off_KN.T / len(matrices)
    return float(np.trace(gram_KK)) / (nodes - 1) if alike else float(np.linalg.eigvalsh(gram_KK)[-1])


def off_mean(diagonal: float, nodes: int) -> float:
    """Eigenvalue on the complement of 1 of a matrix a I + b J with rows that sum to 1, from its diagonal entry.

    Such are E[W] and E[W' W] where the law of W is the same for every numbering of the nodes; the diagonal entry of
    the latter is E sum_j W_ij^2.
    """
    return (nodes * diagonal - 1) / (nodes - 1) if nodes > 1 else 0.0


def exact_after(matrices: Sequence[csr_array]) -> int | None:
    """The number of matrices whose product is J with whichever of them it starts; None if there is no such number.

    One matrix stands for all rounds. What is looked for is a product that takes a random vector to its mean in one
    step, up to rounding, which fast convergence does not.
    """
    nodes = matrices[0].shape[0]
    start_N = generator(0, "exact average").standard_normal(nodes)
    start_N -= start_N.mean()

    def steps(first: int, most: int) -> int | None:
        x_N, before = start_N, np.abs(start_N).max()
        for step in range(most):
            x_N = matrices[(first + step) % len(matrices)] @ x_N
            left = np.abs(x_N).max()
            if left <= 1e-7 * before and left <= 1e-12 * np.abs(start_N).max():
                return step + 1
            before = left
        return None

    count = steps(0, STEPS if len(matrices) == 1 else len(matrices))
    if count is None or any(steps(first, count) is None for first in range(1, len(matrices) - count + 1)):
        return None
    return count


def _largest(matrix_NN: Any, count: int) -> Array | None:
    """The eigenvalues of largest modulus of a symmetric matrix or operator; None if the solver does not converge."""
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    start_N = generator(0, "spectral gap").standard_normal(matrix_NN.shape[0])
    try:
        values = eigsh(matrix_NN, k=count, which="LM", v0=start_N, maxiter=500, return_eigenvectors=False)
    except ArpackNoConvergence:
        return None
    return np.asarray(values)


def _symmetric(W_NN: csr_array) -> bool:
    return bool(abs(W_NN - W_NN.T).max() <= 1e-12)


def is_normal(W_NN: csr_array) -> bool:
    """Whether W W' = W' W: symmetric or circulant matrices, for example. Then moduli of eigenvalues are norms."""
    return _symmetric(W_NN) or bool(abs(W_NN @ W_NN.T - W_NN.T @ W_NN).max() <= 1e-12)
