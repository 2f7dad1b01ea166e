"""Settings of every transform, what chains they may stand in and how much they may lose, as a table to be put to the
test; and a sender and a receiver that take a message through a chain by hand. A new transform needs a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from gossamer.layout import Entry, Layout
from gossamer.passages import Passage, Step
from gossamer.plugs import discover
from gossamer.randomness import generator
from gossamer.transforms import Transform, numbers

Message = dict[str, torch.Tensor]

LAYOUT = Layout(
    (
        Entry("convolution.weight", (6, 3, 3, 3), 0, True),
        Entry("convolution.bias", (6,), 162, True),
        Entry("dense.weight", (10, 24), 168, True),
        Entry("dense.bias", (10,), 408, True),
        Entry("narrow.weight", (2, 5), 418, True),
        Entry("norm.mean", (4, 3), 428, False),
    )
)


@dataclass(frozen=True)
class Line:
    """What is known of a transform."""

    needs: str
    leaves: str
    cases: list[tuple[dict[str, Any], float]]
    """Settings, and the most of the length of a field of 500 numbers that it may lose with them, relatively: about."""


def levels(bits: int, bucket: int) -> float:
    """All numbers of a bucket off by a level."""
    return 2 * math.sqrt(bucket) / (2**bits - 1)


LINES: dict[str, Line] = {
    "cast": Line("numbers", "whole", [({}, 2**-10), ({"to": "bfloat16"}, 2**-8), ({"to": "float32"}, 2**-23)]),
    "choco": Line("whole", "whole", [({}, 1e-15), ({"step": 0.1}, 1e-15)]),
    "clip": Line("whole", "whole", [({}, 1), ({"norm": 20.0}, 1), ({"norm": 1e-6}, 1)]),
    "error_feedback": Line("whole", "whole", [({}, 1e-15)]),
    "gaussian_noise": Line("whole", "whole", [({}, 0.2), ({"std": 0.1}, 2)]),
    "int8": Line("numbers", "codes", [({}, 0.07), ({"block": 7}, 0.02), ({"block": 10_000}, 0.1)]),
    "nf4": Line("numbers", "codes", [({}, 1.3), ({"block": 5}, 0.4)]),
    "power_sgd": Line("whole", "numbers", [({}, 1), ({"rank": 1}, 1), ({"rank": 5}, 1)]),
    "qsgd": Line(
        "numbers",
        "codes",
        [
            ({}, levels(4, 500)),
            ({"bits": 1, "bucket": 64}, levels(1, 64)),
            ({"bits": 3, "bucket": 5}, levels(3, 5)),
            ({"bits": 8, "norm": "euclidean"}, levels(8, 500)),
        ],
    ),
    "random_k": Line(
        "whole",
        "numbers",
        [
            ({"share": 0.3}, 1 / 0.3),
            ({"share": 0.1, "common": True}, 10),
            ({"share": 0.5, "rescale": False}, 1),
            ({"count": 20, "rescale": False, "common": True}, 1),
        ],
    ),
    "sign": Line("numbers", "codes", [({}, 1), ({"block": 9}, 1)]),
    "top_k": Line("whole", "numbers", [({}, 1), ({"share": 0.4}, 1), ({"count": 17}, 1)]),
    "zstd": Line("codes", "bytes", [({}, 0), ({"level": 19, "shuffle": False}, 0), ({"level": 1}, 0)]),
}


def made(kind: str, settings: dict[str, Any]) -> Transform:
    return discover(Transform)[kind](**settings)


CASES = [(made(kind, settings), loss) for kind, line in LINES.items() for settings, loss in line.cases]
STEPS = [
    pytest.param(step, id="-".join([step.kind, *map(str, settings.values())]))
    for (step, _), settings in zip(
        CASES, [settings for line in LINES.values() for settings, _ in line.cases], strict=True
    )
]


def message(seed: int = 0, dtype: torch.dtype = torch.float32) -> Message:
    """Fields of all sorts: two are rows of the model, two too short for codecs, three not for them."""
    rng = np.random.default_rng(seed)
    shapes = {"row": (440,), "drift": (428,), "update": (5, 3), "pair": (2,), "weight": (), "mass": (1,), "none": (0,)}
    floats = {name: torch.from_numpy(rng.standard_normal(shape)).to(dtype) for name, shape in shapes.items()}
    counts = torch.from_numpy(rng.integers(-(2**40), 2**40, 6))
    return floats | {"counts": counts, "kinds": counts.to(torch.uint8), "seen": counts > 0}


def outline_of(message: Message) -> Message:
    return {name: value.to("meta") for name, value in message.items()}


def signature(message: Message) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (value.dtype, tuple(value.shape)) for name, value in message.items()}


def octets(value: torch.Tensor) -> torch.Tensor:
    """Its bytes, in memory of their own."""
    return value.new_empty(value.numel()).copy_(value.reshape(-1)).view(torch.uint8)


def same(one: Message, other: Message) -> bool:
    """Bit for bit, in any order of names."""
    return signature(one) == signature(other) and all(torch.equal(octets(one[k]), octets(other[k])) for k in one)


def flat(message: Message) -> np.ndarray[Any, Any]:
    """All that codecs touch, in the order of names, as float64."""
    return np.concatenate([message[name].double().view(-1) for name in sorted(message) if numbers(message[name])])


@dataclass
class Link:
    """One sender, one receiver, and a chain of steps between them."""

    steps: Sequence[Step]
    like: Message
    layout: Layout = LAYOUT
    seed: int = 0
    memories: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.likes = [outline_of(self.like)]
        for step in self.steps:
            real = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in self.likes[-1].items()}
            self.memories.append({k: v.clone() for k, v in step.memory(real, self.layout).items()})
            self.likes.append(step.outline(self.likes[-1], self.layout))

    def passages(self, round: int) -> list[Passage]:
        def passage(number: int) -> Passage:
            return Passage(
                self.layout, lambda: generator(self.seed, f"step {number}", round=round), self.memories[number]
            )

        return [passage(number) for number in range(len(self.steps))]

    def send(self, message: Message, round: int = 0) -> tuple[Message, Message]:
        """(what travels, what is received) of one message, after which both ends remember it."""
        passages = self.passages(round)
        given = [message]
        for step, passage in zip(self.steps, passages, strict=True):
            given.append(step.forward(given[-1], passage))
        received = [given[-1]]
        for step, like, passage in reversed(list(zip(self.steps, self.likes[:-1], passages, strict=True))):
            received.append(step.reverse(received[-1], like, passage))
        received.reverse()
        for number, step in enumerate(self.steps):
            step.note(given[number], received[number], passages[number])
        return given[-1], received[0]
