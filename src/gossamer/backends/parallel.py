"""Parallel: worker processes over shared memory, one thread each, results consumed in node order.

Workers are forked once, after everything is built, so they share the data, the resident module's code and the
population without copying or importing anything again. A request is a few integers; messages come back through slots
in shared memory. Because each node's work is a pure function of (node, round) and sums are folded in node order by one
process, the result is bitwise that of the eager back end, whatever the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from gossamer.backends import Job
from gossamer.backends.eager import measure, mix_rows, work
from gossamer.errors import ExperimentError, GossamerError, node_error
from gossamer.population import shared

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from gossamer.counts import Counts
    from gossamer.federation import Federation, Outcome, Work
    from gossamer.topologies import Array
    from gossamer.wire import Message

AHEAD = 2
"""Requests a worker holds at once, so that it never waits for the next one."""


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    pending: deque[int] = field(default_factory=deque)
    works: deque[Work] = field(default_factory=deque)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


class Parallel:
    """Runs nodes on worker processes."""

    name = "parallel"

    def __init__(self, federation: Federation, workers: int | None = None) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise ExperimentError("backend = 'parallel' needs an operating system with fork; use 'eager' or 'vmap'")
        self.federation = federation
        self.workers = workers or cores()
        # Messages that are folded wait in slots of memory; those of a graph are rows anyway.
        self._chunk = (8 if federation.folds else 32) if federation.layout.size <= 1_000_000 else 1
        self._window = AHEAD * self.workers
        self._slots: dict[str, Any] = {}
        self._waiting: deque[Work] = deque()
        self._done: dict[Work, Outcome] = {}
        if federation.folds:
            slots = self._window * self._chunk
            self._slots = {name: shared(slots, value) for name, value in federation.received_like.items()}
        context = multiprocessing.get_context("fork")
        self._crew: list[_Worker] = []
        for _ in range(self.workers):
            here, there = context.Pipe()
            # A worker must hold no other end of any pipe, or it would not notice that this process died.
            inherited = [w.pipe for w in self._crew] + [here]
            process = context.Process(target=_serve, args=(federation, self._slots, there, inherited), daemon=True)
            process.start()
            there.close()
            self._crew.append(_Worker(process, here))

    def train(self, round: int, participants: Array) -> Iterator[tuple[Outcome, Message]]:
        """Chunks of participants go to whichever worker is free; their results are handed back in node order."""
        chunk = max(1, min(self._chunk, len(participants) // (2 * AHEAD * self.workers)))
        starts = range(0, len(participants), chunk)
        requests = [
            (
                "train",
                round,
                start,
                min(start + chunk, len(participants)),
                (i % self._window) * self._chunk,
            )
            for i, start in enumerate(starts)
        ]
        sent = self.federation.sent
        for request, outcomes in self._in_order(requests):
            for position, outcome in enumerate(outcomes):
                slot = request[4] + position
                views = {name: rows[outcome.node] for name, rows in sent.items()}
                yield outcome, views or {name: rows[slot] for name, rows in self._slots.items()}

    def mix(self, W_NN: csr_array) -> None:
        """A few receivers at a time, by whichever worker is free."""
        nodes = W_NN.shape[0]
        size = -(-nodes // (4 * self.workers))
        for _ in self._in_order([("mix", W_NN[first : first + size], first) for first in range(0, nodes, size)]):
            pass

    def submit(self, work: Work) -> None:
        """It goes to a worker as soon as one is free."""
        self._waiting.append(work)
        self._hand_out()

    def collect(self, work: Work) -> Outcome:
        """Wait for its worker."""
        while work not in self._done:
            busy = {worker.pipe: worker for worker in self._crew if worker.works}
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                answer = self._receive(worker)
                self._done[worker.works.popleft()] = answer
            self._hand_out()
        return self._done.pop(work)

    def _hand_out(self) -> None:
        while self._waiting:
            worker = min(self._crew, key=lambda w: len(w.works))
            if len(worker.works) >= AHEAD:
                return
            work = self._waiting.popleft()
            self._send(worker, ("begun", work))
            worker.works.append(work)

    def evaluate(self, jobs: list[Job]) -> Iterator[tuple[Counts, Counts]]:
        """Jobs go to whichever worker is free."""
        for _, counts in self._in_order([("evaluate", job) for job in jobs]):
            yield counts

    def _in_order(self, requests: list[Any]) -> Iterator[tuple[Any, Any]]:
        """Answers in the order of the requests, at most `window` requests beyond the last answer consumed."""
        answers: dict[int, Any] = {}
        handed, consumed = 0, 0
        while consumed < len(requests):
            while handed < len(requests) and handed - consumed < self._window:
                worker = min(self._crew, key=lambda w: len(w.pending))
                if len(worker.pending) >= AHEAD:
                    break
                self._send(worker, requests[handed])
                worker.pending.append(handed)
                handed += 1
            if consumed in answers:
                yield requests[consumed], answers.pop(consumed)
                consumed += 1
                continue
            busy = {worker.pipe: worker for worker in self._crew if worker.pending}
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                answer = self._receive(worker)
                answers[worker.pending.popleft()] = answer

    def _send(self, worker: _Worker, request: Any) -> None:
        try:
            worker.pipe.send(request)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died(worker) from None

    def _receive(self, worker: _Worker) -> Any:
        try:
            failed, answer = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._died(worker) from None
        if failed:
            raise answer
        return answer

    def _died(self, worker: _Worker) -> GossamerError:
        worker.process.join(timeout=5)
        code = worker.process.exitcode
        reason = f"was killed by signal {-code}" if code is not None and code < 0 else f"exited with code {code}"
        hint = "; out of memory? use fewer workers" if code == -signal.SIGKILL else ""
        return GossamerError(
            f"worker process {worker.process.pid} {reason}{hint}; resume continues from the checkpoint"
        )

    def close(self) -> None:
        """Ask the workers to stop and wait for them."""
        for worker in self._crew:
            worker.pipe.close()
        for worker in self._crew:
            worker.process.join(timeout=2)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._crew = []


def _serve(federation: Federation, slots: dict[str, Any], pipe: Connection, inherited: list[Connection]) -> None:
    """The life of a worker: answer requests until the pipe closes."""
    import torch

    # A signal to the whole group is for the process that asked: it finishes the round and needs its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for other in inherited:
        other.close()
    torch.set_num_threads(1)
    while True:
        try:
            request = pipe.recv()
            try:
                answer = (False, _answer(federation, slots, request))
            except GossamerError as error:
                answer = (True, error)
            pipe.send(answer)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # The process that asked is gone, or wants no more.


def _answer(federation: Federation, slots: dict[str, Any], request: Any) -> Any:
    if request[0] == "evaluate":
        return measure(federation, request[1])
    if request[0] == "begun":
        return federation.begun_work(request[1])
    if request[0] == "mix":
        return mix_rows(federation, *request[1:])
    _, round, start, stop, slot = request
    participants, outcomes = federation.participants(round), []
    federation.items.look_ahead(participants[start:stop], federation.experiment, round)
    for position, node in enumerate(participants[start:stop].tolist()):
        outcome, message = work(federation, node, round, participants)
        for name, rows in slots.items():
            try:
                rows[slot + position].copy_(message[name])
            except (KeyError, RuntimeError) as error:
                raise node_error(error, node, round + 1, "send") from error
        outcomes.append(outcome)
    return outcomes
