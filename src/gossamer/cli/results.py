"""Commands about finished runs: runs, compare, report, export."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gossamer.cli.output import Json, arms_table, console, emit, say, table
from gossamer.errors import GossamerError, RunError

if TYPE_CHECKING:
    from gossamer.runs import Run

app = typer.Typer()
runs_app = typer.Typer(epilog="Examples:\n\n  gossamer runs\n\n  gossamer runs clean --yes")
app.add_typer(runs_app, name="runs")

Folder = Annotated[Path, typer.Option("--folder", help="Where run folders are kept.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]


def runs_in(folder: Path) -> list[Run]:
    """The runs in a folder, by name; what is no run is passed over."""
    from gossamer.runs import open_run

    found = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (place / "record.json").is_file() and (place / "experiment.toml").is_file():
            try:
                found.append(open_run(place))
            except GossamerError as error:
                say(f"warning: {error}")
    return found


@runs_app.callback(invoke_without_command=True)
def runs(context: typer.Context, folder: Folder = Path("runs"), json: Json = False) -> None:
    """List runs, or clean them up."""
    if context.invoked_subcommand is None:
        list_runs(folder, json)
    elif json or folder != Path("runs"):
        raise typer.BadParameter(f"write options after '{context.invoked_subcommand}'")


@runs_app.command("list", epilog="Example:\n\n  gossamer runs list --folder runs --json")
def list_runs(folder: Folder = Path("runs"), json: Json = False) -> None:
    """List the runs in a folder: how they ended, what they reached, what they take."""
    from gossamer import units

    found = [_facts(run) for run in runs_in(folder)]
    if json:
        emit(found)
        return
    if not found:
        print(f"no runs in {folder}")
        return
    columns = ["run", "status", "rounds", "test accuracy", "sent", "time", "on disk", "changed"]
    lines = [
        [
            str(f["folder"]), f["status"], f"{f['rounds']}/{f['of_rounds']}", units.fraction(f["test_accuracy"]),
            units.size(f["bytes"]), units.duration(f["seconds"]), units.size(f["disk_bytes"]), f["changed"],
        ]
        for f in found
    ]  # fmt: skip
    console().print(table(columns, lines, spare=["changed", "on disk", "time", "sent"]))


def _facts(run: Run) -> dict[str, Any]:
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(_changed(run.folder)))
    summary = run.summary()
    keys = ("rounds", "test_accuracy", "bytes", "seconds")
    return {
        "folder": run.folder,
        "status": run.record["status"],
        **{key: summary[key] for key in keys},
        "of_rounds": run.record["experiment"]["rounds"],
        "disk_bytes": sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file()),
        "changed": changed,
    }


def _changed(folder: Path) -> float:
    """When anything in the folder last changed."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


@runs_app.command(epilog="Examples:\n\n  gossamer runs clean\n\n  gossamer runs clean runs/first-ring-s0 --yes")
def clean(
    names: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders of runs to remove.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every run that is not in progress, finished ones too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    folder: Folder = Path("runs"),
    json: Json = False,
) -> None:
    """Remove runs: those named, or all that failed or were interrupted, or (--all) all that are not in progress."""
    from gossamer.runs import open_run

    found = runs_in(folder) if not names else []
    chosen = [open_run(name) for name in names or ()] + [run for run in found if _disposable(run, all_)]
    if chosen and not yes:
        for run in chosen:
            say(f"  {run.folder}  ({run.record['status']})")
        if not sys.stdin.isatty():
            raise RunError("nothing was removed: answer beforehand with --yes")
        typer.confirm(f"Remove {len(chosen)} runs?", abort=True, err=True)
    for run in chosen:
        shutil.rmtree(run.folder)
    if json:
        emit({"removed": [run.folder for run in chosen]})
    else:
        print(f"removed {len(chosen)} run{'' if len(chosen) == 1 else 's'}")


def _disposable(run: Run, all_: bool) -> bool:
    """Whether `clean` takes this run if it is not named."""
    status = run.record["status"]
    return status != "running" and (all_ or status != "finished")


