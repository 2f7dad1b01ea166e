"""Shamir's shares: the field, agreement with interpolation written out, and how little too few of them say."""

from __future__ import annotations

import itertools
import os
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from gossamer.errors import ProtocolError
from gossamer.secure.shamir import PRIME, SECRET, SHARE, join, split

secrets = st.binary(min_size=SECRET, max_size=SECRET)


def is_prime(n: int) -> bool:
    """Of an odd number: Miller and Rabin's test with the first 20 primes."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71):
        powers = [pow(base, odd * 2**k, n) for k in range(twos)]
        if powers[0] != 1 and n - 1 not in powers:
            return False
    return True


def interpolated(points: dict[int, int], at: int) -> int:
    """Lagrange's formula as it is in books, over the rationals, then modulo PRIME."""
    total = Fraction(0)
    for x, value in points.items():
        term = Fraction(value)
        for other in points.keys() - {x}:
            term *= Fraction(at - other, x - other)
        total += term
    return total.numerator * pow(total.denominator, -1, PRIME) % PRIME


def numbers(shares: dict[int, bytes]) -> dict[int, int]:
    return {x: int.from_bytes(share, "little") for x, share in shares.items()}


def test_the_field_is_the_smallest_that_holds_32_bytes():
    assert is_prime(PRIME)
    assert not any(is_prime(n) for n in range(2**256 + 1, PRIME, 2))
    assert PRIME <= 2 ** (8 * SHARE)


@given(secret=secrets, n=st.integers(1, 9), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_t_shares_give_the_secret_and_agree_with_interpolation(secret, n, data):
    t = data.draw(st.integers(1, n))
    shares = dict(enumerate(split(secret, n, t, os.urandom), start=1))
    assert {len(share) for share in shares.values()} == {SHARE}
    some = data.draw(st.permutations(sorted(shares)).map(lambda order: {x: shares[x] for x in order[:t]}))
    assert join(some, t) == secret
    assert interpolated(numbers(some), 0) == int.from_bytes(secret, "little")
    for x, share in shares.items():
        assert interpolated(numbers(some), x) == int.from_bytes(share, "little")


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\x80"], ids=["zero", "largest", "high bit"])
def test_extreme_secrets(secret):
    shares = dict(enumerate(split(secret, 5, 3, os.urandom), start=1))
    for some in itertools.combinations(shares, 3):
        assert join({x: shares[x] for x in some}, 3) == secret


def test_two_shares_of_three_are_consistent_with_every_secret():
    """For any secret there is a third share that leads to it, so the two say nothing."""
    shares = dict(enumerate(split(os.urandom(32), 3, 3, os.urandom), start=1))
    held = {x: shares[x] for x in (1, 2)}
    for secret in (bytes(32), b"\xff" * 32, *(os.urandom(32) for _ in range(5))):
        points = {0: int.from_bytes(secret, "little"), **numbers(held)}
        third = interpolated(points, 3).to_bytes(SHARE, "little")
        assert join({**held, 3: third}, 3) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32], ids=["zero", "ones"])
def test_a_share_below_the_threshold_is_uniform_whatever_the_secret(secret):
    rng = np.random.default_rng(0)
    counts = np.zeros((2, 256), np.int64)
    for _ in range(4000):
        value = int.from_bytes(split(secret, 2, 2, rng.bytes)[1], "little")
        counts[0, value % 256] += 1
        counts[1, min(value * 256 // PRIME, 255)] += 1
    assert min(chisquare(row).pvalue for row in counts) > 1e-4


def test_same_bytes_same_shares_and_one_byte_changes_all():
    drawn = bytes(range(48))
    first = split(b"a" * 32, 4, 2, lambda count: drawn)
    assert first == split(b"a" * 32, 4, 2, lambda count: drawn)
    other = split(b"a" * 32, 4, 2, lambda count: b"x" + drawn[1:])
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_fewer_than_the_threshold_are_refused():
    shares = dict(enumerate(split(bytes(32), 5, 3, os.urandom), start=1))
    with pytest.raises(ProtocolError, match=r"^only 2 shares; threshold 3$"):
        join({x: shares[x] for x in (2, 5)}, 3)


def test_more_than_the_threshold_are_not_looked_at():
    secret = os.urandom(32)
    shares = dict(enumerate(split(secret, 5, 3, os.urandom), start=1))
    assert join({**shares, 4: bytes(SHARE), 5: b"\xff" * SHARE}, 3) == secret


def test_shares_that_are_of_no_secret_are_refused_or_give_another():
    secret = os.urandom(32)
    shares = dict(enumerate(split(secret, 3, 2, os.urandom), start=1))
    with pytest.raises(ProtocolError, match="shares 1, 2 are not of one secret of 32 bytes"):
        join({1: shares[1], 2: b"\xff" * SHARE}, 2)
    off = (int.from_bytes(shares[2], "little") + 1) % PRIME
    assert join({1: shares[1], 2: off.to_bytes(SHARE, "little")}, 2) != secret
    # Values 2^256 at 1 and 2 are those of the constant 2^256, one more than any secret.
    beyond = (2**256).to_bytes(SHARE, "little")
    with pytest.raises(ProtocolError, match="not of one secret"):
        join({1: beyond, 2: beyond}, 2)


@pytest.mark.parametrize(
    ("secret", "n", "t"), [(bytes(31), 3, 2), (bytes(33), 3, 2), (bytes(32), 3, 4), (bytes(32), 3, 0)]
)
def test_what_cannot_be_shared(secret, n, t):
    with pytest.raises(ValueError, match=r"it takes 32 and 1 <= t <= n"):
        split(secret, n, t, os.urandom)
