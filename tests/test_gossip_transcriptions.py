"""The engine and more methods for graphs against slow transcriptions in plain PyTorch, as in `test_transcriptions`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gossip_transcriptions as gossip
import pytest
from test_transcriptions import HALF, check_own, experiment, setting


@pytest.mark.parametrize("schedule", ["every", HALF], ids=["all", "some"])
def test_push_sum(tmp_path: Path, schedule: Any) -> None:
    arrows = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 2), (0, 3), (1, 4)]
    topology = {"kind": "edge_list", "pairs": arrows, "directed": True, "weights": "out_degree"}
    of = experiment(True, method="push_sum", topology=topology, schedule=schedule)
    check_own(tmp_path, of, gossip.pushed(setting(of, batch_norm=True), arrows))


@pytest.mark.parametrize("schedule", ["every", HALF], ids=["all", "some"])
def test_gradient_tracking(tmp_path: Path, schedule: Any) -> None:
    method = {"kind": "gradient_tracking", "exchange_lr": 0.8}
    of = experiment(True, method=method, topology="ring", schedule=schedule)
    check_own(tmp_path, of, gossip.ring_gradient_tracking(setting(of, batch_norm=True), 0.8))


@pytest.mark.parametrize("schedule", ["every", HALF], ids=["all", "some"])
def test_quasi_global_momentum(tmp_path: Path, schedule: Any) -> None:
    method = {"kind": "quasi_global_momentum", "beta": 0.8, "mu": 0.7}
    of = experiment(True, method=method, topology="ring", schedule=schedule)
    check_own(tmp_path, of, gossip.ring_quasi_global(setting(of, batch_norm=True), 0.8, 0.7))


@pytest.mark.parametrize("own", [0.5, 0.0])
def test_variance_correction_with_an_own_share(tmp_path: Path, own: float) -> None:
    topology = {"kind": "ring", "own_weight": own}
    of = experiment(True, method="dsgd", topology=topology, schedule="every", aggregator="variance_corrected")
    check_own(tmp_path, of, gossip.ring_corrected(setting(of, batch_norm=True), own))
