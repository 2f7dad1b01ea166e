"""The way of a message: steps that its sender takes forward and its receiver takes back.

A message is named tensors. It leaves a method *whole* (every field as the method made it) and may go on in a shorter
form; what is left in it says which steps can follow:

    whole      every field has its own name, shape and meaning
    numbers    floating-point numbers, but other ones (the largest coordinates, factors of a matrix)
    codes      integers and a few scales
    bytes      nothing that could be computed with

A step that replaces a field `row` by parts of its own names them `row.values`, `row.codes` and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gossamer.layout import Layout

    Message = dict[str, Tensor]

Form = Literal["whole", "numbers", "codes", "bytes"]


@dataclass(frozen=True)
class Passage:
    """What both ends know of one message."""

    layout: Layout
    """Of the rows that messages are made of."""
    dice: Callable[[], np.random.Generator]
    """Each call starts the same stream of this step, sender and round: a receiver draws what the sender drew."""
    memory: Message = field(default_factory=dict)
    """What is remembered of the sender's earlier messages, see `Step.memory`; to be changed in place."""


class Step:
    """Base of what can be done to messages on their way."""

    needs: ClassVar[Form] = "numbers"
    """The least that must be left of a message for this step to do something."""
    leaves: ClassVar[Form] = "codes"
    """What it leaves; a step that leaves 'whole' leaves a message as whole as it was."""
    fixed: ClassVar[bool] = True
    """Whether the length of what it makes is known from names, types and shapes alone; else only a bound is."""
    chained: ClassVar[bool] = False
    """Whether messages build on earlier ones, so that whoever misses one cannot go on with the next."""
    for_changes: ClassVar[bool] = False
    """Whether it is made for what local work changed: a whole model, as a server sends it, would not survive it."""
    binding: ClassVar[bool] = True
    """Whether a message that did not go through it cannot be read; else it is up to the sender."""

    @property
    def unbiased(self) -> bool:
        """Whether what is received is what was sent, on average over the dice."""
        return False

    @property
    def linear(self) -> bool:
        """Whether, for given dice, what is received is a linear function of what was sent."""
        return False

    @property
    def masks(self) -> bool:
        """Whether encoded messages of several senders in a round can be added before they are decoded, as they are
        under masks that cancel in the sum."""
        return False

    @property
    def remembers(self) -> bool:
        """Whether something is remembered of each sender."""
        return type(self).memory is not Step.memory

    @property
    def alike(self) -> bool:
        """Whether the dice of a round are the same for all senders."""
        return False

    @property
    def expands(self) -> bool:
        """Whether what is received may be far from what was sent, however close on average: nothing for steps that
        send the difference again."""
        return False

    def outline(self, like: Message, layout: Layout) -> Message:
        """Names, types and shapes of what `forward` makes of a message like this: tensors without numbers, on the meta
        device. Where the length is not fixed, the longest that there can be."""
        raise NotImplementedError

    def forward(self, message: Message, passage: Passage) -> Message:
        """The message as it goes on; the one given is only read."""
        raise NotImplementedError

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        """The message as the receiver uses it; `like` is the outline of what `forward` was given.

        Names, types and shapes are as outlined; raises WireError where the numbers make no sense.
        """
        raise NotImplementedError

    def memory(self, like: Message, layout: Layout) -> Message:
        """What is remembered of one sender's messages, as it is before the first; `like` as for `outline`, but with
        numbers."""
        return {}

    def note(self, given: Message, received: Message, passage: Passage) -> None:
        """Remember, in `passage.memory`, what `forward` was given and what the receiver makes of it."""


class Numerical(Step):
    """Base of the steps that change numbers and nothing else, at their sender alone, who cannot be made to do it."""

    needs: ClassVar[Form] = "whole"
    leaves: ClassVar[Form] = "whole"
    binding: ClassVar[bool] = False

    @property
    def masks(self) -> bool:
        return True

    def outline(self, like: Message, layout: Layout) -> Message:
        return dict(like)

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        return message


def check_steps(steps: Sequence[tuple[str, Step]], start: str) -> None:
    """Raise ExperimentError where a step finds nothing that it could work on; each comes with what to call it."""
    order = get_args(Form)
    left, whose = "whole", start
    for name, step in steps:
        if step.needs not in order or step.leaves not in order:
            raise ExperimentError(f"{name}: needs = '{step.needs}', leaves = '{step.leaves}'; each is one of {order}")
        if whose == start and left == "bytes":
            raise ExperimentError(f"{name}: {start} has a code of its own for its messages; leave transforms out")
        if order.index(step.needs) < order.index(left):
            wants = {"whole": "whole messages", "numbers": "floating-point numbers", "codes": "all but bytes"}
            raise ExperimentError(
                f"{name}: it works on {wants[step.needs]}, but {whose} leaves only {left}; change their order, or "
                "leave one of them out"
            )
        if order.index(step.leaves) > order.index(left):
            left, whose = step.leaves, name
