"""Progress of runs: live lines on a terminal, plain lines in a log file. Both go to standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gossamer import units

if TYPE_CHECKING:
    from gossamer.rounds import Event

EVERY = 2.0
"""Seconds between the lines of a log, at the least."""


FEW = 16
"""Up to this many runs keep their live lines; of more, those that ended scroll away above."""


class LogProgress:
    """One line when a run starts and ends, and one every few seconds in between."""

    def __init__(self, runs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.runs, self.clock = runs, clock
        self.place = 0

    def __enter__(self) -> LogProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def note(self, text: str) -> None:
        """A line of its own."""
        print(text, file=sys.stderr, flush=True)

    def skip(self, label: str, why: str) -> None:
        """Pass over the next run."""
        self.place += 1
        self.note(f"[{self.place}/{self.runs}] {label}: {why}")

    def listen(self, label: str) -> Callable[[Event], None]:
        """The listener of the next run."""
        self.place += 1
        prefix = f"[{self.place}/{self.runs}] {label}: "
        seen: dict[str, Any] = {}
        last = self.clock()

        def hear(event: Event) -> None:
            nonlocal last
            if event.kind == "start":
                self.note(prefix + started(event))
            elif event.kind == "warning":
                self.note(f"{prefix}warning: {event.values['text']}")
            elif event.kind == "evaluation":
                seen.update(event.values)
            elif event.kind in ("round", "end"):
                # The line of a round is printed when the next one begins, since its evaluation comes in between.
                if "round" in seen and (event.kind == "end" or self.clock() - last >= EVERY):
                    last = self.clock()
                    self.note(prefix + state(seen, event.rounds))
                seen.update(event.values)
                seen["round"] = event.round
                if event.kind == "end":
                    self.note(prefix + str(event.values["status"]))

        return hear


def started(event: Event) -> str:
    """The first line of a run."""
    values = event.values
    workers = f", {values['workers']} workers" if values["workers"] > 1 else ""
    resumed = f", from round {event.round}" if event.round else ""
    return (
        f"{values['nodes']} nodes, {units.count(values['parameters'])} parameters, {event.rounds} rounds{resumed}, "
        f"{values['backend']}{workers} ({values['reason']}), {values['folder']}"
    )


def state(values: dict[str, Any], rounds: int) -> str:
    """Where a run stands, in one line."""
    parts = [f"round {values['round']}/{rounds}"]
    if values.get("loss") is not None:
        parts.append(f"loss {values['loss']:.4f}")
    if values.get("accuracy") is not None:
        worst = f" (worst {values['worst']:.3f})" if values.get("worst") is not None else ""
        parts.append(f"accuracy {values['accuracy']:.3f}{worst}")
    if "epsilon" in values:
        parts.append(f"epsilon {units.number(values['epsilon'])}")
    parts.append(units.size(values["bytes"]))
    if values.get("seconds_left"):
        parts.append(f"{units.duration(values['seconds_left'])} left")
    return "  ".join(parts)


class LiveProgress:
    """A line with a bar for the run in progress; a finished run leaves its line above."""

    def __init__(self, runs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.runs, self.place = runs, 0
        # No refresh from a thread of its own: the back end may fork, and forking with threads about is unsafe.
        self.progress = Progress(
            TextColumn("{task.fields[mark]} [bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[accuracy]}"),
            TextColumn("[cyan]{task.fields[sent]}"),
            TextColumn("[dim]{task.fields[left]}"),
            console=Console(stderr=True, highlight=False),
            auto_refresh=False,
        )

    def __enter__(self) -> LiveProgress:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def note(self, text: str) -> None:
        """A line above the live ones."""
        self.progress.console.print(text, markup=False)
        self.progress.refresh()

    def skip(self, label: str, why: str) -> None:
        """Pass over the next run."""
        self.place += 1
        self.note(f"✓ {label}: {why}")

    def listen(self, label: str) -> Callable[[Event], None]:
        """The listener of the next run."""
        self.place += 1
        mark = f"[dim]{self.place}/{self.runs}[/]"
        task = self.progress.add_task(label, total=None, mark=mark, accuracy="", sent="", left="preparing")
        self.progress.refresh()

        def hear(event: Event) -> None:
            values = event.values
            if event.kind == "warning":
                self.note(f"{label}: warning: {values['text']}")
            elif event.kind == "start":
                where = f"{values['backend']}, {values['workers']} worker{'s' if values['workers'] != 1 else ''}"
                self.progress.update(task, total=event.rounds, completed=event.round, left=where)
            elif event.kind == "round":
                left = f"{units.duration(values['seconds_left'])} left"
                self.progress.update(task, completed=event.round, sent=units.size(values["bytes"]), left=left)
            elif event.kind == "evaluation" and values["accuracy"] is not None:
                worst = f" [dim]worst {values['worst']:.3f}[/]" if values["worst"] is not None else ""
                spent = f" [dim]epsilon {units.number(values['epsilon'])}[/]" if "epsilon" in values else ""
                self.progress.update(task, accuracy=f"accuracy [green]{values['accuracy']:.3f}[/]{worst}{spent}")
            elif event.kind == "end":
                done = values["status"] == "finished"
                left = units.duration(self.progress.tasks[task].elapsed) if done else f"[red]{values['status']}[/]"
                self.progress.update(task, mark="[green]✓[/]" if done else "[red]✗[/]", left=left)
                self.progress.stop_task(task)
                if self.runs > FEW:
                    self.progress.print(self.progress.get_renderable())
                    self.progress.remove_task(task)
            self.progress.refresh()

        return hear


def progress(runs: int) -> LogProgress | LiveProgress:
    """Live lines if standard error is a terminal, else plain ones."""
    return LiveProgress(runs) if sys.stderr.isatty() else LogProgress(runs)
