"""The account of a run: the libraries' epsilon for what really happens in it, and a budget that is kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import small
from hypothesis import given, settings
from hypothesis import strategies as st

import gossamer
from gossamer.accounting import Release, Skellam, epsilon, gaussian_epsilon
from gossamer.errors import ExperimentError
from gossamer.ledger import Ledger, ledger
from gossamer.secure.ring import l1_bound, l2_bound

UNIFORM = {"kind": "fedavg", "weighting": "uniform"}
GRAPH: dict[str, Any] = {"method": "dsgd", "topology": "ring"}


def account(items: tuple[int, ...] = (60,) * 10, length: int = 1000, **changes: Any) -> Ledger:
    found = ledger(small(**{"method": UNIFORM, "nodes": len(items), **changes}), items, length)
    assert found is not None
    return found


def test_no_account_without_privacy() -> None:
    assert ledger(small(), (60,) * 10, 1000) is None


@pytest.mark.parametrize("accountant", ["pld", "rdp", "prv"])
def test_all_nodes_in_all_rounds_is_the_gaussian_mechanism(accountant: str) -> None:
    """Closed form (Balle and Wang 2018) for central; the same for local, where every node answers for itself."""
    table = {"noise_multiplier": 4.0, "delta": 1e-5, "accountant": accountant}
    closed = gaussian_epsilon(4.0, 5, 1e-5)
    for kind in ("central", "local"):
        assert account(privacy={"kind": kind, **table}).epsilon(5) == pytest.approx(closed, rel=0.1)
    assert account(privacy={"kind": "central", **table, "accountant": "pld"}).epsilon(5) == pytest.approx(
        closed, rel=5e-3
    )


def test_exchanging_a_node_moves_twice_as_far() -> None:
    once = account(privacy={"kind": "central", "noise_multiplier": 4.0}).epsilon(5)
    twice = account(privacy={"kind": "central", "noise_multiplier": 8.0, "adjacency": "replace_one"}).epsilon(5)
    assert twice == pytest.approx(once, rel=1e-9)


def test_coins_amplify_for_those_who_see_models_only() -> None:
    """Central: by the sampling rate. Local: a message is seen with its sender, so its rounds count one by one."""
    schedule = {"schedule": {"participation": 0.3, "sampling": "poisson"}, "rounds": 20}
    central = account(privacy={"kind": "central", "noise_multiplier": 1.0}, **schedule)
    assert central.epsilon(20) == pytest.approx(epsilon([Release(1.0, 20, 0.3, "poisson")], 1e-5, "pld"))
    local = account(privacy={"kind": "local", "noise_multiplier": 1.0}, **schedule)
    times = int(local.setting.times(20).max())
    assert 6 < times < 20
    assert local.epsilon(20) == pytest.approx(epsilon([Release(1.0, times)], 1e-5, "pld"))


def test_rounds_of_fixed_size_are_accounted_by_their_own_theorem() -> None:
    schedule = {"participation": 0.3, "sampling": "fixed"}
    table = {"kind": "central", "noise_multiplier": 3.0, "adjacency": "replace_one", "accountant": "rdp"}
    found = account(privacy=table, schedule=schedule).epsilon(5)
    assert found == pytest.approx(epsilon([Release(3.0, 5, 0.3, "fixed")], 1e-5, "rdp"))


@pytest.mark.parametrize(("asked", "drawn"), [(0.01, 1 / 15), (0.1, 2 / 15)])
def test_the_share_that_is_drawn_is_accounted_not_the_one_asked_for(asked: float, drawn: float) -> None:
    table = {"kind": "central", "noise_multiplier": 3.0, "adjacency": "replace_one", "accountant": "rdp"}
    found = account((60,) * 15, privacy=table, schedule={"participation": asked}).epsilon(5)
    assert found == pytest.approx(epsilon([Release(3.0, 5, drawn, "fixed")], 1e-5, "rdp"))


def test_rounds_of_a_node_are_counted_for_any_experiment() -> None:
    """Also for those that hold what has no hash."""
    schedule = {"participation": 0.5, "sampling": "poisson"}
    found = account(privacy={"kind": "local", "noise_multiplier": 1.0}, schedule=schedule, parametrisation="supermask")
    assert found.epsilon(5) > 0


def test_the_node_that_spends_most_counts() -> None:
    """Few items are drawn more often, many items take more steps: both are looked at."""
    table = {"kind": "per_example", "noise_multiplier": 1.0}
    learner = {"lr": 0.1, "batch_size": 16, "epochs": 2}
    one = account((40,), privacy=table, learner=learner).epsilon(5)
    other = account((400,), privacy=table, learner=learner).epsilon(5)
    both = account((400, 40, 400), privacy=table, learner=learner).epsilon(5)
    assert both == pytest.approx(max(one, other))
    assert one == pytest.approx(epsilon([Release(1.0, 2 * 3 * 5, 16 / 40, "poisson")], 1e-5, "pld"))
    assert other == pytest.approx(epsilon([Release(1.0, 2 * 25 * 5, 16 / 400, "poisson")], 1e-5, "pld"))


def test_a_batch_of_all_items_is_no_draw() -> None:
    found = account(
        (10,), privacy={"kind": "per_example", "noise_multiplier": 2.0}, learner={"lr": 0.1, "batch_size": 16}
    )
    assert found.epsilon(5) == pytest.approx(gaussian_epsilon(2.0, 5, 1e-5), rel=5e-3)


def test_shares_of_noise_are_accounted_in_integers() -> None:
    """The norm of rounded messages, and Skellam's theorem; near Gaussian noise where there are many levels."""
    table = {"kind": "distributed", "noise_multiplier": 4.0, "colluding": 0}
    fine = account(privacy=table, secure_sum={"bits": 20})
    scaled = float(2**19 - 1)
    l2 = l2_bound(scaled, 1000)
    assert fine.epsilon(5) == pytest.approx(
        epsilon([Release(4.0, 5, skellam=Skellam(l2, l1_bound(l2, 1000)))], 1e-5, "rdp")
    )
    gaussian = epsilon([Release(4.0, 5)], 1e-5, "rdp")
    assert fine.epsilon(5) == pytest.approx(gaussian, rel=1e-3)
    # With few levels rounding is most of the norm, and the noise, which is in units of it, grows with it.
    assert l2_bound(3.0, 1000) > 5 * 3.0
    coarse = account(privacy=table, secure_sum={"bits": 3})
    assert gaussian < coarse.epsilon(5) < 1.01 * gaussian


