"""The round loop, end to end: the same result whoever computes it and however often it is stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from federations import WORLDS, assert_same, small, state_of
from torch import nn

import gossamer
from gossamer.errors import ExperimentError, GossamerError, Interrupted, NodeError, RunError
from gossamer.rounds import Event


@pytest.mark.parametrize("world", WORLDS)
def test_one_or_several_workers_give_bitwise_the_same(world: str, tmp_path: Path) -> None:
    experiment = small(**WORLDS[world])
    eager = gossamer.run(experiment, tmp_path / "eager")
    for workers in (1, 3):
        parallel = gossamer.run(
            experiment.replace(backend="parallel", workers=workers), tmp_path / f"parallel{workers}"
        )
        assert_same(eager, parallel)


@pytest.mark.parametrize("world", WORLDS)
def test_a_run_resumed_after_any_round_equals_an_uninterrupted_one(world: str, tmp_path: Path) -> None:
    experiment = small(**WORLDS[world], checkpoint={"every": 1, "max_share": 1.0})
    whole = gossamer.run(experiment, tmp_path / "whole")
    for stop_after in (1, 3):
        folder = tmp_path / f"stopped{stop_after}"
        with pytest.raises(Interrupted, match="gossamer resume"):
            gossamer.run(experiment, folder, stopper(stop_after))
        assert gossamer.open_run(folder).record["status"] == "interrupted"
        assert_same(whole, gossamer.resume(folder))


def stopper(after: int):  # type: ignore[no-untyped-def]
    """A listener that presses Ctrl-C once a round is done."""

    def listen(event: Event) -> None:
        if event.kind == "round" and event.round == after:
            os.kill(os.getpid(), signal.SIGINT)

    return listen


@pytest.mark.parametrize(
    ("backend", "attempts"),
    [("eager", 2), ("parallel", 2), pytest.param("parallel", 15, marks=pytest.mark.slow)],
)
def test_killed_at_a_random_moment_and_resumed(backend: str, attempts: int, tmp_path: Path) -> None:
    experiment = small(
        rounds=60, method="dsgd", topology="ring", backend=backend, workers=2, checkpoint={"every": 1, "max_share": 1.0}
    )
    whole = gossamer.run(experiment, tmp_path / "whole")
    (tmp_path / "e.toml").write_text(experiment.to_toml())
    script = "import sys, gossamer; gossamer.run(gossamer.Experiment.load(sys.argv[1]), sys.argv[2])"
    dice = random.Random()
    for attempt in range(attempts):
        folder = tmp_path / f"killed{attempt}"
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "e.toml"), str(folder)])
        while not list(folder.glob("checkpoints/round-*")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(dice.random() * 0.5)
        process.kill()
        process.wait()
        assert gossamer.open_run(folder).record["status"] in ("killed", "finished")
        assert_same(whole, gossamer.resume(folder))


def test_killed_before_the_first_checkpoint_starts_again(tmp_path: Path) -> None:
    experiment = small()
    whole = gossamer.run(experiment, tmp_path / "whole")
    begun = gossamer.run(experiment, tmp_path / "begun")
    for path in (begun.folder / "checkpoints").iterdir():
        path.unlink()
    record = (begun.folder / "record.json").read_text().replace('"finished"', '"running"')
    (begun.folder / "record.json").write_text(record)
    assert_same(whole, gossamer.resume(begun.folder))


def test_a_damaged_checkpoint_is_passed_over_and_it_says_so(tmp_path: Path) -> None:
    experiment = small(checkpoint={"every": 1, "max_share": 1.0})
    whole = gossamer.run(experiment, tmp_path / "whole")
    with pytest.raises(Interrupted):
        gossamer.run(experiment, tmp_path / "run", stopper(3))
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(bytes(content))
    warnings: list[str] = []
    run = gossamer.resume(
        tmp_path / "run", lambda e: warnings.append(e.values["text"]) if e.kind == "warning" else None
    )
    assert "damaged" in warnings[0]
    assert_same(whole, run)


def test_a_changed_experiment_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        gossamer.run(small(), tmp_path / "run", stopper(2))
    path = tmp_path / "run" / "experiment.toml"
    path.write_text(path.read_text().replace("rounds = 5", "rounds = 6"))
    with pytest.raises(RunError, match=r"changed.*rounds"):
        gossamer.resume(tmp_path / "run")


def test_data_that_changed_is_not_resumed(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((60, 4)), np.arange(60) % 3
    experiment = small(nodes=3, partition="iid", data=gossamer.Dataset.of(x, y, x, y), model="softmax_regression")
    with pytest.raises(Interrupted):
        gossamer.run(experiment, tmp_path / "run", stopper(2))
    with pytest.raises(ExperimentError, match="pass it again"):
        gossamer.resume(tmp_path / "run")
    with pytest.raises(RunError, match="changed since the run began: data"):
        gossamer.resume(tmp_path / "run", data=gossamer.Dataset.of(x, y[::-1] * 0 + (np.arange(60) > 30), x, y))
    whole = gossamer.run(experiment, tmp_path / "whole")
    assert_same(whole, gossamer.resume(tmp_path / "run", data=gossamer.Dataset.of(x, y, x, y)))


def test_a_finished_run_is_only_opened(tmp_path: Path) -> None:
    run = gossamer.run(small(), tmp_path / "run")
    assert gossamer.resume(tmp_path / "run").metrics.equals(run.metrics)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = small(name="mine", rounds=1)
    assert gossamer.run(experiment).folder == Path("runs/mine-s0")
    assert gossamer.run(experiment).folder == Path("runs/mine-s0-2")
    with pytest.raises(RunError, match="not empty"):
        gossamer.run(experiment, "runs/mine-s0")
    with pytest.raises(RunError, match="does not exist"):
        gossamer.open_run("nowhere")
    with pytest.raises(RunError, match="no run folder"):
        gossamer.resume(tmp_path)


class Exploding(nn.Module):
    """Fails in training at one input only."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and bool((x == 99).any()):
            raise KeyError("the user's own bug")
        return self.line(x.flatten(1))


