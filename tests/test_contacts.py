"""Contacts: a trace against a slow reading of it, windows, repetition, and what is said about damaged files."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.mixing import edges_of
from gossamer.topologies.contacts import Contacts, read_trace

FILE = str(Path(__file__).parent / "contacts.csv")


def met(topology: Contacts, round: int, nodes: int = 6) -> set[tuple[int, int]]:
    return {(a, b) for a, b in edges_of(topology, nodes, 0, round).tolist() if a < b}


def write(folder: Path, text: str) -> str:
    file = folder / "trace.csv"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_links_of_a_round_are_the_contacts_in_its_window() -> None:
    """By hand: windows of a minute since the first contact, half open."""
    rounds = [
        {(0, 1), (2, 3), (4, 5)},  # 0 to 60 s
        {(1, 2), (2, 3)},  # 60 to 120 s
        {(2, 3), (0, 5)},  # 120 to 180 s; (2, 3) until 130
        {(3, 4), (0, 1)},  # 180 to 240 s
        {(3, 4)},
        {(3, 4)},
        {(3, 4)},
        {(3, 4)},  # until 430.5 s
    ]
    assert [met(Contacts(path=FILE), t) for t in range(8)] == rounds
    assert [met(Contacts(path=FILE), t) for t in range(8, 24)] == rounds + rounds, "begins again"
    once = Contacts(path=FILE, repeat=False)
    assert [met(once, t) for t in range(10)] == [*rounds, set(), set()]


def test_one_long_round_has_all_contacts() -> None:
    assert met(Contacts(path=FILE, seconds_per_round=1e6), 5) == {(0, 1), (2, 3), (4, 5), (1, 2), (0, 5), (3, 4)}


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 3), st.integers(4, 6), st.integers(0, 30)), min_size=1, max_size=8
    ),
    st.integers(1, 20),
    st.integers(0, 12),
)
def test_any_trace_is_read_as_the_definition_says(
    tmp_path_factory: pytest.TempPathFactory, contacts: list[tuple[int, int, int, int]], window: int, round: int
) -> None:
    """A contact [begin, end) meets the window [a, b) if begin < b and a < end, an instant if a <= begin < b."""
    contacts.sort()
    file = write(tmp_path_factory.mktemp("trace"), "\n".join(" ".join(map(str, contact)) for contact in contacts))
    origin = contacts[0][0]
    a, b = round * window, (round + 1) * window
    expected = {
        (one, other)
        for time, one, other, duration in contacts
        if time - origin < b and (a < time - origin + duration or a <= time - origin)
    }
    assert met(Contacts(path=file, seconds_per_round=window, repeat=False), round, 7) == expected
    last = max(max(t - origin, t - origin + d - 1e-9) for t, _, _, d in contacts)
    length = math.floor(last / window) + 1
    again = Contacts(path=file, seconds_per_round=window)
    assert met(again, round, 7) == met(again, round + length, 7)
    assert length == 1 or met(again, length - 1, 7) != set()


@pytest.mark.parametrize("text", ["0,0,1\n5,1,2,3\n", "0 0 1\n5 1 2 3", "TIME a b\n0\t0\t1 # first\n\n5, 1, 2, 3\n"])
def test_commas_blanks_headings_and_comments(tmp_path: Path, text: str) -> None:
    trace = read_trace(write(tmp_path, text))
    assert trace.begin_K.tolist() == [0, 5]
    assert trace.end_K.tolist() == [0, 8]
    assert trace.nodes_K2.tolist() == [[0, 1], [1, 2]]


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    file = write(tmp_path, "0,0,1\n")
    assert met(Contacts(path=file), 0) == {(0, 1)}
    write(tmp_path, "0,0,2\n")
    os.utime(file, ns=(1, 1))
    assert met(Contacts(path=file), 0) == {(0, 2)}


def test_round_trip_through_an_experiment_file() -> None:
    experiment = Experiment(topology=Contacts(path=FILE, seconds_per_round=20, repeat=False), method="dsgd")
    assert Experiment.from_toml(experiment.to_toml()) == experiment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r": holds no contact; its lines must be time,node,node\[,duration\]"),
        ("time,a,b\n# nothing\n", ": holds no contact"),
        ("0,0,1\n5,1\n", r", line 2: '5,1' is no contact such as '20,0,1'"),
        ("0,0,1\n\n5,1,2,3,4\n", r", line 3: '5,1,2,3,4' is no contact"),
        ("0,0,x\n", ", line 1: '0,0,x' is no contact"),
        ("0,0,-1\n", ", line 1: .* is no contact"),
        ("noon,0,1\n", ", line 1: .* is no contact"),
        ("nan,0,1\n", ", line 1: .* is no contact"),
        ("0,0,1,-5\n", ", line 1: .* is no contact"),
        ("0,0,1,inf\n", ", line 1: .* is no contact"),
        ("0,3,3\n", ", line 1: '0,3,3' is no contact"),
        ("0,0,1\n9,1,2\n8.5,0,2\n", r", line 3: time goes back from 9 to 8\.5; sort the contacts by time"),
        ("0,0,1\ntime,a,b\n", ", line 2: 'time,a,b' is no contact"),
        ("0,0,1\n4,2,6\n", r", line 2: node 6 is unknown, with nodes = 6 they are 0\.\.5; number the nodes from 0"),
    ],
)
def test_damaged_traces_name_the_file_and_the_line(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ExperimentError, match=r"topology\.path = '.*trace\.csv'" + message) as caught:
        edges_of(Contacts(path=file), 6, 0)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"topology\.path = 'nowhere\.csv': no such file"):
        edges_of(Contacts(path="nowhere.csv"), 6, 0)
    with pytest.raises(ExperimentError, match="cannot be read as text"):
        edges_of(Contacts(path=str(tmp_path)), 6, 0)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExperimentError, match="cannot be read as text"):
        edges_of(Contacts(path=str(tmp_path / "bytes")), 6, 0)


def test_many_contacts_a_round_are_links_once(tmp_path: Path) -> None:
    file = write(tmp_path, "".join(f"{t},{t % 2},{1 - t % 2}\n" for t in range(50)))
    assert edges_of(Contacts(path=file), 2, 0).tolist() == [[1, 0], [0, 1]]
    assert np.array_equal(edges_of(Contacts(path=file), 2, 0), edges_of(Contacts(path=file), 2, 9))
