"""Schedules as data, budgets, and what they make of a run: transfers and bytes that `plan` counts beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from federations import small, state_of
from hypothesis import given
from hypothesis import strategies as st

import gossamer
from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.federation import Federation
from gossamer.planning import plan
from gossamer.plugs import discover
from gossamer.schedules import ALL, Observed, Schedule
from gossamer.schedules.adaptive import Adaptive
from gossamer.schedules.every import Every
from gossamer.schedules.late import Late
from gossamer.schedules.listed import Listed
from gossamer.schedules.ramp import Ramp
from gossamer.schedules.window import Window

SCHEDULES = list(discover(Schedule).values())


def intensities(schedule: Schedule, rounds: int) -> list[float]:
    return [schedule.intensity(round, rounds) for round in range(rounds)]


@pytest.mark.parametrize("kind", SCHEDULES)
@given(rounds=st.integers(1, 200))
def test_every_schedule_gives_a_share_or_an_all_reduce(kind, rounds):
    for intensity in intensities(kind(), rounds):
        assert 0 <= intensity <= 1 or intensity == ALL


def test_ramps_begin_and_end_where_they_say_and_follow_their_formulas():
    for shape in ("linear", "cosine", "exponential", "log"):
        found = intensities(Ramp(shape=shape, start=0.2, end=0.8), 101)
        assert found[0] == pytest.approx(0.2, abs=1e-12)
        assert found[-1] == pytest.approx(0.8, abs=1e-4)
        assert (np.diff(found) >= 0).all()
    assert intensities(Ramp(shape="linear"), 5) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert Ramp(shape="cosine", start=1, end=0).intensity(50, 101) == pytest.approx(0.5)
    assert Ramp(shape="exponential", start=1, end=0).intensity(10, 101) == pytest.approx(math.exp(-1))
    assert Ramp(shape="log").intensity(90, 101) == pytest.approx(math.log10(1 + 9 * 0.9**80))


@given(at=st.floats(0, 1), width=st.floats(0.01, 1), rounds=st.integers(1, 120))
def test_a_window_is_as_wide_as_it_says_wherever_it_lies(at, width, rounds):
    found = intensities(Window(at=at, width=width, outside=0.25), rounds)
    inside = [round for round, intensity in enumerate(found) if intensity == ALL]
    assert len(inside) == min(rounds, max(1, math.floor(width * rounds + 0.5)))
    assert inside == list(range(inside[0], inside[-1] + 1))
    assert inside[0] == min(math.floor(at * rounds + 0.5), rounds - len(inside))
    assert {found[round] for round in range(rounds) if round not in inside} <= {0.25}


@given(merges=st.integers(1, 40), power=st.floats(1, 30), rounds=st.integers(1, 200))
def test_late_merges_are_counted_end_with_the_run_and_get_denser(merges, power, rounds):
    chosen = sorted(Late(merges=merges, power=power).merging(rounds))
    assert len(chosen) == min(merges, rounds)
    assert chosen[-1] == rounds - 1
    assert chosen[0] >= 0
    later = sorted(Late(merges=merges, power=power + 1).merging(rounds))
    assert all(a <= b for a, b in zip(chosen, later, strict=True)), "a larger power merges later"


def test_late_with_power_one_is_every_kth_round():
    assert sorted(Late(merges=5, power=1).merging(20)) == [3, 7, 11, 15, 19]


def test_a_list_holds_from_its_first_rounds_on():
    listed = Listed(pieces=((2, 0.5), (4, "all"), (5, 0.0)))
    assert intensities(listed, 6) == [0, 0.5, 0.5, ALL, 0, 0]


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        ([[3, 0.5], [3, 1.0]], "ascend"),
        ([[0, 0.5]], "count from 1"),
        ([[1, 1.5]], "less than or equal to 1"),
        ([], "at least 1"),
    ],
)
def test_a_list_that_makes_no_sense_says_why(pieces, told):
    with pytest.raises(ExperimentError, match=told):
        small(method="dsgd", topology="complete", schedule={"kind": "listed", "pieces": pieces})


def test_adaptive_compares_the_distance_with_the_gradient():
    schedule = Adaptive(c=2.0, exchange=0.5, quiet=0.1)
    assert schedule.decide(0, 10, Observed(consensus_distance=2.1, gradient_norm=1.0)) == 0.5
    assert schedule.decide(0, 10, Observed(consensus_distance=2.0, gradient_norm=1.0)) == 0.1
    assert Adaptive().decide(0, 10, Observed(1e9, 1.0)) == ALL


# ---- what they make of a run ----------------------------------------------------------------------------------------

GOSSIP = {"method": "dsgd", "topology": "random_matching"}


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": {"kind": "every", "share": 0.3}},
        {"schedule": {"kind": "every", "all_reduce": True, "k": 2}},
        {"schedule": {"kind": "ramp", "end": 0.7}},
        {"schedule": {"kind": "window", "at": 0.4, "width": 0.2, "outside": 0.5}},
        {"schedule": {"kind": "late", "merges": 2, "between": 0.4}},
        {"schedule": {"kind": "every", "final": "gossip", "final_rounds": 3}},
        {"schedule": {"kind": "every", "final": "merge", "budget": 30, "participation": 0.8}},
        {"topology": {"kind": "ring"}, "schedule": {"kind": "every", "share": 0.5}},
        {"topology": {"kind": "pull", "peers": 1.5}},
    ],
    ids=str,
)
def test_a_run_sends_what_its_plan_counts(changes, tmp_path):
    experiment = small(**{**GOSSIP, **changes})
    planned, run = plan(experiment), gossamer.run(experiment, tmp_path / "run")
    assert run.rounds["transfers"].to_pylist() == list(planned.transfers)
    assert sum(run.rounds["bytes"].to_pylist()) == planned.bytes_total
    assert run.rounds["simulated_seconds"].to_pylist() == pytest.approx(planned.seconds)
    sent = [row for row in run.metrics.to_pylist() if row["round"] == 5 and row["node"] >= 0]
    assert sum(row["bytes_sent"] for row in sent) == sum(row["bytes_received"] for row in sent) == planned.bytes_total


def test_an_all_reduce_costs_twice_the_others_and_leaves_all_nodes_equal(tmp_path):
    run = gossamer.run(small(**GOSSIP, schedule={"kind": "every", "all_reduce": True}), tmp_path / "run")
    assert set(run.rounds["transfers"].to_pylist()) == {2 * (10 - 1)}
    rows = state_of(run)["state.row"]
    assert all(torch.equal(row, rows[0]) for row in rows)


def test_an_all_reduce_equals_mixing_over_the_complete_graph(tmp_path):
    merged = gossamer.run(small(**GOSSIP, schedule={"kind": "every", "all_reduce": True}), tmp_path / "a")
    complete = gossamer.run(small(method="dsgd", topology="complete"), tmp_path / "b")
    torch.testing.assert_close(state_of(merged)["state.row"], state_of(complete)["state.row"], rtol=1e-5, atol=1e-6)


def test_the_end_of_a_run_is_kept_out_of_the_budget(tmp_path):
    schedule = {"kind": "every", "budget": 58, "final": "merge"}
    run = gossamer.run(small(**GOSSIP, schedule=schedule), tmp_path / "run")
    assert run.rounds["transfers"].to_pylist() == [10, 10, 10, 10, 18]
    run = gossamer.run(small(**GOSSIP, schedule={**schedule, "budget": 40}), tmp_path / "less")
    assert run.rounds["transfers"].to_pylist() == [10, 10, 0, 0, 18]
    with pytest.raises(ExperimentError, match=r"schedule.budget = 10: the end of the run alone .* takes 18 model"):
        gossamer.run(small(**GOSSIP, schedule={**schedule, "budget": 10}), tmp_path / "none")


def test_final_gossip_is_mixing_again_and_again_without_training(tmp_path):
    """Three exchanges over a ring at the end are W^3 times what one exchange mixes once."""
    from gossamer.mixing import edges_of, mixing_matrix

    base = {"method": "dsgd", "topology": "ring", "rounds": 1, "dtype": "float64"}
    before = gossamer.run(small(**base, schedule={"kind": "every", "k": 1}), tmp_path / "one")
    after = gossamer.run(
        small(**base, schedule={"kind": "every", "final": "gossip", "final_rounds": 3}), tmp_path / "three"
    )
    ring = before.experiment.topology
    W = torch.from_numpy(mixing_matrix(edges_of(ring, 10, 0), 10, "metropolis").toarray())
    expected = W @ W @ state_of(before)["state.row"]
    torch.testing.assert_close(state_of(after)["state.row"], expected, rtol=1e-12, atol=1e-14)


def test_models_before_the_exchange_are_measured_as_local_work_left_them(tmp_path):
    """Their mean is that of the models after it, since the weights are doubly stochastic; they are not equal."""
    base = {**GOSSIP, "schedule": {"kind": "every", "all_reduce": True}, "dtype": "float64"}
    before = gossamer.run(small(**base, evaluate={"before_exchange": True}), tmp_path / "before")
    after = gossamer.run(small(**base), tmp_path / "after")
    assert torch.equal(state_of(before)["state.row"], state_of(after)["state.row"]), "measuring changes nothing"
    assert before.summary()["merged_accuracy"] == after.summary()["merged_accuracy"]
    assert before.summary()["test_accuracy"] < after.summary()["test_accuracy"]
    assert before.summary()["consensus_distance"] > 1e-3
    assert after.summary()["consensus_distance"] < 1e-20


def test_an_adaptive_run_stays_below_its_plan_and_follows_its_threshold(tmp_path):
    def transfers(c: float) -> int:
        experiment = small(**GOSSIP, rounds=8, schedule={"kind": "adaptive", "c": c})
        planned, run = plan(experiment), gossamer.run(experiment, tmp_path / f"c{c}")
        assert planned.at_most
        assert run.summary()["transfers"] <= sum(planned.transfers)
        return int(run.summary()["transfers"])

    counts = [transfers(c) for c in (1e-6, 2.0, 1e6)]
    assert counts[0] == 8 * 18
    assert counts[2] == 0
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize("schedule", [{"kind": "adaptive", "c": 2.0}, {"kind": "late", "budget": 40, "between": 0.8}])
def test_a_resumed_run_has_spent_what_it_spent(schedule, tmp_path):
    experiment = small(**GOSSIP, rounds=8, schedule={**schedule, "final": "merge"})
    whole = gossamer.run(experiment, tmp_path / "whole")

    def stop(event: gossamer.Event) -> None:
        if event.kind == "round" and event.round == 6:
            raise KeyboardInterrupt

    experiment = experiment.replace(checkpoint={"max_share": 1.0})
    with pytest.raises(KeyboardInterrupt):
        gossamer.run(experiment, tmp_path / "parts", listener=stop)
    resumed = gossamer.resume(tmp_path / "parts")
    assert resumed.rounds["transfers"].to_pylist() == whole.rounds["transfers"].to_pylist()
    assert resumed.rounds["simulated_seconds"].to_pylist() == whole.rounds["simulated_seconds"].to_pylist()
    assert torch.equal(state_of(resumed)["state.row"], state_of(whole)["state.row"])


def test_fixed_shares_of_a_fixed_graph_are_drawn_anew_every_round_and_keep_their_number():
    experiment = small(method="dsgd", topology="complete", nodes=20, rounds=60, schedule=Every(share=0.25))
    counts = np.array(plan(experiment).transfers)
    assert counts.mean() == pytest.approx(0.25 * 20 * 19, rel=0.08)
    assert (counts % 2 == 0).all(), "links go both ways or not at all"
    assert len(set(counts.tolist())) > 10


def test_a_plan_of_an_adaptive_run_bounds_whatever_it_chooses(tmp_path):
    """Also where a share of the links is dearer than an all-reduce, and with a budget."""
    for schedule in (
        {"kind": "adaptive", "c": 1e9, "quiet": 0.9},
        {"kind": "adaptive", "c": 1e9, "quiet": 0.5, "budget": 100},
        {"kind": "adaptive", "c": 1e-9, "quiet": 0.5, "exchange": 0.1},
    ):
        experiment = small(method="dsgd", topology="complete", schedule=schedule)
        planned = plan(experiment)
        run = gossamer.run(experiment, tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        assert 0 < run.summary()["transfers"] <= sum(planned.transfers)
        assert run.summary()["bytes"] <= planned.bytes_total
        assert run.summary()["simulated_seconds"] <= planned.seconds[-1] + 1e-12
        assert run.summary()["transfers"] <= schedule.get("budget", math.inf)


def test_what_an_adaptive_schedule_sees_is_the_distance_and_the_gradient():
    """One step of plain SGD from a common model: the mean gradient's norm is that of the mean of the gradients."""
    from gossamer.backends.eager import Eager
    from gossamer.engines.local import Local, observe

    learner = {"kind": "sgd", "lr": 0.1, "batch_size": 16, "steps": 1}
    federation = Federation(small(method="dsgd", topology="ring", learner=learner, dtype="float64"))
    before = federation.population.state["row"].clone()
    result = Local(federation, Eager(federation)).train(0)
    after = federation.sent["row"]
    seen = observe(federation, result)
    gradients = (before - after) / 0.1
    assert seen.gradient_norm == pytest.approx(float(gradients.mean(0).norm()), rel=1e-9)
    apart = (after - after.mean(0)).square().sum(1).mean().sqrt()
    assert seen.consensus_distance == pytest.approx(float(apart), rel=1e-9)


