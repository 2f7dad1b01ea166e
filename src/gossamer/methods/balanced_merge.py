"""Decentralised SGD whose merges make up for classes that few nodes hold."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.methods import Context, Inbox, Outbox, Result, Task, View
from gossamer.methods.dsgd import DSGD

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State

Array = np.ndarray[Any, Any]

RAREST = 0.01
"""A class is taken to have at least this share of what it would have if all were alike."""


class BalancedMerge(DSGD):
    """DSGD for nodes that together hold some classes seldom, while the model is wanted for all classes alike.

    p_i are the shares of the C classes at node i, which every node tells all others before the first round: C numbers,
    counted as set-up, that say how often it has each class. Three means, each of which can be switched off:

        adjust   an all-reduce that ends the run subtracts adjust * log(C q_c) from the output's bias of each class c,
                 with q = sum_i w_i p_i: merged models say a class the less often, the fewer nodes hold it
        ridge    all all-reduces are weighted means, with weights under which the classes are as even as can be:
                 w = argmin ||sum_i w_i p_i - 1/C||^2 + ridge^2 ||w - 1/N||^2 over w >= 0, scaled to sum 1
        tail     the last all-reduce gives the mean of the common models of all all-reduces in the last part of the
                 run, as averaged iterates of SGD are (Polyak and Juditsky 1992)

    Exchanges over the topology's links are those of DSGD, and so is the training.
    """

    source: ClassVar[str] = "Menon et al. 2021, eq. 9 (post-hoc logit adjustment), for `adjust`; the rest is our own"
    asynchronous: ClassVar[bool] = False

    kind: Literal["balanced_merge"] = "balanced_merge"  # type: ignore[assignment]
    adjust: float = Field(default=0.75, ge=0, description="of the last merge's bias: 0 not, 1 by all of the logarithm")
    ridge: float | None = Field(
        default=None, gt=0, description="weighted merges; 0.01: hardly any pull to equal weights, 10: nearly equal"
    )
    tail: float = Field(default=0.0, ge=0, le=1, description="share of the rounds whose all-reduces are averaged")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        state, own = super().init(context, row_D)
        if self.adjust:
            output_bias(context)
        if self.tail:
            state |= {"tail": row_D.new_zeros(row_D.shape), "merges": row_D.new_zeros(1)}
        return state, own

    def setup(self, context: Context) -> State:
        import torch

        return {"shares": torch.from_numpy(shares(context)[0].astype(np.float32))}

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        outbox, kept = super().finish(task, result, own, view)
        return Outbox(outbox.common, self.weights(view.context)[view.node]), kept

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        changed = super().merge(state, inbox, view)
        if not inbox.everyone:
            return changed
        left = view.context.rounds - view.round
        if self.tail and left <= max(1, round(self.tail * view.context.rounds)):
            merges = state["merges"] + 1
            tail_D = state["tail"] + (changed["row"] - state["tail"]) / merges
            changed |= {"tail": tail_D, "merges": merges, "row": tail_D if left == 1 else changed["row"]}
        if self.adjust and left == 1:
            changed |= {"row": self._adjusted(changed["row"], view.context)}
        return changed

    def _adjusted(self, row_D: Tensor, context: Context) -> Tensor:
        import torch

        shares_NC, weights = shares(context), np.asarray(self.weights(context)) / context.nodes
        relative_C = np.maximum(RAREST, len(shares_NC[0]) * (weights @ shares_NC))
        row_D = row_D.clone()
        row_D[output_bias(context)] -= self.adjust * torch.from_numpy(np.log(relative_C)).to(row_D.dtype)
        return row_D

    def weights(self, context: Context) -> tuple[float, ...]:
        """Weight of each node in an all-reduce, 1 on average."""
        shares_NC = shares(context)
        if self.ridge is None:
            return (1.0,) * len(shares_NC)
        return _balanced(shares_NC.tobytes(), *shares_NC.shape, self.ridge)

    def check(self, settings: Any) -> None:
        super().check(settings)
        if not settings.aggregator.linear:
            raise ExperimentError(
                f"aggregator.kind = '{settings.aggregator.kind}': method.kind = 'balanced_merge' weighs the nodes in a "
                "mean; use aggregator = 'mean'"
            )
        if settings.schedule.participation < 1:
            raise ExperimentError(
                f"schedule.participation = {settings.schedule.participation:g}: method.kind = 'balanced_merge' "
                "balances the classes of all nodes; use participation = 1"
            )
        ends = settings.schedule.final == "merge" or math.isinf(
            settings.schedule.intensity(settings.rounds - 1, settings.rounds)
        )
        if not ends and not settings.schedule.looks:
            raise ExperimentError(
                "method.kind = 'balanced_merge' balances an all-reduce that ends the run, but there is none; "
                "use schedule.final = 'merge'"
            )


def shares(context: Context) -> Array:
    """The share of each class at each node [N, C]. Raises ExperimentError where labels are no single classes."""
    if context.labels_NC is None:
        raise ExperimentError("method.kind = 'balanced_merge' needs data with one class for each item")
    counts_NC: Array = np.asarray(context.labels_NC, dtype=np.float64)
    shares_NC: Array = counts_NC / counts_NC.sum(axis=1, keepdims=True)
    return shares_NC


def output_bias(context: Context) -> slice:
    """Where the biases of the C classes lie in a row. Raises ExperimentError where there are none."""
    classes = shares(context).shape[1]
    last = [entry for entry in context.layout.entries if entry.trainable][-1]
    if tuple(last.shape) != (classes,):
        raise ExperimentError(
            f"method.adjust: the model's last trained tensor '{last.name}' {list(last.shape)} is no bias of the "
            f"{classes} classes; use method.adjust = 0, or a model that ends in a linear layer with bias"
        )
    return slice(last.start, last.stop)


@lru_cache(maxsize=4)
def _balanced(shares: bytes, nodes: int, classes: int, ridge: float) -> tuple[float, ...]:
    from scipy.optimize import nnls

    shares_NC = np.frombuffer(shares).reshape(nodes, classes)
    left = np.vstack([shares_NC.T, ridge * np.eye(nodes)])
    right = np.concatenate([np.full(classes, 1 / classes), np.full(nodes, ridge / nodes)])
    weights_N, _ = nnls(left, right)
    return tuple((weights_N * nodes / weights_N.sum()).tolist())
