"""By the clock: rounds are the special case, every back end plays the same trace, nothing that arrives is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from federations import assert_same, small, state_of

import gossamer
from gossamer.backends.eager import Eager
from gossamer.engines.events import Events
from gossamer.federation import Federation
from gossamer.operations import Apply, Mix
from gossamer.planning import plan

MOMENTUM = {"kind": "sgd", "lr": 0.05, "batch_size": 16, "steps": 3, "momentum": 0.9}
GRAPH: dict[str, Any] = {
    "method": "dsgd",
    "topology": {"kind": "random_regular", "degree": 4},
    "learner": MOMENTUM,
}
CLOCKS: dict[str, dict[str, Any]] = {
    "gossip on arrival": {"merge": "arrival", "latency": 0.01, "speeds": "lognormal"},
    "AD-PSGD": {"protocol": "push_pull", "merge": "arrival", "jitter": 0.2},
    "pull": {"protocol": "pull", "latency": 0.003, "drop": 0.2},
    "full buffers": {"merge": "full", "idle": [0.01, 0.02]},
    "update then merge": {"order": "update_merge", "speeds": "uniform"},
    "churn": {"up_seconds": 0.3, "down_seconds": 0.1, "latency": 0.005, "jitter": 0.1},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"topology": {"kind": "random_regular", "degree": 4}},
        {"topology": "one_peer_exponential"},
        {"topology": "random_matching", "schedule": {"share": 0.5}},
        {"topology": {"kind": "pull", "peers": 1.5}},
        {"topology": "ring", "schedule": {"k": 2}},
        {"topology": "ring", "transforms": ["cast"]},
        {"topology": "complete", "aggregator": "median"},
        {"topology": {"kind": "ring", "own_weight": 0.5}, "aggregator": "variance_corrected"},
        {"topology": "ring", "aggregator": {"kind": "variance_corrected", "target": "all"}, "transforms": ["cast"]},
        {"topology": "one_peer_exponential", "schedule": {"k": 2}},
        {"topology": "ring", "clock": {"kind": "events", "merge": "arrival"}},
    ],
    ids=str,
)
def test_without_delays_and_differences_the_clock_gives_the_same_bits_as_rounds(changes, tmp_path):
    in_rounds = gossamer.run(small(**{**GRAPH, **changes, "clock": "rounds"}), tmp_path / "rounds")
    by_clock = gossamer.run(small(**{**GRAPH, "clock": "events", **changes}), tmp_path / "events")
    first, second = state_of(in_rounds), state_of(by_clock)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    for column in ("transfers", "bytes", "simulated_seconds", "consensus_distance"):
        assert in_rounds.rounds[column].to_pylist() == pytest.approx(by_clock.rounds[column].to_pylist()), column
    assert in_rounds.metrics["test_accuracy"].equals(by_clock.metrics["test_accuracy"])


@pytest.mark.parametrize("name", CLOCKS)
def test_every_back_end_plays_the_same_trace_to_the_same_bits(name, tmp_path):
    clock = {"kind": "events", **CLOCKS[name]}
    runs = {
        backend: gossamer.run(small(**GRAPH, clock=clock, backend=backend, workers=2), tmp_path / backend)
        for backend in ("eager", "parallel", "vmap")
    }
    assert_same(runs["eager"], runs["parallel"])
    rows, batched = state_of(runs["eager"])["state.row"], state_of(runs["vmap"])["state.row"]
    torch.testing.assert_close(rows, batched, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", CLOCKS)
def test_a_run_by_the_clock_sends_what_its_plan_counts(name, tmp_path):
    experiment = small(**GRAPH, clock={"kind": "events", **CLOCKS[name]})
    planned, run = plan(experiment), gossamer.run(experiment, tmp_path / "run")
    assert run.rounds["transfers"].to_pylist() == list(planned.transfers)
    assert sum(run.rounds["bytes"].to_pylist()) == planned.bytes_total
    assert run.rounds["simulated_seconds"].to_pylist() == list(planned.seconds)
    assert planned.needs is not None


@pytest.mark.parametrize("name", ["gossip on arrival", "AD-PSGD", "churn"])
@pytest.mark.parametrize("backend", ["eager", "parallel"])
def test_interrupted_with_work_and_mail_under_way_and_resumed_is_as_if_never_interrupted(name, backend, tmp_path):
    experiment = small(
        **GRAPH, clock={"kind": "events", **CLOCKS[name]}, backend=backend, checkpoint={"max_share": 1.0}
    )
    whole = gossamer.run(experiment, tmp_path / "whole")

    def stop(event: gossamer.Event) -> None:
        if event.kind == "round" and event.round == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gossamer.run(experiment, tmp_path / "parts", listener=stop)
    resumed = gossamer.resume(tmp_path / "parts")
    assert torch.equal(state_of(resumed)["state.row"], state_of(whole)["state.row"])
    assert resumed.metrics.equals(whole.metrics)
    assert resumed.rounds["transfers"].equals(whole.rounds["transfers"])


def test_a_merge_that_comes_during_training_is_not_lost():
    """Applying work to a model that was merged meanwhile gives the merged model plus what the work changed."""
    clock = {"kind": "events", "merge": "arrival", "latency": 0.01}
    federation = Federation(small(**GRAPH, clock=clock, dtype="float64"))
    engine = Events(federation, Eager(federation))
    checked = 0
    play = engine._apply

    def apply(operation: Apply, result: Any) -> None:
        nonlocal checked
        before = federation.population.state["row"][operation.node].clone()
        engine._wait(operation.result)
        change = federation.mail["row"][operation.result] - federation.snapshots["row"][operation.snapshot]
        play(operation, result)
        after = federation.population.state["row"][operation.node]
        torch.testing.assert_close(after, before + change, rtol=1e-12, atol=1e-14)
        if not operation.untouched:
            assert not torch.equal(before, federation.snapshots["row"][operation.snapshot])
            checked += 1

    engine._apply = apply  # type: ignore[method-assign]
    for round in range(3):
        engine.train(round)
    assert checked > 5


def test_push_pull_without_local_work_keeps_the_mean_and_reaches_it():
    """AD-PSGD's averaging alone: the mean of the models stays, their distance goes."""
    experiment = small(
        method="dsgd",
        topology="complete",
        init={"shared": False},
        learner={"kind": "sgd", "lr": 0.1, "steps": 0},
        clock={"kind": "events", "protocol": "push_pull", "merge": "arrival", "jitter": 0.5},
        rounds=12,
        dtype="float64",
    )
    federation = Federation(experiment)
    engine, rows = Events(federation, Eager(federation)), federation.population.state["row"]
    mean, apart = rows.mean(0).clone(), float(rows.var(0).sum())
    for round in range(12):
        engine.train(round)
    torch.testing.assert_close(rows.mean(0), mean, rtol=1e-12, atol=1e-14)
    assert float(rows.var(0).sum()) < 0.02 * apart