def test_push_sum_is_seen_as_its_models_not_as_its_biased_rows():
    from gossamer.backends.eager import Eager
    from gossamer.engines.local import Local, observe

    topology = {
        "kind": "edge_list",
        "pairs": [[0, 1], [1, 2], [2, 0], [0, 2]],
        "directed": True,
        "weights": "out_degree",
    }
    still = {"kind": "sgd", "lr": 0.1, "steps": 0}
    federation = Federation(small(nodes=3, method="push_sum", topology=topology, learner=still, dtype="float64"))
    engine = Local(federation, Eager(federation))
    for round in range(3):
        engine.exchange(engine.train(round))
    seen = observe(federation, engine.train(3))
    assert seen.consensus_distance == pytest.approx(0.0, abs=1e-12), "equal models stay equal, whatever their mass"


@pytest.mark.parametrize("k", [1, 2, 4])
def test_graphs_that_belong_together_follow_one_another_however_seldom_they_are_used(k, tmp_path):
    """16 nodes, one peer each: the exact mean after four exchanges, in every round or in every fourth."""
    experiment = small(
        nodes=16,
        rounds=4 * k,
        method="dsgd",
        topology="one_peer_exponential",
        init={"shared": False},
        schedule={"k": k},
        learner={"kind": "sgd", "lr": 0.1, "steps": 0},
        dtype="float64",
        evaluate={"every": k},
    )
    run = gossamer.run(experiment, tmp_path / "run")
    distances = run.rounds["consensus_distance"].drop_null().to_pylist()
    assert distances[-2] > 1e-3
    assert distances[-1] < 1e-20


