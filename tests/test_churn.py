"""Who is up when: drawn or read from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.churn import Churn, churn_of, read_trace
from gossamer.clocks import NANO, NEVER
from gossamer.clocks.events import Events
from gossamer.errors import ExperimentError


def fixed(*changes: list[int]) -> Churn:
    return Churn("trace", "let one of them stay", list(changes), lambda node, after: None)


@given(
    moments=st.lists(st.integers(1, 60), unique=True, max_size=8).map(sorted),
    time=st.integers(0, 70),
)
def test_what_is_looked_up_is_what_a_walk_through_time_finds(moments: list[int], time: int) -> None:
    churn = fixed(moments, [])
    up = [sum(moment <= t for moment in moments) % 2 == 0 for t in range(200)]
    assert churn.is_up(0, time) == up[time]
    assert churn.up_at(0, time) == next((t for t in range(time, 200) if up[t]), NEVER)
    if up[time]:
        assert churn.down_after(0, time) == next((t for t in range(time, 200) if not up[t]), NEVER)
    churn.check(200)


@given(lists=st.lists(st.lists(st.integers(1, 30), unique=True, max_size=6).map(sorted), min_size=1, max_size=4))
def test_the_first_moment_without_anybody_is_found(lists: list[list[int]]) -> None:
    def nobody(t: int) -> bool:
        return all(sum(moment <= t for moment in moments) % 2 for moments in lists)

    first = next((t for t in range(40) if nobody(t)), None)
    churn = fixed(*lists)
    for t in range(40):
        if t == first:
            with pytest.raises(ExperimentError, match=f"no node alive at t = {t / NANO:g} s"):
                churn.check(t)
            return
        churn.check(t)


def test_drawn_churn_is_a_process_of_its_own_for_each_node() -> None:
    """Exponential times with the means asked for; what is drawn does not depend on what was looked up before."""
    clock = Events(up_seconds=3, down_seconds=0.5)
    late, early = churn_of(clock, 3, 7), churn_of(clock, 3, 7)
    assert late is not None
    assert early is not None
    assert all(early.is_up(node, 0) for node in range(3)), "all are up at first"
    late.is_up(1, 10_000 * NANO)
    for t in range(0, 10_000, 10):
        early.is_up(1, t * NANO)
    both = min(len(late.changes[1]), len(early.changes[1]))
    assert late.changes[1][:both] == early.changes[1][:both]
    lengths = np.diff([0, *late.changes[1]]) / NANO
    assert lengths[::2].mean() == pytest.approx(3, rel=0.1)
    assert lengths[1::2].mean() == pytest.approx(0.5, rel=0.1)
    assert np.mean(lengths[::2] > 3) == pytest.approx(np.exp(-1), abs=0.04)
    late.is_up(2, NANO)
    assert late.changes[1][:5] != late.changes[2][:5]


def test_without_churn_there_is_none() -> None:
    assert churn_of(Events(), 5, 0) is None


def test_a_trace_says_who_was_there_before(tmp_path: Path) -> None:
    """Who goes down first was up; who comes up first was down, unless that is at 0; who is not named stays."""
    file = tmp_path / "trace.csv"
    file.write_text("time,node,state\n0,3,up  # there from the start\n1.5,0,down\n2, 1, UP\n2 0 up\n", encoding="utf-8")
    assert read_trace(str(file), 4) == [[NANO * 3 // 2, 2 * NANO], [0, 2 * NANO], [], []]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1 0 down\n2 7 down", r"line 2: with nodes = 4 the node numbers are 0\.\.3, found 7"),
        ("1 0 down\n2 -1 down", r"line 2: with nodes = 4 .* found -1"),
        ("5 0 down\n\n4 1 down", r"line 3: time goes back from 5 to 4 s; sort the lines"),
        ("-1 0 down", r"line 1: time goes back from 0 to -1 s"),
        ("1 0 away", r"line 1: '1 0 away' is not a time, a node and up or down, such as"),
        ("1 0", r"line 1: '1 0' is not a time"),
        ("1 0 down now", r"line 1: '1 0 down now' is not a time"),
        ("nan 0 down", r"line 1: 'nan 0 down' is not a time"),
        ("1 zero down", r"line 1: '1 zero down' is not a time"),
        ("1 0 down\ntime node state", r"line 2: 'time node state' is not a time"),
        ("1 2 down\n2 2 down", r"line 2: node 2 is down already"),
    ],
)
def test_a_trace_that_makes_no_sense_is_named_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ExperimentError, match=rf"^clock\.trace = '.*trace\.csv', {told}"):
        churn_of(Events(trace=str(file)), 4, 0)


def test_a_trace_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"clock\.trace = 'nowhere\.csv': no such file"):
        read_trace("nowhere.csv", 4)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ExperimentError, match="cannot be read as text"):
        read_trace(str(tmp_path / "binary"), 4)
