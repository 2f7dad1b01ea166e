"""A graph by the clock, case by case: uplinks, questions and answers, exchanges in pairs, absence, budgets, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import SIZE

from gossamer.clocks.events import Events
from gossamer.errors import ExperimentError
from gossamer.links import Links
from gossamer.mixing import edges_of, mixing_matrix
from gossamer.operations import Apply, Exchange, Finished, Mix, Operation, Send, Start
from gossamer.schedules.every import Every
from gossamer.simulation import simulate
from gossamer.topologies import Topology
from gossamer.topologies.complete import Complete
from gossamer.topologies.edge_list import EdgeList
from gossamer.topologies.erdos_renyi import ErdosRenyi
from gossamer.topologies.ring import Ring


def trace(clock: Events, topology: Topology, nodes: int, rounds: int, **others: Any) -> list[Operation]:
    schedule = others.pop("schedule", Every())
    return list(simulate(clock, topology, schedule, "graph", nodes, rounds, 0, [1] * nodes, SIZE))


def times(operations: list[Operation], kind: Any, node: int | None = None) -> list[float]:
    return [op.time for op in operations if isinstance(op, kind) and (node is None or op.node == node)]


# ---- links that take time --------------------------------------------------------------------------------------


def test_messages_of_one_node_share_its_uplink() -> None:
    """k messages arrive bytes / bandwidth apart, in the order of their receivers, the first after one such time."""
    clock = Events(step_seconds=10, latency=0.05, bandwidth=10_000, merge="arrival")
    operations = trace(clock, Complete(), nodes=4, rounds=2)
    arrived = {(j, op.node): op.time for op in operations if isinstance(op, Mix) and op.time < 20 for j in op.senders}
    assert arrived == {
        (j, i): pytest.approx(10 + 0.1 * (place + 1) + 0.05)
        for j in range(4)
        for place, i in enumerate(i for i in range(4) if i != j)
    }


def test_a_node_does_not_send_before_its_last_messages_are_out() -> None:
    """Two messages take 3 s, a work 1 s: the node trains while it sends and then waits; nothing piles up."""
    clock = Events(step_seconds=1, bandwidth=SIZE / 1.5)
    operations = trace(clock, Ring(), nodes=5, rounds=8)
    assert times(operations, Send, 2) == [1, 4, 7, 10, 13, 16, 19]
    assert times(operations, Start, 2) == [0, 1, 4, 7, 10, 13, 16, 19]
    assert times(operations, Apply, 2) == [1, 2, 5, 8, 11, 14, 17, 20]


def test_rest_lies_between_a_work_and_the_next() -> None:
    """As in the studies of vanishing variance: training takes no time, the next one is 8 to 12 s later."""
    clock = Events(step_seconds=0, idle=(8, 12), merge="full")
    operations = trace(clock, ErdosRenyi(p=0.5), nodes=10, rounds=30)
    pauses = np.concatenate([np.diff(times(operations, Start, node)) for node in range(10)])
    assert 8 <= pauses.min() < 8.5 < 11.5 < pauses.max() <= 12
    assert times(operations, Start) == times(operations, Apply) == times(operations, Send)
    degree = np.bincount(edges_of(ErdosRenyi(p=0.5), 10, 0)[:, 1])
    assert {(op.node, len(op.slots)) for op in operations if isinstance(op, Mix)} == set(enumerate(degree.tolist()))


def test_works_without_time_follow_one_another() -> None:
    """One node after the other works, sends and is merged by the others, all at the same time."""
    operations = trace(Events(step_seconds=0, idle=(1, 1), merge="arrival"), Complete(), nodes=3, rounds=1)
    mixes = [(op.time, op.node, op.senders) for op in operations if isinstance(op, Mix)]
    assert mixes[:4] == [(0, 1, (0,)), (0, 2, (0,)), (0, 0, (1,)), (0, 2, (1,))]


def test_a_pulling_node_waits_for_answers_of_that_moment() -> None:
    """Period: work + request + answer; the answer is the model as it is when the request arrives."""
    operations = trace(Events(step_seconds=1, latency=0.25, protocol="pull"), Complete(), nodes=2, rounds=3)
    assert times(operations, Start, 0) == [0, 1.5, 3]
    assert times(operations, Send, 1) == [1.25, 2.75]
    assert times(operations, Mix, 0) == [1.5, 3]
    assert times(operations, Finished) == [1, 2.5, 4]


def test_with_merge_on_arrival_a_pulling_node_trains_meanwhile() -> None:
    clock = Events(step_seconds=1, latency=0.25, protocol="pull", merge="arrival")
    operations = trace(clock, Complete(), nodes=2, rounds=3)
    assert times(operations, Start, 0) == [0, 1, 2]
    assert times(operations, Mix, 0) == [1.5, 2.5]
    assert [op.untouched for op in operations if isinstance(op, Apply) and op.node == 0] == [True, False, False]
    slow = trace(clock.model_copy(update={"latency": 0.75}), Complete(), nodes=2, rounds=5)
    assert times(slow, Start, 0) == [0, 1, 2.5, 4, 5.5], "before it asks again, it waits for the answers"
    assert times(slow, Mix, 0) == [2.5, 4, 5.5]


def test_one_copy_of_a_model_serves_all_who_ask_for_it() -> None:
    operations = trace(Events(step_seconds=1, latency=0.25, protocol="pull"), Complete(), nodes=6, rounds=2)
    assert len(times(operations, Send)) == 6
    (slots,) = {len({slot for op in operations if isinstance(op, Mix) for slot in op.slots})}
    assert slots == 6


# ---- pairs -----------------------------------------------------------------------------------------------------


def test_a_pair_takes_a_round_trip() -> None:
    """Both nodes ask at 1; each sends its own model, then its answer: 2 (bytes / bandwidth + latency) later."""
    clock = Events(step_seconds=1, latency=0.125, bandwidth=4 * SIZE, protocol="push_pull")
    operations = trace(clock, Complete(), nodes=2, rounds=3)
    assert [(op.time, op.a, op.b) for op in operations if isinstance(op, Exchange)] == [
        (1.75, 0, 1),
        (1.75, 1, 0),
        (3.5, 0, 1),
        (3.5, 1, 0),
    ]
    assert times(operations, Start, 0) == [0, 1.75, 3.5]
    (first, *_) = (op for op in operations if isinstance(op, Finished) and op.round == 1)
    assert (first.transfers, first.sent, first.received) == (4, (2 * SIZE,) * 2, (2 * SIZE,) * 2)


def test_without_delay_every_node_meets_one_neighbour_after_each_work() -> None:
    operations = trace(Events(protocol="push_pull"), Ring(), nodes=7, rounds=40)
    met = [(op.a, op.b) for op in operations if isinstance(op, Exchange)]
    assert [a for a, _ in met] == list(range(7)) * 40
    assert set(met) == {(i, (i + d) % 7) for i in range(7) for d in (-1, 1)}
    assert {op.untouched for op in operations if isinstance(op, Apply)} == {True}


def test_ad_psgd_trains_while_it_exchanges() -> None:
    """Lian et al. 2018: the exchange begins with the work, whose gradient is then applied to the mean."""
    clock = Events(step_seconds=1, latency=0.25, protocol="push_pull", merge="arrival")
    operations = trace(clock, Complete(), nodes=2, rounds=4)
    assert times(operations, Start, 0) == [0, 1, 2, 3]
    assert [op.time for op in operations if isinstance(op, Exchange) and op.a == 0] == [1.5, 2.5, 3.5]
    assert [op.untouched for op in operations if isinstance(op, Apply) and op.node == 0] == [True, False, False, False]


def test_an_exchange_needs_both_messages() -> None:
    clock = Events(protocol="push_pull", drop=0.5)
    operations = trace(clock, Complete(), nodes=10, rounds=200)
    exchanges = sum(isinstance(op, Exchange) for op in operations)
    assert exchanges / 2000 == pytest.approx(0.25, abs=0.04)
    transfers = sum(op.transfers for op in operations if isinstance(op, Finished))
    assert transfers / 2000 == pytest.approx(1.5, abs=0.05), "no answer to a message that is lost"


# ---- weights ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 999), data=st.data())
def test_metropolis_weights_stay_and_what_is_missing_is_the_nodes_own(seed: int, data: st.DataObject) -> None:
    """For any part of a node's neighbours: their weights are those of the matrix."""
    topology = ErdosRenyi(p=0.5)
    W_NN = mixing_matrix(edges_of(topology, 8, seed), 8, "metropolis").toarray()
    graph = Links(topology, Every(), 8, 1, seed).after(0)
    assert graph is not None
    node = data.draw(st.integers(0, 7))
    assert graph.senders[node] == [(j, W_NN[node, j]) for j in np.flatnonzero(W_NN[node]) if j != node]
    part = data.draw(st.lists(st.sampled_from(graph.senders[node]), unique=True, min_size=1))
    weights, own = Links(topology, Every(), 8, 1, seed).weigh([weight for _, weight in part])
    assert list(weights) == [weight for _, weight in part]
    assert own == pytest.approx(1 - sum(weights))


