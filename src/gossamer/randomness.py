"""Dice: a counter-based generator keyed by what the draw is for, never by when it happens.

Every draw of a run comes from `generator(seed, purpose, node, round, step)`. Philox (Salmon et al., 2011) maps a key
and a counter to random words, so streams with different keys or counters never overlap, cost nothing to create, and
do not depend on the order of execution, the number of workers or a restart.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

ANY = -1
"""Stands for 'not a matter of': a draw shared by all nodes has node = ANY."""


class _Key(ISeedSequence):
    """A Philox key as numpy takes it. Handing it over this way asks the system for no entropy: three times as fast."""

    def __init__(self, words: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
        self.words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        """The key: two words of 64 bits."""
        return self.words


@functools.lru_cache(maxsize=4096)
def _key(seed: int, purpose: str) -> _Key:
    word = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    return _Key(np.array([seed % 2**64, word], dtype=np.uint64))


def generator(seed: int, purpose: str, node: int = ANY, round: int = ANY, step: int = ANY) -> np.random.Generator:
    """The stream for one purpose at one node, round and step (each possibly ANY).

    The Philox key is (seed, hash of purpose); the three high counter words are (step, round, node), the low one
    counts the draws, so two different streams are disjoint for 2**64 draws.
    """
    counter = np.array([0, step + 1, round + 1, node + 1], dtype=np.uint64)
    bits = np.random.Philox(_key(seed, purpose), counter=counter)  # type: ignore[arg-type]
    return np.random.Generator(bits)


def torch_seed(seed: int, purpose: str, node: int = ANY, round: int = ANY, step: int = ANY) -> int:
    """A seed for torch's own generator (dropout, module initialisation): a hash of the key, in the 32 bits it uses."""
    key = struct.pack("<Qqqq", seed % 2**64, node, round, step) + purpose.encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")


def gaussian(like: Tensor, std: float, rng: np.random.Generator) -> Tensor:
    """Normal noise of a standard deviation, shaped and typed like a tensor; drawn in float64."""
    import torch

    return torch.from_numpy(rng.normal(0.0, std, size=tuple(like.shape))).to(like.dtype)


@contextmanager
def torch_seeded(seed: int, purpose: str, node: int = ANY, round: int = ANY) -> Iterator[None]:
    """Within the block torch's global CPU generator is set from the key; afterwards it is as it was before."""
    import torch

    before = torch.get_rng_state()
    torch.manual_seed(torch_seed(seed, purpose, node, round))
    try:
        yield
    finally:
        torch.set_rng_state(before)
