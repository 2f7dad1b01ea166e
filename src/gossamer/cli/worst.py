"""The command about worst cases: worst."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gossamer.cli.output import Json, console, emit, fits, print_whole, say, table
from gossamer.cli.results import opened
from gossamer.cli.running import seed_list
from gossamer.errors import RunError

if TYPE_CHECKING:
    from rich.table import Table

    from gossamer.runs import Run
    from gossamer.worst_case import Line, WorstCases

app = typer.Typer()


@app.command(
    epilog="Examples:\n\n  gossamer worst runs --where partition.alpha=0.1 --save heat.png\n\n"
    "  gossamer worst runs --rows aggregator --columns hostile.count,partition.alpha --over attack --tune-seeds 0"
)
def worst(
    run_folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, or folders that hold runs.", show_default=False),
    ],
    rows: Annotated[str, typer.Option("--rows", metavar="KEY,...", help="What is compared.")] = "aggregator",
    columns: Annotated[str, typer.Option("--columns", metavar="KEY,...", help="What it must withstand.")] = "attack",
    over: Annotated[
        str, typer.Option("--over", metavar="KEY,...", help="What each cell is already the worst case of.")
    ] = "",
    where_: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="KEY=VALUE", help="Only runs that have this; repeatable.", show_default=False),
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="test_accuracy, worst_node, attack_success, merged_accuracy ...")
    ] = "test_accuracy",
    tune_seeds: Annotated[
        str, typer.Option("--tune-seeds", metavar="0,1", help="Choose settings on these seeds, report on the others.")
    ] = "",
    save: Annotated[
        Path | None, typer.Option("--save", help="A heat map: .png, .svg or .pdf.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Show finished runs as a table, such as rules by attacks, with the worst case of each row and the best of these.

    Keys are paths in the experiment: aggregator, aggregator.kind, hostile.count, partition.alpha. Where the runs of a
    row differ in other settings of the defence, such as learner.lr, each row gets the one with the best worst case.
    """
    from gossamer.axes import where
    from gossamer.worst_case import METRICS, worst_cases

    if metric not in METRICS:
        raise RunError(f"--metric {metric}: choose one of {', '.join(METRICS)}")
    if save is not None and save.suffix not in (".png", ".svg", ".pdf"):
        raise RunError(f"--save {save}: the name must end in .png, .svg or .pdf")
    runs = where(_finished(opened(run_folders)), where_ or ())
    axes = [tuple(part.strip() for part in words.split(",") if part.strip()) for words in (rows, columns, over)]
    if not axes[0] or not axes[1]:
        raise RunError("--rows and --columns: name at least one key for each, e.g. --rows aggregator")
    found = worst_cases(runs, axes[0], axes[1], axes[2], metric, seed_list(tune_seeds, "--tune-seeds"))
    notes, caption = _notes(found, axes[2]), _caption(found, axes[1])
    if save is not None:
        _draw(found, save, caption)
    if json:
        emit(_told(found, axes, notes, save))
        return
    out = console()
    out.print(f"[italic]{caption}[/]")
    drawn = _table(found, ", ".join(axes[0]), spread=True)
    print_whole(drawn if fits(drawn) else _table(found, ", ".join(axes[0]), spread=False))
    for note in notes:
        out.print(note, soft_wrap=True, markup=False)
    if save is not None:
        out.print(f"Heat map: {save}", soft_wrap=True)


def _finished(runs: list[Run]) -> list[Run]:
    """The runs that are finished, without those that repeat another; a line for each that is left out."""
    from gossamer.compare import repeated

    left = [run for run in runs if run.record["status"] == "finished"]
    for run in runs:
        if run not in left:
            say(f"warning: {run.folder} has not finished and is left out")
    if not left:
        raise RunError("none of these runs has finished; go on with: gossamer resume RUN")
    for run, first in repeated(left):
        say(f"warning: {run.folder} repeats seed {run.seed} of {first.folder}: left out")
    return left


def _table(found: WorstCases, head: str, spread: bool) -> Table:
    """A line for each row; the best worst case, and what the seeds do not tell apart from it, in bold. Without `spread`
    only the worst cases have their intervals."""
    from rich.markup import escape

    from gossamer import units
    from gossamer.worst_case import over_seeds

    lines = []
    tuned = any(line.tried > 1 for line in found.lines)
    for line in found.lines:
        cells = [line.row, *([line.setting] if tuned else [])]
        for values in (*line.cells, line.worst):
            middle, whole = over_seeds(values), spread or values is line.worst
            cells.append(units.fraction(middle.mean, middle.half_width if whole else None) if middle else units.NONE)
        lines.append([f"[bold]{escape(cell)}[/]" if line in found.best else escape(cell) for cell in cells])
    return table([head, *(["setting"] if tuned else []), *found.columns, "worst"], lines)


