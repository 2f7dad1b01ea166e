"""Shamir's shares of 32-byte secrets: any t of n give the secret, fewer say nothing about it.

The secret is the value at 0 of a random polynomial of degree t - 1 over the integers modulo PRIME; share x = 1 ... n is
its value at x (Shamir 1979). Written out here because no maintained library shares 32 bytes: PyCryptodome's works in
GF(2^128), on 16.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from gossamer.errors import ProtocolError

PRIME = 2**256 + 297
"""The smallest prime above 2^256, so every secret of 32 bytes is a number below it."""
SECRET, SHARE = 32, 33
"""Bytes of a secret and of a share, both little-endian."""
_DRAW = 48
"""Bytes drawn for a coefficient; reduced modulo PRIME they are uniform up to 2^-127."""


def split(secret: bytes, n: int, t: int, entropy: Callable[[int], bytes]) -> list[bytes]:
    """Shares 1 ... n of a secret of 32 bytes, of which t are needed; `entropy(k)` gives k random bytes.

    Raises ValueError unless 1 <= t <= n and the secret has 32 bytes.
    """
    if len(secret) != SECRET or not 1 <= t <= n:
        raise ValueError(
            f"a secret of {len(secret)} bytes in {n} shares, {t} needed; it takes {SECRET} and 1 <= t <= n"
        )
    drawn = entropy(_DRAW * (t - 1))
    high_first = [int.from_bytes(drawn[at : at + _DRAW], "little") % PRIME for at in range(0, len(drawn), _DRAW)]
    high_first.append(int.from_bytes(secret, "little"))
    shares = []
    for x in range(1, n + 1):
        value = 0
        for coefficient in high_first:
            value = (value * x + coefficient) % PRIME
        shares.append(value.to_bytes(SHARE, "little"))
    return shares


def join(shares: Mapping[int, bytes], t: int) -> bytes:
    """The secret of 32 bytes from shares by their number x; of more than t the lowest t are used.

    Raises ProtocolError where there are fewer than t, or where they cannot be shares of one secret of 32 bytes. Other
    wrong shares give a wrong secret: who joins them has to know something to hold it against.
    """
    if len(shares) < t:
        raise ProtocolError(f"only {len(shares)} shares; threshold {t}")
    numbers = tuple(sorted(shares)[:t])
    values = [int.from_bytes(shares[x], "little") for x in numbers]
    secret = sum(weight * value for weight, value in zip(_weights(numbers), values, strict=True)) % PRIME
    if max(values) >= PRIME or secret >= 2 ** (8 * SECRET):
        raise ProtocolError(f"shares {', '.join(map(str, numbers))} are not of one secret of {SECRET} bytes")
    return secret.to_bytes(SECRET, "little")


@functools.lru_cache(maxsize=16)
def _weights(numbers: tuple[int, ...]) -> list[int]:
    """Lagrange's basis at 0: prod over y != x of y / (y - x), for each x; the same for all secrets of a sum."""
    weights = []
    for x in numbers:
        above, below = 1, 1
        for y in numbers:
            if y != x:
                above, below = above * y % PRIME, below * (y - x) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return weights
