"""The command that makes bases: pretrain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gossamer.cli.output import File, Json, console, emit, say
from gossamer.cli.progress import progress

app = typer.Typer()


@app.command(epilog="Example:\n\n  gossamer pretrain examples/base-vit.toml\n\n  gossamer run examples/adapt-vit.toml")
def pretrain(
    file: File,
    again: Annotated[bool, typer.Option("--again", help="Train it anew, even if it is there.")] = False,
    json: Json = False,
) -> None:
    """Train the model of an experiment file once, and keep it as a base that others are adapted from.

    Experiments name the file as their model.base. Ctrl-C finishes the round and saves; the same command goes on. Bases
    are kept in the folder GOSSAMER_BASES, or else in the cache of the user, until the experiment changes.
    """
    from gossamer.experiment import Experiment
    from gossamer.pretraining import is_trained, untrained

    if is_trained(file) and not again:
        say(f"{file}: trained before; --again trains it anew")
    else:
        train([*untrained([Experiment.load(file)]), str(file)], again=str(file) if again else "")
    _show(file, json)


def train(files: Sequence[str], again: str = "") -> None:
    """Make these bases, one after the other; what is there is kept, but for the one to be made `again`."""
    from gossamer.pretraining import pretrain as make

    with progress(len(files)) as shown:
        for file in files:
            make(file, shown.listen(Path(file).stem), again=file == again)


def _show(file: Path, json: bool) -> None:
    """Where the base is, what it reached, and how an experiment names it."""
    from gossamer import units

    told, asked = _facts(file), f'model = {{ kind = "hugging_face", base = "{file}" }}'
    if json:
        emit({**told, "model": {"kind": "hugging_face", "base": file}})
        return
    reached = [
        f"{name} {told[key]:.3f}"
        for name, key in (("test accuracy", "test_accuracy"), ("test loss", "test_loss"))
        if told[key] is not None
    ]
    if told["seconds"] is not None:
        reached.append(f"in {units.duration(told['seconds'])}")
    out = console()
    out.print(f"Base: {told['base']} ({units.size(told['bytes'])})", soft_wrap=True)
    if reached:
        out.print(f"Reached: {', '.join(reached)}")
    out.print(f"In an experiment: {asked}", soft_wrap=True, markup=False)


def _facts(file: Path) -> dict[str, Any]:
    """Of a base: where it lies, what it takes, what its run reached (None where that was removed)."""
    from gossamer.bases import base_folder
    from gossamer.model_card import measured
    from gossamer.pretraining import run_folder
    from gossamer.runs import open_run

    folder, place = base_folder(file), run_folder(file)
    run = open_run(place) if (place / "record.json").is_file() else None
    last = measured(run) if run else {}
    return {
        "base": folder,
        "run": run.folder if run else None,
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "test_accuracy": last.get("test_accuracy"),
        "test_loss": last.get("test_loss"),
        "seconds": run.record["seconds"] if run else None,
    }
