"""The two sides of a secure sum as state machines: messages in, messages out, nothing about how they travel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Set
from typing import NoReturn

import numpy as np

from gossamer.errors import ExperimentError, ProtocolError
from gossamer.secure import shamir
from gossamer.secure.agreement import (
    KEY,
    Entropy,
    Link,
    commitment,
    linked,
    mask_seed,
    private_key,
    public_bytes,
    public_of,
    seal,
    unseal,
    usable,
)
from gossamer.secure.masks import Vector, add_masks
from gossamer.secure.messages import (
    SERVER,
    STEPS,
    Advertise,
    Delivery,
    FromNode,
    Masked,
    Reveal,
    Roster,
    Shares,
    Survivors,
    refuse,
)


class Participant:
    """One node in one sum of vectors of `length` numbers.

    `threshold` nodes must be left at every step, more than half of those on the roster. `entropy` gives the bytes that
    keys, seed and shares are made of. Each step can be taken once, in order; ProtocolError says why one is not, and
    then nothing has left the node and the step can still be taken.
    """

    def __init__(self, node: int, sum_id: int, threshold: int, length: int, entropy: Entropy = os.urandom) -> None:
        self.node, self.sum_id, self.threshold, self.length = node, sum_id, threshold, length
        self._entropy = entropy
        self._channel, self._mask_raw, self._seed = private_key(entropy(KEY)), entropy(KEY), entropy(KEY)
        self._mask = private_key(self._mask_raw)
        self._public = (public_bytes(self._channel), public_bytes(self._mask))
        self._taken = 0
        self._links: dict[int, Link] = {}
        self._held: dict[int, bytes] = {}  # by node: the shares of its seed and of its key, one after the other

    def advertise(self) -> Advertise:
        """Public keys made for this sum."""
        self._require_due("advertise", self.sum_id)
        self._taken += 1
        return Advertise(self.node, self.sum_id, *self._public)

    def share(self, roster: Roster) -> Shares:
        """Shares of the self-mask's seed and of the private mask key, sealed to each other node of the roster."""
        self._require_due("share", roster.sum_id)
        self._require_fair(roster)
        n, nodes = len(roster.keys), sorted(roster.keys)
        seeds = shamir.split(self._seed, n, self.threshold, self._entropy)
        keys = shamir.split(self._mask_raw, n, self.threshold, self._entropy)
        pairs = {node: seed + key for node, seed, key in zip(nodes, seeds, keys, strict=True)}
        own = pairs.pop(self.node)
        links = {node: self._link(node, roster.keys[node]) for node in pairs}
        sealed = {node: seal(links[node].outward, pair) for node, pair in pairs.items()}
        self._taken, self._links, self._held = self._taken + 1, links, {self.node: own}
        return Shares(self.node, self.sum_id, commitment(self._seed), sealed)

    def mask(self, values_L: Vector, delivery: Delivery) -> Masked:
        """The vector with the node's own mask and one for each other that shared: added for lower ids, else taken."""
        self._require_due("mask", delivery.sum_id)
        if values_L.dtype != np.uint32 or values_L.shape != (self.length,):
            self._refuse("mask", f"values are {values_L.dtype} {list(values_L.shape)}, not uint32 [{self.length}]")
        strangers = delivery.sealed.keys() - self._links.keys()
        if strangers:
            self._refuse("mask", f"shares of node {min(strangers)}, which is not another one on the roster")
        self._require_enough("mask", len(delivery.sealed) + 1, "shared")
        held = {}
        plus, minus = [self._seed], list[bytes]()
        for node, sealed in delivery.sealed.items():
            pair = unseal(self._links[node].inward, sealed)
            if pair is None or len(pair) != 2 * shamir.SHARE:
                self._refuse("mask", f"the shares of node {node} are not as that node sealed them for this one")
            held[node] = pair
            (plus if self.node > node else minus).append(self._links[node].seed)
        masked_L = values_L.copy()
        add_masks(masked_L, plus, minus)
        self._taken, self._held = self._taken + 1, self._held | held
        return Masked(self.node, self.sum_id, masked_L)

    def reveal(self, survivors: Survivors) -> Reveal:
        """Shares of the seeds of survivors, and of the keys of the others that shared: of each node one of the two."""
        self._require_due("reveal", survivors.sum_id)
        stayed = set(survivors.nodes)
        strangers = sorted(stayed - self._held.keys())
        if strangers:
            self._refuse("reveal", f"node {strangers[0]} is said to survive, and never shared with this one")
        if len(stayed) < len(survivors.nodes):
            self._refuse("reveal", "a survivor is listed twice")
        if self.node not in stayed:
            self._refuse("reveal", "this node is not among the survivors, so nothing is asked of it")
        self._require_enough("reveal", len(stayed), "survive")
        self._taken += 1
        seeds = {node: self._held[node][: shamir.SHARE] for node in sorted(stayed)}
        keys = {node: pair[shamir.SHARE :] for node, pair in sorted(self._held.items()) if node not in stayed}
        return Reveal(self.node, self.sum_id, seeds, keys)

    def _require_due(self, step: str, sum_id: int) -> None:
        if sum_id != self.sum_id:
            self._refuse(step, f"the server's message is for sum {sum_id}")
        if STEPS.index(step) < self._taken:
            self._refuse(step, "taken before; a second answer could open what the first one hides")
        if STEPS.index(step) > self._taken:
            self._refuse(step, f"comes after step {STEPS[self._taken]}, which was not taken")

    def _require_fair(self, roster: Roster) -> None:
        if roster.keys.get(self.node) != self._public:
            self._refuse("share", "the roster does not have this node with its own keys")
        self._require_enough("share", len(roster.keys), "on the roster")
        if self.threshold < 2:
            self._refuse("share", f"threshold {self.threshold}: a sum of one node is what the node sent")
        if 2 * self.threshold <= len(roster.keys):
            reason = f"threshold {self.threshold} is not more than half of the {len(roster.keys)} nodes on the roster"
            self._refuse("share", f"{reason}: two halves could open a seed and the key of one node")
        owners: dict[bytes, int] = {}
        for node, keys in roster.keys.items():
            for key in keys:
                if key in owners:
                    self._refuse("share", f"nodes {owners[key]} and {node} on the roster have the same key")
                owners[key] = node

    def _require_enough(self, step: str, left: int, which: str) -> None:
        if left < self.threshold:
            self._refuse(step, f"only {left} nodes {which}; threshold {self.threshold}")

    def _link(self, other: int, keys: tuple[bytes, bytes]) -> Link:
        try:
            return linked(self._channel, self._mask, keys, self.sum_id, self.node, other)
        except ValueError:
            self._refuse("share", f"a key of node {other} on the roster is no public key")

    def _refuse(self, step: str, reason: str) -> NoReturn:
        refuse(step, self.sum_id, self.node, reason)


