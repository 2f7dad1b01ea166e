"""What the rest of the chain loses of a message is added to the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.transforms import Transform, numbers

if TYPE_CHECKING:
    from gossamer.layout import Layout
    from gossamer.passages import Form, Passage
    from gossamer.wire import Message


class ErrorFeedback(Transform):
    """Each sender adds to its message x what earlier ones lost: y = x + e is sent on, and e <- y - decoded(y).

    Everything after it in the chain counts: with `transforms = ["error_feedback", "top_k"]` a coordinate that was not
    sent waits until it is. What is sent then sums to what was to be sent, up to one e. It is for messages that are
    changes; for models on a graph see 'choco'.
    """

    source: ClassVar[str] = "Seide et al. 2014; Karimireddy et al. 2019, Algorithm 1; Stich et al. 2018 for top-k"
    needs: ClassVar[Form] = "whole"
    for_changes: ClassVar[bool] = True
    leaves: ClassVar[Form] = "whole"
    chained: ClassVar[bool] = True

    kind: Literal["error_feedback"] = "error_feedback"

    def outline(self, like: Message, layout: Layout) -> Message:
        return dict(like)

    def memory(self, like: Message, layout: Layout) -> Message:
        return {name: value.new_zeros(value.shape) for name, value in like.items() if numbers(value)}

    def forward(self, message: Message, passage: Passage) -> Message:
        return {k: v + passage.memory[k] if k in passage.memory else v for k, v in message.items()}

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        return message

    def note(self, given: Message, received: Message, passage: Passage) -> None:
        for name, missing in passage.memory.items():
            missing.add_(given[name]).sub_(received[name])
