"""The round loop.

for each round:
    1. participants do their local work                       (back end)
    2. messages are exchanged and merged at every receiver     (engine)
    3. models are measured, if the plan says so                (back end)
    4. what happened is recorded; now and then the complete state is saved
"""

from __future__ import annotations

import errno
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer import __version__
from gossamer.backends import Job
from gossamer.checkpoint import Progress, latest_checkpoint, restore, write_checkpoint
from gossamer.errors import GossamerError, Interrupted, RunError
from gossamer.experiment import Experiment
from gossamer.record import Record, drop_parts, read_json, write_json
from gossamer.runs import Run, open_run

if TYPE_CHECKING:
    from gossamer.backends import Backend
    from gossamer.engines.local import Round
    from gossamer.federation import Federation
    from gossamer.training import Counts

EVALUATION_PART = 2048
"""Test items measured as one job, so that several workers share the evaluation of one model."""


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
    with one_thread():
        from gossamer.federation import Federation

        federation = Federation(experiment)
        place = _fresh_folder(experiment, folder)
        return _Loop(federation, place, listener).play(experiment.backend, experiment.workers, Progress(0, 0, "", ""))


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
    Raises RunError where the folder is no run or its experiment was changed.
    """
    place = Path(folder)
    record = read_json(place / "record.json")
    experiment = _unchanged(place, record)
    if objects:
        experiment = experiment.replace(**objects)
        if experiment.digest() != record["digest"]:
            raise RunError(f"{place}: the objects passed are not those of the run ({', '.join(objects)})")
    if record["status"] == "finished":
        return open_run(place, experiment)
    with one_thread():
        from gossamer.federation import Federation

        federation = Federation(experiment)
        found = latest_checkpoint(place)
        loop = _Loop(federation, place, listener)
        progress = Progress(0, 0, "", "")
        if found is not None:
            progress, tensors, warnings = found
            for warning in warnings:
                loop.warn(warning)
            if progress.digest != experiment.digest():
                raise RunError(f"{place}: the checkpoint belongs to another experiment")
            _same_world(federation, place, record)
            restore(federation.population.tensors(), tensors)
        drop_parts(place, progress.parts)
        return loop.play(backend or record["backend"], workers or experiment.workers, progress)


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside (more are often slower for small models), and torch's own dice left as they were."""
    import torch

    threads, dice = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(dice)


