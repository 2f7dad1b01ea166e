"""A run in the formats of other tools: tables as CSV or Parquet, models as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gossamer.record import whole

if TYPE_CHECKING:
    from gossamer.runs import Run


def export_tables(run: Run, folder: Path, format: Literal["csv", "parquet"] = "csv") -> list[Path]:
    """Write metrics, rounds and layers (if recorded), one file each, and return their paths.

    What was not measured is empty.
    """
    import pyarrow.csv
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    write = pyarrow.csv.write_csv if format == "csv" else pyarrow.parquet.write_table
    paths = []
    for name, table in (("metrics", run.metrics), ("rounds", run.rounds), ("layers", run.layers)):
        if name == "layers" and not len(table):
            continue
        paths.append(folder / f"{name}.{format}")
        with whole(paths[-1]) as aside:
            write(table, aside)
    return paths


def export_model(run: Run, folder: Path, node: int | None = None) -> Path:
    """Write the state dict of the common model, or of a node's, and return its path.

    Raises RunError where there is no such model.
    """
    from safetensors.torch import save_file

    state = {name: value.detach().clone().contiguous() for name, value in run.model(node).state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("model.safetensors" if node is None else f"model-node{node}.safetensors")
    with whole(path) as aside:
        save_file(state, aside)
    return path
