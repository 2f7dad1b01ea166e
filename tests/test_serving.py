"""A server by the clock: FedAvg as the special case, staleness, places, losses and absence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import Replay

from gossamer.churn import churn_of
from gossamer.clocks import NANO, nanoseconds, speeds_of
from gossamer.clocks.events import Events
from gossamer.errors import ExperimentError
from gossamer.operations import Apply, Finished, Lost, Merge, Operation, Start, survey
from gossamer.schedules.every import Every
from gossamer.serving import Serving
from gossamer.simulation import simulate
from gossamer.topologies.server import Server

UP, DOWN = 1000, 3000


def trace(clock: Events, nodes: int, rounds: int, buffered: int = 1, seed: int = 0) -> list[Operation]:
    return list(simulate(clock, Server(), Every(), "server", nodes, rounds, seed, [1] * nodes, UP, DOWN, buffered))


def of(kind: type, operations: list[Operation]) -> list[Any]:
    return [op for op in operations if isinstance(op, kind)]


def test_a_full_buffer_of_equal_nodes_is_federated_averaging() -> None:
    operations = iter(trace(Events(step_seconds=0.5), nodes=6, rounds=4, buffered=6))
    for k in range(4):
        for i in range(6):
            op = next(operations)
            assert isinstance(op, Start)
            assert (op.time, op.node, op.tick) == (k / 2, i, k)
        op = next(operations)
        assert isinstance(op, Merge)
        assert (op.time, op.senders, op.ticks, op.staleness) == ((k + 1) / 2, tuple(range(6)), (k,) * 6, (0,) * 6)
        assert next(operations) == Finished((k + 1) / 2, k, (UP,) * 6, (DOWN,) * 6, 12)
    assert next(operations, None) is None


def test_staleness_of_simultaneous_results_counts_up() -> None:
    """Without a buffer the results of a round are merged one after the other, each one merge staler than the last."""
    operations = trace(Events(), nodes=5, rounds=3)
    assert [op.staleness[0] for op in of(Merge, operations)] == [0, 1, 2, 3, 4] * 3
    assert survey(operations).staleness_mean == 2


def test_one_at_a_time_is_never_stale() -> None:
    """The time of a work is download + steps + upload: latency, work, bytes / bandwidth, latency."""
    clock = Events(step_seconds=1, latency=0.25, bandwidth=2 * UP, concurrency=1)
    operations = trace(clock, nodes=10, rounds=50)
    assert [op.time for op in of(Start, operations)] == [2.0 * k for k in range(50)]
    assert {op.staleness for op in of(Merge, operations)} == {(0,)}
    assert len({op.node for op in of(Start, operations)}) == 10, "everybody's turn comes"


def test_a_node_rests_before_it_is_asked_again() -> None:
    """The only node: the server waits for it."""
    clock = Events(step_seconds=1, idle=(5, 5), latency=0.25, bandwidth=UP)
    assert [op.time for op in of(Start, trace(clock, nodes=1, rounds=3))] == [0, 7.25, 14.5]


@settings(max_examples=100, deadline=None)
@given(
    step=st.sampled_from([0.001, 0.02]),
    speeds=st.sampled_from(["equal", "lognormal"]),
    idle=st.sampled_from([(0.0, 0.0), (0.01, 0.05)]),
    latency=st.sampled_from([0.0, 0.01]),
    bandwidth=st.sampled_from([0.0, 1e5]),
    concurrency=st.integers(1, 7),
    buffered=st.integers(1, 4),
    drop=st.sampled_from([0.0, 0.3]),
    away=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_trace_makes_sense(
    step: float,
    speeds: Any,
    idle: tuple[float, float],
    latency: float,
    bandwidth: float,
    concurrency: int,
    buffered: int,
    drop: float,
    away: bool,
    seed: int,
) -> None:
    nodes, rounds = 7, 6
    clock = Events(
        step_seconds=step,
        speeds=speeds,
        idle=idle,
        latency=latency,
        bandwidth=bandwidth,
        concurrency=concurrency,
        drop=drop,
        up_seconds=0.5 if away else 0,
        down_seconds=0.02 if away else 0,
    )
    serving = Serving(clock, nodes, rounds, seed, [1] * nodes, UP, DOWN, buffered, churn_of(clock, nodes, seed))
    operations = list(serving.play())
    replay = Replay(nodes, concurrency, operations)
    assert {slot for slot, holders in enumerate(serving.mail._holders) if holders} == replay.open.keys()
    assert sum(serving.snapshots._holders) == len(replay.open)
    assert replay.rounds == rounds
    assert not of(Apply, operations)
    merges = of(Merge, operations)
    assert {len(op.slots) for op in merges} <= {buffered}

    # How long a node is at work, from its own seconds alone: never more than `concurrency` of them, each rested.
    churn, speed = churn_of(clock, nodes, seed), speeds_of(clock, nodes, seed)
    spans: list[tuple[int, int]] = []
    rested = [0] * nodes
    for op in of(Start, operations):
        begun = round(op.time * NANO)
        worked = begun + nanoseconds(latency) + clock.work(seed, op.node, op.tick, 1, speed[op.node])
        sent = worked + clock.upload(UP)
        down = churn.down_after(op.node, begun) if churn else sent
        assert churn is None or down > worked, "a work is begun that is not finished"
        assert begun >= rested[op.node]
        rested[op.node] = sent + clock.rest(seed, op.node, op.tick)
        spans.append((begun, down if down < sent else sent + nanoseconds(latency)))
    for begun, _ in spans:
        assert sum(a <= begun < b for a, b in spans) <= concurrency
    if not drop and not away and buffered == 1:
        assert [round(op.time * NANO) for op in merges] == sorted(end for _, end in spans)[: len(merges)]
    over = round(replay.time * NANO)
    lost = len(of(Lost, operations))
    came = sum(end <= over for _, end in spans) - lost
    assert rounds * concurrency <= came, "a round is over when its results have come"
    assert sum(end < over for _, end in spans) - lost < rounds * concurrency
    assert len(merges) == came // buffered
    assert came % buffered <= len(replay.open) <= came % buffered + concurrency
    assert sum(replay.sent) == UP * (came + lost)
    assert sum(replay.received) == DOWN * len(of(Start, operations)) or away


def test_lost_messages_are_missed_in_both_directions() -> None:
    """A lost download costs the server's time only; a lost upload was a work done in vain."""
    clock = Events(step_seconds=1, latency=0.25, drop=0.3, concurrency=1)
    operations = trace(clock, nodes=4, rounds=2000)
    works, lost = len(of(Start, operations)), len(of(Lost, operations))
    assert works - lost == len(of(Merge, operations)) == 2000
    assert lost / works == pytest.approx(0.3, abs=0.03)
    handed = sum(op.transfers for op in of(Finished, operations)) - works
    assert works / handed == pytest.approx(0.7, abs=0.03)
    assert operations[-1].time == pytest.approx(works * 1.5 + (handed - works) * 0.25)