def test_messages_over_several_graphs_leave_a_node_its_part() -> None:
    weights, own = Links(Ring(), Every(), 8, 1, 0).weigh([0.5, 0.5, 0.5])
    assert weights == pytest.approx([0.25] * 3)
    assert own == 0.25
    weights, own = Links(Ring(own_weight=0.4), Every(), 8, 1, 0).weigh([1, 1, 1])
    assert (weights, own) == (pytest.approx([0.2] * 3), 0.4)


# ---- absence ---------------------------------------------------------------------------------------------------


def test_an_absent_node_neither_works_nor_hears(tmp_path: Path) -> None:
    """Node 1 is away from 1.5 to 4.25: the work it had begun starts again, what was sent to it is lost."""
    (tmp_path / "trace.csv").write_text("time,node,state\n1.5, 1, down\n4.25, 1, up\n", encoding="utf-8")
    clock = Events(step_seconds=1, trace=str(tmp_path / "trace.csv"))
    operations = trace(clock, Complete(), nodes=2, rounds=5)
    assert [(op.time, op.tick) for op in operations if isinstance(op, Start) and op.node == 1] == [
        (0, 0),
        (4.25, 1),
        (5.25, 2),
        (6.25, 3),
    ]
    mixes = [(op.time, op.staleness) for op in operations if isinstance(op, Mix) and op.node == 1]
    assert mixes == [(1, (0,)), (5.25, (-3,)), (6.25, (-3,))]
    assert times(operations, Mix, 0) == [1, 6, 7]
    ends = [op for op in operations if isinstance(op, Finished)]
    assert [op.time for op in ends] == [1, 3, 5, 6, 7]
    assert sum(op.sent[0] for op in ends) - sum(op.received[1] for op in ends) == 3 * SIZE, "those of 2, 3 and 4"


