"""What users really bring: odd modules, odd data, odd folders, odd moments. Each once went wrong."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from federations import assert_same, small, state_of
from torch import nn

import gossamer
from gossamer.aggregators import Aggregator
from gossamer.errors import ExperimentError, Interrupted, NodeError, RunError
from gossamer.rounds import Event


class Drifting(nn.Module):
    """Replaces a buffer in training instead of changing it in place, and counts in one that belongs to no row."""

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.line = nn.Linear(64, 10)
        self.register_buffer("mean", torch.zeros(64), persistent=persistent)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            self.seen = self.seen + len(x)
        return self.line(x - self.mean)


@pytest.mark.parametrize("persistent", [True, False])
def test_replaced_buffers_stay_with_their_node(persistent: bool, tmp_path: Path) -> None:
    experiment = small(model=Drifting(persistent), rounds=3)
    eager = gossamer.run(experiment, tmp_path / "eager")
    for workers in (1, 2):
        parallel = gossamer.run(experiment.replace(backend="parallel", workers=workers), tmp_path / f"p{workers}")
        assert_same(eager, parallel)
    mean = eager.model().mean
    assert bool((mean != 0).any()) == persistent


def test_buffers_that_cannot_be_averaged_are_named(tmp_path: Path) -> None:
    class Masked(Drifting):
        def __init__(self, value: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("mask", value)

    for value in (torch.tensor([0.0, -torch.inf]), torch.tensor([2**24 + 1])):
        with pytest.raises(ExperimentError, match="buffer 'mask'"):
            gossamer.run(small(model=Masked(value)), tmp_path / "run")


def test_another_frozen_part_or_other_data_is_not_resumed(tmp_path: Path) -> None:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))

    experiment = small(model=network(0), parametrisation={"freeze": ["1.*"]})
    with pytest.raises(Interrupted):
        gossamer.run(experiment, tmp_path / "run", after_round(1))
    with pytest.raises(RunError, match="frozen part"):
        gossamer.resume(tmp_path / "run", model=network(1))
    assert gossamer.resume(tmp_path / "run", model=network(0)).record["status"] == "finished"


def after_round(number: int) -> Any:
    """A listener that presses Ctrl-C once a round is done."""

    def listen(event: Event) -> None:
        if event.kind == "round" and event.round == number:
            os.kill(os.getpid(), signal.SIGINT)

    return listen


def test_vmap_refuses_items_that_see_one_another(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 10)
    )
    with pytest.raises(ExperimentError, match="gradient differs from eager"):
        gossamer.run(small(model=model, backend="vmap"), tmp_path / "run")


@pytest.mark.parametrize(
    ("train", "labels", "test", "message"),
    [
        (np.zeros((9, 4), np.uint8), np.arange(9) % 3, np.zeros((9, 4)), "test inputs are float64"),
        (np.zeros((9, 4)), np.arange(9) % 3, np.zeros((9, 5)), r"test inputs are float64 \[5\]"),
        (np.zeros((9, 4)), np.full(9, 0.9), np.zeros((9, 4)), "whole numbers"),
        (np.zeros((9, 4)), np.arange(8) % 3, np.zeros((9, 4)), "9 inputs but 8 labels"),
        (np.full((9, 4), np.nan), np.arange(9) % 3, np.zeros((9, 4)), "NaN"),
    ],
)
def test_data_that_does_not_fit_is_refused(train: Any, labels: Any, test: Any, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        gossamer.Dataset.of(train, labels, test, np.arange(9) % 3)


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    source = "from torch import nn\ndef net(w={}):\n    "
    source += "return nn.Sequential(nn.Flatten(), nn.Linear(64, w), nn.Linear(w, 10))\n"
    file = tmp_path / "net.py"
    experiment = {"model": {"file": str(file), "name": "net"}, "rounds": 1}
    for width in (3, 11):
        file.write_text(source.format(width))
        assert gossamer.run(small(**experiment), tmp_path / f"{width}").model()[1].out_features == width


def test_two_runs_in_two_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 10))
    experiment = small(model=model)
    alone = gossamer.run(experiment, tmp_path / "alone")
    threads = [threading.Thread(target=gossamer.run, args=(experiment, tmp_path / f"t{i}")) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert_same(alone, gossamer.open_run(tmp_path / f"t{i}"))


def test_a_node_that_hears_nobody_keeps_its_exact_row_whatever_the_transforms(tmp_path: Path) -> None:
    lonely = {"method": "dsgd", "topology": [(0, 1)], "nodes": 3, "rounds": 3, "dtype": "float64"}
    plain = gossamer.run(small(**lonely), tmp_path / "plain")
    cast = gossamer.run(small(**lonely, transforms=[{"kind": "cast"}]), tmp_path / "cast")
    rows, others = state_of(plain)["state.row"], state_of(cast)["state.row"]
    assert torch.equal(rows[2], others[2])
    assert not torch.equal(rows[0], others[0])


def _run_here(place: str, lr: float) -> None:
    os.chdir(place)
    gossamer.run(small(learner={"kind": "sgd", "lr": lr, "steps": 2}, name="same", rounds=2))


def test_runs_that_start_together_take_different_folders(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    crew = [context.Process(target=_run_here, args=(str(tmp_path), lr)) for lr in (0.1, 0.2, 0.3)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
        assert process.exitcode == 0
    found = sorted((tmp_path / "runs").iterdir())
    assert [path.name for path in found] == ["same-s0", "same-s0-2", "same-s0-3"]
    assert {gossamer.open_run(path).experiment.learner.lr for path in found} == {0.1, 0.2, 0.3}
    assert all(gossamer.open_run(path).rounds.num_rows == 2 for path in found)


def test_a_signal_to_the_whole_group_finishes_the_round_and_saves(tmp_path: Path) -> None:
    experiment = small(rounds=100_000, backend="parallel", workers=2, evaluate={"every": 0})
    (tmp_path / "e.toml").write_text(experiment.to_toml())
    script = "import sys, gossamer; gossamer.run(gossamer.Experiment.load(sys.argv[1]), sys.argv[2])"
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "e.toml"), str(folder)],
        start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list(folder.glob("checkpoints/round-*")) and process.poll() is None:
        time.sleep(0.02)
    with pytest.raises(RunError, match="another process"):
        gossamer.resume(folder)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert "Interrupted" in errors
    assert "killed by signal" not in errors
    assert gossamer.open_run(folder).record["status"] == "interrupted"


class OwnMean(Aggregator):
    """A plug that no file defines."""

    kind: Literal["own_mean"] = "own_mean"

    def aggregate(self, updates_ND: Any, weights_N: Any, own_D: Any = None, layout: Any = None) -> Any:
        return updates_ND.mean(0)


def test_a_plug_object_runs_and_is_passed_again_to_resume(tmp_path: Path) -> None:
    whole = gossamer.run(small(aggregator=OwnMean()), tmp_path / "whole")
    assert whole.record["status"] == "finished"
    with pytest.raises(Interrupted):
        gossamer.run(small(aggregator=OwnMean()), tmp_path / "run", after_round(2))
    with pytest.raises(ExperimentError, match="own_mean"):
        gossamer.resume(tmp_path / "run")
    assert_same(whole, gossamer.resume(tmp_path / "run", aggregator=OwnMean()))


def test_scaffold_with_a_falling_rate(tmp_path: Path) -> None:
    learner = {"kind": "sgd", "lr": 0.1, "steps": 2, "lr_schedule": "cosine"}
    assert gossamer.run(small(method="scaffold", learner=learner), tmp_path / "run").record["status"] == "finished"


def test_evaluation_of_nothing(tmp_path: Path) -> None:
    nothing = {"nodes": 0, "items": 0}
    for i, world in enumerate(({}, {"method": "dsgd", "topology": "ring"}, {"method": "local"})):
        run = gossamer.run(small(**world, evaluate=nothing, validation=0.0), tmp_path / str(i))
        assert run.metrics["test_accuracy"].null_count == run.metrics.num_rows


def test_a_failed_run_keeps_what_it_measured(tmp_path: Path) -> None:
    def explode(event: Event) -> None:
        if event.kind == "round" and event.round == 3:
            raise ZeroDivisionError("the listener's own bug")

    with pytest.raises(ZeroDivisionError):
        gossamer.run(small(checkpoint={"every": 0}), tmp_path / "run", explode)
    run = gossamer.open_run(tmp_path / "run")
    assert run.rounds.num_rows == 3
    assert run.record["status"] == "failed"
    assert "listener's own bug" in run.events[-1]["reason"]
    whole = gossamer.run(small(), tmp_path / "whole")
    assert_same(whole, gossamer.resume(tmp_path / "run"))


def test_divergence_names_the_node_and_the_round_where_it_happened(tmp_path: Path) -> None:
    x = np.ones((40, 4), dtype=np.float32)
    x[30:] *= 1e30
    data = gossamer.Dataset.of(x, np.arange(40) % 2, x[:4], np.arange(4) % 2)
    for i, world in enumerate(({}, {"method": "dsgd", "topology": "ring"})):
        experiment = small(
            nodes=4, data=data, partition=list(np.arange(40).reshape(4, 10)), preprocess={"normalise": "none"},
            model="softmax_regression", learner={"kind": "sgd", "lr": 1e30, "steps": 1}, validation=0.0, **world,
        )  # fmt: skip
        with pytest.raises(NodeError) as caught:
            gossamer.run(experiment, tmp_path / str(i))
        assert (caught.value.node, caught.value.round, caught.value.stage) == (3, 1, "train")


def test_many_classes_take_no_square_memory() -> None:
    from gossamer.counts import Counts

    assert sum(a.nbytes for a in (Counts.none(10_000).hits_C, Counts.none(10_000).true_C)) < 1e6


def test_odd_outputs_of_a_model_are_one_line(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return self.line(x.flatten(1)), 1

    for attempt in (lambda e: gossamer.run(e, tmp_path / "run"), gossamer.plan):
        with pytest.raises(ExperimentError, match="output is a tuple"):
            attempt(small(model=Pair()))


def test_a_model_that_looks_at_values_is_planned_too() -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.line(x.flatten(1)) * (1.0 if x.sum().item() >= 0 else 2.0)

    assert gossamer.plan(small(model=Looking())).parameters == 650


@pytest.mark.parametrize("backend", ["eager", "parallel", "auto"])
def test_a_users_exception_in_evaluation_is_a_node_error(backend: str, tmp_path: Path) -> None:
    class Brittle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training and len(x) > 2:
                raise IndexError("only in evaluation")
            return self.line(x.flatten(1))

    experiment = small(model=Brittle(), backend=backend, workers=2, validation=0.0, rounds=1)
    with pytest.raises(NodeError, match="only in evaluation") as caught:
        gossamer.run(experiment, tmp_path / "run")
    assert caught.value.stage == "evaluate"


def test_batch_normalisation_of_one_item_is_refused_before_the_run(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    parts = [np.arange(0, 17), np.arange(17, 40)]
    experiment = small(
        model=model, nodes=2, partition=parts, validation=0.0, learner={"kind": "sgd", "batch_size": 16}
    )  # fmt: skip
    for attempt in (lambda e: gossamer.run(e, tmp_path / "run"), gossamer.plan):
        with pytest.raises(ExperimentError, match="node 0 with 17 items"):
            attempt(experiment)


def test_unusable_folders_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot make the run folder"):
        gossamer.run(small(rounds=1), tmp_path / "file" / "run")


def test_set_up_bytes_reach_the_nodes_and_only_where_there_is_communication(tmp_path: Path) -> None:
    frozen = {"parametrisation": {"freeze": ["1.*"]}}
    run = gossamer.run(small(**frozen, rounds=2), tmp_path / "server")
    last = run.metrics.to_pylist()[-11:]
    assert last[0]["node"] == -1
    nodes = last[1:]
    assert last[0]["bytes_sent"] == sum(line["bytes_received"] for line in nodes)
    assert run.summary()["bytes"] == sum(line["bytes_received"] + line["bytes_sent"] for line in nodes)
    alone = gossamer.run(small(**frozen, method="local", rounds=2), tmp_path / "alone")
    assert alone.summary()["bytes"] == gossamer.plan(small(**frozen, method="local", rounds=2)).bytes_total == 0


def test_damaged_tables_are_noticed_before_the_rounds_are_played(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        gossamer.run(small(checkpoint={"every": 1, "max_share": 1.0}), tmp_path / "run", after_round(3))
    part = tmp_path / "run" / "metrics" / "part-000000.parquet"
    content = part.read_bytes()
    part.write_bytes(content[:-20])
    with pytest.raises(RunError, match=r"part-000000\.parquet is damaged"):
        gossamer.resume(tmp_path / "run")
    part.unlink()
    with pytest.raises(RunError, match=r"part-000000\.parquet is missing"):
        gossamer.resume(tmp_path / "run")


def test_what_a_killed_run_left_lying_about_is_removed(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        gossamer.run(small(), tmp_path / "run", after_round(2))
    stray = tmp_path / "run" / "checkpoints" / ".round-000003.safetensors.1"
    stray.write_bytes(b"half")
    with open(tmp_path / "run" / "events.jsonl", "a") as file:
        file.write('{"time": 1, "eve')
    run = gossamer.resume(tmp_path / "run")
    assert not stray.exists()
    assert [event["event"] for event in run.events][-1] == "end"


def test_a_servers_nodes_cannot_start_apart() -> None:
    with pytest.raises(ExperimentError, match=r"init\.shared"):
        small(init={"shared": False})


def test_independent_starts_differ_and_a_built_module_cannot_give_them(tmp_path: Path) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    apart = {"method": "local", "init": {"shared": False}, "rounds": 1, "learner": {"kind": "sgd", "steps": 0}}
    rows = state_of(gossamer.run(small(**apart, model=network), tmp_path / "run"))["own.row"]
    assert len({tuple(row.tolist()) for row in rows}) == 10
    with pytest.raises(ExperimentError, match=r"init\.shared = false.*same numbers"):
        gossamer.run(small(**apart, model=network()), tmp_path / "built")


@pytest.mark.parametrize("world", [{}, {"method": "dsgd", "topology": "ring"}])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("updates_ND[:, :5].mean(0)", r"returned shape \[5\], expected shape \[1210\]"),
        ("None", "returned a NoneType"),
        ("updates_ND.mean(0) / 0 * 0", "NaN or infinity after aggregator 'rule'"),
        ("undefined", "NameError"),
    ],
)
def test_a_users_aggregator_that_fails_is_named(world: Any, body: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "rule.py"
    file.write_text(
        "from typing import Literal\nfrom gossamer.aggregators import Aggregator\n\n\nclass Rule(Aggregator):\n"
        "    kind: Literal['rule'] = 'rule'\n\n"
        f"    def aggregate(self, updates_ND, weights_N, own_D=None, layout=None):\n        return {body}\n"
    )
    with pytest.raises(NodeError, match=message) as caught:
        gossamer.run(small(**world, aggregator={"file": str(file)}), tmp_path / "run")
    assert caught.value.round == 1
    assert caught.value.stage in ("aggregate", "merge")


def test_a_users_file_that_fails_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    for source, message in (
        ("def (:\n", r"broken\.py', line 1: SyntaxError"),
        ("x = 1\n1 / 0\n", "line 2: ZeroDivision"),
    ):
        file.write_text(source)
        with pytest.raises(ExperimentError, match=message):
            small(aggregator={"file": str(file)})
        with pytest.raises(ExperimentError, match=message):
            gossamer.plan(small(model={"file": str(file)}))
    file.write_text("def net():\n    raise KeyError('mine')\n")
    for attempt in (lambda e: gossamer.run(e, tmp_path / "run"), gossamer.plan):
        with pytest.raises(ExperimentError, match="could not be built: KeyError"):
            attempt(small(model={"file": str(file), "name": "net"}))


def test_messages_of_whole_numbers_are_averaged_as_floats(tmp_path: Path) -> None:
    file = tmp_path / "signs.py"
    file.write_text(
        "import torch\nfrom typing import Literal\nfrom gossamer.methods import Outbox\n"
        "from gossamer.methods.fedavg import FedAvg\n\n\nclass Signs(FedAvg):\n"
        "    kind: Literal['signs'] = 'signs'\n\n"
        "    def finish(self, task, result, own, view):\n"
        "        delta = (result.row - task.row).sign().to(torch.int8)\n"
        "        return Outbox({'delta': delta}, self.weight(view)), {}\n"
    )
    experiment = small(method={"file": str(file), "server_lr": 0.01}, rounds=2)
    eager = gossamer.run(experiment, tmp_path / "eager")
    assert eager.record["message_bytes"]["up"] < 1210 + 200
    assert gossamer.plan(experiment).bytes_total == eager.summary()["bytes"]
    assert_same(eager, gossamer.run(experiment.replace(backend="parallel", workers=2), tmp_path / "parallel"))
    median = gossamer.run(experiment.replace(aggregator="median"), tmp_path / "median")
    assert median.record["status"] == "finished"


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: gossamer.run("first.toml"), "run.. takes an Experiment, not a str"),
        (lambda: small(aggregator=OwnMean), r"pass an instance, OwnMean\(\)"),
        (lambda: gossamer.Dataset.of([[1.0]], ["cat"], [[1.0]], ["cat"]), "number the classes"),
        (lambda: small(transforms="cast"), "give a list"),
        (lambda: small(evaluate={"items": "some"}), "integer.* or input should be 'all'"),
        (lambda: small(name="../x"), "letters, digits"),
    ],
)
def test_python_calls_that_cannot_be_meant(attempt: Any, message: str) -> None:
    with pytest.raises(ExperimentError, match=message) as caught:
        attempt()
    assert "\n" not in str(caught.value)


def test_a_run_with_an_object_is_opened_without_it(tmp_path: Path) -> None:
    gossamer.run(small(aggregator=OwnMean(), rounds=1), tmp_path / "run")
    run = gossamer.open_run(tmp_path / "run")
    assert run.name == "experiment"
    assert run.summary()["rounds"] == 1
    with pytest.raises(RunError, match="pass the experiment"):
        _ = run.experiment


def test_reentrant_checkpoints_train_and_half_precision_outputs_are_counted(tmp_path: Path) -> None:
    from torch.utils.checkpoint import checkpoint

    class Unusual(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            self.hidden, self.out, self.reentrant = nn.Linear(64, 16), nn.Linear(16, 10), reentrant

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1).requires_grad_()
            h = checkpoint(lambda y: self.hidden(y).relu(), x, use_reentrant=self.reentrant) if self.training else None
            return self.out(self.hidden(x).relu() if h is None else h)

    rows = []
    for reentrant in (True, False):
        torch.manual_seed(0)
        run = gossamer.run(small(model=Unusual(reentrant), rounds=2), tmp_path / str(reentrant))
        rows.append(state_of(run)["state.row"])
    assert torch.equal(*rows)

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.line(x.flatten(1))

    assert gossamer.run(small(model=Half(), rounds=1), tmp_path / "half").record["status"] == "finished"


def test_lazy_layers_and_modules_that_refuse_meta(tmp_path: Path) -> None:
    class OnlyCpu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.device.type == "cpu"
            return self.line(x.flatten(1))

    assert gossamer.plan(small(model=OnlyCpu())).parameters == 650
    for attempt in (lambda e: gossamer.run(e, tmp_path / "run"), gossamer.plan):
        with pytest.raises(ExperimentError, match="has no shape yet"):
            attempt(small(model=nn.Sequential(nn.Flatten(), nn.LazyLinear(10))))


def test_sequences_are_measured_in_small_batches() -> None:
    from gossamer.training import evaluation_batch

    assert [evaluation_batch(s) for s in ((80,), (2,), (1, 28, 28), (3, 32, 32), (3, 512, 512))] == [
        512,
        512,
        510,
        130,
        16,
    ]
