"""Asynchronous runs on a graph: what happens when, checked by an independent reader, an oracle and closed forms."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import SIZE, Replay, expected_mixes

from gossamer.churn import churn_of
from gossamer.clocks import NANO, kept
from gossamer.clocks.events import Events
from gossamer.gossiping import Gossip
from gossamer.mixing import edges_of, mixing_matrix
from gossamer.operations import Apply, Exchange, Finished, Mix, Operation, Send, Start, survey
from gossamer.schedules import Schedule
from gossamer.schedules.every import Every
from gossamer.simulation import simulate
from gossamer.timeline import ARRIVE
from gossamer.topologies import Array, Topology
from gossamer.topologies.complete import Complete
from gossamer.topologies.edge_list import EdgeList
from gossamer.topologies.erdos_renyi import ErdosRenyi
from gossamer.topologies.random_regular import RandomRegular
from gossamer.topologies.ring import Ring

DIRECTED = EdgeList(pairs=((0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 0)), directed=True, weights="uniform")


class Alternating(Topology):
    """A matching of neighbours on a ring, the other one in every second round."""

    varies: ClassVar[bool] = True  # type: ignore[assignment]
    kind: Literal["alternating"] = "alternating"

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        i = np.arange(round % 2, nodes + round % 2, 2) % nodes
        pairs = np.stack([i, (i + 1) % nodes], axis=1)
        return np.concatenate([pairs, pairs[:, ::-1]])


def trace(
    clock: Events, topology: Topology, nodes: int = 5, rounds: int = 4, seed: int = 0, **others: Any
) -> list[Operation]:
    """All operations of a run whose nodes do one step at a time."""
    schedule = others.pop("schedule", Every())
    steps = others.pop("steps", [1] * nodes)
    return list(simulate(clock, topology, schedule, "graph", nodes, rounds, seed, steps, SIZE))


def of(kind: type, operations: list[Operation]) -> list[Any]:
    return [op for op in operations if isinstance(op, kind)]


# ---- the synchronous run is a special case ---------------------------------------------------------------------


@pytest.mark.parametrize("merge", ["cycle", "arrival", "full"])
@pytest.mark.parametrize(
    "topology",
    [
        Ring(),
        RandomRegular(degree=4),
        ErdosRenyi(p=0.5),
        ErdosRenyi(p=0.5, weights="uniform"),
        ErdosRenyi(p=0.5, own_weight=0.25),
        Complete(),
        Alternating(),
    ],
    ids=lambda topology: f"{topology.kind}-{topology.weights}-{topology.own_weight}",
)
def test_without_delays_it_is_the_synchronous_run(topology: Topology, merge: Any) -> None:
    nodes, rounds, T = 8, 5, 0.25
    clock = Events(step_seconds=T / 5, merge=merge)
    operations = iter(trace(clock, topology, nodes, rounds, seed=3, steps=[5] * nodes))
    for k in range(rounds):
        edges_E2 = edges_of(topology, nodes, 3, round=k)
        W_NN = mixing_matrix(edges_E2, nodes, topology.weights, own_weight=topology.own_weight).toarray()
        for i in range(nodes):
            op = next(operations)
            assert isinstance(op, Start)
            assert (op.time, op.node, op.tick) == (k * T, i, k)
        for i in range(nodes):
            op = next(operations)
            assert isinstance(op, Apply)
            assert (op.time, op.node, op.tick, op.untouched) == ((k + 1) * T, i, k, True)
        for i in range(nodes):
            op = next(operations)
            assert isinstance(op, Send)
            assert (op.time, op.node, op.tick) == ((k + 1) * T, i, k)
        for i in range(nodes):
            op = next(operations)
            assert isinstance(op, Mix)
            assert (op.time, op.node, set(op.staleness)) == ((k + 1) * T, i, {0})
            row_N = np.zeros(nodes)
            row_N[list(op.senders)] = op.weights
            row_N[i] = op.own_weight
            np.testing.assert_allclose(row_N, W_NN[i], rtol=0, atol=1e-16)
        op = next(operations)
        assert isinstance(op, Finished)
        heard_N = np.bincount(edges_E2[:, 1], minlength=nodes) * SIZE
        assert (op.time, op.round, op.transfers) == ((k + 1) * T, k, len(edges_E2))
        assert op.received == tuple(heard_N)
        assert op.sent == tuple(np.bincount(edges_E2[:, 0], minlength=nodes) * SIZE)
    assert next(operations, None) is None


def test_pull_without_delays_is_the_synchronous_run_too() -> None:
    """Only that messages are copied when they are asked for; every node answers from before its own merge."""
    topology = ErdosRenyi(p=0.5)

    def known(clock: Events) -> list[Any]:
        ops = trace(clock, topology, nodes=8)
        return [(type(op).__name__, op.time, op.node) for op in ops if isinstance(op, (Start, Apply))] + [
            (op.time, op.node, op.senders, op.weights, op.own_weight, op.staleness) for op in of(Mix, ops)
        ]

    assert known(Events(protocol="pull")) == known(Events())
    assert len(of(Send, trace(Events(protocol="pull"), topology, 8))) == 4 * 8


def test_what_is_lost_is_lost_in_rounds_too() -> None:
    topology, clock = RandomRegular(degree=4), Events(drop=0.4)
    operations = trace(clock, topology, nodes=10, rounds=6, seed=1)
    edges_E2 = edges_of(topology, 10, 1)
    step = round(clock.step_seconds * NANO)
    heard = {(round(op.time * NANO) // step - 1, j, op.node) for op in of(Mix, operations) for j in op.senders}
    assert heard == {(k, j, i) for k in range(6) for j, i in kept(clock, edges_E2, 1, k).tolist()}
    ends = of(Finished, operations)
    assert sum(end.transfers for end in ends) == 6 * 40
    assert sum(sum(end.received) for end in ends) == SIZE * len(heard)
    given = [(w, op.own_weight) for op in of(Mix, operations) for w in op.weights]
    assert {w for w, _ in given} == {0.2}, "a lost message's weight stays with the receiver"


def test_the_schedule_says_after_which_works_a_node_sends() -> None:
    operations = trace(Events(), Ring(), nodes=5, rounds=7, schedule=Every(k=3))
    assert {op.tick for op in of(Send, operations)} == {2, 5}
    shared = Every(share=0.4)
    operations = trace(Events(), Complete(), nodes=9, rounds=5, seed=2, schedule=shared)
    for k, end in enumerate(of(Finished, operations)):
        assert end.transfers == len(edges_of(Complete(), 9, 2, round=k, share=0.4))


class Last(Schedule):
    """All links in the last round, none before."""

    kind: Literal["last"] = "last"

    def intensity(self, round: int, rounds: int) -> float:
        assert 0 <= round < rounds
        return float(round == rounds - 1)


def test_works_beyond_the_rounds_are_followed_by_what_the_last_round_has() -> None:
    operations = trace(Events(), Complete(), nodes=3, rounds=4, schedule=Last(), steps=[1, 3, 6])
    assert [op.tick for op in of(Send, operations) if op.node == 0] == [3, 4, 5, 6, 7, 8]


# ---- any run ---------------------------------------------------------------------------------------------------

clocks = st.fixed_dictionaries(
    {
        "step_seconds": st.sampled_from([0.001, 0.01, 0.03]),
        "speeds": st.sampled_from(["equal", "uniform", "lognormal"]),
        "jitter": st.sampled_from([0.0, 0.3]),
        "idle": st.sampled_from([(0.0, 0.0), (0.005, 0.02)]),
        "latency": st.sampled_from([0.0, 0.004, 0.05]),
        "bandwidth": st.sampled_from([0.0, 5e4, 1e6]),
        "drop": st.sampled_from([0.0, 0.2]),
    }
)
manners = st.sampled_from(
    [
        {"protocol": protocol, "merge": merge, "order": order}
        for protocol in ("push", "pull", "push_pull")
        for merge in ("cycle", "arrival", "full")
        for order in ("merge_update", "update_merge")
        if not (order == "update_merge" and merge != "cycle") and not (merge == "full" and protocol != "push")
    ]
)
churns = st.sampled_from([{}, {"up_seconds": 0.4, "down_seconds": 0.04}])
graphs = st.sampled_from([Ring(), Complete(weights="uniform"), ErdosRenyi(p=0.6, own_weight=0.5), Alternating()])


@settings(max_examples=150, deadline=None)
@given(clock=clocks, manner=manners, churn=churns, topology=graphs, seed=st.integers(0, 99))
def test_every_trace_makes_sense(clock: Any, manner: Any, churn: Any, topology: Topology, seed: int) -> None:
    """The reader finds no fault; nobody works or merges while down; what is held at the end is what is still needed."""
    nodes, rounds = 6, 5
    events = Events(**clock, **manner, **churn)
    gossip = Gossip(events, topology, Every(), nodes, rounds, seed, [1] * nodes, SIZE, churn_of(events, nodes, seed))
    operations = list(gossip.play())
    replay = Replay(nodes, nodes, operations)
    assert replay.rounds == rounds
    assert rounds * nodes <= replay.ended
    assert replay.ended - len([op for op in of(Apply, operations) if op.time == replay.time]) < rounds * nodes
    assert sum(replay.sent) == SIZE * replay.transfers

    letters = [e[-1] for e in gossip._events if e[1] == ARRIVE and e[-1] is not None and e[-1].slot >= 0]
    letters += [letter for buffer in gossip.buffers for letter in buffer.values()]
    holders = Counter(letter.slot for letter in letters) + Counter(replay.open.keys())
    assert {s: n for s, n in enumerate(gossip.mail._holders) if n} == holders
    assert sum(n > 0 for n in gossip.snapshots._holders) == len(replay.open)

    if not any(churn.values()) and not clock["drop"] and manner["protocol"] != "push_pull":
        on_the_way = sum(e[1] == ARRIVE for e in gossip._events)
        assert sum(replay.sent) == sum(replay.received) + SIZE * on_the_way
    if churn:
        absent = churn_of(events, nodes, seed)
        assert absent is not None
        started = {(op.node, op.tick): op.time for op in of(Start, operations)}
        for op in operations:
            if isinstance(op, Finished):
                continue
            for node in (op.a, op.b) if isinstance(op, Exchange) else (op.node,):
                assert absent.is_up(node, round(op.time * NANO))
            if isinstance(op, Apply):
                begun = round(started[op.node, op.tick] * NANO)
                assert absent.down_after(op.node, begun) > round(op.time * NANO)


@settings(max_examples=100, deadline=None)
@given(
    clock=clocks,
    manner=st.sampled_from(
        [("cycle", "merge_update"), ("cycle", "update_merge"), ("arrival", "merge_update"), ("full", "merge_update")]
    ),
    topology=st.sampled_from([Ring(), DIRECTED, Complete(), ErdosRenyi(p=0.7)]),
    seed=st.integers(0, 99),
)
def test_merges_are_those_of_a_node_by_node_oracle(clock: Any, manner: Any, topology: Topology, seed: int) -> None:
    events = Events(**clock, merge=manner[0], order=manner[1])
    operations = trace(events, topology, nodes=5, rounds=6, seed=seed)
    done = [0] * 5
    found = []
    for op in operations:
        if isinstance(op, Apply):
            done[op.node] += 1
        elif isinstance(op, Mix):
            ticks = (done[op.node] - 1 - stale for stale in op.staleness)
            found.append((op.time, op.node, tuple(zip(op.senders, ticks, strict=True))))
    assert sorted(found) == expected_mixes(events, topology, 5, seed, max(done) + 1, operations[-1].time)


def test_a_trace_is_determined_by_its_arguments() -> None:
    clock = Events(speeds="lognormal", jitter=0.2, latency=0.003, drop=0.1, up_seconds=1, down_seconds=0.1)
    one = trace(clock, RandomRegular(degree=4), nodes=12, seed=5)
    assert one == trace(clock, RandomRegular(degree=4), nodes=12, seed=5)
    assert one != trace(clock, RandomRegular(degree=4), nodes=12, seed=6)


def test_the_survey_counts_what_the_trace_does() -> None:
    operations = trace(Events(speeds="lognormal", latency=0.01), Ring(), nodes=7, rounds=9)
    needs, replay = survey(operations), Replay(7, 7, operations)
    assert needs.snapshots == 1 + max(op.snapshot for op in of(Start, operations)) <= 7
    assert needs.mail == 1 + max(replay.mail)
    assert (needs.works, needs.merges) == (len(of(Start, operations)), len(of(Mix, operations)))
    assert (list(needs.sent), list(needs.received)) == (replay.sent, replay.received)
    assert needs.seconds == tuple(op.time for op in of(Finished, operations))
    assert sum(needs.transfers) == replay.transfers
    stale = [value for op in of(Mix, operations) for value in op.staleness]
    assert (needs.staleness_max, needs.staleness_mean) == (max(stale), pytest.approx(np.mean(stale)))
