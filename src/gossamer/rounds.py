"""The round loop.

for each round:
    1. participants do their local work                       (back end)
    2. messages are exchanged and merged at every receiver     (engine)
    3. models are measured, if the plan says so                (back end)
    4. what happened is recorded; now and then the complete state is saved
"""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.checkpoint import Progress, latest_checkpoint, restore, write_checkpoint
from gossamer.errors import ExperimentError, GossamerError, Interrupted, RunError
from gossamer.evaluation import merge_models, reestimate
from gossamer.experiment import Experiment
from gossamer.groundwork import follows
from gossamer.identity import about, same_experiment, same_world
from gossamer.measuring import Measured, lines, measure, training_means
from gossamer.placement import defenceless, majority_warning
from gossamer.record import TABLES, Lock, Record, claim, clean_up, read_json, read_table, require_empty, write_json
from gossamer.runs import Run, open_run, write_model
from gossamer.sealing import unopened_warning

if TYPE_CHECKING:
    from gossamer.backends import Backend
    from gossamer.engines import Engine, Round
    from gossamer.federation import Federation

STARTING_GUESS = (0.01, 300e6)
"""Seconds of the first checkpoint, before one was timed: a constant, and bytes a second."""


@dataclass(frozen=True)
class Event:
    """What a listener hears: kind is start, round, evaluation, checkpoint, warning or end."""

    kind: str
    round: int
    rounds: int
    values: dict[str, Any]


Listener = Callable[[Event], None]


def run(experiment: Experiment, folder: str | Path | None = None, listener: Listener | None = None) -> Run:
    """Run an experiment to its end and return its record.

    `folder` is where the run is kept; default `runs/NAME-sSEED`, with a number added if that is taken.
    Raises ExperimentError for what cannot be, NodeError where a node fails, Interrupted after Ctrl-C (the run can be
    resumed).
    """
    if not isinstance(experiment, Experiment):
        raise ExperimentError(
            f"run() takes an Experiment, not a {type(experiment).__name__}; "
            "a file becomes one with gossamer.Experiment.load(path), or gossamer.load_arms(path) if it has arms"
        )
    if folder is not None:
        require_empty(Path(folder))
    with one_thread():
        from gossamer.federation import Federation

        loop = _Loop(Federation(experiment), listener)
        return loop.start(
            lambda: claim(experiment.name, experiment.seed, folder), experiment.backend, experiment.workers
        )


def resume(
    folder: str | Path,
    listener: Listener | None = None,
    *,
    backend: str | None = None,
    workers: int | None = None,
    **objects: Any,
) -> Run:
    """Go on with a run from its last sound checkpoint; the result equals that of an uninterrupted run.

    `objects` are what was passed to the experiment as Python objects (model, data, partition ...).
    Raises RunError where the folder is no run, its experiment was changed, or it is still running.
    """
    place = Path(folder)
    record = read_json(place / "record.json")
    experiment = same_experiment(place, record, objects)
    if record["status"] == "finished":
        return open_run(place, experiment)
    with one_thread():
        from gossamer.federation import Federation

        federation = Federation(experiment)
        same_world(place, record, federation)
        loop = _Loop(federation, listener)
        found = latest_checkpoint(place)
        if found is not None:
            loop.progress, tensors, warnings = found
            for warning in warnings:
                loop.warn(warning)
            for table in TABLES:
                read_table(place, table, loop.progress.parts)  # Damage shows now, not after the last round.
            restore(federation.tensors(), tensors)
        reason = record["backend_reason"] if backend in (None, record["backend"]) else None
        return loop.start(lambda: place, backend or record["backend"], workers or experiment.workers, reason)


