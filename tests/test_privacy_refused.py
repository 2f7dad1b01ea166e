"""What privacy and secure sums cannot be combined with is refused with the fix, or warned of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from federations import small

import gossamer
from gossamer.errors import ExperimentError
from gossamer.federation import Federation

UNIFORM = {"kind": "fedavg", "weighting": "uniform"}
SERVER: dict[str, Any] = {"method": UNIFORM, "preprocess": {"normalise": "none"}}

CLIPPED = {"kind": "central", "epsilon": 8.0}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"privacy": {"kind": "central", "epsilon": 0}}, "epsilon = 0 is no budget"),
    ({"privacy": {"kind": "central", "epsilon": -1}}, "epsilon = -1 is no budget"),
    ({"privacy": {"kind": "central", "clip": 0, "epsilon": 1}}, "privacy.clip"),
    ({"privacy": {"kind": "central", "delta": 1.0, "epsilon": 1}}, "privacy.delta"),
    ({"privacy": "central"}, "give epsilon .* or noise_multiplier"),
    ({"privacy": {"epsilon": 8}}, "'kind' is missing"),
    ({"privacy": CLIPPED, "method": "fedavg"}, "weighting = 'uniform'"),
    ({"privacy": {"kind": "local", "epsilon": 8}, "method": "fedavg"}, "weights by items tell"),
    ({"privacy": CLIPPED, "method": UNIFORM, "secure_sum": {}}, "a secure sum rounds what was clipped"),
    (
        {"privacy": CLIPPED, "method": UNIFORM, "hostile": {"count": 2}, "attack": "mimic"},
        "makes messages of what it reads in others'",
    ),
    ({"privacy": {"kind": "correlated", "epsilon": 8, "pair_ratio": 1e8}}, "pair_ratio"),
    ({"secure_sum": {}, "schedule": {"participation": 0.1}}, "1 node takes part"),
    ({"privacy": CLIPPED, "method": UNIFORM, "aggregator": "median"}, "aggregator.kind = 'median' is not bounded"),
    ({"privacy": CLIPPED, "method": "dsgd", "topology": "ring"}, "it needs a server"),
    ({"privacy": {"kind": "correlated", "epsilon": 8}}, "it is for neighbours on a graph"),
    ({"privacy": {"kind": "distributed", "epsilon": 8}, "method": UNIFORM}, "set secure_sum = {}"),
    ({"privacy": CLIPPED, "method": UNIFORM, "schedule": {"participation": 0.5}}, "schedule.sampling = 'poisson'"),
    (
        {
            "privacy": {"kind": "correlated", "epsilon": 8},
            "method": "dsgd",
            "topology": "ring",
            "schedule": {"participation": 0.5},
        },
        "all nodes in every round",
    ),
    (
        {"privacy": {"kind": "local", "epsilon": 8}, "method": "balanced_merge", "topology": "ring"},
        "tells everybody what each node holds",
    ),
    ({"transforms": [{"kind": "gaussian_noise", "std": 0.1}, {"kind": "clip"}]}, "put clip first"),
    ({"secure_sum": {}, "aggregator": "krum"}, "in a secure sum nobody sees one"),
    ({"secure_sum": {}, "transforms": [{"kind": "top_k"}]}, "cannot be added up before it is decoded"),
    ({"secure_sum": {}, "transforms": ["int8"]}, "cannot be added up before it is decoded"),
    ({"secure_sum": {"threshold": 11}}, "only 10 nodes take part"),
    ({"secure_sum": {"threshold": 5}}, "two sums"),
    ({"secure_sum": {"threshold": 0.4}}, "above 0.5"),
    ({"secure_sum": {"bits": 40}}, "secure_sum.bits"),
    ({"secure_sum": {}, "method": "dsgd", "topology": "ring"}, "has no server that sums"),
    (
        {"secure_sum": {}, "hostile": {"count": 2}, "attack": "sign_flip"},
        "its forged messages are not played under masks",
    ),
]


@pytest.mark.parametrize(("table", "told"), BAD, ids=[told for _, told in BAD])
def test_what_cannot_be_is_refused_with_the_fix(table: dict[str, Any], told: str) -> None:
    with pytest.raises(ExperimentError, match=told):
        small(**table)


LATE: list[tuple[dict[str, Any], str]] = [
    ({"secure_sum": {"bits": 31}}, "secure_sum.bits = 31: .* use bits = 27"),
    ({"secure_sum": {}, "method": "fednova"}, "'norm', a single number"),
    (
        {"privacy": {"kind": "distributed", "epsilon": 8, "colluding": 9}, "method": UNIFORM, "secure_sum": {}},
        "colluding = 9: sums of 7 nodes",
    ),
    ({"secure_sum": {}, "method": "frl", "parametrisation": "supermask"}, "cannot be added up"),
    ({"privacy": CLIPPED | {"epsilon": 1e-6, "accountant": "rdp"}, "method": UNIFORM}, "epsilon"),
    ({"privacy": CLIPPED | {"noise_multiplier": 0.1}, "method": UNIFORM}, "the first round alone spends"),
    (
        {"privacy": CLIPPED, "method": {"kind": "fednova", "weighting": "uniform"}},
        "'norm', which .* is not bounded by clip",
    ),
]


@pytest.mark.parametrize(("table", "told"), LATE, ids=[told for _, told in LATE])
def test_what_shows_with_the_model_is_refused_by_the_plan(table: dict[str, Any], told: str) -> None:
    with pytest.raises(ExperimentError, match=told):
        gossamer.plan(small(**table))


def test_warned_where_the_guarantee_says_little() -> None:
    plan = gossamer.plan(small(method=UNIFORM, privacy=CLIPPED | {"delta": 0.2}))
    assert any("delta = 0.2 is not below 1 / 10" in text for text in plan.warnings)
    assert any("preprocess.normalise = 'shared'" in text for text in plan.warnings)


def test_batch_norm_is_named_with_its_replacement() -> None:
    class Normed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    for kind in ("central", "per_example"):
        with pytest.raises(ExperimentError, match=r"BatchNorm.*GroupNorm"):
            Federation(small(**SERVER, model=Normed, privacy={"kind": kind, "epsilon": 8.0}))
