"""vmap agrees with eager, and refuses what it cannot batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from federations import WORLDS, small, state_of
from torch import nn

import gossamer
from gossamer.backends.vmap import Vmap
from gossamer.errors import ExperimentError
from gossamer.federation import Federation


@pytest.mark.parametrize("world", WORLDS)
def test_float64_runs_agree(world: str, tmp_path: Path) -> None:
    experiment = small(**{**WORLDS[world], "transforms": []}, dtype="float64")
    eager = gossamer.run(experiment, tmp_path / "eager")
    batched = gossamer.run(experiment.replace(backend="vmap"), tmp_path / "vmap")
    for name, value in state_of(eager).items():
        assert torch.allclose(state_of(batched)[name], value, rtol=0, atol=1e-9), name


def test_unequal_epochs_and_an_adaptive_learner_agree(tmp_path: Path) -> None:
    experiment = small(
        dtype="float64",
        partition={"kind": "quantity", "alpha": 0.3, "min_size": 3},
        learner={"kind": "adamw", "lr": 0.01, "batch_size": 8, "epochs": 2, "clip_norm": 1.0, "label_smoothing": 0.1},
        method={"kind": "dsgd"},
        topology="ring",
    )
    eager = gossamer.run(experiment, tmp_path / "eager")
    batched = gossamer.run(experiment.replace(backend="vmap"), tmp_path / "vmap")
    for name, value in state_of(eager).items():
        assert torch.allclose(state_of(batched)[name], value, rtol=0, atol=1e-9), name
    ours, theirs = batched.curve("train_loss")[1], eager.curve("train_loss")[1]
    assert ours == pytest.approx(theirs, abs=1e-9)


def lenet(dtype: str, **changes: Any) -> gossamer.Experiment:
    """LeNet-5 on random images of 28x28."""
    import numpy as np

    dice = np.random.default_rng(0)
    images = dice.integers(0, 256, (200, 1, 28, 28)).astype(np.uint8)
    data = gossamer.Dataset.of(images, np.arange(200) % 10, images[:20], np.arange(20) % 10)
    return small(
        data=data, nodes=5, partition="iid", model="lenet5", dtype=dtype, validation=0.0,
        learner={"kind": "sgd", "lr": 0.05, "batch_size": 10, "steps": 4}, **changes,
    )  # fmt: skip


def test_lenet_in_float64_after_five_rounds(tmp_path: Path) -> None:
    eager = gossamer.run(lenet("float64"), tmp_path / "eager")
    batched = gossamer.run(
        lenet(
            "float64",
        ).replace(backend="vmap"),
        tmp_path / "vmap",
    )
    apart = (state_of(eager)["state.row"] - state_of(batched)["state.row"]).abs().max()
    assert float(apart) < 1e-9


def test_lenet_in_float32_first_gradients_and_twenty_small_steps(tmp_path: Path) -> None:
    batched, eager = Vmap(Federation(lenet("float32"))).first_gradients()
    assert float((batched - eager).abs().max()) < 1e-6
    short = lenet("float32").replace(learner={"kind": "sgd", "lr": 0.01, "batch_size": 10, "steps": 20}, rounds=1)
    one, other = gossamer.run(short, tmp_path / "e"), gossamer.run(short.replace(backend="vmap"), tmp_path / "v")
    assert float((state_of(one)["state.row"] - state_of(other)["state.row"]).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("layer", "reason"), [(nn.Dropout(0.5), "Dropout draws"), (nn.BatchNorm1d(16), "buffers that change")]
)
def test_layers_that_draw_or_keep_statistics_are_refused(layer: nn.Module, reason: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), layer, nn.Linear(16, 10))
    with pytest.raises(ExperimentError, match=reason):
        gossamer.run(small(model=model, backend="vmap"), tmp_path / "run")
    gossamer.run(small(model=model, rounds=2), tmp_path / "eager")


def test_a_module_that_cannot_be_batched_is_refused(tmp_path: Path) -> None:
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.line(x.flatten(1))
            return out * 2 if bool((out > 0).all()) else out

    with pytest.raises(ExperimentError, match="cannot be batched"):
        gossamer.run(small(model=Choosy(), backend="vmap"), tmp_path / "run")