class Coordinator:
    """The server of one sum over a cohort of nodes, of vectors of `length` numbers. Holds one vector, the running sum.

    Raises ExperimentError for a cohort that is none, or a threshold that is not more than half of it.
    """

    def __init__(self, sum_id: int, cohort: Iterable[int], threshold: int, length: int) -> None:
        self.sum_id, self.threshold, self.length = sum_id, threshold, length
        self._open, self._expected = 0, sorted(cohort)
        m = len(self._expected)
        if m < 2 or len(set(self._expected)) < m or self._expected[0] < 0:
            raise ExperimentError(
                f"secure_sum: cohort {self._expected}; it takes two nodes or more, each once, from 0 on"
            )
        if not m // 2 < threshold <= m:
            raise ExperimentError(
                f"secure_sum.threshold = {threshold} of {m} nodes: it must be more than half of them and at most all, "
                f"{m // 2 + 1} to {m}"
            )
        self._adverts: dict[int, Advertise] = {}
        self._owners: dict[bytes, int] = {}  # by public key
        self._numbers: dict[int, int] = {}  # of the nodes' shares
        self._shares: dict[int, Shares] = {}
        self._masked: dict[int, None] = {}
        self._reveals: dict[int, Reveal] = {}
        self._sum_L = np.zeros(length, np.uint32)

    def accept(self, message: FromNode) -> None:
        """Take a node's message of the open step. Raises ProtocolError for any other, which changes nothing."""
        node, step = message.node, message.step
        arrived: Mapping[int, object] = (self._adverts, self._shares, self._masked, self._reveals)[STEPS.index(step)]
        if message.sum_id != self.sum_id:
            refuse(step, message.sum_id, node, f"this is sum {self.sum_id}")
        if node in arrived:
            self._refuse(message, "sent twice")
        self._require_open(step, node)
        if node not in self._expected:
            self._refuse(message, f"the node is not one of the {len(self._expected)} that take part in it")
        if isinstance(message, Advertise):
            self._take_keys(message)
        elif isinstance(message, Shares):
            self._require_nodes(message, message.sealed, self._adverts.keys() - {node}, "ciphertexts")
            self._shares[node] = message
        elif isinstance(message, Masked):
            if message.values_L.dtype != np.uint32 or message.values_L.shape != (self.length,):
                got = f"{message.values_L.dtype} {list(message.values_L.shape)}"
                self._refuse(message, f"values are {got}, not uint32 [{self.length}]")
            self._sum_L += message.values_L
            self._masked[node] = None
        else:
            self._require_nodes(message, message.seeds, self._masked.keys(), "seed shares")
            self._require_nodes(message, message.keys, self._shares.keys() - self._masked.keys(), "key shares")
            self._reveals[node] = message

    def roster(self) -> Roster:
        """Closes step advertise: all public keys, for each node that is on it."""
        nodes = self._close("advertise", self._adverts, "advertised keys")
        self._numbers = {node: number for number, node in enumerate(nodes, start=1)}
        return Roster(self.sum_id, {u: (self._adverts[u].channel_key, self._adverts[u].mask_key) for u in nodes})

    def deliveries(self) -> dict[int, Delivery]:
        """Closes step share: for each node that shared what the others that shared sealed to it."""
        nodes = self._close("share", self._shares, "shared")
        return {u: Delivery(self.sum_id, {v: self._shares[v].sealed[u] for v in nodes if v != u}) for u in nodes}

    def survivors(self) -> Survivors:
        """Closes step mask: whose vectors are in the sum, for each of them."""
        return Survivors(self.sum_id, tuple(self._close("mask", self._masked, "sent masked numbers")))

    def total(self) -> Vector:
        """Closes step reveal: [length] uint32, the sum modulo 2^32 of the vectors of all survivors.

        Raises ProtocolError where too few revealed, or where shares give a seed or a key that is not the one promised.
        """
        self._require_enough("reveal", self._reveals, "revealed their shares")
        plus, minus = list[bytes](), list[bytes]()
        for u in self._masked:
            shares = {node: reveal.seeds[u] for node, reveal in self._reveals.items()}
            minus.append(self._joined(u, shares, commitment, self._shares[u].commitment))
        for dropped in sorted(self._shares.keys() - self._masked.keys()):
            shares = {node: reveal.keys[dropped] for node, reveal in self._reveals.items()}
            key = private_key(self._joined(dropped, shares, public_of, self._adverts[dropped].mask_key))
            for u in self._masked:
                seed = mask_seed(key, self._adverts[u].mask_key, self.sum_id, dropped, u)
                (minus if u > dropped else plus).append(seed)
        self._close("reveal", self._reveals, "revealed their shares")
        add_masks(self._sum_L, plus, minus)
        return self._sum_L

    def _take_keys(self, message: Advertise) -> None:
        keys = (message.channel_key, message.mask_key)
        if len({*keys} - self._owners.keys()) < len(keys):
            owner = next((self._owners[key] for key in keys if key in self._owners), message.node)
            self._refuse(message, f"one of its keys is another key of node {owner}")
        if not all(map(usable, keys)):
            self._refuse(message, "one of its keys is no public key")
        self._adverts[message.node] = message
        self._owners |= dict.fromkeys(keys, message.node)

    def _require_nodes(self, message: FromNode, told: Mapping[int, bytes], due: Set[int], what: str) -> None:
        if told.keys() != due:
            odd = min(told.keys() ^ due)
            wrong = "is missing" if odd in due else "does not belong"
            self._refuse(message, f"{len(told)} {what}, {len(due)} are due: that of node {odd} {wrong}")

    def _require_open(self, step: str, node: int) -> None:
        at = STEPS.index(step)
        if at != self._open:
            now = "the step is closed" if at < self._open else f"the step is not open yet, {STEPS[self._open]} is"
            refuse(step, self.sum_id, node, now)

    def _require_enough(self, step: str, arrived: Mapping[int, object], what: str) -> None:
        self._require_open(step, SERVER)
        if len(arrived) < self.threshold:
            reason = f"only {len(arrived)} of {len(self._expected)} nodes {what}; threshold {self.threshold}"
            refuse(step, self.sum_id, SERVER, reason)

    def _close(self, step: str, arrived: Mapping[int, object], what: str) -> list[int]:
        """The nodes that took a step, in order; from now on only they are heard, and only at the next one."""
        self._require_enough(step, arrived, what)
        self._open, self._expected = self._open + 1, sorted(arrived)
        return self._expected

    def _joined(
        self, owner: int, shares: Mapping[int, bytes], shown: Callable[[bytes], bytes], promised: bytes
    ) -> bytes:
        """A node's secret from its shares by who held them; what it shows has to be what the node promised."""
        try:
            secret = shamir.join({self._numbers[node]: share for node, share in shares.items()}, self.threshold)
        except ProtocolError:
            secret = b""
        if not secret or shown(secret) != promised:
            what = "seed" if shown is commitment else "key"
            reason = f"shares of its {what} do not give the one it promised: it, or a node that revealed one, is wrong"
            refuse("reveal", self.sum_id, owner, reason)
        return secret

    def _refuse(self, message: FromNode, reason: str) -> NoReturn:
        refuse(message.step, self.sum_id, message.node, reason)
