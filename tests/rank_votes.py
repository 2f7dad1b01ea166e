"""Made-up votes on rankings: honest voters see one common order, each with noise of its own.

U voters, P edges of a layer, of which `count` are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from attack_scenes import scene

from gossamer.aggregators import Aggregator
from gossamer.aggregators.mean import Mean
from gossamer.attacks import Attack, Scene

Array = np.ndarray[Any, Any]


def ranks(scores_UP: Array) -> Array:
    """The position of every edge by its score, 0 the least."""
    return scores_UP.argsort(-1, kind="stable").argsort(-1, kind="stable").astype(float)


def voters(count: int, edges: int, noise: float, seed: int = 0) -> Array:
    """Rankings [U, P] by the number of the edge, which is from 0 to 1, and noise of that size."""
    dice = np.random.default_rng(seed)
    return ranks(np.arange(edges) / edges + noise * dice.standard_normal((count, edges)))


def kept(votes_P: Array, count: int) -> Array:
    """Which edges have the most votes; of equal ones the later."""
    mask = np.zeros(len(votes_P), bool)
    mask[np.argsort(votes_P, kind="stable")[len(votes_P) - count :]] = True
    return mask


def vote(rows_UP: Array, hostile: int, count: int, rule: Aggregator | None = None, **other: Any) -> Scene:
    """The scene of a vote in which the first are hostile, as a layer of its own unless `kept` says otherwise."""
    rows = torch.from_numpy(rows_UP)
    other = {"kept": ((0, rows.shape[1], count),), **other}
    found = scene(len(rows) - hostile, hostile, rows.shape[1], defence=rule or Mean(), **other)
    fields = {**found.__dict__, "own_HD": rows[:hostile], "honest_GD": rows[hostile:]}
    return Scene(**{**fields, "own_base_HD": torch.zeros_like(rows[:hostile]), "base_D": torch.zeros_like(rows[0])})


def after(attack: Attack, seen: Scene) -> Array:
    """All messages of the round with the attack in place, the hostile ones first."""
    forged = attack.forge(seen)
    assert forged is not None
    return torch.cat([forged, seen.honest_GD]).numpy()


def changed(rule: Aggregator, rows_UP: Array, hostile: int, count: int, attack: Attack) -> int:
    """How many edges the rule keeps if all are honest, and no longer when the first voters attack."""
    attacked = after(attack, vote(rows_UP, hostile, count, rule))
    return int((kept(rule(rows_UP), count) & ~kept(rule(attacked), count)).sum())