class _Loop:
    """One run in progress."""

    def __init__(self, federation: Federation, folder: Path, listener: Listener | None) -> None:
        self.federation, self.folder = federation, folder
        self.experiment = federation.experiment
        self.listener = listener or (lambda event: None)
        self.stop_asked = False
        self._warned: list[str] = []

    def tell(self, kind: str, round: int, **values: Any) -> None:
        self.listener(Event(kind, round, self.experiment.rounds, values))

    def warn(self, text: str) -> None:
        self._warned.append(text)
        self.tell("warning", 0, text=text)

    def play(self, backend_name: str, workers: int | None, progress: Progress) -> Run:
        from gossamer.backends.auto import choose

        federation, experiment, folder = self.federation, self.experiment, self.folder
        if progress.rounds_done == 0:
            self._warn_of_graph()
        backend, reason = choose(federation, backend_name, workers)
        try:
            for part in ("metrics", "rounds", "checkpoints"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            if progress.rounds_done == 0:
                (folder / "experiment.toml").write_text(experiment.to_toml(), encoding="utf-8")
            self.about = _about(federation, backend, reason)
            write_json(folder / "record.json", self.about)
            self.record = Record(folder, progress.parts)
            self.record.event(
                "start" if progress.rounds_done == 0 else "resume",
                round=progress.rounds_done, backend=backend.name, reason=reason, workers=backend.workers,
            )  # fmt: skip
            for text in self._warned:
                self.record.event("warning", text=text)
            self.tell(
                "start", progress.rounds_done, nodes=federation.nodes, parameters=federation.layout.size,
                backend=backend.name, reason=reason, workers=backend.workers, folder=str(folder),
            )  # fmt: skip
            with self._signals():
                self._rounds(backend, progress)
        except BaseException as error:
            self._failed(error)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise RunError(
                    f"{folder}: the disk is full; free some space, then: gossamer resume {folder}"
                ) from error
            raise
        finally:
            backend.close()
        return open_run(folder, experiment)

    def _rounds(self, backend: Backend, progress: Progress) -> None:
        from gossamer.engines.local import play

        federation, experiment = self.federation, self.experiment
        nodes, rounds = federation.nodes, experiment.rounds
        sent = np.array(progress.sent or [0] * nodes, dtype=np.int64)
        received = np.array(progress.received or [0] * nodes, dtype=np.int64)
        began, saving = time.perf_counter(), 0.0
        guess = 0.01 + sum(t.nbytes for t in federation.population.tensors().values()) / 300e6
        for round in range(progress.rounds_done, rounds):
            clock = time.perf_counter()
            result = play(federation, backend, round)
            sent += result.sent_N
            received += result.received_N
            last = round + 1 == rounds
            due = last or (experiment.evaluate.every > 0 and (round + 1) % experiment.evaluate.every == 0)
            before = time.perf_counter()
            measured = self._evaluate(backend, round + 1) if due else {}
            seconds_evaluate = time.perf_counter() - before
            self._record_nodes(round, result, measured, sent, received)
            elapsed = time.perf_counter() - began
            self.record.add_round(
                {
                    "round": round + 1,
                    "learning_rate": experiment.learner.rate(round, rounds),
                    "participants": len(result.outcomes),
                    "communicated": result.communicated,
                    "bytes": self._round_bytes(result) + (self.about["setup_bytes"] if round == 0 else 0),
                    "consensus_distance": self._distance if due else None,
                    **{f"seconds_{phase}": value for phase, value in result.seconds.items()},
                    "seconds_evaluate": seconds_evaluate,
                    "seconds_checkpoint": saving,
                }
            )
            self.tell(
                "round", round + 1, seconds=time.perf_counter() - clock,
                bytes=self._total_bytes(sent, received),
                loss=_mean([o.loss for o in result.outcomes]),
                seconds_left=elapsed / (round + 1 - progress.rounds_done) * (rounds - round - 1),
            )  # fmt: skip
            if measured:
                self.tell("evaluation", round + 1, **self._headline(measured))
            saving = 0.0
            every = experiment.checkpoint.every
            wanted = (
                every > 0
                and (round + 1) % every == 0
                and guess <= experiment.checkpoint.max_share * (elapsed - getattr(self, "_saved_at", 0.0))
            )
            if wanted or last or self.stop_asked:
                before = time.perf_counter()
                self._save(backend, round + 1, sent, received)
                saving = guess = time.perf_counter() - before
                self._saved_at = elapsed
            if self.stop_asked and not last:
                raise Interrupted(
                    f"stopped after round {round + 1} of {rounds}; go on with: gossamer resume {self.folder}"
                )
        self._finish()

    def _evaluate(self, backend: Backend, done: int) -> dict[int, tuple[Counts, Counts]]:
        """(validation, test) counts of the evaluated nodes and, as node -1, of the merged model."""
        federation = self.federation
        own_models = not federation.has_server or federation.method.personal
        jobs = [Job(int(node), done, own_models) for node in federation.evaluated]
        merged = federation.merges
        self._distance = None
        if merged:
            federation.merge_models(done)
            total = len(federation.test_items)
            jobs += [
                Job(-1, done, True, start, min(start + EVALUATION_PART, total))
                for start in range(0, total, EVALUATION_PART)
            ]
            if not federation.has_server:
                self._distance = federation.consensus_distance(done)
        measured: dict[int, tuple[Counts, Counts]] = {}
        for job, (validation, test) in zip(jobs, backend.evaluate(jobs), strict=True):
            if job.node in measured:
                validation, test = measured[job.node][0] + validation, measured[job.node][1] + test
            measured[job.node] = (validation, test)
        if merged and not own_models:
            # One model for all: what it scores on all validation parts together.
            pooled = measured[-1][0]
            for node in federation.evaluated:
                pooled = pooled + measured[int(node)][0]
            measured[-1] = (pooled, measured[-1][1])
        return measured

    def _headline(self, measured: dict[int, tuple[Counts, Counts]]) -> dict[str, Any]:
        own = [
            m["accuracy"]
            for k, (_, test) in measured.items()
            if k >= 0 and (m := test.metrics())["accuracy"] is not None
        ]
        if own:
            return {"accuracy": sum(own) / len(own), "worst": min(own)}
        merged = measured[-1][1].metrics()["accuracy"] if -1 in measured else None
        return {"accuracy": merged, "worst": None}

    def _record_nodes(
        self,
        round: int,
        result: Round,
        measured: dict[int, tuple[Counts, Counts]],
        sent: Any,
        received: Any,
    ) -> None:
        """One line for each node that trained or was measured, and one (node -1) for the whole."""
        trained = {outcome.node: outcome for outcome in result.outcomes}
        has_server = self.federation.has_server
        for node in sorted({-1} | trained.keys() | measured.keys()):
            row: dict[str, Any] = {"round": round + 1, "node": node}
            if node in trained:
                row |= {"train_loss": _number(trained[node].loss), "train_accuracy": _number(trained[node].accuracy)}
            if node >= 0:
                row |= {"bytes_sent": int(sent[node]), "bytes_received": int(received[node])}
            else:
                row |= {
                    "train_loss": _number(_mean([o.loss for o in result.outcomes])),
                    "train_accuracy": _number(_mean([o.accuracy for o in result.outcomes])),
                }
                if has_server:
                    row |= {"bytes_sent": int(received.sum()), "bytes_received": int(sent.sum())}
            for part, counts in zip(("validation", "test"), measured.get(node, ()), strict=False):
                row |= {f"{part}_{name}": value for name, value in counts.metrics().items()}
            self.record.add_metrics(row)

    def _round_bytes(self, result: Round) -> int:
        """Bytes that travelled in a round: up and down with a server, over every edge without."""
        down = int(result.received_N.sum()) if self.federation.has_server else 0
        return int(result.sent_N.sum()) + down

    def _total_bytes(self, sent: Any, received: Any) -> int:
        down = int(received.sum()) if self.federation.has_server else 0
        return int(sent.sum()) + down + int(self.about["setup_bytes"])

    def _save(self, backend: Backend, done: int, sent: Any, received: Any) -> None:
        self.federation.check_finite(done - 1)
        self.record.flush()
        progress = Progress(
            done, self.record.parts, self.experiment.digest(), backend.name,
            tuple(map(int, sent)), tuple(map(int, received)),
        )  # fmt: skip
        write_checkpoint(self.folder, progress, self.federation.population.tensors())
        self.record.event("checkpoint", round=done)
        self.tell("checkpoint", done)

    def _finish(self) -> None:
        from gossamer.runs import write_model

        federation = self.federation
        if federation.merges or federation.nodes == 1:
            federation.merge_models(self.experiment.rounds)
            write_model(self.folder, federation)
        self.about |= {"status": "finished", "seconds": round(open_run(self.folder).summary()["seconds"], 3)}
        write_json(self.folder / "record.json", self.about)
        self.record.event("end", status="finished")
        self.tell("end", self.experiment.rounds, status="finished")

    def _failed(self, error: BaseException) -> None:
        """Leave a truthful record of why the run stopped, if there is a folder and room to write."""
        status = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
        if not hasattr(self, "record"):
            return
        try:
            self.about |= {"status": status}
            write_json(self.folder / "record.json", self.about)
            reason = str(error) if isinstance(error, GossamerError) else f"{type(error).__name__}: {error}"
            self.record.event("end", status=status, reason=reason)
        except OSError:
            self.tell("warning", 0, text=f"the reason could not be written to {self.folder}")
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
        from gossamer.mixing import components

        if self.federation.method.world != "graph" or self.experiment.topology.varies:
            return
        parts = components(self.federation.edges(0), self.federation.nodes)
        if len(parts) > 1:
            sizes = ", ".join(str(len(p)) for p in sorted(parts, key=len))
            self.warn(
                f"the graph is not connected: {len(parts)} components of {sizes} nodes; "
                "models agree within a component only"
            )


def _fresh_folder(experiment: Experiment, folder: str | Path | None) -> Path:
    """Where a new run goes. Raises RunError where a named folder holds something already."""
    if folder is not None:
        place = Path(folder)
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise RunError(f"{place} exists and is not empty; choose another folder, or: gossamer resume {place}")
        return place
    base = Path("runs") / f"{experiment.name}-s{experiment.seed}"
    place, number = base, 1
    while place.exists():
        number += 1
        place = base.with_name(f"{base.name}-{number}")
    return place


def _unchanged(folder: Path, record: dict[str, Any]) -> Experiment:
    """The experiment of a run folder. Raises RunError that names the fields that were changed since it began."""
    experiment = Experiment.load(folder / "experiment.toml")
    if experiment.digest() != record["digest"]:
        now, then = experiment.to_dict(), record["experiment"]
        changed = sorted(k for k in now.keys() | then.keys() if now.get(k) != then.get(k))
        raise RunError(
            f"{folder}: the experiment was changed since the run began ({', '.join(changed) or 'file contents'}); "
            "undo the change, or start a new run"
        )
    return experiment


def _same_world(federation: Federation, folder: Path, record: dict[str, Any]) -> None:
    """Raise RunError where files that the experiment only names (data, edges, model code) are not what they were."""
    found = {
        "samples": list(federation.shards.sizes),
        "histogram": None if federation.shards.histogram_NC is None else federation.shards.histogram_NC.tolist(),
        "edges": federation.edges(0).tolist(),
        "parameters": federation.layout.size,
    }
    changed = [name for name, value in found.items() if record[name] != value]
    if changed:
        raise RunError(
            f"{folder}: files that the experiment names have changed since the run began "
            f"({', '.join(changed)} differ); bring them back, or start a new run"
        )


def _about(federation: Federation, backend: Backend, reason: str) -> dict[str, Any]:
    """The contents of record.json at the start."""
    import torch

    from gossamer.planning import frozen_bytes

    experiment, shards = federation.experiment, federation.shards
    return {
        "status": "running",
        "digest": experiment.digest(),
        "experiment": experiment.to_dict(),
        "world": federation.method.world,
        "nodes": federation.nodes,
        "parameters": federation.layout.size,
        "trainable": federation.layout.trainable,
        "samples": list(shards.sizes),
        "validation_samples": [len(part) for part in shards.validation],
        "histogram": None if shards.histogram_NC is None else shards.histogram_NC.tolist(),
        "classes": list(shards.classes),
        "names": list(shards.names),
        "input_shape": list(shards.inputs.shape[1:]),
        "edges": federation.edges(0).tolist(),
        "message_bytes": {"up": federation.up_bytes, "down": federation.down_bytes},
        "setup_bytes": frozen_bytes(federation.resident.module, federation.layout) * federation.nodes,
        "backend": backend.name,
        "backend_reason": reason,
        "workers": backend.workers,
        "versions": {
            "gossamer": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
        "seconds": 0.0,
        "process": os.getpid(),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
