"""What receivers make of what they hear, as matrices or one by one, under attack too, and the figures of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from federations import small, state_of

import gossamer
from gossamer.adversary import Struck
from gossamer.engines import Round, local
from gossamer.engines.local import Local
from gossamer.engines.receiving import Receiving
from gossamer.engines.robustness import Watch
from gossamer.federation import Federation
from gossamer.placement import Placement, surrounded

GRAPH: dict[str, Any] = {"method": "dsgd", "topology": {"kind": "random_regular", "degree": 6}, "nodes": 14}
KRUM = {"kind": "multi_krum", "f": 0.2}


def trained(**changes: Any) -> tuple[Federation, Local, Round]:
    """A federation after the local work of its first round."""
    from gossamer.backends.eager import Eager

    federation = Federation(small(**changes))
    engine = Local(federation, Eager(federation))
    return federation, engine, engine.train(0)


@pytest.mark.parametrize(
    "rule", [KRUM, "geometric_median", "clipped_gossip", "flag", "foolsgold", "sybilwall", "twin_filter"]
)
@pytest.mark.parametrize("attack", ["honest", "ipm", "sign_flip"])
def test_a_mixing_matrix_gives_what_each_receiver_would_make_of_it(rule, attack, tmp_path, monkeypatch):
    experiment = small(**GRAPH, aggregator=rule, hostile={"count": 2}, attack=attack, dtype="float64")
    fast = gossamer.run(experiment, tmp_path / "fast")
    monkeypatch.setattr(Receiving, "combines", False)
    slow = gossamer.run(experiment, tmp_path / "slow")
    torch.testing.assert_close(state_of(fast)["state.row"], state_of(slow)["state.row"], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rule", [KRUM, "geometric_median", "nna"])
def test_one_gram_matrix_for_all_or_one_for_each_is_the_same(rule, tmp_path, monkeypatch):
    experiment = small(**GRAPH, aggregator=rule, hostile={"count": 2}, attack="alie", dtype="float64")
    shared = gossamer.run(experiment, tmp_path / "shared")
    monkeypatch.setattr("gossamer.engines.receiving.FLAT", 0)
    apart = gossamer.run(experiment, tmp_path / "apart")
    torch.testing.assert_close(state_of(shared)["state.row"], state_of(apart)["state.row"], rtol=1e-7, atol=1e-9)


def test_on_a_complete_graph_every_honest_node_gets_what_the_rule_makes_of_all():
    federation, engine, result = trained(method="dsgd", topology="complete", aggregator="median", hostile={"count": 3})
    expected = federation.sent["row"].clone()
    engine.exchange(result)
    n = expected.sort(0).values
    for node in federation.placement.honest.tolist():
        torch.testing.assert_close(federation.population.state["row"][node], (n[4] + n[5]) / 2)


def test_a_message_for_each_neighbour_is_made_from_what_it_hears():
    """IPM aimed at neighbours under the mean: each honest node's result is its own honest mean, shrunk."""
    attack = {"kind": "ipm", "scale": 2.0, "aim": "neighbour"}
    changes = {**GRAPH, "topology": {"kind": "random_regular", "degree": 6, "weights": "uniform"}}
    federation, engine, result = trained(**changes, hostile={"count": 2}, attack=attack)
    sent, before = federation.sent["row"].clone(), federation.population.state["row"].clone()
    engine.exchange(result)
    for node in federation.placement.honest.tolist():
        links = federation.exchanges.links(0)
        heard = np.sort([node, *links[links[:, 1] == node, 0]])
        honest = heard[~federation.placement.is_hostile[heard]]
        mean, base = sent[honest].mean(0), before[honest].mean(0)
        forged = base - 2.0 * (mean - base)
        expected = (sent[honest].sum(0) + (len(heard) - len(honest)) * forged) / len(heard)
        torch.testing.assert_close(federation.population.state["row"][node], expected, rtol=1e-4, atol=1e-6)


def test_what_nobody_sends_is_not_in_the_mean():
    federation, engine, result = trained(
        hostile={"listed": [2, 5]}, attack="drop", method={"kind": "fedavg", "weighting": "uniform"}
    )
    before = federation.population.state["row"][0].clone()
    honest = federation.placement.honest
    engine.exchange(result)
    expected = before + federation.sent["delta"][torch.from_numpy(honest)].mean(0)
    torch.testing.assert_close(federation.population.state["row"][0], expected)


def test_sybils_go_on_from_the_plain_mean_of_all_that_reaches_them():
    federation, engine, result = trained(**GRAPH, hostile={"kind": "sybils"}, attack="label_flip", aggregator="median")
    placement, sent = federation.placement, federation.sent["row"]
    engine.exchange(result)
    links = federation.exchanges.links(0)
    to_them = np.unique(links[placement.is_hostile[links[:, 1]], 0])
    assert len(to_them) == 14
    expected = sent[torch.from_numpy(np.union1d(to_them, placement.hostile))].mean(0)
    for name in placement.hostile.tolist():
        torch.testing.assert_close(federation.population.state["row"][name], expected)


def test_hostile_nodes_that_forge_go_on_from_what_honest_ones_sent():
    federation, engine, result = trained(**GRAPH, hostile={"count": 2}, attack="constant", aggregator="median")
    engine.exchange(result)
    assert federation.population.state["row"].isfinite().all()


