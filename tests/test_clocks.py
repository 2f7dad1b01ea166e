"""Clocks: what works and rounds cost in closed form, what gets lost, and settings that cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gossamer.clocks import NANO, Clock, kept, nanoseconds, round_seconds, speeds_of
from gossamer.clocks.events import Events
from gossamer.clocks.rounds import Rounds
from gossamer.errors import ExperimentError
from gossamer.mixing import edges_of
from gossamer.schedules import Schedule
from gossamer.schedules.adaptive import Adaptive
from gossamer.schedules.every import Every
from gossamer.topologies import Topology
from gossamer.topologies.complete import Complete
from gossamer.topologies.edge_list import EdgeList
from gossamer.topologies.ring import Ring
from gossamer.topologies.server import Server

BYTES = 8000


# ---- works -----------------------------------------------------------------------------------------------------


def test_a_work_takes_its_steps_at_the_nodes_speed() -> None:
    assert Rounds(step_seconds=0.25).work(0, 3, 0, 8, 0.5) == 4 * NANO
    assert Rounds(step_seconds=0.25).work(0, 3, 0, 0, 0.5) == 0
    assert Rounds(step_seconds=1e-12).work(0, 3, 0, 1, 1.0) == 1, "time goes on, if only by a nanosecond"


def test_speeds_are_drawn_once_for_each_node() -> None:
    assert speeds_of(Rounds(), 4, 0) == [1, 1, 1, 1]
    uniform = Rounds(speeds="uniform", spread=0.4)
    speeds_N = np.array(speeds_of(uniform, 2000, 0))
    assert 0.6 <= speeds_N.min() < 0.61
    assert 1.39 < speeds_N.max() <= 1.4
    assert speeds_N.mean() == pytest.approx(1, abs=0.02)
    logs_N = np.log(speeds_of(Rounds(speeds="lognormal", spread=0.7), 2000, 0))
    assert logs_N.mean() == pytest.approx(0, abs=0.05)
    assert logs_N.std() == pytest.approx(0.7, rel=0.05)
    assert speeds_of(uniform, 50, 0) == speeds_of(uniform, 2000, 0)[:50] != speeds_of(uniform, 50, 1)


def test_jitter_and_rest_are_drawn_for_each_work() -> None:
    clock = Rounds(step_seconds=1, jitter=0.2, idle=(3, 5))
    works = [clock.work(0, node, tick, 10, 1.0) / NANO for node in range(20) for tick in range(50)]
    assert 8 <= min(works) < 8.1 < 11.9 < max(works) <= 12
    rests = [clock.rest(0, node, tick) / NANO for node in range(20) for tick in range(50)]
    assert 3 <= min(rests) < 3.1 < 4.9 < max(rests) <= 5
    assert len(set(works)) == len(set(rests)) == 1000
    assert clock.work(0, 4, 7, 10, 1.0) == clock.work(0, 4, 7, 10, 1.0) != clock.work(1, 4, 7, 10, 1.0)


# ---- rounds ----------------------------------------------------------------------------------------------------


def seconds(clock: Clock, exchanges: Any, nodes: int = 4, steps: Any = None, participants: Any = None) -> float:
    who = np.arange(nodes) if participants is None else np.array(participants)
    return round_seconds(clock, 0, 0, who, [1] * nodes if steps is None else steps, exchanges, BYTES, 10 * BYTES)


CLOCK = Rounds(step_seconds=0.5, latency=0.125, bandwidth=BYTES / 0.25)


def test_a_round_without_exchange_takes_as_long_as_the_slowest_participant() -> None:
    assert seconds(CLOCK, [], steps=[1, 7, 3, 2]) == 3.5
    assert seconds(CLOCK, [], steps=[1, 7, 3, 2], participants=[0, 2]) == 1.5


def test_on_a_graph_the_last_message_ends_the_round() -> None:
    """Work + k uploads + latency at the sender whose last message arrives last."""
    ring_E2 = edges_of(Ring(), 4, 0)
    assert seconds(CLOCK, [ring_E2]) == 0.5 + 2 * 0.25 + 0.125
    assert seconds(CLOCK, [edges_of(Complete(), 4, 0)]) == 0.5 + 3 * 0.25 + 0.125
    star_E2 = np.array([[0, 1], [0, 2], [0, 3], [1, 0]])
    assert seconds(CLOCK, [star_E2], steps=[1, 2, 1, 1]) == max(0.5 + 3 * 0.25, 1.0 + 0.25) + 0.125
    assert seconds(CLOCK, [star_E2], steps=[1, 1, 1, 9]) == 4.5, "a node that sends nothing only has to be done"
    free = CLOCK.model_copy(update={"bandwidth": 0.0, "latency": 0.0})
    assert seconds(free, [ring_E2]) == 0.5


def test_exchanges_follow_one_another() -> None:
    ring_E2 = edges_of(Ring(), 4, 0)
    assert seconds(CLOCK, [ring_E2] * 3) == 0.5 + 3 * (2 * 0.25 + 0.125)


def test_an_all_reduce_is_a_ring_of_parts() -> None:
    """2(m-1) steps of a m-th of the bytes, after the slowest."""
    assert seconds(CLOCK, [None], steps=[1, 2, 1, 1]) == 1.0 + 6 * (0.125 + 0.25 / 4)
    assert seconds(CLOCK, [None], participants=[1, 3]) == 0.5 + 2 * (0.125 + 0.25 / 2)
    assert seconds(CLOCK, [None], participants=[1]) == 0.5
    assert seconds(CLOCK, [edges_of(Ring(), 4, 0), None]) == 0.5 + 0.625 + 6 * (0.125 + 0.25 / 4)


def test_with_a_server_a_model_goes_down_and_comes_up() -> None:
    assert seconds(CLOCK, None, steps=[1, 2, 3, 1], participants=[0, 1, 3]) == 0.125 + 1.0 + 0.25 + 0.125


def test_a_round_waits_for_who_rests() -> None:
    rested = CLOCK.model_copy(update={"idle": (2.0, 2.0)})
    assert seconds(rested, [], steps=[1, 3, 1, 1]) == 3.5
    assert seconds(rested, [None] * 9) == seconds(CLOCK, [None] * 9), "rests lie within long exchanges"


def test_speed_and_jitter_count_in_rounds() -> None:
    clock = Rounds(step_seconds=0.5, speeds="lognormal", jitter=0.3)
    speeds = speeds_of(clock, 4, 0)
    assert seconds(clock, []) == max(clock.work(0, i, 0, 1, speeds[i]) for i in range(4)) / NANO


# ---- losses ----------------------------------------------------------------------------------------------------


@given(drop=st.floats(0.01, 0.99), seed=st.integers(0, 99), shuffle=st.randoms(use_true_random=False))
def test_each_direction_of_a_link_has_its_own_dice(drop: float, seed: int, shuffle: Any) -> None:
    """Some of the edges, in their order; the same ones in whatever order they are given."""
    edges_E2, clock = edges_of(Complete(), 8, 0), Rounds(drop=drop)
    found = [tuple(edge) for edge in kept(clock, edges_E2, seed, 3).tolist()]
    assert found == [edge for edge in map(tuple, edges_E2.tolist()) if edge in set(found)]
    order = list(range(len(edges_E2)))
    shuffle.shuffle(order)
    assert {tuple(edge) for edge in kept(clock, edges_E2[order], seed, 3).tolist()} == set(found)


def test_as_many_messages_are_lost_as_said() -> None:
    edges_E2 = edges_of(Complete(), 40, 0)
    rounds = [kept(Rounds(drop=0.3), edges_E2, 0, round) for round in range(20)]
    assert sum(map(len, rounds)) / (20 * len(edges_E2)) == pytest.approx(0.7, abs=0.01)
    assert len({len(edges) for edges in rounds}) > 1, "others in each round"
    one_way = {tuple(edge) for edge in rounds[0].tolist()}
    assert any((j, i) not in one_way for i, j in one_way)
    assert kept(Rounds(), edges_E2, 0, 0) is edges_E2
    none_E2 = np.empty((0, 2), dtype=np.int64)
    assert kept(Rounds(drop=0.5), none_E2, 0, 0).shape == (0, 2)


# ---- settings that cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"idle": (2, 1)}, r"clock\.idle = \[2\.0, 1\.0\]: the shortest rest is longer .* use \[1\.0, 2\.0\]"),
        ({"speeds": "uniform", "spread": 1}, r"clock\.spread = 1 with speeds = 'uniform' .* use less than 1"),
        ({"step_seconds": 0}, r"clock\.step_seconds = 0 with clock\.idle = \[0, 0\]: time would stand still"),
        (
            {"order": "update_merge", "merge": "full"},
            r"clock\.order = 'update_merge' .* use merge = 'cycle', not 'full'",
        ),
        (
            {"merge": "full", "protocol": "pull"},
            r"clock\.merge = 'full' .* clock\.protocol = 'pull'; use merge = 'cycle'",
        ),
        ({"up_seconds": 5}, r"clock\.up_seconds = 5 and clock\.down_seconds = 0: give both"),
        ({"down_seconds": 5}, r"clock\.up_seconds = 0 and clock\.down_seconds = 5: give both"),
        ({"up_seconds": 5, "down_seconds": 1, "trace": "t"}, r"clock\.trace: give either a trace or up_seconds"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: Any, told: str) -> None:
    with pytest.raises(ExperimentError, match=told):
        Events(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"latency": -1},
        {"latency": float("inf")},
        {"step_seconds": float("nan")},
        {"bandwidth": -1},
        {"drop": 1},
        {"jitter": 1},
        {"idle": (-1, 1)},
        {"concurrency": 0},
        {"speeds": "file"},
    ],
)
def test_settings_out_of_range_are_refused(settings: Any) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        Events(**settings)


DIRECTED = EdgeList(pairs=((0, 1), (1, 2), (2, 0)), directed=True, weights="uniform")


@pytest.mark.parametrize(
    ("clock", "world", "topology", "schedule", "told"),
    [
        (Events(), "alone", Ring(), Every(), r"clock\.kind = 'events' is for nodes that exchange models"),
        (
            Events(),
            "graph",
            Ring(),
            Every(participation=0.5),
            r"schedule\.participation = 0\.5: .*clock\.kind = 'rounds'",
        ),
        (
            Events(),
            "server",
            Server(),
            Every(participation=0.5),
            r"schedule\.participation = 0\.5: .*clock\.concurrency",
        ),
        (Events(), "graph", Ring(), Adaptive(), r"schedule\.kind = 'adaptive' looks at all models"),
        (Events(), "graph", Ring(), Every(final="merge"), r"schedule\.final = 'merge': .* use final = 'none'"),
        (Events(), "graph", Complete(), Every(all_reduce=True), r"schedule\.kind = 'every' asks for an all-reduce"),
        (Events(), "graph", Ring(weights="out_degree"), Every(), r"topology\.weights = 'out_degree': push-sum needs"),
        (Events(concurrency=2), "graph", Ring(), Every(), r"clock\.concurrency = 2 is for a server"),
        (Events(protocol="push_pull"), "graph", DIRECTED, Every(), r"clock\.protocol = 'push_pull' .* is directed"),
        (Rounds(drop=0.1), "server", Server(), Every(), r"clock\.drop = 0\.1: with a server"),
        (Rounds(drop=0.1), "graph", Ring(weights="out_degree"), Every(), r"clock\.drop = 0\.1 with .* 'out_degree'"),
    ],
)
def test_what_a_clock_cannot_time_is_named(
    clock: Clock, world: str, topology: Topology, schedule: Schedule, told: str
) -> None:
    with pytest.raises(ExperimentError, match=told) as caught:
        clock.check(world, topology, schedule, 5)
    assert "\n" not in str(caught.value)


def test_what_a_clock_can_time_is_let_through() -> None:
    for clock in (Rounds(drop=0.1), Events(), Events(protocol="push_pull")):
        clock.check("graph", Ring(), Every(), 5)
    Rounds().check("server", Server(), Every(participation=0.5), 5)
    Rounds().check("alone", Ring(), Every(), 5)
    Events().check("graph", Ring(weights="out_degree", own_weight=0.5), Every(), 5)


def test_time_is_exact() -> None:
    """Three tenths of a second are three times a tenth, unlike in binary fractions."""
    assert 3 * nanoseconds(0.1) == nanoseconds(0.3)
