"""Rounds as attackers see them, made up: what tests of attacks write messages for.

H hostile and G honest messages of D numbers, which on a graph are models: everything moved by the same base.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gossamer.aggregators import Aggregator
from gossamer.aggregators.median import Median
from gossamer.attacks import Attack, Scene
from gossamer.randomness import generator


def scene(
    honest: int = 9,
    hostile: int = 2,
    size: int = 20,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    base: float = 0.0,
    defence: Aggregator | None = None,
    receiver: bool = False,
    round: int = 0,
    **other: Any,
) -> Scene:
    """Messages that vary about a common change; with `base`, models that all were so much larger than that change."""
    rng = np.random.default_rng(seed)
    draw: Callable[..., Tensor] = lambda *shape: torch.from_numpy(rng.standard_normal(shape))  # noqa: E731
    base_D = base * draw(size)
    common_D = draw(size)
    honest_GD = base_D + common_D + draw(honest, size)
    receiving: dict[str, Any] = {}
    if receiver:
        weights = torch.from_numpy(rng.uniform(0.5, 1.5, honest + hostile))
        weights /= weights.sum() * 1.25
        receiving = {
            "receiver_D": (base_D + draw(size)).to(dtype),
            "weights_G": weights[:honest],
            "weights_H": weights[honest:],
        }
    return Scene(
        round=round,
        rounds=10,
        hostile_H=np.arange(100, 100 + hostile),
        own_HD=(base_D + common_D + draw(hostile, size)).to(dtype),
        own_base_HD=base_D.expand(hostile, size).to(dtype),
        honest_GD=honest_GD.to(dtype),
        base_D=base_D.to(dtype),
        defence=Median() if defence is None else defence,
        dice=lambda node: generator(seed, "attack", node, round),
        start_dice=lambda node: generator(seed, "attack", node),
        **receiving,
        **other,
    )


def with_memory(attack: Attack, seen: Scene) -> Scene:
    """The scene with the attacker's memory before the first round."""
    kept = attack.memory(seen.own_HD[0])
    return dataclasses.replace(
        seen, memory={key: torch.stack([value] * len(seen.own_HD)) for key, value in kept.items()}
    )


def forged(attack: Attack, seen: Scene) -> Tensor:
    result = attack.forge(with_memory(attack, seen))
    assert result is not None
    return result


def tensors(seen: Scene) -> dict[str, Tensor]:
    fields = {f.name: getattr(seen, f.name) for f in dataclasses.fields(seen)}
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}