def test_a_partner_sees_what_travelled_and_keeps_its_own_exact():
    """push_pull through a lossy transform: half the own model and half of the other's as bfloat16."""
    clock = {"kind": "events", "protocol": "push_pull", "merge": "arrival"}
    changes = {"transforms": [{"kind": "cast", "to": "bfloat16"}], "init": {"shared": False}, "dtype": "float64"}
    still = {"kind": "sgd", "lr": 0.1, "steps": 0}
    federation = Federation(small(method="dsgd", topology="complete", learner=still, clock=clock, **changes))
    engine, rows = Events(federation, Eager(federation)), federation.population.state["row"]
    average, count = engine._average, 0

    def watch(operation: Any, round: int) -> None:
        nonlocal count
        a, b = rows[operation.a].clone(), rows[operation.b].clone()
        average(operation, round)
        torch.testing.assert_close(rows[operation.a], (a + b.bfloat16().double()) / 2, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(rows[operation.b], (b + a.bfloat16().double()) / 2, rtol=1e-12, atol=1e-14)
        count += 1

    engine._average = watch  # type: ignore[method-assign]
    engine.train(0)
    assert count >= 5


def test_what_a_server_sends_in_vain_counts(tmp_path):
    clock = {"kind": "events", "drop": 0.5, "speeds": "lognormal"}
    experiment = small(method="fedasync", clock=clock)
    run, planned = gossamer.run(experiment, tmp_path / "run"), plan(experiment)
    federation = Federation(experiment)
    assert federation.up_bytes == federation.down_bytes
    assert run.summary()["bytes"] == planned.bytes_total == sum(planned.transfers) * federation.up_bytes


def test_resume_notices_another_churn_trace(tmp_path):
    trace = tmp_path / "churn.csv"
    trace.write_text("0.05, 3, down\n0.15, 3, up\n")
    experiment = small(**GRAPH, clock={"kind": "events", "trace": str(trace)}, checkpoint={"max_share": 1.0})

    def stop(event: gossamer.Event) -> None:
        if event.kind == "round" and event.round == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gossamer.run(experiment, tmp_path / "run", listener=stop)
    trace.write_text("0.05, 4, down\n0.15, 4, up\n")
    with pytest.raises(gossamer.errors.RunError, match="files"):
        gossamer.resume(tmp_path / "run")


def test_staleness_reaches_the_method():
    clock = {"kind": "events", "latency": 0.1, "speeds": "lognormal"}
    federation = Federation(small(**GRAPH, clock=clock))
    heard: list[tuple[int, ...]] = []
    merge = federation.merge

    def listen(receiver: int, inbox: Any, view: Any) -> None:
        heard.append(inbox.staleness)
        merge(receiver, inbox, view)

    federation.merge = listen  # type: ignore[method-assign]
    engine = Events(federation, Eager(federation))
    for round in range(5):
        engine.train(round)
    told = [operation.staleness for operation in federation.operations() if isinstance(operation, Mix)]
    assert heard == told
    assert max(map(max, heard)) >= 3


# ---- with a server --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedasync", {"kind": "fedbuff", "buffer": 3}], ids=str)
def test_asynchronous_servers_learn_alike_on_every_back_end(method, tmp_path):
    experiment = small(
        method=method,
        rounds=15,
        clock={"kind": "events", "speeds": "lognormal", "concurrency": 4},
        evaluate={"every": 5},
    )
    runs = [
        gossamer.run(experiment.replace(backend=name, workers=2), tmp_path / name) for name in ("eager", "parallel")
    ]
    assert_same(*runs)
    accuracy = runs[0].curve("test_accuracy")[1]
    assert accuracy[-1] > 0.6
    planned = plan(experiment)
    assert runs[0].rounds["transfers"].to_pylist() == list(planned.transfers)
    assert sum(runs[0].rounds["bytes"].to_pylist()) == planned.bytes_total


def test_fedasync_is_its_formula(tmp_path):
    """x <- (1 - a_t) x + a_t x_new with a_t = alpha (1 + staleness)^-a, replayed from the trace (Xie et al. 2019)."""
    experiment = small(
        method={"kind": "fedasync", "alpha": 0.6, "staleness": "polynomial", "a": 0.5},
        clock={"kind": "events", "speeds": "lognormal"},
        dtype="float64",
    )
    federation = Federation(experiment)
    engine, row = Events(federation, Eager(federation)), federation.population.state["row"][0]
    merge, expected = engine._merge, []

    def replay(operation: Any, result: Any) -> None:
        engine._wait(operation.slots[0])
        share = 0.6 * (1 + operation.staleness[0]) ** -0.5
        expected.append((1 - share) * row + share * federation.mail["row"][operation.slots[0]])
        merge(operation, result)
        torch.testing.assert_close(row, expected[-1], rtol=1e-12, atol=1e-14)

    engine._merge = replay  # type: ignore[method-assign]
    for round in range(4):
        engine.train(round)
    assert len(expected) == 40


def test_simulated_time_is_shorter_without_waiting_for_the_slowest(tmp_path):
    """The slowest node of a lognormal population stops rounds, not the clock."""
    slow = {"speeds": "lognormal", "spread": 1.0}
    in_rounds = plan(small(**GRAPH, clock={"kind": "rounds", **slow}))
    by_clock = plan(small(**GRAPH, clock={"kind": "events", "merge": "arrival", **slow}))
    assert by_clock.seconds[-1] < 0.6 * in_rounds.seconds[-1]
    assert sum(by_clock.transfers) == pytest.approx(sum(in_rounds.transfers), rel=0.05)
    assert np.all(np.diff(by_clock.seconds) >= 0)
