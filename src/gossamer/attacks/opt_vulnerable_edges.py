"""Optimal vulnerable edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gossamer.attacks import Attack, Knowledge
from gossamer.attacks.rank_reversal import parts
from gossamer.attacks.vulnerable_edges import contested, sent
from gossamer.layout import Entry, Layout

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.attacks import Scene

REACHES = (1.0, 0.5, 0.3, 0.16, 0.08, 0.04)
"""How far from the boundary edges are moved."""
SHARES = (0.3, 0.1, 0.6, 1.0)
"""How many of the edges within reach are exchanged."""
GRANTED = 0.0
"""In place of a share: as many as a mean grants."""


class OptVulnerableEdges(Attack):
    """Vulnerable edges, as many and moved as far as takes most from what the receivers' rule keeps.

    What is taken are edges that the honest mean would keep. Small moves of few edges pass rules that look for odd
    voters; the most that a mean grants, at full reach, is one of the attacks tried. The search is over a grid, along
    one axis after the other: about 15 times the rule is asked in a round.
    """

    source: ClassVar[str] = "Gong et al. 2025 (VEM), with a search against the rule"
    knows: ClassVar[Knowledge] = "defence"
    exchanges: ClassVar[bool] = True

    kind: Literal["opt_vulnerable_edges"] = "opt_vulnerable_edges"

    def forge(self, scene: Scene) -> Tensor:
        if len(scene.honest_GD) == 0:
            return scene.own_HD

        def forged(reach: float, share: float) -> Tensor:
            contests = contested(scene, reach=reach)
            swaps = [round(share * c.limit) if share else c.most() for c in contests]
            return sent(scene, [contest.swapped(j) for contest, j in zip(contests, swaps, strict=True)])

        tried: dict[tuple[float, float], int] = {}

        def best(ways: list[tuple[float, float]]) -> tuple[float, float]:
            for way in ways:
                if way not in tried:
                    tried[way] = taken(scene, forged(*way))
            return max(ways, key=lambda way: tried[way])

        best([(1.0, GRANTED)])
        reach, share = best([(reach, SHARES[0]) for reach in REACHES])
        reach, share = best([(reach, share) for share in SHARES])
        best([(reach, share) for reach in REACHES])
        return forged(*best(list(tried)))


def taken(scene: Scene, forged_HD: Tensor) -> int:
    """How many edges that the honest mean keeps the receivers' rule gives up for these messages.

    Raises what the rule raises, AggregationError where there are too many hostile ones for it.
    """
    import torch

    rule, own_D = scene.defence, scene.receiver_D
    if own_D is None and (rule.trusts or rule.graph_only):
        own_D = scene.mean
    heard_ND = scene.honest_GD
    if own_D is not None and not any(row_D.equal(own_D) for row_D in heard_ND):
        heard_ND = torch.cat([heard_ND, own_D[None]])
    rows_ND = torch.cat([heard_ND, forged_HD])
    weights_N = torch.ones(len(rows_ND), dtype=torch.float64)
    if scene.weights_G is not None and scene.weights_H is not None:
        left = (1.0 - scene.weights_G.sum() - scene.weights_H.sum()).clamp(min=0.0)
        others = len(heard_ND) - len(scene.honest_GD)
        weights_N = torch.cat([scene.weights_G, left.expand(others), scene.weights_H])
    layers = parts(scene)
    layout = Layout(
        tuple(Entry(f"layer {i}", (stop - start,), start, True) for i, (start, stop, _) in enumerate(layers))
    )
    if rule.linear:
        result_D = (weights_N / weights_N.sum()).to(rows_ND) @ rows_ND
    else:
        result_D = rule.aggregate(rows_ND, weights_N, own_D, layout)
    lost = 0
    for start, stop, count in layers:
        before_P, after_P = (kept(row_D[start:stop], count) for row_D in (scene.mean, result_D))
        lost += int((before_P & ~after_P).sum())
    return lost


def kept(votes_P: Tensor, count: int) -> Tensor:
    """Which edges of a layer are kept: so many of the most votes, of equal ones the later."""
    import torch

    kept_P = torch.zeros(len(votes_P), dtype=torch.bool, device=votes_P.device)
    kept_P[votes_P.sort(stable=True).indices[len(votes_P) - count :]] = True
    return kept_P
