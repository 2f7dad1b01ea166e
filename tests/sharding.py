"""Small data sets, and `cut`, which deals and preprocesses them: what tests of preprocessing start from."""

from __future__ import annotations

from typing import Any

import numpy as np

from gossamer.data import Dataset, Split
from gossamer.experiment import Preprocess
from gossamer.partitions import Partition
from gossamer.partitions.function import FunctionPartition
from gossamer.partitions.iid import IID
from gossamer.preprocessing import Shards, shard

RNG = np.random.default_rng(3)
IMAGES = Dataset.of(
    RNG.integers(0, 256, (300, 3, 6, 5), dtype=np.uint8),
    np.tile(np.arange(5), 60),
    RNG.integers(0, 256, (40, 3, 6, 5), dtype=np.uint8),
    np.tile(np.arange(5), 8),
    groups=RNG.integers(0, 7, 300),
)
TABLE = Dataset(
    "table",
    Split(RNG.normal(5, 3, (300, 4)), np.tile(np.arange(5), 60)),
    Split(RNG.normal(5, 3, (40, 4)), np.tile(np.arange(5), 8)),
    tuple("abcde"),
)
TOKENS = Dataset.of(
    RNG.integers(0, 9, (100, 8)), RNG.integers(0, 9, (100, 8)), RNG.integers(0, 9, (10, 8)), RNG.integers(0, 9, (10, 8))
)
LISTS = FunctionPartition.wrap([np.arange(0, 100), np.arange(50, 150), np.arange(140, 141)])


def cut(
    dataset: Dataset = IMAGES,
    partition: Any = None,
    nodes: int | None = 6,
    validation: float = 0.2,
    dtype: str = "float64",
    pool: bool = False,
    seed: int = 0,
    **preprocess: Any,
) -> Shards:
    chosen: Partition = partition or IID()
    return shard(dataset, chosen, nodes, Preprocess(**preprocess), validation, seed, dtype, pool)
