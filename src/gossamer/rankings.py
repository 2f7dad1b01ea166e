"""Rankings: what a node says of the edges of its network, which of them matters more; their votes and wire forms.

A ranking gives each edge its position within its own layer, 0 for the least important: int32 [T], layer after layer in
the order of the layout. Positions average to a Borda count, so every aggregator is a vote on them.

Shapes: T edges of all layers, n of one; U voters; B buckets of a layer, M places in each.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from gossamer import bits
from gossamer.errors import WireError
from gossamer.passages import Step

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout
    from gossamer.passages import Form, Message, Passage

Array = np.ndarray[Any, Any]

FIELD = "ranks"
"""Name of a ranking in a message."""
GRAIN = 2.0**-20
"""Votes are rounded to multiples of this, so that sums that are equal but for rounding tie."""
LARGEST = 64
"""Places of the largest bucket of the optimal coder. More would save less than 0.5 %, and cost small layers more."""


def layers(layout: Layout) -> list[slice]:
    """The columns of each layer."""
    return [slice(entry.start, entry.stop) for entry in layout.entries if entry.trainable]


def ranks_of(scores_T: Tensor, layout: Layout) -> Tensor:
    """The ranking by scores: int32 [T]. Of equal ones the later edge is the more important; NaN counts as infinite."""
    import torch

    ranks_T = torch.empty(layout.trainable, dtype=torch.int32, device=scores_T.device)
    for layer in layers(layout) if not scores_T.is_meta else ():
        order_n = ascending(scores_T[layer].detach().numpy())
        ranks_T[layer].numpy()[order_n] = np.arange(len(order_n), dtype=np.int32)
    return ranks_T


def scores_of(ranks_T: Tensor, start_T: Tensor, layout: Layout) -> Tensor:
    """The scores of a layer in `start_T`, smallest first, dealt out by position: [T]."""
    import torch

    scores_T = torch.empty_like(start_T)
    for layer in layers(layout) if not start_T.is_meta and not ranks_T.is_meta else ():
        ascending_n = np.sort(start_T[layer].detach().numpy())
        scores_T[layer].copy_(torch.from_numpy(ascending_n[ranks_T[layer].to(torch.int64).numpy()]))
    return scores_T


def elected(votes_T: Tensor, layout: Layout) -> Tensor:
    """The ranking by votes for each edge (floating, such as mean positions); ties go by the number of the edge."""
    return ranks_of((votes_T.double() / GRAIN).round_(), layout)


def borda(ranks_UT: Tensor, layout: Layout) -> Tensor:
    """The ranking that U rankings elect by the sums of positions.

    With fewer than half of the voters against a common ranking it wins; with half, reversed, all edges tie.
    """
    import torch

    exact = torch.int32 if ranks_UT.numel() < 2**31 else torch.int64
    return elected(ranks_UT.sum(0, dtype=exact), layout)


def ascending(values_n: Array) -> Array:
    """The places of the values in ascending order, ties by place, NaN with infinity: int64 [n]."""
    if values_n.dtype.kind == "f":
        values_n = np.where(np.isnan(values_n), np.inf, values_n)
    # NumPy's vectorised sort is several times as fast as a stable one; ties are put in order afterwards.
    order_n = np.argsort(values_n)
    sorted_n = values_n[order_n]
    fresh_n = sorted_n[1:] != sorted_n[:-1]
    if fresh_n.all():
        return order_n
    group_n = np.concatenate([[0], np.cumsum(fresh_n)])
    by_place_n: Array = np.sort(group_n << 32 | order_n) & 0xFFFFFFFF
    return by_place_n


# ---- on the wire -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed(Step):
    """The ranking of a message in few bits; a field of floating-point numbers is ranked first, whatever it holds.

    packed    the numbers of the edges in order of position, ceil(log2 n) bits each, every layer rounded up to a byte
    optimal   within 3 % of log2(n!) bits for layers from 1000 edges on, see `_encoded`

    With `top` below 1 only the most important edges of each layer are sent: max(1, ceil(top * n)) of n. They keep their
    positions; the receiver takes the others for the least important, position 0.
    """

    needs: ClassVar[Form] = "whole"
    leaves: ClassVar[Form] = "bytes"

    coder: Literal["packed", "optimal"] = "packed"
    top: float = 1.0

    def outline(self, like: Message, layout: Layout) -> Message:
        import torch

        size = sum(self.layer_bytes(layer.stop - layer.start) for layer in layers(layout))
        return {**like, FIELD: torch.empty(size, dtype=torch.uint8, device="meta")}

    def layer_bytes(self, n: int) -> int:
        """Bytes of the ranking of a layer of n edges."""
        if self.coder == "packed":
            return bits.packed_bytes(self._sent(n), _width(n))
        buckets = _buckets(n)
        words = sum(bits.packed_bytes(count, word.width) for count, places in buckets for word in _words(places))
        return bits.packed_bytes(n, _width(sum(count for count, _ in buckets))) + words

    def _sent(self, n: int) -> int:
        return max(1, math.ceil(self.top * n - 1e-9))

    def forward(self, message: Message, passage: Passage) -> Message:
        import torch

        ranks_T = message[FIELD].detach()
        if ranks_T.is_floating_point():
            ranks_T = ranks_of(ranks_T, passage.layout)
        parts = [torch.empty(0, dtype=torch.uint8)]
        for layer in layers(passage.layout):
            ranks_n, n = ranks_T[layer].numpy(), layer.stop - layer.start
            if self.coder == "optimal":
                parts += _encoded(ranks_n)
            elif n > 1:
                edges_n = np.empty(n, np.int32)
                edges_n[ranks_n] = np.arange(n, dtype=np.int32)
                parts.append(bits.pack(torch.from_numpy(edges_n[n - self._sent(n) :]), _width(n)))
        return {**message, FIELD: torch.cat(parts)}

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        import torch

        ranks_T, begin = torch.zeros(passage.layout.trainable, dtype=torch.int32), 0
        for layer in layers(passage.layout):
            n = layer.stop - layer.start
            end = begin + self.layer_bytes(n)
            stream = message[FIELD][begin:end]
            if self.coder == "optimal":
                ranks_T[layer] = torch.from_numpy(_decoded(stream, n))
            elif n > 1:
                edges_m = bits.unpack(stream, _width(n), self._sent(n)).numpy()
                ranks_T[layer] = torch.from_numpy(_positions(edges_m, n))
            begin = end
        return {**message, FIELD: ranks_T}


def _width(n: int) -> int:
    """ceil(log2 n)."""
    return (n - 1).bit_length()


def _positions(edges_m: Array, n: int) -> Array:
    """The positions of n edges, of which the last m in order are given. Raises WireError unless they are distinct."""
    if int(edges_m.max()) >= n:
        raise WireError(f"{FIELD}: edge {int(edges_m.max())} in a layer of {n} edges")
    ranks_n = np.full(n, -1, np.int32)
    ranks_n[edges_m] = np.arange(n - len(edges_m), n, dtype=np.int32)
    if np.count_nonzero(ranks_n >= 0) < len(edges_m):
        raise WireError(f"{FIELD}: an edge is listed twice in a layer of {n} edges")
    return np.maximum(ranks_n, 0, out=ranks_n)


# ---- near log2(n!) ---------------------------------------------------------------------------------------------------


class _Word(NamedTuple):
    """Digits `start` to `stop` of the Lehmer code of a permutation, as one number below `limit`."""

    start: int
    stop: int
    limit: int

    @property
    def width(self) -> int:
        return _width(self.limit)


def _encoded(ranks_n: Array) -> list[Tensor]:
    """A ranking in two parts: the bucket of each edge, and the order within each bucket.

    The positions are cut into 2^w buckets of M <= 64 places, or one more, so that the bucket of an edge takes exactly w
    bits. What is left is the permutation of the M places that the edges of a bucket take, in the order of their
    numbers: its Lehmer code goes into words of up to 63 bits. Not all that can be said with w bits an edge fills the
    buckets evenly: that wastes about log2(2 pi M) / 2 bits a bucket, and each word wastes a part of a bit.
    """
    import torch

    home_n = _homes(len(ranks_n))
    bucket_n, width = home_n[ranks_n], _width(int(home_n[-1]) + 1)
    parts = [bits.pack(torch.from_numpy(bucket_n), width)] if width else []
    grouped_n, first = ranks_n[ascending(bucket_n)], 0
    for count, places in _buckets(len(ranks_n)):
        ranks_BM = grouped_n[first : first + count * places].reshape(count, places)
        numbers_WB = _numbers(ranks_BM - ranks_BM.min(1, keepdims=True))
        for number_B, word in zip(numbers_WB, _words(places), strict=True):
            parts.append(bits.pack(torch.from_numpy(number_B), word.width))
        first += count * places
    return parts


def _decoded(stream: Tensor, n: int) -> Array:
    """The ranking of a layer of n edges. Raises WireError where none is written so."""
    home_n, ranks_n, edges_n = _homes(n), np.empty(n, np.int32), np.arange(n)
    width = _width(int(home_n[-1]) + 1)
    if width:
        bucket_n = bits.unpack(stream, width, n).numpy()
        if (np.bincount(bucket_n, minlength=1 << width) != np.bincount(home_n)).any():
            raise WireError(f"{FIELD}: in a layer of {n} edges the buckets do not hold as many as they must")
        edges_n = ascending(bucket_n)
    begin, first = bits.packed_bytes(n, width), 0
    for count, places in _buckets(n):
        words = _words(places)
        numbers_WB = np.empty((len(words), count), np.int64)
        for number_B, word in zip(numbers_WB, words, strict=True):
            number_B[:] = bits.unpack(stream[begin:], word.width, count).numpy()
            begin += bits.packed_bytes(count, word.width)
            if (number_B >= word.limit).any():
                raise WireError(f"{FIELD}: in a layer of {n} edges a number stands for no order of {places} places")
        starts_B1 = first + places * np.arange(count)[:, None]
        ranks_n[edges_n[first : first + count * places]] = (_places(numbers_WB, places) + starts_B1).reshape(-1)
        first += count * places
    return ranks_n


def _numbers(places_BM: Array) -> Array:
    """The Lehmer codes of B permutations as words, int64 [W, B]: digit i is how many later places are lower."""
    count, places = places_BM.shape
    digits_MB = np.ascontiguousarray(places_BM.T.astype(np.uint8))
    for i in range(places - 1):
        later = digits_MB[i + 1 :]
        later -= later > digits_MB[i]
    words = _words(places)
    numbers_WB = np.zeros((len(words), count), np.int64)
    for number_B, word in zip(numbers_WB, words, strict=True):
        for i in range(word.start, word.stop):
            number_B *= places - i
            number_B += digits_MB[i]
    return numbers_WB


def _places(numbers_WB: Array, places: int) -> Array:
    """The reverse of `_numbers`, whose numbers it writes over: uint8 [B, M]."""
    places_MB = np.zeros((places, numbers_WB.shape[1]), np.uint8)
    for number_B, word in zip(numbers_WB, _words(places), strict=True):
        for i in reversed(range(word.start, word.stop)):
            number_B[:], places_MB[i] = np.divmod(number_B, places - i)
    for i in reversed(range(places - 1)):
        later = places_MB[i + 1 :]
        later += later >= places_MB[i]
    return places_MB.T


def _buckets(n: int) -> list[tuple[int, int]]:
    """(how many, places of each): 2^w buckets share n positions, those of one place more first."""
    count = 1 << _width(-(-n // LARGEST))
    places, larger = divmod(n, count)
    return [(many, size) for many, size in ((larger, places + 1), (count - larger, places)) if many]


def _homes(n: int) -> Array:
    """The bucket of each position, [n]."""
    sizes_B = np.repeat([places for _, places in _buckets(n)], [count for count, _ in _buckets(n)])
    return np.repeat(np.arange(len(sizes_B), dtype=np.int32), sizes_B)


@functools.cache
def _words(places: int) -> tuple[_Word, ...]:
    """The digits of a permutation of so many places, in the fewest words of those that take the fewest bits."""
    best: list[tuple[int, tuple[_Word, ...]]] = [(0, ())] * (places + 1)
    for start in reversed(range(places - 1)):
        limit, found = 1, []
        for stop in range(start + 1, places):
            limit *= places - stop + 1
            if limit > 1 << bits.MAX_WIDTH:
                break
            word = _Word(start, stop, limit)
            found.append((word.width + best[stop][0], (word, *best[stop][1])))
        best[start] = min(found, key=lambda option: (option[0], len(option[1])))
    return best[0][1]
