"""The mean of what low-rank changes do, cut to the rank of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.errors import AggregationError, ExperimentError
from gossamer.lowrank import with_products
from gossamer.methods import Inbox, Method, Outbox, Result, Task, View

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.methods import State


class FlexLoRA(Method):
    """The server takes the best approximation of rank r of the mean product of the nodes' low-rank factors.

        sum_k p_k B_k A_k = U S V,     B <- U_r S_r,     A <- V_r

    What is discarded are the singular values after the r-th. The first k ranks of the result are the best approximation
    of rank k, which is what a node of rank k starts from. p_k is n_k / sum_j n_j over the participants
    (`weighting = "samples"`) or 1 / |S| (`"uniform"`). What is not a factor (a head, biases, buffers) is averaged.

    Ranks that the mean product does not need have B = 0 and A as before, and so can learn. With mixed ranks, directions
    that only nodes of large rank can hold shrink from round to round (Wu et al. 2026, rank collapse).
    """

    source: ClassVar[str] = "Bai et al. 2024 (arXiv 2402.11505)"
    gathers: ClassVar[bool] = True

    kind: Literal["flexlora"] = "flexlora"
    weighting: Literal["samples", "uniform"] = Field(default="samples", description="weight of a node in the mean")

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        weight = float(view.samples) if self.weighting == "samples" else 1.0
        return Outbox({"row": result.row}, weight), {}

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        rows_ND, shares_N = heard(inbox)
        return {"row": with_products(mean(rows_ND, shares_N), rows_ND, shares_N, view.layout, state["row"])}

    def check(self, settings: Any) -> None:
        require_factors(self, settings)
        what = f"method.kind = '{self.kind}'"
        why = f"{what} multiplies each node's factors, and a mean of products is no sum of messages"
        if settings.aggregator.kind != "mean":
            raise ExperimentError(
                f"aggregator.kind = '{settings.aggregator.kind}': {what} merges by itself; use aggregator = 'mean'"
            )
        if settings.secure_sum is not None:
            raise ExperimentError(f"secure_sum: {why}; use method = 'rolora', or leave it out")
        if settings.privacy.guards in ("messages", "sums"):
            raise ExperimentError(
                f"privacy.kind = '{settings.privacy.kind}': {why}, so that clip does not bound what one node moves; "
                "use method = 'rolora', or privacy.kind = 'per_example'"
            )
        for step in settings.transforms:
            if step.for_changes:
                raise ExperimentError(
                    f"transforms: '{step.kind}' is made for what local work changed, but with {what} nodes send their "
                    "factors, of which too little would be left; use 'cast', 'int8', 'nf4', 'qsgd' or 'zstd'"
                )
        if not self.merges_into_base:
            return
        for name, exact in (("bits", None), ("precision", "float32")):
            if (found := getattr(settings.model, name, exact)) != exact:
                raise ExperimentError(
                    f"model.{name} = {found!r}: {what} merges into the base, which is not exact where its weights are "
                    "a code or rounded; leave it out, or use method = 'flexlora'"
                )


def require_factors(method: Method, settings: Any) -> None:
    """Raise ExperimentError where rows do not hold both factors of low-rank changes."""
    part = settings.parametrisation
    if part.kind != "lora":
        raise ExperimentError(
            f"method.kind = '{method.kind}' merges low-rank factors, but parametrisation.kind = '{part.kind}'; use "
            "parametrisation = 'lora'"
        )
    if part.train != "both":
        raise ExperimentError(
            f"parametrisation.train = '{part.train}': method.kind = '{method.kind}' needs both factors; use 'both', or "
            "method = 'fedavg', which is exact where one of them is frozen"
        )
    if part.dora:
        raise ExperimentError(
            f"parametrisation.dora = true: what DoRA makes of W is no low-rank change, which method.kind = "
            f"'{method.kind}' merges; set it to false"
        )


def heard(inbox: Inbox) -> tuple[Tensor, Tensor]:
    """The rows [N, D] of the senders that have a weight, and their shares [N], which sum to 1.

    Raises AggregationError where one of them holds NaN or infinity.
    """
    import torch

    rows_ND = inbox.stacked["row"]
    weights_N = torch.tensor(inbox.weights_n, dtype=torch.float64, device=rows_ND.device)
    rows_ND, weights_N = rows_ND[weights_N > 0], weights_N[weights_N > 0]
    if not rows_ND.sum().isfinite() and not (finite_N := rows_ND.isfinite().all(1)).all():
        place = finite_N.tolist().index(False)
        raise AggregationError(
            f"message {place} of {len(rows_ND)} (counted from 0) holds NaN or infinity; lower learner.lr or clip "
            "gradients"
        )
    return rows_ND, weights_N / weights_N.sum()


def mean(rows_ND: Tensor, shares_N: Tensor) -> Tensor:
    """sum_k p_k row_k, [D]."""
    return shares_N.to(rows_ND.dtype) @ rows_ND
