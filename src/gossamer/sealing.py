"""How messages become integers that are summed in secret, and a sum becomes a mean again.

Shapes: L numbers of an encoded message, and one more for its weight.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gossamer.errors import ExperimentError
from gossamer.fitting_privacy import require_enough
from gossamer.privacy.distributed import Distributed
from gossamer.randomness import generator
from gossamer.secure.ring import (
    HALF,
    MAX_VARIANCE,
    bounded,
    decode,
    integer_bound,
    l2_bound,
    levels,
    reach,
    skellam,
    wrapped,
)
from gossamer.secure.sizes import sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gossamer.experiment import Experiment, SecureSum
    from gossamer.secure.masks import Vector
    from gossamer.topologies import Array
    from gossamer.wire import Message

STEPS = ("advertise", "share", "mask", "reveal")
"""Of the protocol; a node that is lost at one sends nothing at it and after it."""


@dataclass(frozen=True)
class Seal:
    """The integers of messages that look like `like`. The weight of a message is one more number of it."""

    secure: SecureSum
    like: Message
    seed: int
    heaviest: float
    """The largest weight of a message: numbers are sent times weight / heaviest."""
    distributed: Distributed | None
    noise: float

    @property
    def bound(self) -> float:
        """The largest magnitude of a number."""
        return self.secure.range if self.distributed is None else self.distributed.clip

    @property
    def scale(self) -> float:
        """Integers to a number of 1."""
        return float(2 ** (self.secure.bits - 1) - 1) / self.bound

    @functools.cached_property
    def length(self) -> int:
        """Numbers in a message and its weight."""
        return sum(value.numel() for value in self.like.values()) + 1

    def outline(self) -> Message:
        """What travels, of zeros; the integers modulo 2^32 are carried as int32."""
        import torch

        return {"values": torch.zeros(self.length, dtype=torch.int32)}

    def integers(self, message: Message, weight: float, cohort: int, node: int, round: int) -> tuple[Message, int]:
        """An encoded message as integers, with its share of the noise where there is one; and how many of its numbers
        were cut off."""
        import torch

        values_L = np.concatenate([message[name].double().reshape(-1).numpy() for name in sorted(self.like)])
        dice = generator(self.seed, "secure sum", node, round)
        if self.distributed is None:
            values_L = values_L * (weight / self.heaviest)
            cut = int((np.abs(values_L) > self.bound).sum())
            found_L = levels(values_L, self.scale, self.bound, dice)
        else:
            cut, clip = 0, self.distributed.clip
            exact_L = bounded(values_L, clip, self.scale, dice)
            # A sum of fewer than are needed is never opened, and needs no noise.
            share = self.share(cohort) if cohort >= self.secure.needed(cohort) else 0.0
            found_L = wrapped(exact_L + skellam(len(exact_L), share, dice))
        if weight > self.heaviest:
            raise ExperimentError(
                f"secure_sum: a message's weight is {weight:g}, the largest is to be {self.heaviest:g}; a method whose "
                "messages have weights of its own cannot be summed in secret"
            )
        sealed_L = np.concatenate([found_L, np.array([round_weight(weight)], np.uint32)])
        return {"values": torch.from_numpy(sealed_L.view(np.int32))}, cut

    def share(self, cohort: int) -> float:
        """Variance of each node's part of the noise: as many as the threshold of a cohort make up the whole of it."""
        whole = (self.noise * l2_bound(self.scale * self.bound, self.length - 1)) ** 2
        return whole / self.secure.needed(cohort)

    def opened(self, total_L: Vector) -> tuple[Message, float]:
        """(the mean of encoded messages, their total weight) from the sum of their integers."""
        import torch

        weight = float(total_L[-1])
        sums_L = decode(total_L[:-1], self.scale) * (self.heaviest / weight)
        fields, start = {}, 0
        for name in sorted(self.like):
            like = self.like[name]
            part = torch.from_numpy(sums_L[start : start + like.numel()])
            fields[name] = part.to(like.dtype).view(like.shape)
            start += like.numel()
        return fields, weight

    def check(self, cohort: int) -> None:
        """Raise ExperimentError where a sum over so many nodes could run over."""
        bound = integer_bound(self.bound, self.scale)
        std = 0.0
        if self.distributed is not None:
            bound = math.ceil(l2_bound(self.scale * self.bound, self.length - 1))
            std = math.sqrt(self.share(cohort) * cohort)
            if (share := self.share(cohort)) > MAX_VARIANCE:
                raise ExperimentError(
                    f"secure_sum.bits = {self.secure.bits}: a node's share of the noise has variance {share:.3g} in "
                    "integers, more than can be drawn; use bits = "
                    f"{max(2, self.secure.bits - math.ceil(math.log2(share / MAX_VARIANCE) / 2))}"
                )
        if (reached := reach(cohort, bound, std)) >= HALF:
            fewer = self.secure.bits - math.ceil(math.log2(reached / HALF)) - 1
            raise ExperimentError(
                f"secure_sum.bits = {self.secure.bits}: a sum of {cohort} nodes could reach {reached:.3g}, over "
                f"2^31; use bits = {max(2, fewer)}"
            )
        if self.heaviest * cohort >= 2**32:
            raise ExperimentError(
                f"secure_sum: weights up to {self.heaviest:.0f} of {cohort} nodes run over 2^32; use weighting = "
                "'uniform'"
            )