def test_noise_that_others_know_does_not_count() -> None:
    """Of sums of 7 nodes three may tell: four sevenths of the variance hide the rest."""
    found = account(privacy={"kind": "distributed", "noise_multiplier": 4.0, "colluding": 3}, secure_sum={"bits": 20})
    gaussian = epsilon([Release(4.0 * math.sqrt(4 / 7), 5)], 1e-5, "rdp")
    assert found.epsilon(5) == pytest.approx(gaussian, rel=1e-3)


def test_pairs_hide_each_other() -> None:
    """On a ring of ten: more than alone, less than a server that sums."""
    alone = account(**GRAPH, privacy={"kind": "local", "noise_multiplier": 2.0}).epsilon(5)
    summed = account(privacy={"kind": "central", "noise_multiplier": 2.0 * math.sqrt(10)}).epsilon(5)
    for against in ("neighbour", "eavesdropper"):
        pairs = account(**GRAPH, privacy={"kind": "correlated", "noise_multiplier": 2.0, "against": against}).epsilon(5)
        assert summed < pairs < alone


@given(
    kind=st.sampled_from(["central", "local", "per_example"]),
    target=st.floats(0.5, 20),
    rounds=st.integers(1, 30),
)
@settings(max_examples=12, deadline=None)
def test_a_budget_is_spent_and_not_exceeded(kind: str, target: float, rounds: int) -> None:
    found = account(privacy={"kind": kind, "epsilon": target, "accountant": "rdp"}, rounds=rounds)
    assert found.rounds == rounds
    assert 0.98 * target <= found.epsilon(rounds) <= target
    spent = [found.epsilon(done) for done in range(rounds + 1)]
    assert spent == sorted(spent)
    assert spent[0] == 0.0