def test_lost_messages_differ_from_one_final_exchange_to_the_next(tmp_path):
    """With half of the messages lost, sixty exchanges over a ring still bring the models together."""
    run = gossamer.run(
        small(
            method="dsgd",
            topology="ring",
            rounds=1,
            init={"shared": False},
            learner={"kind": "sgd", "lr": 0.1, "steps": 0},
            schedule={"kind": "every", "final": "gossip", "final_rounds": 150},
            clock={"kind": "rounds", "drop": 0.5},
            dtype="float64",
        ),
        tmp_path / "run",
    )
    assert run.summary()["consensus_distance"] < 1e-3
    assert run.metrics.to_pylist()[-1]["bytes_received"] < run.metrics.to_pylist()[-1]["bytes_sent"]


def test_a_budget_in_bytes_buys_as_many_models_as_it_pays_for(tmp_path):
    size = Federation(small(**GOSSIP)).up_bytes
    a = plan(small(**GOSSIP, schedule={"budget_bytes": 25.5 * size}))
    b = plan(small(**GOSSIP, schedule={"budget": 25}))
    assert a.transfers == b.transfers == (10, 10, 0, 0, 0)
    run = gossamer.run(small(**GOSSIP, schedule={"budget_bytes": 25.5 * size}), tmp_path / "run")
    assert run.summary()["bytes"] == 20 * size