def test_another_takes_the_place_of_a_node_that_goes_away(tmp_path: Path) -> None:
    """Both are handed the model at 0; node 1 goes at 0.5, is back at 2.5, and does the same work then."""
    (tmp_path / "trace.txt").write_text("0.5 1 down\n2.5 1 up", encoding="utf-8")
    clock = Events(step_seconds=1, trace=str(tmp_path / "trace.txt"))
    operations = trace(clock, nodes=2, rounds=3)
    assert [(op.time, op.tick) for op in of(Start, operations) if op.node == 1] == [(2.5, 0), (3.5, 1)]
    assert [op.time for op in of(Start, operations) if op.node == 0] == [0, 1, 2, 3, 4]
    ends = of(Finished, operations)
    assert [op.time for op in ends] == [2, 3.5, 4.5]
    assert sum(op.received[1] for op in ends) == 3 * DOWN, "it had received the first one"


def test_a_result_that_is_cut_off_is_missed_at_that_moment(tmp_path: Path) -> None:
    clock = Events(step_seconds=1, bandwidth=UP / 2, concurrency=1)
    (first, *_) = of(Start, trace(clock, nodes=2, rounds=1))
    (tmp_path / "trace.txt").write_text(f"1.5 {first.node} down", encoding="utf-8")
    operations = trace(clock.model_copy(update={"trace": str(tmp_path / "trace.txt")}), nodes=2, rounds=2)
    assert [op.time for op in of(Lost, operations)] == [1.5]
    assert [op.time for op in of(Start, operations)] == [0, 1.5, 4.5]
    assert {op.node for op in of(Start, operations)[1:]} == {1 - first.node}


def test_choices_for_graphs_are_errors_with_a_server_and_the_other_way_round() -> None:
    for name, value in [("protocol", "pull"), ("merge", "arrival"), ("order", "update_merge")]:
        with pytest.raises(ExperimentError, match=rf"clock\.{name} = '{value}' is for graphs"):
            trace(Events(**{name: value}), nodes=3, rounds=1)
    with pytest.raises(ExperimentError, match=r"clock\.concurrency = 9 with nodes = 3.*use 3 or less"):
        trace(Events(concurrency=9), nodes=3, rounds=1)


def test_who_works_next_is_drawn_evenly() -> None:
    operations = trace(Events(concurrency=3), nodes=30, rounds=2000)
    works_N = np.bincount([op.node for op in of(Start, operations)], minlength=30)
    assert works_N.sum() == 6000
    assert abs(works_N - 200).max() < 5 * np.sqrt(200)
