"""The engine and the methods against slow transcriptions in plain PyTorch: float64, several rounds, to 1e-9."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transcriptions as plain
from torch import Tensor, nn

import gossamer
from gossamer.experiment import Experiment
from gossamer.federation import Federation
from gossamer.training import batches

SIZES = (17, 40, 23, 61, 35)
HALF = {"kind": "every", "participation": 0.6}


def dataset() -> gossamer.Dataset:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(240, 6))
    labels = np.argmax(inputs @ rng.normal(size=(6, 3)) + 0.5 * rng.normal(size=(240, 3)), axis=1)
    return gossamer.Dataset.of(inputs[:200], labels[:200], inputs[200:], labels[200:])


def network(batch_norm: bool) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        middle: list[nn.Module] = [nn.BatchNorm1d(8)] if batch_norm else []
        # A bias before batch normalisation has no gradient but rounding errors, which Adam would blow up.
        return nn.Sequential(nn.Linear(6, 8, bias=not batch_norm), *middle, nn.Tanh(), nn.Linear(8, 3)).double()


def experiment(batch_norm: bool = False, **settings: Any) -> Experiment:
    ends = np.cumsum(SIZES)
    values: dict[str, Any] = {
        "data": dataset(),
        "nodes": len(SIZES),
        "partition": [np.arange(end - size, end) for size, end in zip(SIZES, ends, strict=True)],
        "preprocess": {"normalise": "none"},
        "validation": 0.0,  # no last batch of one item, which batch normalisation refuses
        "model": network(batch_norm),
        "dtype": "float64",
        "rounds": 4,
        "seed": 3,
        "schedule": HALF,
        "learner": {"kind": "sgd", "lr": 0.2, "batch_size": 7, "epochs": 2},
        "evaluate": {"every": 0},
        "backend": "eager",
    }
    return Experiment(**{**values, **settings})


def setting(of: Experiment, optimiser: plain.Optimiser | None = None, batch_norm: bool = False) -> plain.Setting:
    """The same for the transcriptions: who holds what, who takes part when, in which order the items come."""
    federation, lr = Federation(of), of.learner.lr
    items = federation.items
    data = [(items.inputs[part], items.labels[part]) for part in federation.shards.train]
    return plain.Setting(
        network(batch_norm),
        data,
        [federation.participants(round).tolist() for round in range(of.rounds)],
        lambda node, round: batches(of.seed, node, round, len(data[node][1]), of.learner),
        optimiser or (lambda parameters: torch.optim.SGD(parameters, lr)),
        lr,
    )


def agree(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if ours[name].is_floating_point():
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def check_common(tmp_path: Path, of: Experiment, expected: dict[str, Tensor]) -> None:
    start = network(any("running" in name for name in expected)).state_dict()
    moved = max(float((expected[name] - start[name]).abs().max()) for name in start if "batches" not in name)
    assert moved > 0.01  # the comparison would mean nothing if nothing had been learned
    agree(gossamer.run(of, tmp_path / "run").model().state_dict(), expected)


def check_own(tmp_path: Path, of: Experiment, expected: list[dict[str, Tensor]]) -> None:
    run = gossamer.run(of, tmp_path / "run")
    for node, state in enumerate(expected):
        agree(run.model(node).state_dict(), state)
    assert any(not torch.equal(expected[0][name], expected[1][name]) for name in expected[0])


# ---- local learners --------------------------------------------------------------------------------------------

LEARNERS: list[tuple[dict[str, Any], plain.Optimiser]] = [
    ({"kind": "sgd", "lr": 0.2}, lambda p: torch.optim.SGD(p, 0.2)),
    (
        {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    ({"kind": "adam", "lr": 0.02, "weight_decay": 0.1}, lambda p: torch.optim.Adam(p, 0.02, weight_decay=0.1)),
    ({"kind": "adamw", "lr": 0.02, "weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0.1)),
]


@pytest.mark.parametrize(("learner", "optimiser"), LEARNERS, ids=["sgd", "nesterov", "adam", "adamw"])
def test_fedavg_with_each_learner(tmp_path: Path, learner: dict[str, Any], optimiser: plain.Optimiser) -> None:
    of = experiment(True, learner={**learner, "batch_size": 7, "epochs": 2})
    check_common(tmp_path, of, plain.fedavg(setting(of, optimiser, True)))


@pytest.mark.parametrize(("learner", "optimiser"), LEARNERS, ids=["sgd", "nesterov", "adam", "adamw"])
@pytest.mark.parametrize("amount", [{"epochs": 1}, {"steps": 5}], ids=["epochs", "steps"])
def test_local_with_each_learner(
    tmp_path: Path, learner: dict[str, Any], optimiser: plain.Optimiser, amount: dict[str, int]
) -> None:
    of = experiment(method="local", learner={**learner, "batch_size": 7, **amount})
    check_own(tmp_path, of, plain.alone(setting(of, optimiser)))


def test_centralised(tmp_path: Path) -> None:
    of = experiment(method="centralised", schedule="every")
    given = setting(of)
    assert len(given.data) == 1
    agree(gossamer.run(of, tmp_path / "run").model().state_dict(), plain.alone(given)[0])


# ---- methods with a server -------------------------------------------------------------------------------------


def test_fedprox(tmp_path: Path) -> None:
    of = experiment(method={"kind": "fedprox", "mu": 0.7})
    check_common(tmp_path, of, plain.fedavg(setting(of), mu=0.7))


@pytest.mark.parametrize("server_lr", [1.0, 0.6])
def test_fedavgm(tmp_path: Path, server_lr: float) -> None:
    of = experiment(True, method={"kind": "fedavgm", "beta": 0.8, "server_lr": server_lr})
    check_common(tmp_path, of, plain.fedavgm(setting(of, batch_norm=True), 0.8, server_lr))


@pytest.mark.parametrize("kind", ["fedadagrad", "fedyogi", "fedadam"])
def test_adaptive_servers(tmp_path: Path, kind: str) -> None:
    second = {} if kind == "fedadagrad" else {"beta2": 0.9}
    of = experiment(True, method={"kind": kind, "server_lr": 0.05, "beta1": 0.7, "tau": 0.01, **second})
    check_common(tmp_path, of, plain.adaptive(setting(of, batch_norm=True), kind, 0.05, 0.7, 0.9, 0.01))


@pytest.mark.parametrize(
    ("momentum", "nesterov", "mu"), [(0.0, False, 0.0), (0.9, False, 0.0), (0.9, True, 0.0), (0.5, False, 0.5)]
)
def test_fednova(tmp_path: Path, momentum: float, nesterov: bool, mu: float) -> None:
    learner = {"kind": "sgd", "lr": 0.1, "batch_size": 7, "momentum": momentum, "nesterov": nesterov}
    of = experiment(method={"kind": "fednova", "mu": mu}, learner=learner)
    given = setting(of, lambda p: torch.optim.SGD(p, 0.1, momentum=momentum, nesterov=nesterov))
    check_common(tmp_path, of, plain.fednova(given, momentum, nesterov, mu))


@pytest.mark.parametrize("server_lr", [1.0, 0.6])
def test_scaffold(tmp_path: Path, server_lr: float) -> None:
    of = experiment(method={"kind": "scaffold", "server_lr": server_lr}, rounds=6)
    check_common(tmp_path, of, plain.scaffold(setting(of), server_lr))


def test_fedper(tmp_path: Path) -> None:
    of = experiment(True, method="fedper")
    check_own(tmp_path, of, plain.fedper(setting(of, batch_norm=True), "3."))


def test_finetune(tmp_path: Path) -> None:
    of = experiment(method={"kind": "finetune", "steps": 4})
    given = setting(of)
    after = [
        list(batches(of.seed, k, of.rounds, len(given.data[k][1]), of.learner, steps=4)) for k in range(len(SIZES))
    ]
    assert [len(indices) for indices in after] == [4] * len(SIZES)
    check_own(tmp_path, of, plain.finetuned(given, after.__getitem__))


# ---- without a server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["every", HALF], ids=["all", "some"])
def test_dsgd_on_a_ring_with_momentum(tmp_path: Path, schedule: Any) -> None:
    learner = {"kind": "sgd", "lr": 0.1, "batch_size": 7, "epochs": 1, "momentum": 0.9}
    of = experiment(True, method="dsgd", topology="ring", schedule=schedule, learner=learner)
    given = setting(of, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), True)
    expected = plain.ring_dsgd(given)
    check_own(tmp_path, of, expected)
    common = gossamer.run(of, tmp_path / "again").model().state_dict()
    agree(common, plain.mean_of(expected, [1.0] * len(SIZES)))


def test_settings_reach_the_transcriptions() -> None:
    """Part of the nodes take part in each round, and they hold different numbers of items."""
    given = setting(experiment())
    assert [len(chosen) for chosen in given.participants] == [3] * 4
    assert len({tuple(chosen) for chosen in given.participants}) > 1
    assert len({len(labels) for _, labels in given.data}) == len(SIZES)
