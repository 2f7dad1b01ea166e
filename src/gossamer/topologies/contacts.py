"""A trace of contacts over time."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.topologies import Array, Topology, both_ways


class Contacts(Topology):
    """Who met whom and when, from a file: the links of a round are the contacts in its window of time.

    One contact a line, in the order of time: time, node, node and, if known, duration, in seconds, with commas or
    blanks between them; # starts a comment, and a first line that starts with `time` is a heading. Round 1 begins with
    the first contact. A contact without a duration is one instant. Links go both ways.
    """

    source: ClassVar[str] = "e.g. the SocioPatterns and Haggle traces of people who meet"

    kind: Literal["contacts"] = "contacts"
    path: str = Field(description="a text or CSV file of time,node,node[,duration]; read when the run starts")
    seconds_per_round: float = Field(
        default=60.0, gt=0, description="length of a round in the time of the trace, seconds"
    )
    repeat: bool = Field(default=True, description="begin again after the end of the trace; else nobody meets any more")

    @property
    def varies(self) -> bool:
        return True

    def edges(self, nodes: int, round: int, rng: np.random.Generator) -> Array:
        trace = read_trace(self.path)
        unknown_K = np.nonzero(trace.nodes_K2.max(axis=1) >= nodes)[0]
        if len(unknown_K):
            first = int(unknown_K[0])
            raise ExperimentError(
                f"topology.path = '{self.path}', line {trace.line_K[first]}: node {trace.nodes_K2[first].max()} is "
                f"unknown, with nodes = {nodes} they are 0..{nodes - 1}; number the nodes from 0, or change nodes"
            )
        window = self.seconds_per_round
        first_K = np.floor(trace.begin_K / window)
        last_K = np.maximum(first_K, np.ceil(trace.end_K / window) - 1)
        if self.repeat:
            round %= int(last_K.max()) + 1
        return both_ways(trace.nodes_K2[(first_K <= round) & (round <= last_K)])


@dataclass(frozen=True)
class Trace:
    """K contacts, in seconds since the first of them."""

    begin_K: Array
    end_K: Array
    nodes_K2: Array
    line_K: Array
    """Where each was read."""


def read_trace(path: str) -> Trace:
    """The contacts in a file, read again only if it has changed. Raises ExperimentError that names the line."""
    place = Path(path).expanduser()
    try:
        stat = place.stat()
    except OSError:
        raise ExperimentError(f"topology.path = '{path}': no such file (looked from {Path.cwd()})") from None
    return _read(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _read(path: str, changed: int, size: int) -> Trace:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"topology.path = '{path}': cannot be read as text: {error}") from None
    found: list[tuple[int, float, int, int, float]] = []
    for number, line in enumerate(lines, start=1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words or (not found and words[0].lower() == "time"):
            continue
        where = f"topology.path = '{path}', line {number}"
        contact = _contact(words)
        if contact is None:
            raise ExperimentError(
                f"{where}: '{line.strip()[:60]}' is no contact such as '20,0,1' (time, node, node) or '20,0,1,5' (and "
                "the duration)"
            )
        if found and contact[0] < found[-1][1]:
            raise ExperimentError(
                f"{where}: time goes back from {found[-1][1]:g} to {contact[0]:g}; sort the contacts by time"
            )
        found.append((number, *contact))
    if not found:
        raise ExperimentError(
            f"topology.path = '{path}': holds no contact; its lines must be time,node,node[,duration]"
        )
    line_K, begin_K, one_K, other_K, duration_K = (np.array(column) for column in zip(*found, strict=True))
    begin_K = begin_K - begin_K[0]
    return Trace(begin_K, begin_K + duration_K, np.stack([one_K, other_K], axis=1), line_K)


def _contact(words: list[str]) -> tuple[float, int, int, float] | None:
    """Time, two different nodes and duration; None if these are no such words."""
    if (
        len(words) not in (3, 4)
        or not (words[1].isdecimal() and words[2].isdecimal())
        or int(words[1]) == int(words[2])
    ):
        return None
    try:
        time, duration = float(words[0]), float(words[3]) if len(words) == 4 else 0.0
    except ValueError:
        return None
    return (time, int(words[1]), int(words[2]), duration) if math.isfinite(time) and 0 <= duration < math.inf else None