@pytest.mark.parametrize("backend", ["eager", "parallel"])
def test_a_users_exception_arrives_with_its_traceback_and_the_nodes_number(backend: str, tmp_path: Path) -> None:
    x = np.zeros((40, 64), dtype=np.float32)
    x[25] = 99
    data = gossamer.Dataset.of(x, np.arange(40) % 10, x[:10], np.arange(10))
    split = list(np.arange(40).reshape(4, 10))
    experiment = small(
        nodes=4, data=data, partition=split, model=Exploding(), backend=backend, workers=2, validation=0.0,
        preprocess={"normalise": "none"}, learner={"kind": "sgd", "batch_size": 10},
    )  # fmt: skip
    with pytest.raises(NodeError) as caught:
        gossamer.run(experiment, tmp_path / "run")
    assert (caught.value.node, caught.value.round, caught.value.stage) == (2, 1, "train")
    assert "the user's own bug" in caught.value.traceback
    assert "in forward" in caught.value.traceback
    assert gossamer.open_run(tmp_path / "run").record["status"] == "failed"


@pytest.mark.parametrize("backend", ["eager", "parallel", "vmap"])
def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    backend: str, tmp_path: Path
) -> None:
    experiment = small(
        backend=backend, workers=2, rounds=50, learner={"kind": "sgd", "lr": 1e30, "warmup_rounds": 40, "steps": 1},
        checkpoint={"every": 1, "max_share": 1.0}, preprocess={"normalise": "none"},
    )  # fmt: skip
    with pytest.raises(NodeError, match=r"lower learner\.lr") as caught:
        gossamer.run(experiment, tmp_path / "run")
    assert caught.value.stage in ("train", "merge")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        from gossamer.checkpoint import read_checkpoint

        assert all(bool(t.isfinite().all()) for t in read_checkpoint(path)[1].values())


def test_a_worker_that_dies_is_named(tmp_path: Path) -> None:
    from gossamer.backends.parallel import Parallel
    from gossamer.federation import Federation

    federation = Federation(small())
    backend = Parallel(federation, 2)
    os.kill(backend._crew[1].process.pid, signal.SIGKILL)
    with pytest.raises(GossamerError, match="killed by signal 9"):
        list(backend.train(0, np.arange(10)))
    backend.close()


def test_a_full_disk_stops_the_run_with_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    experiment = small(checkpoint={"every": 1, "max_share": 1.0})
    with pytest.raises(RunError, match=r"disk is full.*gossamer resume"):
        gossamer.run(experiment, tmp_path / "run")
    monkeypatch.undo()
    assert not list((tmp_path / "run").rglob(".*"))
    assert_same(gossamer.resume(tmp_path / "run"), gossamer.run(experiment, tmp_path / "whole"))


def test_a_model_that_does_not_fit_the_labels(tmp_path: Path) -> None:
    for model, message in (
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), "10 classes"),
        (nn.Linear(5, 5), "cannot take"),
    ):
        for attempt in (lambda e: gossamer.run(e, tmp_path / "run"), gossamer.plan):
            with pytest.raises(ExperimentError, match=message):
                attempt(small(model=model))
    assert not (tmp_path / "run").exists()


def test_a_model_from_the_users_own_file(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self, width=8):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))\n"
    )
    experiment = small(model={"file": str(tmp_path / "net.py"), "arguments": {"width": 12}}, rounds=2)
    run = gossamer.run(experiment, tmp_path / "run")
    assert run.record["parameters"] == 64 * 12 + 12 + 12 * 10 + 10
    assert gossamer.open_run(tmp_path / "run").model()[1].weight.shape == (12, 64)
    with pytest.raises(ExperimentError, match=r"model\.arguments.*wdth"):
        gossamer.run(small(model={"file": str(tmp_path / "net.py"), "arguments": {"wdth": 12}}), tmp_path / "x")