def _caption(found: WorstCases, columns: tuple[str, ...]) -> str:
    """What the values are, over which columns and seeds."""
    from gossamer.worst_case import METRICS

    seeds = f"seed{'s' if len(found.seeds) > 1 else ''} {', '.join(map(str, found.seeds))}"
    spread = ", mean ± half of the 95 % interval" if len(found.seeds) > 1 else ""
    return f"{METRICS[found.metric]} by {', '.join(columns)}{spread}, {seeds}"


def _notes(found: WorstCases, over: tuple[str, ...]) -> list[str]:
    """What is to be known of the table, a sentence each; the first names the best worst case."""
    from gossamer.worst_case import lowest, over_seeds

    what = "lowest" if lowest(found.metric) else "highest"
    notes = []
    if found.best:
        middle = over_seeds(found.best[0].worst)
        assert middle is not None
        at = ", ".join(found.worst_columns(found.best[0]))
        named = _named(found.best[0])
        notes.append(f"Best worst case: {named} with {middle.mean:.3f}, at {at}.")
        if found.best[1:]:
            notes.append(f"Not told apart from it by these seeds: {'; '.join(map(_named, found.best[1:]))}.")
    else:
        notes.append("No row has runs in every column, so none has a worst case.")
    notes.append(
        f"Worst: the {what} over the columns for each seed, then the mean over seeds."
        + (f" Each cell: the {what} over {', '.join(over)} for each seed." if over else "")
    )
    if holes := [line.row for line in found.lines if not line.worst and found.best]:
        notes.append(f"Without runs in every column, so without a worst case: {', '.join(holes)}.")
    if any(line.tried > 1 for line in found.lines):
        where = f"seeds {', '.join(map(str, found.tune_seeds))}, reported on the others"
        same = "the very seeds that are reported, which flatters the rows with more settings; see --tune-seeds"
        notes.append(f"Of several settings each row has the one with the best worst case, chosen on "
                     f"{where if found.tune_seeds else same}.")  # fmt: skip
    if found.unmeasured:
        notes.append(f"Left out, since {found.metric} was not measured there: {', '.join(found.unmeasured)}.")
    return notes


def _named(line: Line) -> str:
    return f"{line.row} [{line.setting}]" if line.setting else line.row


def _told(found: WorstCases, axes: list[tuple[str, ...]], notes: list[str], save: Path | None) -> dict[str, Any]:
    """All of it for JSON; values for each seed lie under `per_seed`."""
    from gossamer.worst_case import Seeds, over_seeds

    def estimated(values: Seeds) -> dict[str, Any] | None:
        middle = over_seeds(values)
        return {**asdict(middle), "per_seed": dict(values)} if middle else None

    lines = [
        {
            "row": line.row,
            "setting": line.setting,
            "settings_tried": line.tried,
            "cells": dict(zip(found.columns, map(estimated, line.cells), strict=True)),
            "worst": estimated(line.worst),
            "worst_columns": found.worst_columns(line),
        }
        for line in found.lines
    ]
    rows, columns, over = axes
    best = [line.row for line in found.best]
    asked = {"metric": found.metric, "rows": rows, "columns": columns, "over": over}
    seeds = {"seeds": found.seeds, "tune_seeds": found.tune_seeds}
    return {**asked, **seeds, "lines": lines, "best": best[:1], "tied": best[1:], "notes": notes, "heat_map": save}


def _draw(found: WorstCases, place: Path, caption: str) -> None:
    """Write the table as a heat map."""
    import math

    import numpy as np

    from gossamer.heatmaps import heatmap
    from gossamer.worst_case import METRICS, lowest, over_seeds

    middles = [[over_seeds(values) for values in (*line.cells, line.worst)] for line in found.lines]
    means_RC = np.array([[math.nan if one is None else one.mean for one in line] for line in middles])
    half_RC = np.array([[math.nan if one is None or one.half_width is None else one.half_width for one in line]
                        for line in middles])  # fmt: skip
    figure = heatmap(
        means_RC,
        [_named(line) for line in found.lines],
        [*found.columns, "worst"],
        METRICS[found.metric],
        half_widths_RC=half_RC,
        apart=1,
        best=[i for i, line in enumerate(found.lines) if line in found.best],
        low_is_good=not lowest(found.metric),
        note=f"{caption}; worst: over the columns for each seed",
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, dpi=160)
