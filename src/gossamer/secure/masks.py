"""Masks: a seed of 32 bytes as a stream of numbers modulo 2^32, added to a vector or taken from it.

Number i of a seed is bytes 4 i to 4 i + 3, little-endian, of the ChaCha20 key stream (RFC 8439) whose key is the seed,
with nonce 0 and the counter starting at 0. The nonce may be fixed because no key makes two streams: a seed is drawn, or
agreed, anew for each sum (agreement.py), masks one vector, and 32 bits of the counter last for 2^36 numbers.

Shapes: L numbers in a vector.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

Vector = np.ndarray[Any, np.dtype[np.uint32]]
_BLOCK = 1 << 15
"""Numbers handled at a time: a block of 128 kB takes all masks before the next one, and stays in the cache."""


def add_masks(vector_L: Vector, plus: Iterable[bytes], minus: Iterable[bytes] = ()) -> None:
    """Add the masks of the seeds `plus` to the vector modulo 2^32, and take away those of `minus`, in place."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    steps = [
        (Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor().update_into, step)
        for seeds, step in ((plus, np.add), (minus, np.subtract))
        for seed in seeds
    ]
    zeros = memoryview(bytes(4 * _BLOCK))
    stream_B = np.empty(_BLOCK, np.dtype("<u4"))
    for start in range(0, len(vector_L), _BLOCK):
        block = vector_L[start : start + _BLOCK]
        part = stream_B[: len(block)]
        source, target = zeros[: part.nbytes], part.view(np.uint8).data
        for stream, step in steps:
            stream(source, target)
            step(block, part, out=block)


def expand(seed: bytes, length: int) -> Vector:
    """[length] uint32: the mask of a seed of 32 bytes."""
    mask_L = np.zeros(length, np.uint32)
    add_masks(mask_L, [seed])
    return mask_L