def test_a_graph_in_pieces_is_warned_of(tmp_path: Path) -> None:
    heard: list[str] = []
    experiment = small(nodes=4, method="dsgd", topology=[(0, 1), (2, 3)], rounds=1)
    gossamer.run(experiment, tmp_path / "run", lambda e: heard.append(e.values.get("text", "")))
    assert any("not connected: 2 components" in text for text in heard)


@pytest.mark.parametrize("world", WORLDS)
def test_the_plan_knows_the_bytes(world: str, tmp_path: Path) -> None:
    experiment = small(**WORLDS[world])
    plan = gossamer.plan(experiment)
    run = gossamer.run(experiment, tmp_path / "run")
    assert plan.bytes_total == run.summary()["bytes"]
    assert plan.message_bytes == run.record["message_bytes"]
    assert list(plan.samples) == run.record["samples"]
    assert plan.parameters == run.record["parameters"]


def test_the_frozen_part_is_counted_once_and_stays_as_it_was(tmp_path: Path) -> None:
    experiment = small(parametrisation={"kind": "identity", "freeze": ["1.*"]})
    plan = gossamer.plan(experiment)
    run = gossamer.run(experiment, tmp_path / "run")
    assert plan.setup_bytes == run.record["setup_bytes"] > 10 * 4 * 64 * 16
    assert plan.bytes_total == run.summary()["bytes"]
    assert run.record["parameters"] == 16 * 10 + 10
    again = gossamer.run(experiment.replace(rounds=1), tmp_path / "short")
    assert torch.equal(run.model()[1].weight, again.model()[1].weight)
    assert not torch.equal(run.model()[3].weight, again.model()[3].weight)


def test_evaluation_is_planned(tmp_path: Path) -> None:
    experiment = small(method="dsgd", topology="ring", rounds=7, evaluate={"every": 3, "nodes": 4, "items": 50})
    run = gossamer.run(experiment, tmp_path / "run")
    tested = run.metrics.filter(pc.field("test_accuracy").is_valid())
    assert sorted(set(tested["round"].to_pylist())) == [3, 6, 7]
    assert len(set(tested["node"].to_pylist())) == 4 + 1
    hits = np.array(tested["test_accuracy"].to_pylist()) * 50
    assert np.allclose(hits, hits.round())


def test_metrics_of_every_node_and_of_the_merged_model(tmp_path: Path) -> None:
    run = gossamer.run(small(method="dsgd", topology="ring"), tmp_path / "run")
    last = run.metrics.filter(pc.field("round") == 5).to_pydict()
    assert last["node"] == list(range(-1, 10))
    assert all(v is not None for v in last["test_accuracy"])
    assert run.rounds["consensus_distance"].to_pylist()[-1] > 0
    model = run.model(node=3)
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), state_of(run)["state.row"][3])
    mean = state_of(run)["state.row"].double().mean(0)
    merged = nn.utils.parameters_to_vector(run.model().parameters()).double()
    assert torch.allclose(merged, mean, atol=1e-6)


def test_local_work_in_epochs_visits_every_item_once() -> None:
    from gossamer.training import batches

    learner = small(learner={"kind": "sgd", "batch_size": 7, "epochs": 2}).learner
    seen = list(batches(0, 1, 2, 30, learner))
    assert [len(b) for b in seen] == [7, 7, 7, 7, 2] * 2
    assert sorted(np.concatenate(seen[:5])) == list(range(30))
    assert sorted(np.concatenate(seen[5:])) == list(range(30))
    steps = small(learner={"kind": "sgd", "batch_size": 7, "steps": 9}).learner
    assert [len(b) for b in batches(0, 1, 2, 30, steps)] == [7] * 9
    assert [len(b) for b in batches(0, 1, 2, 4, steps)] == [4] * 9


def test_metrics_agree_with_scikit_learn() -> None:
    from sklearn import metrics

    from gossamer.counts import Counts

    dice = np.random.default_rng(0)
    true, scores = dice.integers(2, size=200), dice.standard_normal(200).round(1)
    said = (scores > 0).astype(int)
    hits, counts = np.bincount(true[true == said], minlength=2), (np.bincount(true), np.bincount(said))
    ours = Counts(12.0, hits, *counts, scores, true).metrics()
    assert ours["accuracy"] == pytest.approx(metrics.accuracy_score(true, said))
    assert ours["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(true, said))
    assert ours["f1"] == pytest.approx(metrics.f1_score(true, said, average="macro"))
    assert ours["auc"] == pytest.approx(metrics.roc_auc_score(true, scores))
    assert set(Counts.none(3).metrics().values()) == {None}
