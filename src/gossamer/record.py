"""The record of a run: a folder of plain files that other tools can read.

    experiment.toml          what was asked
    record.json              what was made of it: nodes, samples, graph, parameters, back end, versions, hardware
    metrics/part-*.parquet   one line for each evaluated node and round (node -1: the global or averaged model)
    rounds/part-*.parquet    one line for each round
    layers/part-*.parquet    one line for each evaluated round and trained tensor, if asked for
    events.jsonl             what happened when
    checkpoints/*.safetensors  the complete state
    model.safetensors        the model at the end, if there is one for all
    report.html              the report
    lock                     held while the run is in progress

Every file appears whole or not at all (written aside, then renamed), except events.jsonl, which only grows.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.errors import RunError

if TYPE_CHECKING:
    import pyarrow

METRICS: dict[str, str] = {
    "round": "int32",
    "node": "int32",
    "train_loss": "float64",
    "train_accuracy": "float64",
    **{
        f"{part}_{name}": "float64"
        for part in ("validation", "test")
        for name in ("loss", "accuracy", "balanced_accuracy", "f1", "auc")
    },
    "attack_success": "float64",
    "bytes_sent": "int64",
    "bytes_received": "int64",
    "disagreement": "float64",
}
"""Columns of the metrics table. Bytes are cumulative since the start of the run; the disagreement of a node is the
squared distance of its model to the mean of all."""

ROUNDS: dict[str, str] = {
    "round": "int32",
    "learning_rate": "float64",
    "participants": "int32",
    "communicated": "bool",
    "bytes": "int64",
    "transfers": "int64",
    "simulated_seconds": "float64",
    "consensus_distance": "float64",
    "mergeability_gap": "float64",
    "rejected": "int32",
    "epsilon": "float64",
    "clip": "float64",
    "summed": "int32",
    "hostile_weight": "float64",
    "honest_cosine": "float64",
    "kappa": "float64",
    "seconds_train": "float64",
    "seconds_exchange": "float64",
    "seconds_merge": "float64",
    "seconds_evaluate": "float64",
    "seconds_checkpoint": "float64",
}
"""Columns of the table of rounds. Bytes are those of the round, both directions counted once each (round 1 includes
the set-up message); transfers are models sent in the round; simulated seconds are those since the start;
`seconds_checkpoint` is of the checkpoint saved before the round. Rejected are messages that no receiver could use; what
attacks did to the results of a round that is measured (`gossamer.engines.robustness`) is null without hostile nodes."""


LAYERS: dict[str, str] = {
    "round": "int32",
    "layer": "string",
    "variance": "float64",
    "variance_merged": "float64",
    "distance": "float64",
}
"""Columns of the table of layers: of every trained tensor the mean variance of its numbers at the nodes, that at the
merged model, and the mean squared distance of the two."""

TABLES = {"metrics": METRICS, "rounds": ROUNDS, "layers": LAYERS}


def schema(columns: dict[str, str]) -> pyarrow.Schema:
    """The columns as an Arrow schema."""
    import pyarrow

    return pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in columns.items()])


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write aside; on leaving it is flushed to the disk and renamed, so `path` is complete or as before."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


MANY = 20_000
"""Lines kept in memory at most before they are written as a part of their own."""


class Record:
    """Writes the tables and events of one run into its folder."""

    def __init__(self, folder: Path, parts: int = 0) -> None:
        self.folder = folder
        self.parts = parts
        self._lines: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}

    def add(self, table: str, line: dict[str, Any]) -> None:
        """One line of a table."""
        self._lines[table].append(line)
        if len(self._lines["metrics"]) >= MANY and table == "rounds":
            self.flush()

    def event(self, kind: str, **values: Any) -> None:
        """One line of events.jsonl."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **values})
        with open(self.folder / "events.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def flush(self) -> None:
        """Write what was added since the last flush, if anything, as the next part of each table."""
        import pyarrow
        import pyarrow.parquet

        if not any(self._lines.values()):
            return
        for name, columns in TABLES.items():
            table = pyarrow.Table.from_pylist(self._lines[name], schema=schema(columns))
            with whole(part_path(self.folder, name, self.parts)) as aside:
                pyarrow.parquet.write_table(table, aside)
        self.parts += 1
        self._lines = {name: [] for name in TABLES}


class Lock:
    """Held while a run is in progress; the system lets go of it when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: Any = None

    def __enter__(self) -> Lock:
        import fcntl

        self._file = open(self.folder / "lock", "a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise RunError(f"{self.folder}: another process is running this") from None
        return self

    def __exit__(self, *problem: object) -> None:
        self._file.close()


def is_running(folder: Path) -> bool:
    """Whether a process is at work on a run folder now."""
    if not (folder / "lock").exists():
        return False
    try:
        with Lock(folder):
            return False
    except RunError:
        return True


def part_path(folder: Path, table: str, part: int) -> Path:
    """Where a part of a table lies."""
    return folder / table / f"part-{part:06d}.parquet"


def read_table(folder: Path, table: str, parts: int | None = None) -> pyarrow.Table:
    """A table of a run, its parts joined in order (the first `parts` of them, or all). Raises RunError if damaged."""
    import pyarrow
    import pyarrow.parquet

    columns = TABLES[table]
    paths = sorted((folder / table).glob("part-*.parquet"))[:parts]
    tables = []
    for number, path in enumerate(paths):
        if path != part_path(folder, table, number):
            raise RunError(f"{part_path(folder, table, number)} is missing; run the experiment again")
        try:
            tables.append(pyarrow.parquet.read_table(path, schema=schema(columns)))
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise RunError(f"{path} is damaged ({error}); run the experiment again") from None
    if parts is not None and len(paths) < parts:
        raise RunError(f"{part_path(folder, table, len(paths))} is missing; run the experiment again")
    return pyarrow.concat_tables([schema(columns).empty_table(), *tables])


def clean_up(folder: Path, parts: int) -> None:
    """Make the folders of a run and remove what a run that was stopped left behind.

    That is: parts beyond those of the checkpoint that is resumed from (their rounds will be played again), files that
    were being written, a torn last line of events.
    """
    for name in (*TABLES, "checkpoints"):
        (folder / name).mkdir(exist_ok=True)
        for path in (folder / name).glob(".*"):
            path.unlink()
    for table in TABLES:
        for path in sorted((folder / table).glob("part-*.parquet"))[parts:]:
            path.unlink()
    events = folder / "events.jsonl"
    if events.exists() and (content := events.read_bytes()) and not content.endswith(b"\n"):
        events.write_bytes(content[: content.rfind(b"\n") + 1])


def write_json(path: Path, values: dict[str, Any]) -> None:
    """A JSON file, whole."""
    with whole(path) as aside:
        aside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run folder. Raises RunError where it is absent or damaged."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path.parent} is no run folder: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    return values


def require_empty(place: Path) -> None:
    """Raise RunError where a named folder holds something already."""
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise RunError(f"{place} exists and is not empty; choose another folder, or: gossamer resume {place}")


def claim(name: str, seed: int, folder: str | Path | None) -> Path:
    """Make the folder of a new run, one that nobody else has taken. Raises RunError where it cannot be made."""
    try:
        if folder is not None:
            place = Path(folder)
            place.mkdir(parents=True, exist_ok=True)
            require_empty(place)
            return place
        base = Path("runs") / f"{name}-s{seed}"
        base.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            place = base if number == 1 else base.with_name(f"{base.name}-{number}")
            try:
                place.mkdir()
            except FileExistsError:
                number += 1
                continue
            return place
    except OSError as error:
        raise RunError(f"cannot make the run folder '{folder or 'runs'}': {error.strerror or error}") from error