def test_without_noise_epsilon_is_infinite() -> None:
    found = account(privacy={"kind": "central", "noise_multiplier": 0.0})
    assert found.epsilon(1) == math.inf
    assert found.about()["epsilon"] is None
    assert any("epsilon is infinite" in text for text in found.warnings)


def test_a_budget_that_cannot_be_reached_is_refused() -> None:
    for accountant in ("pld", "rdp"):
        with pytest.raises(ExperimentError, match="epsilon"):
            account(privacy={"kind": "central", "epsilon": 1e-9, "delta": 1e-12, "accountant": accountant})


def test_with_noise_and_budget_the_run_stops_in_time(tmp_path: Path) -> None:
    """The last round it plays is within the budget, one more would not be; it is a finished run like any other."""
    table = {"kind": "central", "noise_multiplier": 2.0, "epsilon": 6.0}
    experiment = small(method=UNIFORM, rounds=30, privacy=table, preprocess={"normalise": "none"})
    plan = gossamer.plan(experiment)
    run = gossamer.run(experiment, tmp_path / "run")
    done = run.rounds.num_rows
    assert run.record["status"] == "finished"
    assert 1 < done == plan.rounds < 30
    assert gaussian_epsilon(2.0, done, 1e-5) <= 6.0 < gaussian_epsilon(2.0, done + 1, 1e-5) * 1.005
    assert run.summary()["epsilon"] <= 6.0
    assert run.summary()["bytes"] == plan.bytes_total
    assert any(f"pays for {done} of 30 rounds" in event.get("text", "") for event in run.events)
    assert run.model() is not None


def test_a_plan_on_a_graph_ends_where_the_budget_does() -> None:
    table = {"kind": "local", "noise_multiplier": 2.0, "epsilon": 6.0}
    plan = gossamer.plan(small(**GRAPH, rounds=30, privacy=table))
    assert 1 < plan.rounds < 30
    assert len(plan.intensities) == len(plan.transfers) == len(plan.seconds) == plan.rounds


def test_a_run_that_ends_in_a_merge_is_not_cut_short() -> None:
    table = {"kind": "local", "noise_multiplier": 2.0, "epsilon": 6.0}
    graph = {"method": "dsgd", "topology": "complete", "schedule": {"final": "gossip"}}
    with pytest.raises(ExperimentError, match=r"spent after \d+ of 30 rounds.*set rounds ="):
        account(**graph, rounds=30, privacy=table)


def test_epsilon_is_a_curve_over_the_rounds(tmp_path: Path) -> None:
    experiment = small(method=UNIFORM, privacy={"kind": "central", "epsilon": 8.0})
    run = gossamer.run(experiment, tmp_path / "run")
    curve = run.rounds["epsilon"].to_pylist()
    assert curve == sorted(curve)
    assert np.isclose(curve[-1], 8.0, rtol=0.01)
    assert curve[-1] == run.record["privacy"]["epsilon"]
    assert run.record["versions"]["dp-accounting"]


def test_what_is_spent_is_told_on_the_way(tmp_path: Path) -> None:
    """To a listener, and so on the terminal."""
    from gossamer.cli.progress import state

    heard: list[float] = []

    def hear(event: gossamer.Event) -> None:
        if event.kind == "evaluation":
            heard.append(event.values["epsilon"])

    run = gossamer.run(small(method=UNIFORM, privacy={"kind": "central", "epsilon": 8.0}), tmp_path / "run", hear)
    assert heard == run.rounds["epsilon"].to_pylist()
    line = state({"round": 3, "loss": 1.0, "accuracy": 0.5, "epsilon": heard[2], "bytes": 10}, 5)
    assert line == f"round 3/5  loss 1.0000  accuracy 0.500  epsilon {heard[2]:.3g}  10 B"
