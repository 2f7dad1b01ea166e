"""Private local work: examples drawn by coins, noise of the right size, and what cannot hide an example refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_modules import transcribed
from federations import assert_same, small, state_of
from scipy import stats
from torch import nn
from torch.nn.functional import cross_entropy

import gossamer
from gossamer.errors import ExperimentError, NodeError
from gossamer.example_gradients import PrivateSteps, check_examples
from gossamer.federation import Federation
from gossamer.methods import Task
from gossamer.partitions.function import FunctionPartition
from gossamer.preprocessing import augment
from gossamer.randomness import generator

# ---- what has no gradient of single examples -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.BatchNorm2d(16),
            r"layer '1' is nn\.BatchNorm2d\(16\).* replace .* by nn\.GroupNorm\(4, 16\).*ModuleValidator",
        ),
        (nn.BatchNorm2d(6, track_running_stats=False), r"by nn\.GroupNorm\(1, 6\)"),
        (nn.SyncBatchNorm(64), r"nn\.SyncBatchNorm\(64\).* by nn\.GroupNorm\(16, 64\)"),
        (nn.InstanceNorm2d(16, track_running_stats=True), r"layer '1' keeps statistics .*track_running_stats=False"),
        (nn.Embedding(9, 3, max_norm=1.0), r"layer '1' has max_norm = 1\.0"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), r"buffer '1\..*persistent=False"),
    ],
)
def test_layers_that_mix_or_remember_are_refused_with_a_way_out(layer: nn.Module, message: str) -> None:
    module = nn.Sequential(nn.Linear(3, 3), layer)
    with pytest.raises(ExperimentError, match=message):
        check_examples(module)
    with torch.device("meta"), pytest.raises(ExperimentError, match=message):
        check_examples(module.to("meta"))


def test_a_module_that_remembers_examples_is_refused() -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(64, 10)
            self.register_buffer("mean", torch.zeros(64), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.mean.lerp_(x.detach().flatten(1).mean(0), 0.1)
            return self.out(x.flatten(1) - self.mean)

    with pytest.raises(ExperimentError, match=r"buffer 'mean' changes in training"):
        Federation(private(model=Remembering()))


def test_the_replacement_that_is_offered_works() -> None:
    module = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16 * 36, 10))
    private = {"kind": "per_example", "noise_multiplier": 1.0}
    with pytest.raises(ExperimentError, match=r"nn\.GroupNorm\(4, "):
        Federation(small(model=module, privacy=private))
    module[1] = nn.GroupNorm(4, 16)
    assert steps_of(Federation(small(model=module, privacy=private))).examples.route == "opacus"


@pytest.mark.parametrize(
    "partition",
    [
        {"kind": "dirichlet_pool", "alpha": 1.0},
        {"kind": "dirichlet_pool", "alpha": 1.0, "resample": False},
        FunctionPartition.wrap(
            [np.arange(50), np.arange(40, 90)] + [np.arange(90 + 9 * i, 99 + 9 * i) for i in range(8)]
        ),
    ],
)
def test_nodes_that_share_examples_are_refused(partition: Any) -> None:
    with pytest.raises(ExperimentError, match=r"partition\.kind = '.*nodes share examples.*'dirichlet'"):
        Federation(private(partition=partition))


def test_the_vmap_back_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"backend = 'vmap': per-example privacy works in 'eager' and 'parallel'"):
        gossamer.run(private(backend="vmap"), tmp_path / "run")


# ---- steps of local work ---------------------------------------------------------------------------------------------


def private(z: float = 1.0, clip: float = 1.0, **changes: Any) -> gossamer.Experiment:
    """Private, one epoch of batches of 16, in float64."""
    mechanism = {"kind": "per_example", "noise_multiplier": z, "clip": clip}
    learner = {"kind": "sgd", "lr": 0.5, "batch_size": 16, "steps": 3}
    return small(**{"privacy": mechanism, "learner": learner, "dtype": "float64"} | changes)


def steps_of(federation: Federation) -> PrivateSteps:
    found = federation.trainer._private
    assert found is not None
    return found


def drawn(federation: Federation, node: int, round: int, step: int) -> np.ndarray[Any, Any]:
    """The items of a step."""
    mine = federation.shards.items_of(node)
    batch = federation.experiment.learner.batch_size
    return mine[
        generator(federation.experiment.seed, "examples", node, round, step).random(len(mine)) < batch / len(mine)
    ]


def test_without_noise_and_bound_a_step_is_the_mean_gradient_of_those_drawn_times_their_share() -> None:
    federation = Federation(private(0.0, 1e9))
    items, module = federation.items, federation.resident.module
    for step in range(5):
        taken = torch.from_numpy(drawn(federation, 2, 1, step))
        loss = cross_entropy(module(items.inputs[taken]), items.labels[taken])
        mean = torch.cat(federation.resident.gradients(loss))
        found = steps_of(federation).step(2, 1, step)
        assert torch.allclose(torch.cat(found.grads), mean * len(taken) / 16, rtol=0, atol=1e-13)
        assert found.loss / found.seen == pytest.approx(float(loss.detach()))


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "scaffold"])
def test_all_examples_without_noise_train_as_without_privacy(method: str, tmp_path: Path) -> None:
    """Batches that hold all items are the same either way, and so is what learner and method make of the gradient."""
    learner = {
        "kind": "sgd", "lr": 0.1, "batch_size": 10_000, "steps": 3, "clip_norm": 0.5, "weight_decay": 0.01,
        "label_smoothing": 0.1,
    } | ({} if method == "scaffold" else {"momentum": 0.9})  # fmt: skip
    plain = private(privacy="none", learner=learner, method=method, rounds=3)
    hidden = private(0.0, 1e9, learner=learner, method=method, rounds=3)
    runs = [gossamer.run(experiment, tmp_path / experiment.privacy.kind) for experiment in (plain, hidden)]
    rows = [state_of(run)["state.row"] for run in runs]
    assert torch.allclose(rows[0], rows[1], rtol=0, atol=1e-9)
    assert runs[0].curve("train_loss")[1] == pytest.approx(runs[1].curve("train_loss")[1], abs=1e-9)


def test_a_step_that_draws_nobody_moves_along_noise_alone() -> None:
    federation = Federation(private(learner={"kind": "sgd", "lr": 0.5, "batch_size": 1, "steps": 1}))
    empty = next(round for round in range(50) if not len(drawn(federation, 0, round, 0)))
    before = federation.resident.row.clone()
    result = federation.trainer.train(Task(before), 0, empty)
    noise = generator(0, "privacy", 0, empty, 0).normal(0.0, 1.0, len(before))
    assert torch.allclose(result.row, before - 0.5 * torch.from_numpy(noise), rtol=0, atol=1e-12)
    assert math.isnan(result.loss)
    assert math.isnan(result.accuracy)
    assert result.steps == 1


def test_the_divisor_is_the_expected_size_of_a_batch() -> None:
    """Noise of standard deviation z C / B, whoever was drawn; B is at most the number of items."""
    for batch, divisor in ((16, 16), (10_000, None)):
        learner = {"kind": "sgd", "lr": 0.5, "batch_size": batch, "steps": 1}
        silent, loud = (Federation(private(z, 0.3, learner=learner)) for z in (0.0, 2.0))
        for step in range(3):
            noise = torch.cat(steps_of(loud).step(1, 0, step).grads) - torch.cat(
                steps_of(silent).step(1, 0, step).grads
            )
            count = divisor or len(loud.shards.items_of(1))
            expected = generator(0, "privacy", 1, 0, step).normal(0.0, 0.6, len(noise)) / count
            assert torch.allclose(noise, torch.from_numpy(expected), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_noise_is_normal_and_as_large_as_the_multiplier_says(dtype: str) -> None:
    silent, loud = (Federation(private(z, 0.5, dtype=dtype)) for z in (0.0, 3.0))
    pairs = [(node, step) for node in range(10) for step in range(9)]
    noise = torch.cat(
        [
            torch.cat(steps_of(loud).step(node, 0, step).grads) - torch.cat(steps_of(silent).step(node, 0, step).grads)
            for node, step in pairs
        ]
    )
    draws = noise.double().numpy() * 16 / (3.0 * 0.5)
    assert len(draws) >= 100_000
    assert stats.kstest(draws, "norm").pvalue > 1e-4
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], len(draws))
    assert low < float((draws**2).sum()) < high
    lag = len(draws) // len(pairs)
    assert abs(float(np.corrcoef(draws[:-lag], draws[lag:])[0, 1])) < 5 / math.sqrt(len(draws))


def test_examples_are_drawn_by_coins() -> None:
    """The number drawn is binomial, and every item is drawn as often as any other."""
    federation = Federation(private(0.0, partition="iid"))
    steps, mine = steps_of(federation), federation.shards.items_of(3)
    sizes = np.array([steps.step(3, 0, step).seen for step in range(800)])
    rate = 16 / len(mine)
    variance = len(mine) * rate * (1 - rate)
    assert abs(sizes.mean() - 16) < 4.5 * math.sqrt(variance / len(sizes))
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], len(sizes) - 1)
    assert low < (len(sizes) - 1) * sizes.var(ddof=1) / variance < high
    times = np.bincount(np.concatenate([np.searchsorted(mine, drawn(federation, 3, 0, s)) for s in range(800)]))
    spread = ((times - 800 * rate) ** 2 / (800 * rate * (1 - rate))).sum()
    assert stats.chi2.sf(spread, len(mine)) > 1e-5
    others = [drawn(federation, 3, 0, 0), drawn(federation, 3, 0, 1), drawn(federation, 3, 1, 0)]
    assert len({tuple(items.tolist()) for items in others}) == 3


def test_an_example_is_clipped_as_it_was_augmented() -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8)).astype(np.uint8)
    data = gossamer.Dataset.of(images, np.arange(60) % 3, images[:9], np.arange(9) % 3)
    federation = Federation(
        private(
            0.0, 0.1, data=data, nodes=2, partition="iid", preprocess={"crop": 2, "flip": True, "normalise": "none"}
        )
    )
    taken = torch.from_numpy(drawn(federation, 1, 4, 2))
    inputs = augment(federation.items.inputs[taken], 2, True, generator(0, "augment", 1, 4, 2))
    wanted = transcribed(federation.resident.module, inputs, federation.items.labels[taken], 0.1) / 16
    assert torch.allclose(torch.cat(steps_of(federation).step(1, 4, 2).grads), wanted, rtol=0, atol=1e-12)


def test_a_gradient_that_is_not_finite_names_node_and_round() -> None:
    federation = Federation(private())
    federation.items.inputs[federation.shards.items_of(4)[0]] = math.nan
    row = federation.resident.row.clone()
    with pytest.raises(NodeError, match=r"node 4, round 3, stage train: .* has norm nan at local step \d; lower"):
        federation.trainer.train(Task(row, steps=50), 4, 2)


def test_nothing_is_gathered_ahead(tmp_path: Path) -> None:
    federation = Federation(private())
    federation.items.look_ahead(np.arange(10), federation.experiment, 0)
    assert not federation.items._ahead


@pytest.mark.parametrize(
    "model", [{"kind": "mlp", "hidden": [8]}, nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))]
)
def test_runs_repeat_and_do_not_depend_on_workers(model: Any, tmp_path: Path) -> None:
    experiment = private(model=model, rounds=3, dtype="float32")
    first = gossamer.run(experiment, tmp_path / "first")
    assert_same(first, gossamer.run(experiment, tmp_path / "again"))
    shared = experiment.replace(backend="parallel", workers=2)
    assert_same(first, gossamer.run(shared, tmp_path / "shared"))
    other = gossamer.run(experiment.replace(seed=1), tmp_path / "other")
    assert not torch.equal(state_of(first)["state.row"], state_of(other)["state.row"])


def test_sequences_are_examples(tmp_path: Path) -> None:
    """A recurrent model on tokens runs, and its loss is that of all positions."""
    dice = np.random.default_rng(0)
    tokens, after = dice.integers(0, 9, (80, 6)), dice.integers(0, 9, (80, 6))
    experiment = private(
        0.1, 0.5, data=gossamer.Dataset.of(tokens, after, tokens[:9], after[:9]), nodes=2, partition="iid", rounds=2,
        model={"kind": "char_gru", "hidden": 8}, preprocess={"normalise": "none"},
    )  # fmt: skip
    federation = Federation(experiment)
    assert steps_of(federation).examples.route == "vmap"
    taken = torch.from_numpy(drawn(federation, 0, 0, 0))
    wanted = transcribed(
        federation.resident.module, federation.items.inputs[taken], federation.items.labels[taken], 0.5
    )
    noise = torch.from_numpy(generator(0, "privacy", 0, 0, 0).normal(0.0, 0.05, len(wanted)))
    found = steps_of(federation).step(0, 0, 0)
    assert torch.allclose(torch.cat(found.grads), (wanted + noise) / 16, rtol=0, atol=1e-11)
    assert found.seen == 6 * len(taken)
    assert len(gossamer.run(experiment, tmp_path / "run").curve("train_loss")[1]) > 0