def test_what_is_not_quite_sent_is_lost(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("1.5 0 down\n9 0 up", encoding="utf-8")
    clock = Events(step_seconds=1, bandwidth=SIZE / 0.4, merge="arrival", trace=str(tmp_path / "trace.csv"))
    operations = trace(clock, Complete(), nodes=3, rounds=2)
    heard = {op.node for op in operations if isinstance(op, Mix) and 0 in op.senders}
    assert heard == {1}, "the message to 1 is out at 1.4, that to 2 would be at 1.8"


def test_the_uplink_of_a_node_that_comes_back_is_free(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("1.5 0 down\n1.75 0 up", encoding="utf-8")
    clock = Events(step_seconds=1, bandwidth=SIZE / 1.5, trace=str(tmp_path / "trace.csv"))
    operations = trace(clock, Complete(), nodes=3, rounds=3)
    assert times(operations, Send, 0)[:1] == [2.75], "nothing of what it sends at 1 gets out"
    assert times(operations, Send, 1)[:2] == [1, 4]


@pytest.mark.parametrize("protocol", ["pull", "push_pull"])
def test_who_is_down_does_not_answer(tmp_path: Path, protocol: Any) -> None:
    (tmp_path / "trace.csv").write_text("1.1 1 down\n2.2 1 up", encoding="utf-8")
    clock = Events(step_seconds=1, latency=0.25, protocol=protocol, trace=str(tmp_path / "trace.csv"))
    operations = trace(clock, Complete(), nodes=2, rounds=2)
    assert times(operations, Start, 0) == [0, 1.5, 3], "it waits until the answer would have come"
    assert times(operations, (Mix, Exchange)) == [3], "node 1 did not hear the answer to its own question either"
    received = [op.received for op in operations if isinstance(op, Finished)]
    assert received == [(0, 0), (SIZE, 0) if protocol == "pull" else (2 * SIZE, SIZE)]
    assert times(operations, Start, 1) == [0, 2.2]


def test_churn_that_leaves_nobody_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ExperimentError, match=r"^clock\.up_seconds: churn leaves no node alive at t = \d.*; use a longer"
    ):
        trace(Events(up_seconds=1, down_seconds=1), Complete(), nodes=2, rounds=1000)
    (tmp_path / "trace.csv").write_text("3 0 down\n5 1 down\n8 0 up", encoding="utf-8")
    clock = Events(step_seconds=1, trace=str(tmp_path / "trace.csv"))
    assert trace(clock, Complete(), nodes=2, rounds=3)[-1].time == 4, "all is well until then"
    with pytest.raises(
        ExperimentError, match=r"clock\.trace: churn leaves no node alive at t = 5 s; let one of them stay"
    ):
        trace(clock, Complete(), nodes=2, rounds=6)


def test_a_work_that_no_node_will_ever_finish_is_an_error() -> None:
    with pytest.raises(ExperimentError, match=r"clock\.up_seconds = 0.5: a work of 10 s would hardly ever be finished"):
        trace(Events(step_seconds=10, up_seconds=0.5, down_seconds=0.1), Complete(), nodes=2, rounds=1)


# ---- budget ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "spent"), [("push", 24), ("pull", 25), ("push_pull", 25)])
def test_a_budget_is_never_exceeded(protocol: Any, spent: int) -> None:
    operations = trace(Events(protocol=protocol), Ring(), nodes=6, rounds=10, schedule=Every(budget=25))
    assert 0 <= spent - sum(op.transfers for op in operations if isinstance(op, Finished)) <= 1
    assert len(times(operations, Start)) == 60, "nodes go on training"


@pytest.mark.parametrize("topology", [EdgeList(pairs=((0, 1), (1, 2), (2, 0)), directed=True)])
def test_metropolis_weights_need_links_both_ways(topology: Topology) -> None:
    with pytest.raises(ExperimentError, match="needs an undirected graph"):
        trace(Events(), topology, nodes=3, rounds=1)