_ALONE = threading.RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside (more are often slower for small models), and torch's own dice left as they were.

    Both are global to the process, so a second run of another thread waits for the first.
    """
    import torch

    with _ALONE:
        threads, dice = torch.get_num_threads(), torch.get_rng_state()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_rng_state(dice)


class _Loop:
    """One run in progress."""

    folder: Path
    record: Record
    about: dict[str, Any]

    def __init__(self, federation: Federation, listener: Listener | None) -> None:
        self.federation, self.experiment = federation, federation.experiment
        self.progress = Progress(0, 0, "", "")
        self.stop_asked = False
        self._listener = listener or (lambda event: None)
        self._listening = False
        self._warned: list[str] = []

    def tell(self, kind: str, round: int, **values: Any) -> None:
        self._listening = True
        self._listener(Event(kind, round, self.federation.guard.rounds, values))
        self._listening = False

    def warn(self, text: str) -> None:
        self._warned.append(text)
        self.tell("warning", 0, text=text)

    def start(
        self, place: Callable[[], Path], backend_name: str, workers: int | None, reason: str | None = None
    ) -> Run:
        """Choose the back end, take the folder, play the rounds that are left."""
        from gossamer.backends.auto import choose

        if self.progress.rounds_done == 0:
            self._warn_of_graph()
            for text in self.federation.guard.ledger.warnings if self.federation.guard.ledger else ():
                self.warn(text)
            for text in unopened_warning(self.experiment, self.federation.nodes):
                self.warn(text)
        backend, told = choose(self.federation, backend_name, workers)
        try:
            self.folder = place()
            # After the workers were forked: they must not keep the lock when this process dies.
            with Lock(self.folder):
                self._play(backend, reason or told)
        finally:
            backend.close()
        return open_run(self.folder, self.experiment)

    def _play(self, backend: Backend, reason: str) -> None:
        experiment, folder, done = self.experiment, self.folder, self.progress.rounds_done
        clean_up(folder, self.progress.parts)
        self.about = about(self.federation, backend.name, reason, backend.workers)
        write_json(folder / "record.json", self.about)
        (folder / "experiment.toml").write_text(experiment.to_toml(), encoding="utf-8")
        self.record = Record(folder, self.progress.parts)
        start = {"backend": backend.name, "reason": reason, "workers": backend.workers}
        self.record.event("resume" if done else "start", round=done, **start)
        for text in self._warned:
            self.record.event("warning", text=text)
        world = {"nodes": self.federation.nodes, "parameters": self.federation.layout.size, "folder": str(folder)}
        try:
            self.tell("start", done, **world, **start)
            with self._signals():
                self._rounds(backend)
            self._finish()
        except BaseException as error:
            self._failed(error)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                fix = f"free some space, then: gossamer resume {folder}"
                raise RunError(f"{folder}: the disk is full; {fix}") from error
            raise

    def _rounds(self, backend: Backend) -> None:
        federation, experiment = self.federation, self.experiment
        engine = self._engine(backend)
        nodes, rounds, first = federation.nodes, federation.guard.rounds, self.progress.rounds_done
        account = federation.guard.ledger
        sent_N = np.array(self.progress.sent or [0] * nodes, dtype=np.int64)
        received_N = np.array(self.progress.received or [federation.setup_bytes] * nodes, dtype=np.int64)
        cut = 0
        began = saved = time.perf_counter()
        constant, rate = STARTING_GUESS
        saving, seconds_saving = constant + sum(t.nbytes for t in federation.tensors().values()) / rate, 0.0
        for round in range(first, rounds):
            clock = time.perf_counter()
            last, every = round + 1 == rounds, experiment.evaluate.every
            due = last or (every > 0 and (round + 1) % every == 0)
            spent = account.epsilon(round + 1) if account and due else None
            early, measured, seconds_evaluate = experiment.evaluate.before_exchange, Measured(), 0.0
            result = engine.train(round)
            result.watched = due and len(federation.placement.hostile) > 0
            if not early:
                engine.exchange(result)
            if due:
                before = time.perf_counter()
                measured = measure(federation, backend, round + 1, early)
                seconds_evaluate = time.perf_counter() - before
            if early:
                engine.exchange(result)
            if not cut and (cut := sum(outcome.cut for outcome in result.outcomes)):
                text = f"secure_sum.range: {cut} numbers were larger in round {round + 1} and were cut off; give more"
                self.record.event("warning", text=text)
                self.tell("warning", round + 1, text=text)
            sent_N += result.sent_N
            received_N += result.received_N
            for line in lines(federation, round + 1, result, measured, sent_N, received_N):
                self.record.add("metrics", line)
            self.record.add(
                "rounds",
                {
                    "round": round + 1,
                    "learning_rate": experiment.learner.rate(round, experiment.rounds),
                    "participants": len(result.outcomes),
                    "communicated": result.communicated,
                    "bytes": self._bytes(result) + (self.about["setup_bytes"] if round == 0 else 0),
                    "transfers": result.transfers,
                    "simulated_seconds": result.clock,
                    "consensus_distance": measured.consensus_distance,
                    "mergeability_gap": measured.mergeability_gap,
                    "rejected": result.rejected,
                    "hostile_weight": result.robustness.get("hostile_weight"),
                    "honest_cosine": result.robustness.get("cosine"),
                    "kappa": result.robustness.get("kappa"),
                    "epsilon": spent,
                    "clip": float(federation.guard.level) if follows(experiment) else None,
                    "summed": result.summed,
                    **{f"seconds_{phase}": value for phase, value in result.seconds.items()},
                    "seconds_evaluate": seconds_evaluate,
                    "seconds_checkpoint": seconds_saving,
                },
            )
            for line in measured.layers:
                self.record.add("layers", line)
            now = time.perf_counter()
            self.tell(
                "round",
                round + 1,
                seconds=now - clock,
                bytes=self._bytes_so_far(sent_N, received_N),
                loss=training_means(federation, result)["train_loss"],
                seconds_left=(now - began) / (round + 1 - first) * (rounds - round - 1),
            )
            if due:
                told = {} if spent is None else {"epsilon": spent}
                self.tell("evaluation", round + 1, **measured.headline(), **told)
            seconds_saving, every = 0.0, experiment.checkpoint.every
            allowed = saving <= experiment.checkpoint.max_share * (now - saved)
            if last or self.stop_asked or (every > 0 and (round + 1) % every == 0 and allowed):
                self._save(backend, round + 1, sent_N, received_N, engine)
                saved = time.perf_counter()
                saving = seconds_saving = saved - now
            if self.stop_asked and not last:
                raise Interrupted(
                    f"stopped after round {round + 1} of {rounds}; go on with: gossamer resume {self.folder}"
                )

    def _bytes(self, result: Round) -> int:
        """Bytes that travelled in a round: up and down with a server, over every edge without."""
        down = int(result.received_N.sum()) if self.federation.has_server else 0
        return int(result.sent_N.sum()) + down + result.lost_bytes

    def _bytes_so_far(self, sent_N: Any, received_N: Any) -> int:
        other = received_N.sum() if self.federation.has_server else self.about["setup_bytes"]
        return int(sent_N.sum() + other)

    def _engine(self, backend: Backend) -> Engine:
        from gossamer.engines.events import Events
        from gossamer.engines.local import Local

        engine = Events if self.experiment.clock.kind == "events" else Local
        return engine(self.federation, backend, self.progress.spent, self.progress.clock)

    def _save(self, backend: Backend, done: int, sent_N: Any, received_N: Any, engine: Engine) -> None:
        self.federation.check_finite(done)
        self.record.flush()
        self.progress = Progress(
            rounds_done=done,
            parts=self.record.parts,
            digest=self.experiment.digest(),
            backend=backend.name,
            sent=tuple(map(int, sent_N)),
            received=tuple(map(int, received_N)),
            spent=engine.spent,
            clock=engine.clock,
        )
        write_checkpoint(self.folder, self.progress, self.federation.tensors())
        self.record.event("checkpoint", round=done)
        self.tell("checkpoint", done)

    def _finish(self) -> None:
        federation = self.federation
        if federation.merges or federation.nodes == 1:
            merge_models(federation, federation.guard.rounds)
            reestimate(federation, federation.guard.rounds)
            write_model(self.folder, federation)
        seconds = open_run(self.folder, self.experiment).summary()["seconds"]
        self.about |= {"status": "finished", "seconds": round(seconds, 3)}
        write_json(self.folder / "record.json", self.about)
        self.record.event("end", status="finished")
        self.tell("end", self.federation.guard.rounds, status="finished")

    def _failed(self, error: BaseException) -> None:
        """Leave a truthful record of why the run stopped, and its metrics, if there is room to write."""
        stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
        status = "interrupted" if stopped else "failed"
        try:
            self.record.flush()
            self.about |= {"status": status}
            write_json(self.folder / "record.json", self.about)
            reason = str(error) if isinstance(error, GossamerError) else f"{type(error).__name__}: {error}"
            self.record.event("end", status=status, reason=reason)
        except OSError as problem:
            self._warned.append(f"the reason could not be written to {self.folder}: {problem}")
        if not self._listening:  # A listener that failed itself is not asked again.
            self.tell("end", 0, status=status)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM finish the round and save; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: object) -> None:
            if self.stop_asked:
                raise KeyboardInterrupt
            self.stop_asked = True
            self.tell("warning", 0, text="stopping after this round and saving; press Ctrl-C again to stop at once")

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, former in before.items():
                signal.signal(number, former)

    def _warn_of_graph(self) -> None:
        from gossamer.graphs import components

        if self.federation.method.world != "graph":
            return
        placement = self.federation.placement
        if caveat := self.experiment.topology.caveat(self.federation.nodes):
            self.warn(caveat)
        if self.experiment.topology.varies:
            return
        edges_E2 = self.federation.exchanges.links(0)
        for text in (
            majority_warning(edges_E2, placement),
            defenceless(self.experiment.aggregator, edges_E2, placement),
        ):
            if text:
                self.warn(text)
        parts = components(self.federation.exchanges.links(0), self.federation.nodes)
        if len(parts) > 1:
            sizes = ", ".join(str(len(p)) for p in sorted(parts, key=len))
            self.warn(
                f"the graph is not connected: {len(parts)} components of {sizes} nodes; "
                "models agree within a component only"
            )
