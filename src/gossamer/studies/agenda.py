"""The runs of a study that are still to be done: where each stands, and how long they all will take."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from gossamer.arms import flattened
from gossamer.errors import NodeError, RunError
from gossamer.experiment import WITHOUT_EFFECT, Experiment
from gossamer.record import is_running
from gossamer.runs import Run, open_run

if TYPE_CHECKING:
    from gossamer.rounds import Listener

FEW = 4
"""Changed keys that are named."""


@dataclass(frozen=True)
class Task:
    """One run: an arm with a seed, and the folder where its record lies or will lie."""

    arm: str
    seed: int
    experiment: Experiment = field(compare=False)
    folder: Path

    @property
    def label(self) -> str:
        """What the run is called in progress lines."""
        return f"{self.arm} s{self.seed}"


@dataclass(frozen=True)
class Standing:
    """Where a run stands: not begun, finished, to be resumed, or `why` something else lies in its folder."""

    state: Literal["new", "finished", "resume", "other"]
    run: Run | None = None
    why: str = ""


def standing(task: Task) -> Standing:
    """Where a run stands, by its folder. Raises RunError where another process is at work on it."""
    if not task.folder.exists() or (task.folder.is_dir() and not any(task.folder.iterdir())):
        return Standing("new")
    if is_running(task.folder):
        raise RunError(f"{task.folder}: another process is running this; wait for it, or stop it")
    try:
        run = open_run(task.folder)
    except RunError as error:
        return Standing("other", why=str(error))
    if run.record.get("digest") != task.experiment.digest():
        return Standing("other", run, f"the experiment was changed ({_changed(run, task.experiment)})")
    return Standing("finished" if run.record["status"] == "finished" else "resume", run)


def finished_run(task: Task) -> Run | None:
    """The finished run of this very experiment; None where there is none."""
    try:
        found = standing(task)
    except RunError:
        return None
    return found.run if found.state == "finished" else None


def _changed(run: Run, experiment: Experiment) -> str:
    """The keys in which an experiment is not what a run was made of."""
    then, now = flattened(run.record.get("experiment", {})), flattened(experiment.to_dict())
    aside = tuple(f"{key}." for key in WITHOUT_EFFECT)
    keys = [
        key
        for key in sorted(then.keys() | now.keys())
        if not f"{key}.".startswith(aside) and then.get(key) != now.get(key)
    ]
    return ", ".join(keys[:FEW]) + (f" and {len(keys) - FEW} more" if len(keys) > FEW else "") or "by a new version"


def make_room(folder: Path) -> Path:
    """Move what lies in a run's folder aside, to NAME-before (a number is added if that is taken); nothing is lost."""
    number, place = 1, folder.with_name(f"{folder.name}-before")
    while place.exists():
        number += 1
        place = folder.with_name(f"{folder.name}-before-{number}")
    folder.rename(place)
    return place


Due = tuple[Task, bool]
"""A run to do, and whether it is resumed."""
Done = tuple[Task, NodeError | None]
"""A run that ended, and how a node failed if one did."""


def due(standings: Sequence[tuple[Task, Standing]], note: Callable[[str], None]) -> Iterator[Due]:
    """The runs that are not finished, one at a time; for each, what else lies in its folder is moved aside first."""
    for task, found in standings:
        if found.state == "other":
            place = make_room(task.folder)
            note(f"{task.label}: started anew, since {found.why}; what was there is now {place}")
        if found.state != "finished":
            yield task, found.state == "resume"


def one_by_one(tasks: Iterable[Due], listen: Callable[[Task], Listener]) -> Generator[Done, None, None]:
    """Play runs in this process, one after the other, each with the listener that `listen` makes for it.

    Raises Interrupted after Ctrl-C, and whatever goes wrong other than the failure of a node.
    """
    from gossamer import rounds

    for task, resumed in tasks:
        problem = None
        try:
            if resumed:
                rounds.resume(task.folder, listen(task))
            else:
                rounds.run(task.experiment, task.folder, listen(task))
        except NodeError as error:
            problem = error
        yield task, problem


class Pace:
    """How long the runs of a study still take, from what the finished ones took and those under way expect.

    Seconds of an arm that has not finished a run yet are those of a mean run.
    """

    def __init__(self, standings: Iterable[tuple[Task, Standing]]) -> None:
        self._took: dict[str, list[float]] = {}
        self._left: dict[Task, float | None] = {}
        for task, found in standings:
            if found.state == "finished" and found.run:
                self._took.setdefault(task.arm, []).append(float(found.run.record["seconds"]))
            else:
                self._left[task] = None

    def hear(self, task: Task, seconds_left: float) -> None:
        """A run under way expects to be done in so many seconds."""
        self._left[task] = seconds_left

    def ended(self, task: Task, seconds: float | None) -> None:
        """A run is over; `seconds` is what it took, None for one that failed."""
        self._left.pop(task, None)
        if seconds is not None:
            self._took.setdefault(task.arm, []).append(seconds)

    def seconds_left(self, jobs: int) -> float | None:
        """Seconds until all are done, `jobs` of them at a time; None before anything is known."""
        known = [seconds for took in self._took.values() for seconds in took]
        known += [left for left in self._left.values() if left is not None]
        if not known:
            return None
        total = math.fsum(
            fmean(self._took.get(task.arm, known)) if left is None else left for task, left in self._left.items()
        )
        return total / max(1, min(jobs, len(self._left)))
