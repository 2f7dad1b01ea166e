"""Runs with hostile nodes: every rule and every attack in both worlds, the same bits anywhere, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import assert_same, small, state_of

import gossamer
from gossamer import rounds
from gossamer.aggregators import Aggregator
from gossamer.attacks import Attack
from gossamer.errors import ExperimentError, NodeError
from gossamer.federation import Federation
from gossamer.plugs import discover

GRAPH: dict[str, Any] = {"method": "dsgd", "topology": {"kind": "random_regular", "degree": 6}}
"""Every node hears six others."""
ONLY_GRAPH = {"dissensus", "framing"}
NEEDS_OWN = {"balance", "clipped_gossip", "nna"}


def rule_settings(kind: str, world: str) -> dict[str, Any]:
    """A rule that withstands two of ten, where it counts them, with what else it needs."""
    settings: dict[str, Any] = {"aggregator": {"kind": kind}}
    if kind == "fltrust" and world == "server":
        settings["root"] = 20
    if kind == "variance_corrected" and world == "server":
        settings["method"] = "dsgd"
    if kind == "product_mean":
        settings["parametrisation"] = "lora"
    return settings


@pytest.mark.parametrize("kind", sorted(discover(Aggregator)))
@pytest.mark.parametrize("world", ["server", "graph"])
def test_every_rule_runs_under_attack(kind, world, tmp_path):
    if world == "server" and (kind in NEEDS_OWN or kind in ("variance_corrected", "product_mean")):
        pytest.skip("this rule is for models of neighbours")
    changes = {**(GRAPH if world == "graph" else {}), **rule_settings(kind, world), "rounds": 2}
    run = gossamer.run(small(hostile={"count": 2}, attack={"kind": "ipm", "scale": 2.0}, **changes), tmp_path / "run")
    tested = [x for x in run.metrics.to_pydict()["test_accuracy"] if x is not None]
    assert tested
    assert all(0 <= x <= 1 for x in tested)
    assert run.rounds.to_pydict()["kappa"][-1] >= 0


@pytest.mark.parametrize("kind", sorted(discover(Attack)))
@pytest.mark.parametrize("world", ["server", "graph"])
def test_every_attack_meets_a_median_and_a_combination(kind, world, tmp_path):
    if world == "server" and kind in ONLY_GRAPH:
        with pytest.raises(ExperimentError, match=kind):
            small(hostile={"count": 2}, attack=kind)
        return
    data: dict[str, Any] = {"model": "mlp"}
    if discover(Attack)[kind].exchanges:
        data |= {"parametrisation": "supermask", "method": "frl_gossip" if world == "graph" else "frl"}
    for rule in ("median", {"kind": "multi_krum", "f": 2}):
        changes = {**(GRAPH if world == "graph" else {}), **data, "aggregator": rule, "rounds": 3}
        attack: dict[str, Any] = {"kind": kind}
        run = gossamer.run(small(hostile={"count": 2}, attack=attack, **changes), tmp_path / f"{rule}"[:12].strip("{'"))
        assert run.record["status"] == "finished"
        if kind in ("constant", "malformed"):
            assert run.rounds.to_pydict()["rejected"][-1] == 2


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_not_finite_is_dropped_counted_and_refused_by_a_mean(value, tmp_path):
    attack = {"kind": "constant", "value": value}
    run = gossamer.run(small(hostile={"count": 2}, attack=attack, aggregator="median"), tmp_path / "median")
    assert run.rounds.to_pydict()["rejected"] == [2] * 5
    with pytest.raises(NodeError, match=r"node [0-9]+.*NaN or infinity.*robust rule"):
        gossamer.run(small(hostile={"count": 2}, attack=attack), tmp_path / "mean")
    few = small(hostile={"count": 3}, attack=attack, aggregator={"kind": "krum", "f": 2})
    with pytest.raises(NodeError, match="3 of 10 updates hold NaN or infinity, but krum withstands 2"):
        gossamer.run(few, tmp_path / "krum")


def test_a_message_of_the_wrong_shape_changes_nothing_but_is_counted(tmp_path):
    """Two nodes whose messages nobody can use: the same model as if they had sent nothing."""
    silent = gossamer.run(small(hostile={"count": 2}, attack="drop", aggregator="median"), tmp_path / "silent")
    wrong = gossamer.run(small(hostile={"count": 2}, attack="malformed", aggregator="median"), tmp_path / "wrong")
    assert torch.equal(state_of(silent)["state.row"], state_of(wrong)["state.row"])
    assert silent.rounds.to_pydict()["rejected"] == [0] * 5
    assert wrong.rounds.to_pydict()["rejected"] == [2] * 5


SCENES: dict[str, dict[str, Any]] = {
    "krum at a server": {"aggregator": "krum", "hostile": {"count": 2}, "attack": "alie"},
    "delayed messages": {"aggregator": "median", "hostile": {"count": 2}, "attack": {"kind": "delay", "rounds": 2}},
    "foolsgold": {"aggregator": "foolsgold", "hostile": {"count": 2}, "attack": "label_flip"},
    "krum on a graph": {**GRAPH, "aggregator": "krum", "hostile": {"count": 2}, "attack": "min_max"},
    "dissensus": {**GRAPH, "aggregator": "clipped_gossip", "hostile": {"count": 2}, "attack": "dissensus"},
    "sybilwall": {
        **GRAPH,
        "aggregator": {"kind": "sybilwall", "remember": "updates"},
        "hostile": {"kind": "sybils", "attack_edges": 1.0, "noise": 0.1, "participation": 0.7},
        "attack": "label_flip",
    },
    "twins": {**GRAPH, "aggregator": "twin_filter", "hostile": {"kind": "sybils"}, "attack": "framing"},
    "sybils at a server": {
        "aggregator": "median",
        "hostile": {"kind": "sybils", "identities": 3},
        "attack": "backdoor",
    },
}


@pytest.mark.parametrize("name", SCENES)
def test_workers_and_restarts_change_no_bit(name, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "STARTING_GUESS", (0.0, 1e18))  # The first checkpoint comes at once.
    experiment = small(**SCENES[name])
    whole = gossamer.run(experiment, tmp_path / "whole")
    assert_same(whole, gossamer.run(experiment.replace(backend="parallel", workers=2), tmp_path / "parallel"))

    class Enough(Exception):
        pass

    def stop(event: gossamer.Event) -> None:
        if event.kind == "checkpoint" and event.round < 5:
            raise Enough

    with pytest.raises(Enough):
        gossamer.run(experiment.replace(checkpoint={"max_share": 1.0}), tmp_path / "broken", stop)
    assert_same(whole, gossamer.resume(tmp_path / "broken"))


def test_hostile_nodes_that_do_nothing_wrong_change_only_who_is_measured(tmp_path):
    plain = gossamer.run(small(), tmp_path / "plain")
    watched = gossamer.run(small(hostile={"count": 3}), tmp_path / "watched")
    assert torch.equal(state_of(plain)["state.row"], state_of(watched)["state.row"])


def test_only_honest_nodes_are_measured(tmp_path):
    run = gossamer.run(small(**GRAPH, hostile={"listed": [1, 4]}, attack="sign_flip"), tmp_path / "run")
    columns = run.metrics.to_pydict()
    tested = {n for n, x in zip(columns["node"], columns["test_accuracy"], strict=True) if x is not None}
    assert tested == {-1, *range(10)} - {1, 4}


def test_the_bytes_of_gossiped_records_are_planned_and_counted(tmp_path):
    plain = small(**GRAPH, aggregator="median")
    wall = small(**GRAPH, aggregator="sybilwall")
    updates = small(**GRAPH, aggregator={"kind": "sybilwall", "remember": "updates"})
    row = 4 * Federation(plain).layout.size
    sizes = [gossamer.plan(e).message_bytes["up"] for e in (plain, wall, updates)]
    assert 0 < sizes[1] - sizes[0] - row < 300
    assert 0 < sizes[2] - sizes[0] - 2 * row < 300
    for experiment, name in ((wall, "wall"), (updates, "updates")):
        run = gossamer.run(experiment, tmp_path / name)
        assert run.summary()["bytes"] == gossamer.plan(experiment).bytes_total
    assert gossamer.plan(wall).memory_bytes["histories"] > gossamer.plan(plain).memory_bytes["histories"] == 0


def test_sybils_of_one_host_send_one_message_and_train_once(tmp_path):
    federation = Federation(small(**GRAPH, hostile={"kind": "sybils", "attack_edges": 1.0}, attack="label_flip"))
    placement = federation.placement
    assert placement.nodes == federation.nodes == 10 + len(placement.hostile)
    assert placement.trainers(np.arange(federation.nodes)).tolist() == list(range(11))
    host = placement.host
    assert all(federation.shards.train[name] is federation.shards.train[host] for name in placement.copies)
    run = gossamer.run(federation.experiment, tmp_path / "run")
    rows = state_of(run)["state.row"]
    assert all(torch.equal(rows[host], rows[name]) for name in placement.copies)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"attack": "ipm"}, "needs somebody to attack"),
    ({"hostile": {"count": 10}, "attack": "ipm"}, "there must be one to 9"),
    ({"hostile": {"count": 2}, "attack": {"kind": "ipm", "aim": "neighbour"}}, "aim"),
    ({"hostile": {"count": 2}, "attack": "ipm", "method": "local"}, "nobody hears anybody"),
    ({"hostile": {"count": 2}, "aggregator": "fltrust"}, "root = 100"),
    ({"root": 10}, "only rules that compare"),
    ({"aggregator": "clipped_gossip"}, "own model"),
    ({"aggregator": {"kind": "krum", "f": 0.6}}, "below 0.5"),
    ({"aggregator": {"kind": "krum", "f": -1}}, "aggregator.f"),
    ({**GRAPH, "hostile": {"count": 2}, "attack": "ipm", "clock": {"kind": "events"}}, "need rounds"),
    (
        {"hostile": {"count": 2}, "attack": {"kind": "label_flip", "mode": "swap", "first": 3, "second": 3}},
        "two classes",
    ),
]


@pytest.mark.parametrize(("changes", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_what_cannot_be_is_refused_when_it_is_written(changes, told, tmp_path):
    with pytest.raises(ExperimentError, match=told):
        Federation(small(**changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"aggregator": {"kind": "krum", "f": 4}}, "the server hears 10 updates.*withstands 3 hostile"),
        ({"method": "dsgd", "topology": "ring", "aggregator": {"kind": "krum", "f": 1}}, "node 0 hears 3 updates"),
        ({"hostile": {"kind": "sybils"}, "attack": "ipm"}, "identities"),
        ({**GRAPH, "hostile": {"kind": "sybils", "attack_edges": 50}, "attack": "ipm"}, "attack_edges"),
        (
            {"partition": {"kind": "dirichlet_pool"}, "hostile": {"count": 1}, "attack": "label_flip"},
            "nodes draw from one pool",
        ),
        ({"aggregator": "fltrust", "root": 10**6}, "only .* training items"),
        ({"aggregator": "fltrust", "root": 10, "method": "scaffold"}, "keeps a state"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_the_first_round(changes, told):
    with pytest.raises(ExperimentError, match=told):
        Federation(small(**changes))


def test_a_plan_and_a_run_warn_of_hostile_majorities(tmp_path: Path):
    experiment = small(
        method="dsgd", topology="ring", hostile={"listed": [0, 2]}, attack="sign_flip", aggregator="median"
    )
    told = [text for text in gossamer.plan(experiment).warnings if "hostile" in text]
    assert len(told) == 1
    assert "at 1 of 8 honest nodes" in told[0]
    assert told[0].endswith(": 1")
    krum = small(**GRAPH, hostile={"count": 4}, attack="sign_flip", aggregator={"kind": "krum", "f": 0.1})
    heard: list[str] = []
    gossamer.run(krum, tmp_path / "run", lambda e: heard.append(e.values["text"]) if e.kind == "warning" else None)
    assert any("more hostile ones than aggregator.kind = 'krum'" in text for text in heard)


def test_a_rule_that_stumbles_in_a_round_names_the_receiver(tmp_path):
    """On a graph that changes only the round shows that a node hears too few."""
    experiment = small(method="dsgd", topology="random_matching", aggregator={"kind": "krum", "f": 1})
    with pytest.raises(NodeError, match=r"node \d, round 1, stage aggregate: krum withstands 0 hostile of 2 updates"):
        gossamer.run(experiment, tmp_path / "run")
