"""Chains: all that is done to messages between a method and the wire, and what is remembered of each sender for it.

Shapes: N senders.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from gossamer import wire
from gossamer.errors import ExperimentError, WireError
from gossamer.passages import Passage
from gossamer.population import shared
from gossamer.randomness import ANY, generator
from gossamer.transforms.choco import Choco

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gossamer.layout import Layout
    from gossamer.passages import Step
    from gossamer.wire import Message


class Chain:
    """The steps of messages that look like one of them, in the order of sending."""

    def __init__(self, steps: Sequence[Step], like: Message, layout: Layout, seed: int, purpose: str) -> None:
        self.steps, self.layout, self.seed, self.purpose = tuple(steps), layout, seed, purpose
        self.outlines = [{name: value.to("meta") for name, value in like.items()}]
        """Of a message before each step, and (the last) on the wire."""
        for place, step in enumerate(self.steps):
            try:
                self.outlines.append(step.outline(self.outlines[-1], layout))
            except Exception as error:
                raise ExperimentError(
                    f"{purpose} {place} ({type(step).__name__}): outline failed: {type(error).__name__}: {error}"
                ) from error
        self.memory: dict[str, Tensor] = {}
        """What is remembered, [N, ...] under 'step.field'."""

    @property
    def fixed(self) -> bool:
        """Whether all messages are as long as their outline; else that is the most they can be."""
        return all(step.fixed for step in self.steps)

    @property
    def consensus_step(self) -> float | None:
        """How far nodes that keep copies of each other's models move in an exchange; None: there are no copies."""
        return next((step.step for step in self.steps if isinstance(step, Choco)), None)

    @property
    def sent(self) -> Message:
        """The outline of a message on the wire."""
        return self.outlines[-1]

    def received(self) -> Message:
        """A message as its receiver sees it, of zeros."""
        import torch

        return averaged({name: torch.zeros_like(value, device="cpu") for name, value in self.outlines[0].items()})

    def remember(self, senders: int, first: Message) -> None:
        """Make room for what is remembered of so many senders, as it is before their first messages; `first` is what
        each of them would send if it had done nothing."""
        message = first
        for place, step in enumerate(self.steps):
            kept = step.memory(message, self.layout)
            for name, value in kept.items():
                rows = self.memory[f"{place}.{name}"] = shared(senders, value)
                if bool(value.any()):
                    rows.copy_(value.expand_as(rows))
            own = {name: value.clone() for name, value in kept.items()}
            what = f"{self.purpose} {place} ({type(step).__name__})"
            try:
                message = step.forward(message, self._passage(place, 0, ANY, own))
            except Exception as error:
                reason = f"forward failed: {type(error).__name__}: {error}"
                raise ExperimentError(f"{what}: {reason}") from error
            if reason := wire.refused(message, self.outlines[place + 1], step.fixed):
                raise ExperimentError(f"{what}: what forward makes is not what outline says: {reason}")

    def memory_bytes(self) -> int:
        """Bytes of what is remembered of one sender."""
        kept = (step.memory(like, self.layout) for step, like in zip(self.steps, self.outlines, strict=False))
        return sum(value.numel() * value.element_size() for values in kept for value in values.values())

    def encode(self, message: Message, sender: int, round: int) -> Message:
        """A message as it goes on the wire, from one who does only what must be done: nothing is clipped, and nothing
        that earlier messages lost is made up for."""
        for place, step in enumerate(self.steps):
            if step.binding:
                memory = self._memory_of(place, sender)
                if step.chained:
                    memory = {name: value.new_zeros(value.shape) for name, value in memory.items()}
                message = step.forward(message, self._passage(place, sender, round, memory))
        return message

    def decode(self, message: Message, sender: int, round: int) -> Message:
        """A message off the wire as its receiver sees it. Raises WireError where it is none."""
        if reason := wire.refused(message, self.sent, self.fixed):
            raise WireError(reason)
        for place, step in reversed(list(enumerate(self.steps))):
            passage = self._passage(place, sender, round, self._memory_of(place, sender))
            message = step.reverse(message, self.outlines[place], passage)
        return averaged(message)

    def travel(self, message: Message, sender: int, round: int) -> tuple[Message, Message]:
        """(on the wire, as its receiver sees it): forward and back, and remembered."""
        given, passages = [message], []
        for place, step in enumerate(self.steps):
            passages.append(self._passage(place, sender, round, self._memory_of(place, sender)))
            given.append(step.forward(given[-1], passages[-1]))
        received = given[-1]
        for place, step in reversed(list(enumerate(self.steps))):
            received = step.reverse(received, self.outlines[place], passages[place])
            if passages[place].memory:
                step.note(given[place], received, passages[place])
        return given[-1], averaged(received)

    def _memory_of(self, place: int, sender: int) -> Message:
        start = f"{place}."
        return {key.removeprefix(start): rows[sender] for key, rows in self.memory.items() if key.startswith(start)}

    def _passage(self, place: int, sender: int, round: int, memory: Message) -> Passage:
        who = ANY if self.steps[place].alike else sender
        dice = functools.partial(generator, self.seed, f"{self.purpose} {place}", who, round)
        return Passage(self.layout, dice, memory)


def averaged(message: Message) -> Message:
    """A message to be averaged: whole numbers as float64, in which their sums are exact."""
    return {name: value if value.is_floating_point() else value.double() for name, value in message.items()}
