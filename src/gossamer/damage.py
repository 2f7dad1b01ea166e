"""What hostile messages do to the result of a rule: the objective of attacks that know the defence.

Hostile messages all lie on one line, mean + factor * (toward - mean), through the mean of the honest ones. Against a
rule that goes by the Gram matrix a factor costs O(n^2) to O(n^3), after one pass over the numbers for the matrix of
the honest messages and `toward`. Any other rule is asked with the messages as they would be.

Shapes: G honest messages, N heard that are not hostile (those, and the receiver's own), H hostile, R = N + 1 rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gossamer.gram import Gram

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.aggregators import Aggregator


def damage(
    rule: Aggregator,
    honest_GD: Tensor,
    toward_D: Tensor,
    hostile: int,
    own_D: Tensor | None = None,
    weights_G: Tensor | None = None,
    weights_H: Tensor | None = None,
) -> Callable[[float], float]:
    """||rule(honest + hostile messages) - mean of the honest|| as a function of the factor.

    `own_D` is the receiver's own; where it is not among the honest messages it joins them with the weight that the
    others leave. A rule that needs an update it can trust and has none is given the mean of the honest ones, the best
    that it could trust. Weights are one each if left out. A linear rule is its weighted mean, without a second half.
    Raises what the rule raises, AggregationError where there are too many hostile ones for it.
    """
    import torch

    if own_D is None and (rule.trusts or rule.graph_only):
        own_D = honest_GD.mean(0)
    heard_ND = honest_GD
    own = None if own_D is None else next((i for i, row_D in enumerate(honest_GD) if row_D.equal(own_D)), None)
    if own_D is not None and own is None:
        heard_ND, own = torch.cat([honest_GD, own_D[None]]), len(honest_GD)
    weights = _weights(heard_ND, len(honest_GD), hostile, weights_G, weights_H)

    if not rule.linear and not _by_gram(rule):
        mean_D = honest_GD.mean(0)
        updates_ND = torch.cat([heard_ND, mean_D.expand(hostile, -1)])

        def asked(factor: float) -> float:
            updates_ND[len(heard_ND) :] = mean_D + factor * (toward_D - mean_D)
            return float((rule.aggregate(updates_ND, weights, own_D) - mean_D).double().norm())

        return asked

    gram = Gram.of(torch.cat([heard_ND, toward_D[None]]))
    mean_R = weights.new_zeros(len(gram))
    mean_R[: len(honest_GD)] = 1.0 / len(honest_GD)
    toward_R = weights.new_zeros(len(gram))
    toward_R[-1] = 1.0
    heard_NR = torch.eye(len(gram), dtype=weights.dtype, device=weights.device)[:-1]

    def weighed(factor: float) -> float:
        forged_R = mean_R + factor * (toward_R - mean_R)
        points = gram.through(torch.cat([heard_NR, forged_R.expand(hostile, -1)]))
        if rule.linear:
            result_R = points.to_rows(weights / weights.sum())
        else:
            result_R = rule.weigh(points, weights, rule.hostile(len(points)), own)  # type: ignore[attr-defined]
        return float(gram.through(torch.stack([result_R, mean_R])).squares[0, 1].sqrt())

    return weighed


def _by_gram(rule: Aggregator) -> bool:
    """Whether its result is what its `weigh` says: the class that combines is also the one that weighs."""
    combining = next((cls for cls in type(rule).__mro__ if "combine" in vars(cls)), object)
    return "weigh" in vars(combining)


def _weights(heard_ND: Tensor, honest: int, hostile: int, weights_G: Tensor | None, weights_H: Tensor | None) -> Tensor:
    """[N + H] in float64: of the honest messages, of the receiver's own where it is not one of them, of the hostile."""
    import torch

    if weights_G is None or weights_H is None:
        return torch.ones(len(heard_ND) + hostile, dtype=torch.float64, device=heard_ND.device)
    weights_G, weights_H = weights_G.double(), weights_H.double()
    left = (1.0 - weights_G.sum() - weights_H.sum()).clamp(min=0.0)
    return torch.cat([weights_G, left.expand(len(heard_ND) - honest), weights_H])
