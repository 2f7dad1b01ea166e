"""Only what changed since the last message goes through the rest of the chain (CHOCO)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.transforms import Transform, numbers

if TYPE_CHECKING:
    from gossamer.layout import Layout
    from gossamer.passages import Form, Passage
    from gossamer.wire import Message


class Choco(Transform):
    """Gossip on copies: all who hear node i keep the same copy c_i of its model and send only what it lacks.

        c_i <- c_i + decoded(encoded(x_i - c_i)),     x_i <- x_i + step * sum_j W_ij (c_j - c_i)

    The rest of the chain compresses the difference, which shrinks as the nodes agree, so the error does too; and the
    mean over the nodes is kept exactly where W is doubly stochastic. Plain compression of models does neither. It
    needs a fixed graph, all nodes and links in every round, and a linear aggregator. The stronger the compression, the
    smaller `step` must be.
    """

    source: ClassVar[str] = "Koloskova, Stich and Jaggi 2019, Algorithm 2 (CHOCO-SGD), with the step before the mixing"
    needs: ClassVar[Form] = "whole"
    for_changes: ClassVar[bool] = True
    leaves: ClassVar[Form] = "whole"
    chained: ClassVar[bool] = True

    kind: Literal["choco"] = "choco"
    step: float = Field(default=0.5, gt=0, le=1, description="gamma, how far a node moves towards its neighbours")

    def outline(self, like: Message, layout: Layout) -> Message:
        return dict(like)

    def memory(self, like: Message, layout: Layout) -> Message:
        return {name: value.new_zeros(value.shape) for name, value in like.items() if numbers(value)}

    def forward(self, message: Message, passage: Passage) -> Message:
        return {k: v - passage.memory[k] if k in passage.memory else v for k, v in message.items()}

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        return {k: v + passage.memory[k] if k in passage.memory else v for k, v in message.items()}

    def note(self, given: Message, received: Message, passage: Passage) -> None:
        for name, copy in passage.memory.items():
            copy.copy_(received[name])
