"""Nodes train one low-rank factor at a time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gossamer.errors import ExperimentError
from gossamer.lowrank import joined, spread
from gossamer.methods import Inbox, Outbox, Result, Task, View
from gossamer.methods.fedavg import FedAvg
from gossamer.methods.flexlora import require_factors

if TYPE_CHECKING:
    from gossamer.layout import Entry
    from gossamer.methods import State


class RoLoRA(FedAvg):
    """FedAvg of B in the first, third, ... round and of A in the others; the factor that rests is the same everywhere.

        sum_k p_k B_k A = (sum_k p_k B_k) A,     sum_k p_k B A_k = B (sum_k p_k A_k)

    So the mean of the factor is the mean of the products: nothing is lost (with `server_lr` = 1), in half the numbers,
    and by a plain sum of messages. What is not a factor (a head, biases, buffers) is trained in every round. A message
    is what local work changed of what it may change, one after the other, with zeros at its end in rounds whose factor
    has fewer numbers than the other one. The server sends both factors: a node may have missed the round before.
    """

    source: ClassVar[str] = "Chen et al. 2025 (arXiv 2502.01755)"

    kind: Literal["rolora"] = "rolora"  # type: ignore[assignment]

    def prepare(self, own: State, down: State, view: View) -> Task:
        moves_T = down["row"].new_ones(view.layout.trainable).bool()
        for entry in resting(view):
            moves_T[entry.start : entry.stop] = False
        return Task(down["row"], moves_T=moves_T)

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        import torch

        outbox, kept = super().finish(task, result, own, view)
        half = joined(outbox.common["delta"], moving(view))
        length = view.layout.size - min(sum(entry.stop - entry.start for entry in of(view)) for of in (active, resting))
        return Outbox({"half": torch.cat([half, half.new_zeros(length - len(half))])}, outbox.weight), kept

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        delta_D = spread(inbox.fields["half"], moving(view), view.layout.size)
        return super().merge(state, dataclasses.replace(inbox, fields={"delta": delta_D}), view)

    def check(self, settings: Any) -> None:
        require_factors(self, settings)
        if any(step.chained or step.kind == "power_sgd" for step in settings.transforms):
            raise ExperimentError(
                "transforms: with method.kind = 'rolora' the numbers of a message are those of B in one round and of A "
                "in the next, so what was lost of one cannot be added to the other; use steps without memory"
            )
        if getattr(settings.aggregator, "history", False):
            raise ExperimentError(
                f"aggregator.kind = '{settings.aggregator.kind}' compares messages of all rounds, which with "
                "method.kind = 'rolora' are of B and of A in turn; use another rule or another method"
            )
        if settings.nodes and (ranks := settings.parametrisation.ranks(settings.nodes)):
            raise ExperimentError(
                "parametrisation.rank: with method.kind = 'rolora' the factor that rests is the same at all nodes, but "
                f"their ranks are {min(ranks)} to {max(ranks)}; give all nodes one rank, or use method = 'flexlora'"
            )


def active(view: View) -> list[Entry]:
    """The factors that are trained in this round: B first, then A, and so on."""
    return [pair.a if view.round % 2 else pair.b for pair in view.layout.factors]


def resting(view: View) -> list[Entry]:
    """The factors that are not."""
    return [pair.b if view.round % 2 else pair.a for pair in view.layout.factors]


def moving(view: View) -> list[tuple[int, int]]:
    """The (start, stop) ranges of a row that change in this round."""
    return view.layout.columns({entry.name for entry in view.layout.entries} - {entry.name for entry in resting(view)})
