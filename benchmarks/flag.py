"""Flag from the Gram matrix beside Flag from singular vectors in all dimensions, at the same iterations.

    python benchmarks/flag.py

p = 15 updates of 200,000 coordinates in float64, without (lambda = 0) and with (1) the differences of updates. Prints
medians in seconds, their ratio (bar: 30), and the distance of the results as a share of their length (bar: 1e-9).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def flag_in_all_dimensions(rows_PD: Any, dimensions: int, weight: float, iterations: int, epsilon: float) -> Any:
    """The Flag aggregate by singular vectors of the weighted columns themselves, [D, columns] each time."""
    import torch

    lengths_P = rows_PD.norm(dim=1)
    columns_DC, shares_C = (rows_PD / lengths_P[:, None]).T, torch.ones_like(lengths_P)
    if weight > 0:
        first, second = torch.triu_indices(len(rows_PD), len(rows_PD), 1)
        differences = rows_PD[first] - rows_PD[second]
        columns_DC = torch.cat([columns_DC, (differences / differences.norm(dim=1, keepdim=True)).T], 1)
        # Each pair stands for both orders.
        shares_C = torch.cat([shares_C, shares_C.new_full((len(first),), 2 * weight / (len(rows_PD) - 1))])
    weights_C, basis_DM = shares_C, columns_DC[:, :0]
    for _ in range(iterations):
        basis_DM = torch.linalg.svd(columns_DC * weights_C.sqrt(), full_matrices=False).U[:, :dimensions]
        missing_C = (columns_DC - basis_DM @ (basis_DM.T @ columns_DC)).norm(dim=0)
        weights_C = shares_C / (2 * missing_C + epsilon)
    return basis_DM @ (basis_DM.T @ rows_PD.mean(0))


def flag_times(d: int = 200_000, p: int = 15, iterations: int = 5, repeats: int = 3) -> list[dict[str, float]]:
    """Flag on the Gram matrix against all dimensions, in float64, with and without differences."""
    import torch

    from gossamer.aggregators import Flag

    torch.set_num_threads(1)
    rows_PD = 1.0 + torch.randn(p, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for weight in (0.0, 1.0):
        rule = Flag(weight=weight, max_iterations=iterations, tolerance=0.0)
        arms: dict[str, Callable[[], Any]] = {
            "gram": lambda rule=rule: rule(rows_PD),
            "svd": lambda rule=rule, weight=weight: flag_in_all_dimensions(
                rows_PD, (p + 2) // 2, weight, iterations, rule.epsilon
            ),
        }
        results = {name: arm() for name, arm in arms.items()}
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(repeats):
            for name, arm in arms.items():
                began = time.perf_counter()
                arm()
                seconds[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        difference = float((results["gram"] - results["svd"]).norm() / results["svd"].norm())
        found.append({"weight": weight, **medians, "ratio": medians["svd"] / medians["gram"], "difference": difference})
    return found


def main() -> None:
    """Measure and print."""
    for row in flag_times():
        print(
            f"lambda = {row['weight']:.0f}: Gram matrix {row['gram']:.3f} s, singular vectors {row['svd']:.3f} s, "
            f"ratio {row['ratio']:.0f}, relative difference {row['difference']:.0e}"
        )


if __name__ == "__main__":
    main()