class TestFigures:
    def test_of_a_mean_are_known_in_closed_form(self):
        """Seven honest messages and three hostile ones, each the honest mean turned round."""
        attack = {"kind": "ipm", "scale": 1.0}
        method = {"kind": "fedavg", "weighting": "uniform"}
        federation, engine, result = trained(hostile={"count": 3}, attack=attack, method=method)
        result.watched = True
        engine.exchange(result)
        honest = federation.sent["delta"][torch.from_numpy(federation.placement.honest)].double()
        mean = honest.mean(0)
        spread = (honest - mean).square().sum() / 7
        kappa = ((7 - 3) / 10 * mean - mean).square().sum() / spread
        assert result.robustness["hostile_weight"] == pytest.approx(0.3)
        assert result.robustness["cosine"] == pytest.approx(1.0)
        assert result.robustness["kappa"] == pytest.approx(float(kappa), rel=1e-4)

    def test_of_a_rule_that_leaves_hostile_nodes_out(self):
        attack = {"kind": "constant", "value": 50.0}
        for world in ({}, GRAPH):
            changes = {**world, "hostile": {"count": 1}, "attack": attack, "aggregator": {"kind": "multi_krum", "f": 1}}
            _, engine, result = trained(**changes)
            result.watched = True
            engine.exchange(result)
            assert result.robustness["hostile_weight"] == 0
            assert result.robustness["kappa"] < 1
            assert result.robustness["cosine"] > 0.5

    def test_of_coordinate_rules_have_no_weight(self):
        _, engine, result = trained(hostile={"count": 1}, attack="ipm", aggregator="median")
        result.watched = True
        engine.exchange(result)
        assert "hostile_weight" not in result.robustness

    def test_are_the_same_where_a_server_or_everybody_takes_the_mean(self):
        federation, _, _ = trained(hostile={"count": 2}, attack="ipm", aggregator=KRUM)
        everybody = np.arange(10)
        receiving = Receiving(federation, 0, Struck())
        fields = receiving.fields(everybody, [1.0] * 10, None)
        watch = Watch(federation)
        watch.server(receiving, everybody, [1.0] * 10, fields)
        assert set(watch.means()) == {"hostile_weight", "cosine", "kappa"}


def test_who_is_surrounded():
    star = np.array([(0, 1), (0, 2), (2, 1), (1, 2), (3, 2), (3, 4)])
    placement = Placement(5, np.array([0, 3]), -1, star[:0])
    # 1 hears 0 and 2: one of three. 2 hears 0, 1 and 3: two of four. 4 hears 3: one of two.
    assert surrounded(star, placement).tolist() == [2, 4]


def test_nothing_is_straight_where_messages_are_forged():
    federation, _, result = trained(**GRAPH, hostile={"count": 2}, attack="ipm")
    exchange = federation.exchanges.of(0, result.participants, 0)[0]
    assert not local._straight(federation, exchange, result)


STILL: dict[str, Any] = {"learner": {"kind": "sgd", "lr": 1e-7, "steps": 1, "batch_size": 16}, "rounds": 4}
"""Local work that changes next to nothing: whatever happens to a model is the exchange's doing."""


@pytest.mark.parametrize(
    "changes",
    [
        {"hostile": {"listed": [1, 4]}, "attack": "sign_flip", "topology": "ring"},
        {"hostile": {"count": 2}, "attack": {"kind": "free_rider"}, "topology": "complete"},
        {"hostile": {"kind": "sybils", "participation": 0.3}, "attack": "label_flip"},
        {"hostile": {"count": 2}, "attack": {"kind": "drop", "aim": "neighbour"}},
        {
            "hostile": {"count": 2},
            "attack": "free_rider",
            "topology": "complete",
            "schedule": {"final": "merge"},
            "aggregator": {"kind": "centered_clipping", "tau": 1.0},
        },
    ],
    ids=str,
)
def test_models_that_do_not_change_stay_what_they_are(changes, tmp_path):
    """No exchange shrinks a model, whoever is silent, forges, or is hostile under many names."""
    base = {**GRAPH, **STILL}
    if changes.get("schedule"):
        changes = {**changes, "topology": {"kind": "complete", "all_to_all": True}}
    experiment = small(**{**base, **changes})
    start = Federation(experiment).population.state["row"][0].norm()
    rows = state_of(gossamer.run(experiment, tmp_path / "run"))["state.row"]
    torch.testing.assert_close(rows.norm(dim=1), start.expand(len(rows)), rtol=1e-3, atol=0)


def test_who_sends_a_neighbour_nothing_is_not_heard_by_it(tmp_path):
    said = [
        gossamer.run(
            small(**GRAPH, hostile={"count": 2}, attack={"kind": "drop", "aim": aim}, aggregator="median"),
            tmp_path / aim,
        )
        for aim in ("all", "neighbour")
    ]
    honest = Federation(said[0].experiment).placement.honest
    rows = [state_of(run)["state.row"][torch.from_numpy(honest)] for run in said]
    torch.testing.assert_close(rows[0], rows[1])


def test_a_hostile_node_that_diverges_ends_no_run(tmp_path):
    attack = {"kind": "shifted_data", "shift": "noise", "strength": 1e38}
    run = gossamer.run(small(hostile={"count": 2}, attack=attack, aggregator="median"), tmp_path / "run")
    assert run.record["status"] == "finished"
