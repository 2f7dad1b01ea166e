"""Churn: when each node is up. It depends on the seed or a file alone, so that the future can be looked up."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from heapq import heapify, heapreplace
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.clocks import NANO, NEVER, nanoseconds
from gossamer.errors import ExperimentError
from gossamer.randomness import generator

if TYPE_CHECKING:
    import numpy as np

    from gossamer.clocks.events import Events


class Churn:
    """The times, in nanoseconds, at which nodes go down and come back.

    A node is up from the moment it comes until just before the moment it goes. `changes[node]` are those moments in
    order, the first of them down; `more(node, after)` extends the list beyond a time, where there is more to come.
    """

    def __init__(self, field: str, advice: str, changes: list[list[int]], more: Callable[[int, int], None]) -> None:
        self.field, self.advice, self.changes, self.more = field, advice, changes, more
        self.alive = len(changes)
        self._next: list[tuple[int, int, int]] = [(self._change(node, 0), node, 0) for node in range(len(changes))]
        heapify(self._next)

    def is_up(self, node: int, time: int) -> bool:
        """Whether a node is up."""
        return self._place(node, time) % 2 == 0

    def up_at(self, node: int, time: int) -> int:
        """When a node is up next, at `time` or later; NEVER if it does not come back."""
        place = self._place(node, time)
        return self._change(node, place) if place % 2 else time

    def down_after(self, node: int, time: int) -> int:
        """When a node that is up at `time` goes down next; NEVER if it stays."""
        return self._change(node, self._place(node, time))

    def check(self, time: int) -> None:
        """Raise ExperimentError if there is a moment up to `time` at which no node is up. Times must not go back."""
        while self._next[0][0] <= time:
            moment = self._next[0][0]
            if moment == NEVER:
                return
            while self._next[0][0] == moment:
                _, node, place = self._next[0]
                self.alive += 1 if place % 2 else -1
                heapreplace(self._next, (self._change(node, place + 1), node, place + 1))
            if not self.alive:
                raise ExperimentError(
                    f"clock.{self.field}: churn leaves no node alive at t = {moment / NANO:g} s; {self.advice}"
                )

    def _place(self, node: int, time: int) -> int:
        """How many changes a node has seen by a time: even if it is up."""
        self.more(node, time)
        return bisect_right(self.changes[node], time)

    def _change(self, node: int, place: int) -> int:
        moments = self.changes[node]
        if place >= len(moments):
            self.more(node, moments[-1] if moments else 0)
        return moments[place] if place < len(moments) else NEVER


def churn_of(clock: Events, nodes: int, seed: int) -> Churn | None:
    """When nodes come and go, or None where they all stay. Raises ExperimentError for a trace that makes no sense."""
    if clock.trace:
        return Churn("trace", "let one of them stay", read_trace(clock.trace, nodes), lambda node, after: None)
    if not clock.up_seconds:
        return None
    dice: list[np.random.Generator] = [generator(seed, "churn", node) for node in range(nodes)]
    means = (clock.up_seconds, clock.down_seconds)
    changes: list[list[int]] = [[] for _ in range(nodes)]

    def more(node: int, after: int) -> None:
        moments = changes[node]
        while not moments or moments[-1] <= after:
            length = dice[node].exponential(means[len(moments) % 2])
            moments.append((moments[-1] if moments else 0) + max(1, nanoseconds(length)))

    advice = "use a longer up_seconds, a shorter down_seconds or more nodes"
    return Churn("up_seconds", advice, changes, more)


def read_trace(path: str, nodes: int) -> list[list[int]]:
    """The moments at which each node goes down and comes back, alternately, from a text file of time, node, up|down.

    Commas or blanks separate the three; # begins a comment; a first line of names is skipped. A node whose first line
    says up was down before. Raises ExperimentError that names the file and the line.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ExperimentError(f"clock.trace = '{path}': no such file (looked from {Path.cwd()})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"clock.trace = '{path}': cannot be read as text: {error}") from None
    changes: list[list[int]] = [[] for _ in range(nodes)]
    known: dict[int, bool] = {}
    last = 0.0
    for number, line in enumerate(lines, start=1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words or (not last and not known and words[0] == "time"):
            continue

        def wrong(reason: str, number: int = number) -> ExperimentError:
            return ExperimentError(f"clock.trace = '{path}', line {number}: {reason}")

        try:
            seconds, node, up = float(words[0]), int(words[1]), {"up": True, "down": False}[words[2].lower()]
        except (ValueError, IndexError, KeyError):
            seconds = inf
        if not isfinite(seconds) or len(words) != 3:
            raise wrong(f"'{line.strip()[:60]}' is not a time, a node and up or down, such as '12.5, 3, down'")
        if seconds < last:
            raise wrong(f"time goes back from {last:g} to {seconds:g} s; sort the lines by time")
        if not 0 <= node < nodes:
            raise wrong(f"with nodes = {nodes} the node numbers are 0..{nodes - 1}, found {node}")
        if known.get(node) == up:
            raise wrong(f"node {node} is {words[2].lower()} already")
        moment = nanoseconds(seconds)
        if node not in known and up and moment:
            changes[node].append(0)
        if node in known or not up or moment:
            changes[node].append(moment)
        known[node], last = up, seconds
    return changes
