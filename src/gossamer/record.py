"""The record of a run: a folder of plain files that other tools can read.

    experiment.toml          what was asked
    record.json              what was made of it: nodes, samples, graph, parameters, back end, versions, hardware
    metrics/part-*.parquet   one line for each evaluated node and round (node -1: the global or averaged model)
    rounds/part-*.parquet    one line for each round
    events.jsonl             what happened when
    checkpoints/*.safetensors  the complete state
    report.html              the report

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
    "bytes_sent": "int64",
    "bytes_received": "int64",
}
"""Columns of the metrics table. Bytes are cumulative since the start of the run."""

ROUNDS: dict[str, str] = {
    "round": "int32",
    "learning_rate": "float64",
    "participants": "int32",
    "communicated": "bool",
    "bytes": "int64",
    "consensus_distance": "float64",
    "seconds_train": "float64",
    "seconds_exchange": "float64",
    "seconds_merge": "float64",
    "seconds_evaluate": "float64",
    "seconds_checkpoint": "float64",
}
"""Columns of the table of rounds. Bytes are those of the round, both directions counted once each (round 1 includes
the set-up message); `seconds_checkpoint` is of the checkpoint saved before the round."""


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


class Record:
    """Writes the tables and events of one run into its folder."""

    def __init__(self, folder: Path, parts: int = 0) -> None:
        self.folder = folder
        self.parts = parts
        self._rows: dict[str, list[dict[str, Any]]] = {"metrics": [], "rounds": []}

    def add_metrics(self, row: dict[str, Any]) -> None:
        """One line of the metrics table."""
        self._rows["metrics"].append(row)

    def add_round(self, row: dict[str, Any]) -> None:
        """One line of the table of rounds."""
        self._rows["rounds"].append(row)

    def event(self, kind: str, **values: Any) -> None:
        """One line of events.jsonl."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **values})
        with open(self.folder / "events.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def flush(self) -> None:
        """Write what was added since the last flush as the next part of each table."""
        import pyarrow
        import pyarrow.parquet

        for name, columns in (("metrics", METRICS), ("rounds", ROUNDS)):
            table = pyarrow.Table.from_pylist(self._rows[name], schema=schema(columns))
            with whole(part_path(self.folder, name, self.parts)) as aside:
                pyarrow.parquet.write_table(table, aside)
        self.parts += 1
        self._rows = {"metrics": [], "rounds": []}


def part_path(folder: Path, table: str, part: int) -> Path:
    """Where a part of a table lies."""
    return folder / table / f"part-{part:06d}.parquet"


def read_table(folder: Path, table: str, parts: int | None = None) -> pyarrow.Table:
    """A table of a run, its parts joined in order (the first `parts` of them, or all). Raises RunError if damaged."""
    import pyarrow
    import pyarrow.parquet

    columns = METRICS if table == "metrics" else ROUNDS
    paths = sorted((folder / table).glob("part-*.parquet"))
    tables = []
    for path in paths if parts is None else paths[:parts]:
        try:
            tables.append(pyarrow.parquet.read_table(path, schema=schema(columns)))
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise RunError(f"{path}: damaged ({error}); run the experiment again") from None
    return pyarrow.concat_tables([schema(columns).empty_table(), *tables])


def drop_parts(folder: Path, keep: int) -> None:
    """Remove parts written after the checkpoint that is resumed from: their rounds will be played again."""
    for table in ("metrics", "rounds"):
        for path in sorted((folder / table).glob("part-*.parquet"))[keep:]:
            path.unlink()


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
