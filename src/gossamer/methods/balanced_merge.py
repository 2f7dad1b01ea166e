"""Decentralised SGD whose all-reduces weigh nodes so that all classes count alike."""

from __future__ import annotations

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


class BalancedMerge(DSGD):
    """DSGD, where an all-reduce is the mean sum_i w_i x_i, with weights under which the classes are as even as can be.

        w = argmin ||sum_i w_i p_i - 1/C||^2 + ridge^2 ||w - 1/N||^2    over w >= 0, then scaled to sum 1

    p_i are the shares of the C classes at node i. Merging models weighs the data they have seen: where few nodes hold a
    class, a plain mean forgets it, though the nodes together know it well. Exchanges over the topology's links are
    those of DSGD. Every node tells all others its p_i before the first round, which counts as set-up and reveals how
    often it has each class; the model is supposed to be wanted for classes that are equally common. With `tail`, the
    last all-reduce gives the mean of the common models of all all-reduces in the last part of the run, as averaged
    iterates of SGD are (Polyak and Juditsky 1992); training goes on from the common models themselves.
    """

    asynchronous: ClassVar[bool] = False

    kind: Literal["balanced_merge"] = "balanced_merge"  # type: ignore[assignment]
    ridge: float = Field(default=0.1, gt=0, description="pull to equal weights: 0.01 hardly any, 10 nearly equal")

    tail: float = Field(default=0.0, ge=0, le=1, description="share of the rounds whose all-reduces are averaged")

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        state, own = super().init(context, row_D)
        if self.tail:
            state |= {"tail": row_D.new_zeros(row_D.shape), "merges": row_D.new_zeros(1)}
        return state, own

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        changed = super().merge(state, inbox, view)
        left = view.context.rounds - view.round
        if not (self.tail and inbox.everyone) or left > max(1, round(self.tail * view.context.rounds)):
            return changed
        merges = state["merges"] + 1
        tail_D = state["tail"] + (changed["row"] - state["tail"]) / merges
        row_D = tail_D if left == 1 else changed["row"]
        return {**changed, "row": row_D, "tail": tail_D, "merges": merges}

    def setup(self, context: Context) -> State:
        import torch

        return {"shares": torch.from_numpy(shares(context)[0].astype(np.float32))}

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        outbox, kept = super().finish(task, result, own, view)
        return Outbox(outbox.common, self._weights(view.context)[view.node]), kept

    def _weights(self, context: Context) -> tuple[float, ...]:
        shares_NC = shares(context)
        return _balanced(shares_NC.tobytes(), *shares_NC.shape, self.ridge)

    def check(self, settings: Any) -> None:
        super().check(settings)
        if not settings.aggregator.linear:
            raise ExperimentError(
                f"aggregator.kind = '{settings.aggregator.kind}': method.kind = 'balanced_merge' weighs the nodes in a "
                "mean; use aggregator = 'mean'"
            )


def shares(context: Context) -> Array:
    """The share of each class at each node [N, C]. Raises ExperimentError where labels are no single classes."""
    if context.labels_NC is None or not context.labels_NC.sum():
        raise ExperimentError("method.kind = 'balanced_merge' needs data with one class for each item")
    counts_NC: Array = np.asarray(context.labels_NC, dtype=np.float64)
    shares_NC: Array = counts_NC / counts_NC.sum(axis=1, keepdims=True)
    return shares_NC


@lru_cache(maxsize=4)
def _balanced(shares: bytes, nodes: int, classes: int, ridge: float) -> tuple[float, ...]:
    """The weights, N times as large, so that equal weights are 1."""
    from scipy.optimize import nnls

    shares_NC = np.frombuffer(shares).reshape(nodes, classes)
    left = np.vstack([shares_NC.T, ridge * np.eye(nodes)])
    right = np.concatenate([np.full(classes, 1 / classes), np.full(nodes, ridge / nodes)])
    weights_N, _ = nnls(left, right)
    return tuple((weights_N * nodes / weights_N.sum()).tolist())