@app.command(
    epilog="Examples:\n\n  gossamer compare runs/first-fedavg-s0 runs/first-ring-s0 --target 0.8\n\n"
    "  gossamer compare runs --out curves.png"
)
def compare(
    run_folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, or folders that hold runs.", show_default=False),
    ],
    target: Annotated[
        float | None, typer.Option("--target", help="Test accuracy to reach: tells rounds, bytes and seconds to it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Curves: .html (the whole report), .png, .svg or .pdf.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Compare runs: means and intervals over seeds, what it took to reach a target, and overlaid curves.

    Runs whose experiments differ in the seed only are one arm; a run that repeats a seed is left out.
    """
    from gossamer.compare import distinct, group, repeated, rows

    if target is not None and not 0 < target <= 1:
        raise RunError(f"--target {target:g}: give an accuracy above 0 and at most 1, e.g. --target 0.8")
    runs = opened(run_folders)
    grouped = group(runs)
    for members in grouped.values():
        for run, first in repeated(members):
            say(f"warning: {run.folder} repeats seed {run.seed} of {first.folder}: left out")
    arms = {arm: distinct(members) for arm, members in grouped.items()}
    place = out or runs[0].folder.parent / "compare.html"
    _draw(arms, place, target)
    compared = rows(arms, target)
    if json:
        emit({"arms": [asdict(row) for row in compared], "target": target, "curves": place})
        return
    output = console()
    output.print(arms_table(compared, target))
    output.print(f"Curves: {place}", soft_wrap=True)


def opened(folders: Iterable[Path]) -> list[Run]:
    """The runs that are, or lie in, these folders. Raises RunError where there is none, or one without a result."""
    from gossamer.runs import open_run

    found: list[Run] = []
    for folder in folders:
        inside = [] if (folder / "record.json").is_file() else runs_in(folder)
        found += inside or [open_run(folder)]
    measured = [run for run in found if run.summary()["test_accuracy"] is not None]
    for run in found:
        if run not in measured:
            say(f"warning: {run.folder} was not measured yet and is left out")
    if not measured:
        raise RunError("none of these runs was measured yet; run them to a first evaluation")
    return measured


def _draw(arms: dict[str, list[Run]], place: Path, target: float | None) -> None:
    """Write the curves in the format that the name asks for. Raises RunError for one that there is not."""
    if place.suffix not in (".html", ".png", ".svg", ".pdf"):
        raise RunError(f"--out {place}: the name must end in .html, .png, .svg or .pdf")
    if place.suffix == ".html":
        from gossamer.report import write_report

        write_report(arms, place, target)
        return
    from gossamer.plots import curves

    place.parent.mkdir(parents=True, exist_ok=True)
    curves(arms, target=target).savefig(place, dpi=160)


@app.command(epilog="Example:\n\n  gossamer report runs/first-fedavg-s0")
def report(
    run_folder: RunFolder,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write it; default: in the run's folder.")] = None,
    json: Json = False,
) -> None:
    """Write the HTML report of a run: one file that needs nothing else."""
    run = opened([run_folder])
    if len(run) > 1:
        raise RunError(f"{run_folder} holds {len(run)} runs; name one of them, or: gossamer compare {run_folder}")
    place = run[0].report(out)
    if json:
        emit({"report": place})
    else:
        print(f"Report: {place}")


@app.command(
    epilog="Examples:\n\n  gossamer export runs/first-fedavg-s0\n\n  gossamer export RUN --format parquet --to out\n\n"
    "  gossamer export RUN --as adapter --to my-adapter"
)
def export(
    run_folder: RunFolder,
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write to; default: export in the run's.")] = None,
    format_: Annotated[Literal["csv", "parquet"], typer.Option("--format", help="Of the tables.")] = "csv",
    as_: Annotated[
        Literal["adapter", "merged"] | None,
        typer.Option("--as", help="The model alone, for peft (adapter) or transformers (merged), with a model card."),
    ] = None,
    node: Annotated[int | None, typer.Option("--node", help="This node's model instead of the common one.")] = None,
    json: Json = False,
) -> None:
    """Export a run: its tables as CSV or Parquet, its model as safetensors.

    With --as instead: an adapted model as a folder that PeftModel.from_pretrained, or from_pretrained, loads.
    """
    from gossamer.export import export_model, export_tables
    from gossamer.runs import open_run

    run = open_run(run_folder)
    if as_ is not None:
        from gossamer.taking_home import take_home

        _tell(sorted(path for path in take_home(run, as_, to, node).rglob("*") if path.is_file()), json)
        return
    place = to or run.folder / "export"
    written = [*export_tables(run, place, format_)]
    common = (run.folder / "model.safetensors").is_file()
    if node is not None or common:
        written.append(export_model(run, place, node))
    else:
        say("there is no common model; name a node's with --node")
    _tell(written, json)


def _tell(written: list[Path], json: bool) -> None:
    """The files that were written."""
    if json:
        emit({"files": written})
    else:
        for path in written:
            print(path)
