"""Keys of a secure sum: agreed between two nodes (X25519, HKDF-SHA256), shares sealed with them (ChaCha20-Poly1305).

All keys are made for one sum and thrown away after it. What is derived names its purpose, the sum and both nodes, so
one agreement gives independent keys for each, and none of them is used for two messages.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY, TAG = 32, 16
"""Bytes of a key or seed, and what sealing adds."""
MASK, CHANNEL = b"gossamer secure sum: mask", b"gossamer secure sum: shares"
_ONCE = bytes(12)
"""The nonce: each key seals one message."""

Entropy = Callable[[int], bytes]
"""Gives so many random bytes; `os.urandom` where something is to be kept secret."""


def private_key(raw: bytes) -> X25519PrivateKey:
    """The private key that 32 bytes are."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(raw)


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The 32 bytes of its public key."""
    return key.public_key().public_bytes_raw()


def public_of(raw: bytes) -> bytes:
    """The public key of a private one of 32 bytes."""
    return public_bytes(private_key(raw))


def agreed(own: X25519PrivateKey, public: bytes) -> bytes:
    """32 bytes that only the holders of the two private keys can know; not to be used but for `derived`.

    Raises ValueError for a public key that is none, among them those of low order, with which all agree on zero.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    return own.exchange(X25519PublicKey.from_public_bytes(public))


def derived(shared: bytes, purpose: bytes, sum_id: int, first: int, second: int) -> bytes:
    """A key of 32 bytes from what two nodes agreed on, for one purpose, sum and (ordered) pair of nodes."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    about = purpose + struct.pack("<qqq", sum_id, first, second)
    return HKDF(algorithm=SHA256(), length=KEY, salt=None, info=about).derive(shared)


def mask_seed(own: X25519PrivateKey, public: bytes, sum_id: int, node: int, other: int) -> bytes:
    """The seed that two nodes share, the same from either side."""
    return derived(agreed(own, public), MASK, sum_id, min(node, other), max(node, other))


class Link(NamedTuple):
    """What a node has with another: keys for the shares it sends and gets, and the seed of their common mask."""

    outward: bytes
    inward: bytes
    seed: bytes


def linked(
    channel: X25519PrivateKey, mask: X25519PrivateKey, keys: tuple[bytes, bytes], sum_id: int, node: int, other: int
) -> Link:
    """A node's link with another, from its own two keys and the other's public ones. Raises as `agreed`."""
    shared = agreed(channel, keys[0])
    outward, inward = derived(shared, CHANNEL, sum_id, node, other), derived(shared, CHANNEL, sum_id, other, node)
    return Link(outward, inward, mask_seed(mask, keys[1], sum_id, node, other))


def usable(public: bytes) -> bool:
    """Whether it is a public key with which two agree on something secret: of 32 bytes, and not of low order."""
    try:
        agreed(private_key(bytes(KEY)), public)
    except ValueError:
        return False
    return True


def seal(key: bytes, plain: bytes) -> bytes:
    """Encrypted and authenticated, 16 bytes longer; once with each key."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key).encrypt(_ONCE, plain, None)


def unseal(key: bytes, sealed: bytes) -> bytes | None:
    """What was sealed with this key; None where it was not, or was changed since."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        return ChaCha20Poly1305(key).decrypt(_ONCE, sealed, None)
    except InvalidTag:
        return None


def commitment(seed: bytes) -> bytes:
    """SHA-256 of a seed: says nothing about 32 random bytes, and shows later whether others are the same."""
    return hashlib.sha256(b"gossamer secure sum: seed" + seed).digest()
