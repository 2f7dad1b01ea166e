"""Golden vectors: what ByzFL's rules and attacks make of a few small inputs, for tests/test_golden.py.

    python -m venv peer
    peer/bin/python -m pip install torch==2.13.0 numpy==2.4.6 scipy==1.17.1   # the CPU build of torch
    peer/bin/python -m pip install --no-deps byzfl==0.0.11
    peer/bin/python benchmarks/byzfl_golden.py tests/golden/byzfl.npz

Runs without Gossamer, in an environment of its own. The arrays of the file, where a case is nN_dD_fF:

    versions, cases    what made the file; its cases
    CASE/rows          the input, float32 [N, D]: N - F rows around a point far from zero, then F rows far away
    rules              names of the R rules and attacks; attacks see the first N - F rows. Rules that start from random
                       numbers come twice, with two seeds: CAF_seed_0, CAF_seed_1
    CASE/rules         [R, D], outputs for the same numbers as NumPy float64, which ByzFL keeps
    tensors            names of the T rules without dice
    CASE/tensors       [T, D], their outputs for a float32 tensor
    points             names of the P pre-aggregators
    CASE/points        [P, N, D], outputs for NumPy float64
    CASE/order         [N], the order in which Bucketing put the rows
    CASE/buckets       [ceil(N / 2), D], its output for buckets of two

ByzFL's rules need NumPy, SciPy and torch; its front page needs torchvision, matplotlib and seaborn as well, so the
rules are imported past it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SEED = 2024
CASES = [(n, d, f) for n, fs in ((5, (1, 2)), (9, (1, 3)), (15, (3, 6))) for d in (1, 7, 40) for f in fs]

Makers = dict[str, Callable[[], Any]]
"""What makes a rule, by name: a new one for each call, since some keep a state."""


def peer() -> tuple[Any, Any]:
    """ByzFL's rules and its attacks, without what else its package imports."""
    spec = importlib.util.find_spec("byzfl")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("this Python has no ByzFL: see the first lines of this file")
    package = types.ModuleType("byzfl")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["byzfl"] = package
    return importlib.import_module("byzfl.aggregators"), importlib.import_module("byzfl.attacks")


def rows_of(n: int, d: int, f: int) -> np.ndarray:
    """Float32 [n, d]: honest rows of unlike distance around (1, ..., 1), hostile ones about four times as far."""
    dice = np.random.default_rng([SEED, n, d, f])
    rows = 1.0 + dice.standard_normal((n, d)) * dice.uniform(0.5, 1.5, (n, 1))
    rows[n - f :] = 1.0 + 4.0 * (0.5 + dice.standard_normal((f, d)))
    return rows.astype(np.float32)


def rules(agg: Any, f: int) -> Makers:
    """Every rule without dice."""
    return {
        "Average": agg.Average,
        "Median": agg.Median,
        "TrMean": lambda: agg.TrMean(f),
        "GeometricMedian": agg.GeometricMedian,
        "GeometricMedian_converged": lambda: agg.GeometricMedian(nu=1e-9, T=5000),
        "Krum": lambda: agg.Krum(f),
        "MultiKrum": lambda: agg.MultiKrum(f),
        "CenteredClipping": agg.CenteredClipping,
        "CenteredClipping_3_steps": lambda: agg.CenteredClipping(L=3, tau=1.0),
        "MDA": lambda: agg.MDA(f),
        "MoNNA": lambda: agg.MoNNA(f, 0),
        "Meamed": lambda: agg.Meamed(f),
    }


def points(agg: Any, f: int) -> Makers:
    """Every pre-aggregator without dice."""
    return {"NNM": lambda: agg.NNM(f), "Clipping": agg.Clipping, "ARC": lambda: agg.ARC(f)}


def attacks(agg: Any, att: Any, f: int) -> Makers:
    """Every attack without dice; the optimal ones are against trimmed means behind NNM."""
    optimal = {"f": f, "agg": agg.TrMean(f), "pre_agg_list": [agg.NNM(f)]}
    return {
        "SignFlipping": att.SignFlipping,
        "InnerProductManipulation": att.InnerProductManipulation,
        "ALittleIsEnough": att.ALittleIsEnough,
        "Optimal_InnerProductManipulation": lambda: att.Optimal_InnerProductManipulation(**optimal),
        "Optimal_ALittleIsEnough": lambda: att.Optimal_ALittleIsEnough(**optimal),
        "Mimic": lambda: att.Mimic(1),
        "Inf": att.Inf,
        "LabelFlipping": att.LabelFlipping,
    }


def case(agg: Any, att: Any, n: int, d: int, f: int) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """The arrays of one case, and the names of what is stacked in them."""
    import torch

    rows_ND = rows_of(n, d, f)

    def doubles(makers: Makers, rows: int = n) -> dict[str, np.ndarray]:
        # Copies, because Clipping and ARC write into what they are given.
        return {name: made()(rows_ND[:rows].astype(np.float64)) for name, made in makers.items()}

    single = doubles(rules(agg, f))
    tensors = {name: made()(torch.from_numpy(rows_ND.copy())).numpy() for name, made in rules(agg, f).items()}
    for name in ("CAF", "SMEA"):
        for seed in range(2):
            np.random.seed(seed)
            single[f"{name}_seed_{seed}"] = getattr(agg, name)(f)(rows_ND.astype(np.float64))
    single |= doubles(attacks(agg, att, f), n - f)
    np.random.seed(0)
    buckets = agg.Bucketing(2)(rows_ND.astype(np.float64))
    np.random.seed(0)
    order = np.random.permutation(np.arange(n)[:, None]).ravel()
    stacked = {"rules": single, "tensors": tensors, "points": doubles(points(agg, f))}
    arrays = {what: np.stack(list(outputs.values())) for what, outputs in stacked.items()}
    names = {what: list(outputs) for what, outputs in stacked.items()}
    return {"rows": rows_ND, "order": order, "buckets": buckets, **arrays}, names


def main() -> None:
    """Write the file and say what made it."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    agg, att = peer()
    versions = [f"python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in ("byzfl", "numpy", "scipy", "torch")]
    found: dict[str, Any] = {"versions": versions, "cases": [f"n{n}_d{d}_f{f}" for n, d, f in CASES]}
    for name, shape in zip(found["cases"], CASES, strict=True):
        arrays, names = case(agg, att, *shape)
        found |= names | {f"{name}/{what}": array for what, array in arrays.items()}
    asked.file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(asked.file, **{name: np.asarray(value) for name, value in found.items()})
    print("\n".join([*versions, f"{len(found)} arrays, {asked.file.stat().st_size} bytes"]))


if __name__ == "__main__":
    main()
