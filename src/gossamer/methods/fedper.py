"""A shared body and a head of each node's own."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.methods import Context, Inbox, Outbox, Result, Task, View
from gossamer.methods.fedavg import FedAvg

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout
    from gossamer.methods import State

Ranges = tuple[tuple[int, int], ...]


class FedPer(FedAvg):
    """Body and head are trained together at the nodes; only the body is sent and averaged, each node keeps its head.

        body <- body + eta_s * sum_i p_i (body_i - body),   head_i stays at node i

    The head is what `head` names, by default all parameters of the last module that has any. Buffers are body.
    """

    source: ClassVar[str] = "Arivazhagan et al. 2019, Algorithms 1 and 2"
    personal: ClassVar[bool] = True
    one_model: ClassVar[bool] = False

    kind: Literal["fedper"] = "fedper"  # type: ignore[assignment]
    head: tuple[str, ...] = Field(
        default=(), description="name patterns of each node's own parameters, e.g. 'classifier.*'; default: last module"
    )

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        head, _ = columns(context.layout, self.head)
        return {"row": row_D.clone()}, {"head": taken(row_D, head)}

    def publish(self, state: State, view: View) -> State:
        _, body = columns(view.layout, self.head)
        return {"body": taken(state["row"], body)}

    def prepare(self, own: State, down: State, view: View) -> Task:
        head, body = columns(view.layout, self.head)
        row_D = down["body"].new_empty(view.layout.size)
        put(row_D, head, own["head"])
        put(row_D, body, down["body"])
        return Task(row_D)

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        head, body = columns(view.layout, self.head)
        delta_B = taken(result.row, body) - taken(task.row, body)
        return Outbox({"delta": delta_B}, self.weight(view)), {"head": taken(result.row, head)}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        _, body = columns(view.layout, self.head)
        delta_D = state["row"].new_zeros(view.layout.size)
        put(delta_D, body, inbox.fields["delta"])
        return super().merge(state, dataclasses.replace(inbox, fields={"delta": delta_D}), view)

    def model(self, own: State, down: State, view: View) -> Task:
        return dataclasses.replace(self.prepare(own, down, view), steps=0)


@functools.cache
def columns(layout: Layout, patterns: tuple[str, ...]) -> tuple[Ranges, Ranges]:
    """The (start, stop) ranges of the head and of the body, buffers included, in a row.

    Raises ExperimentError where a pattern matches no trained parameter or nothing trained is left to share.
    """
    trained = [entry.name for entry in layout.entries if entry.trainable]
    for pattern in patterns:
        if not fnmatch.filter(trained, pattern):
            raise ExperimentError(
                f"method.head: '{pattern}' matches no trained parameter; there are: {', '.join(trained)}"
            )
    last = trained[-1].rpartition(".")[0]
    own = {
        name
        for name in trained
        if (any(fnmatch.fnmatch(name, p) for p in patterns) if patterns else name.rpartition(".")[0] == last)
    }
    if len(own) == len(trained):
        raise ExperimentError(
            f"method.head: it is the whole model ({', '.join(trained)}), nothing is left to share; name fewer"
        )
    names = {entry.name for entry in layout.entries}
    return tuple(layout.columns(own)), tuple(layout.columns(names - own))


def taken(row_D: Tensor, ranges: Ranges) -> Tensor:
    """A copy of these columns of a row, one after the other."""
    import torch

    return torch.cat([row_D[start:stop] for start, stop in ranges])


def put(row_D: Tensor, ranges: Ranges, part: Tensor) -> None:
    """Write `part`, as `taken` gives it, into these columns of a row, in place."""
    position = 0
    for start, stop in ranges:
        row_D[start:stop] = part[position : position + stop - start]
        position += stop - start
