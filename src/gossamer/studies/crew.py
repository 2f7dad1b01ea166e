"""Runs side by side: worker processes of one core each, every one of them playing one run at a time.

    this process  -- one line of JSON for each run to play -->          standard input of a worker
                  <-- one line for each thing that happened --          its standard output

Small models train faster as two runs on a core each than as one run on two cores, with bitwise the same results. A
worker is a fresh interpreter, so nothing of this process (threads, locks, torch) is copied into it. Ctrl-C reaches this
process only, which passes it on to the workers that are at work: they finish their round and save.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gossamer import errors
from gossamer.errors import GossamerError, Interrupted, NodeError
from gossamer.rounds import Event, Listener
from gossamer.studies.agenda import Done, Due, Task

Message = dict[str, Any]


def side_by_side(tasks: Iterable[Due], jobs: int, listen: Callable[[Task], Listener]) -> Generator[Done, None, None]:
    """Play runs, `jobs` at a time, each with the listener that `listen` makes for it; yields them as they end.

    Raises Interrupted after Ctrl-C, when every worker has saved; a second Ctrl-C stops them at once. Whatever goes
    wrong other than the failure of a node stops the others in the same way and is raised.
    """
    crew = _Crew(jobs)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, crew.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield from crew.play(tasks, listen)
    finally:
        try:
            crew.close()
        finally:
            for number, former in before.items():
                signal.signal(number, former)


class _Worker:
    """A worker as this process sees it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gossamer.studies.crew"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # so that the terminal sends Ctrl-C to this process alone
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.ready = False
        self.task: Task | None = None
        self.hear: Listener = lambda event: None
        self._rest = b""

    def give(self, task: Task, resumed: bool, hear: Listener) -> None:
        """Hand it a run."""
        self.task, self.hear = task, hear
        order = {"folder": str(task.folder), "resumed": resumed, "experiment": task.experiment.to_toml()}
        self.stdin.write(json.dumps(order).encode() + b"\n")

    def read(self) -> list[Message] | None:
        """What it has said since; waits if that is nothing. None when it is gone."""
        data = os.read(self.stdout.fileno(), 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines] if data else None

    def died(self) -> GossamerError:
        """Why it is gone, in one line."""
        code = self.process.wait()
        reason = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        hint = "; out of memory? use fewer --jobs" if code == -signal.SIGKILL else ""
        return GossamerError(f"{self.task.label if self.task else 'a worker'}: its process {reason}{hint}")


class _Crew:
    """The workers of one call."""

    def __init__(self, size: int) -> None:
        self.asked = 0
        self.workers = [_Worker() for _ in range(size)]
        self.selector = selectors.DefaultSelector()
        for worker in self.workers:
            self.selector.register(worker.stdout, selectors.EVENT_READ, worker)

    def ask(self, number: int = 0, frame: object = None) -> None:
        """Ask the workers to stop: first after their round, then at once, then they are killed. A signal handler."""
        self.asked += 1
        for worker in self.workers:
            if worker.task is not None:
                worker.process.send_signal(signal.SIGKILL if self.asked > 2 else signal.SIGINT)

    def play(self, tasks: Iterable[Due], listen: Callable[[Task], Listener]) -> Generator[Done, None, None]:
        """See `side_by_side`."""
        waiting, more = iter(tasks), True
        while True:
            for worker in self.workers:
                if more and worker.ready and worker.task is None and not self.asked:
                    following = next(waiting, None)
                    more = following is not None
                    if following is not None:
                        worker.give(*following, listen(following[0]))
                        if self.asked:  # in between, so that it was passed over
                            worker.process.send_signal(signal.SIGINT)
            if not any(worker.task for worker in self.workers) and (self.asked or not more):
                break
            for key, _ in self.selector.select():
                yield from self._heard(key.data)
        if self.asked:
            raise Interrupted("stopped; every run was saved where it stood")

    def _heard(self, worker: _Worker) -> Generator[Done, None, None]:
        """Take in what a worker says; yields its run if that is over."""
        messages = worker.read()
        if messages is None:
            self.selector.unregister(worker.stdout)
            problem = worker.died()
            if not self.asked:
                raise problem
            worker.task = None
        for message in messages or ():
            task, kind = worker.task, message.pop("what")
            if kind == "ready":
                worker.ready = True
            elif kind == "event":
                worker.hear(Event(**message))
            else:
                worker.task = None
                if kind == "stopped" and not self.asked:
                    self.ask()  # somebody else asked the worker: then all stop
                error = _unpacked(message) if kind == "failed" else None
                if error is not None and not isinstance(error, NodeError):
                    raise error
                if task is not None and kind != "stopped":
                    yield task, error

    def close(self) -> None:
        """Let the workers go; those still at work finish their round and save."""
        if any(worker.task for worker in self.workers) and not self.asked:
            self.ask()
        for worker in self.workers:
            worker.process.communicate()
        self.selector.close()


def _unpacked(message: Message) -> GossamerError:
    """The error that a worker met."""
    if "node" in message:
        return NodeError(**message)
    error: GossamerError = getattr(errors, message["kind"])(message["text"])
    return error


def _packed(error: GossamerError) -> Message:
    if isinstance(error, NodeError):
        return {name: getattr(error, name) for name in ("node", "round", "stage", "reason", "traceback")}
    return {"kind": type(error).__name__, "text": str(error)}


def _work() -> None:
    """The life of a worker: play what comes on standard input, tell what happens on standard output."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where whoever began all this ignored it
    # What a user's own model prints must not come between the messages.
    channel = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(what: str, **values: Any) -> None:
        line = json.dumps({"what": what, **values}, default=float).encode() + b"\n"
        try:
            while line:
                line = line[os.write(channel, line) :]
        except BrokenPipeError:
            raise KeyboardInterrupt from None  # nobody listens any more: stop, so that the run can be resumed

    try:
        import torch  # noqa: F401 - loaded before the worker says that it is ready: nothing is interrupted meanwhile

        tell("ready")
        for line in sys.stdin:
            try:
                _play(json.loads(line), tell)
            except Interrupted:
                tell("stopped")
            except GossamerError as error:
                tell("failed", **_packed(error))
            else:
                tell("done")
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_code)


def _play(order: Message, tell: Callable[..., None]) -> None:
    """Play one run on one core. A back end that rounds otherwise than eager is kept."""
    from gossamer import rounds
    from gossamer.experiment import Experiment
    from gossamer.runs import open_run

    def hear(event: Event) -> None:
        tell("event", **asdict(event))

    folder = Path(order["folder"])
    if order["resumed"]:
        rounds.resume(folder, hear, backend=_one_core(open_run(folder).record["backend"]))
    else:
        experiment = Experiment.from_toml(order["experiment"])
        rounds.run(experiment.replace(backend=_one_core(experiment.backend)), folder, hear)


def _one_core(backend: str) -> str:
    return "vmap" if backend == "vmap" else "eager"


if __name__ == "__main__":
    _work()