def test_a_run_says_what_its_graph_does_not_do(tmp_path):
    told: list[str] = []

    def listen(event: gossamer.Event) -> None:
        if event.kind == "warning":
            told.append(event.values["text"])

    gossamer.run(small(nodes=6, method="dsgd", topology="one_peer_exponential"), tmp_path / "run", listener=listen)
    assert any("no power of two" in text for text in told)


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schedule": {"kind": "every", "k": 9}}, "never communicates in 5 rounds"),
        ({"schedule": {"kind": "every", "share": 0}}, "never communicates"),
        ({"topology": "ring", "schedule": {"final": "merge"}}, "all_to_all = true .* schedule.final = 'gossip'"),
        ({"topology": "torus", "schedule": {"kind": "late"}}, "asks for an all-reduce"),
        ({"topology": "ring", "schedule": {"kind": "adaptive"}}, "asks for an all-reduce"),
        ({"topology": {"kind": "pull", "weights": "metropolis"}}, "needs an undirected graph"),
        ({"method": "gradient_tracking", "topology": "pull"}, "needs mixing weights whose rows and columns both sum"),
        ({"topology": "exponential", "method": "gradient_tracking", "schedule": {"share": 0.5}}, "row-stochastic only"),
        ({"topology": "ring", "method": "gradient_tracking", "clock": {"drop": 0.3}}, "lost messages spoil"),
        ({"topology": "ring", "method": "gradient_tracking", "aggregator": "median"}, "use aggregator = 'mean'"),
        ({"topology": "ring", "schedule": {"budget": 1}}, "never send anything"),
        ({"topology": {"kind": "pull", "peers": 0}}, "never send anything"),
        ({"topology": "ring", "method": {"kind": "dsgd", "reset_at_merge": True}}, "has none before the last round"),
        ({"method": "fedavg", "topology": "server", "aggregator": "variance_corrected"}, "works on models"),
        ({"method": "fedavg", "topology": "server", "schedule": {"final": "merge"}}, "with a server every round ends"),
        ({"method": "fedavg", "topology": "server", "schedule": {"budget": 5}}, "with a server every round ends"),
        ({"method": "fedavg", "topology": "server", "evaluate": {"before_exchange": True}}, "before_exchange"),
        ({"clock": "events", "evaluate": {"before_exchange": True}}, "before_exchange"),
        ({"method": "gradient_tracking", "topology": "ring", "clock": "events"}, "needs rounds"),
    ],
    ids=str,
)
def test_what_cannot_be_says_why_and_how(changes, told, tmp_path):
    with pytest.raises(ExperimentError, match=told):
        gossamer.run(small(**{**GOSSIP, **changes}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_to_all_allows_an_all_reduce_beside_a_ring():
    Experiment(
        method="dsgd", topology={"kind": "ring", "all_to_all": True}, schedule={"kind": "every", "final": "merge"}
    )