def round_weight(weight: float) -> int:
    """A weight as an integer. Raises ExperimentError where it is none."""
    if weight != int(weight) or weight < 0:
        raise ExperimentError(f"secure_sum: a message's weight is {weight:g}; it must be a whole number, such as items")
    return int(weight)


def seal(experiment: Experiment, like: Message, items: Sequence[int], noise: float) -> Seal | None:
    """How encoded messages like this are sealed; None without secure sums. Raises ExperimentError where a sum could run
    over, or too few take part."""
    secure, nodes = experiment.secure_sum, len(items)
    if secure is None:
        return None
    for name, value in like.items():
        if not value.is_floating_point():
            raise ExperimentError(
                f"secure_sum: '{name}' is sent as {str(value.dtype).removeprefix('torch.')}, which has no sum; leave "
                "out the transform that makes it, or use another method"
            )
        if value.numel() == 1 and len(like) > 1:
            raise ExperimentError(
                f"secure_sum: '{name}', a single number that method.kind = '{experiment.method.kind}' sends besides, "
                "has another range than the rest; use another method, such as 'fedavg'"
            )
    weighted = getattr(experiment.method, "weighting", "uniform") == "samples"
    distributed = experiment.privacy if isinstance(experiment.privacy, Distributed) else None
    found = Seal(secure, like, experiment.seed, float(max(items)) if weighted else 1.0, distributed, noise)
    if experiment.schedule.sampling == "fixed":
        require_enough(secure, experiment.schedule.size(nodes))
    for cohort in {one.participants for one in attendances(experiment, nodes) if one.opens}:
        found.check(cohort)
    return found


def cohort_of(experiment: Experiment, nodes: int, round: int) -> Array:
    """The participants of a round."""
    return experiment.schedule.participants(nodes, round, generator(experiment.seed, "participants", round=round))


def lost(experiment: Experiment, participants: Array, round: int) -> dict[int, int]:
    """At which step of the protocol which participants are lost."""
    assert experiment.secure_sum is not None
    dice = generator(experiment.seed, "dropout", round=round)
    gone_M = dice.random(len(participants)) < experiment.secure_sum.dropout
    steps_M = dice.integers(len(STEPS), size=len(participants))
    return dict(zip(participants[gone_M].tolist(), steps_M[gone_M].tolist(), strict=True))


def unopened_warning(experiment: Experiment, nodes: int) -> list[str]:
    """What to say beforehand of rounds whose sums will not be opened."""
    attended = attendances(experiment, nodes)
    count = sum(not one.opens for one in attended)
    if not count:
        return []
    return [
        f"secure_sum: in {count} of {len(attended)} rounds too few nodes are left to open the sum; the server keeps "
        "its model; lower threshold or dropout, or let more nodes take part"
    ]


@dataclass(frozen=True)
class Attendance:
    """Who is left after each step of a sum: of the four, as far as enough were left to go on."""

    left: tuple[tuple[int, ...], ...]
    threshold: int
    participants: int

    @property
    def opens(self) -> bool:
        """Whether enough were left at every step."""
        return len(self.left) == len(STEPS) and len(self.left[-1]) >= self.threshold

    @property
    def summed(self) -> tuple[int, ...]:
        """Whose numbers are in the sum; nobody's where it is not opened."""
        return self.left[2] if self.opens else ()


def attendance(experiment: Experiment, participants: Array, round: int) -> Attendance:
    """Who is left at each step of a round's sum, which is known before any of it is played."""
    assert experiment.secure_sum is not None
    threshold = experiment.secure_sum.needed(len(participants))
    gone = lost(experiment, participants, round)
    left = []
    for step in range(len(STEPS)):
        left.append(tuple(node for node in participants.tolist() if gone.get(node, len(STEPS)) > step))
        if len(left[-1]) < threshold:
            break
    return Attendance(tuple(left), threshold, len(participants))


def attendances(experiment: Experiment, nodes: int) -> list[Attendance]:
    """Who is left in the sums of all rounds; none without secure sums."""
    if experiment.secure_sum is None:
        return []
    rounds = range(experiment.rounds)
    return [attendance(experiment, cohort_of(experiment, nodes, round), round) for round in rounds]


def protocol_bytes(attended: Attendance, nodes: int, length: int) -> tuple[Array, Array]:
    """Bytes that each node sends and receives in a sum of vectors of a length, all its frames together, [N] each.

    A node that is lost at a step sends nothing there, and hears nothing any more.
    """
    from gossamer.secure.messages import Advertise, Delivery, Masked, Reveal, Roster, Shares, Survivors

    sent_N, received_N = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    counts = [len(left) for left in attended.left] + [0] * (len(STEPS) - len(attended.left))
    size = sizes(length, *(max(count, 1) for count in counts[:3]))
    ways = ((Advertise, Roster), (Shares, Delivery), (Masked, Survivors), (Reveal, None))
    for left, (up, down) in zip(attended.left, ways, strict=False):
        sent_N[list(left)] += size[up]
        if down is not None and len(left) >= attended.threshold:
            received_N[list(left)] += size[down]
    return sent_N, received_N
