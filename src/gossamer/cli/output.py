"""What goes to the terminal: tables and JSON on standard output, everything else on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gossamer.compare import Estimate, Reach, Row

Json = Annotated[bool, typer.Option("--json", help="Write JSON, and nothing else, to standard output.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Experiment file (TOML).", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of every arm, e.g. learner.lr=0.05; repeatable."),
]
WIDE = 132
"""Columns of a table where standard output is no terminal, so that log files get whole lines."""


def console(width: int | None = None) -> Console:
    """Standard output as a rich console, as wide as the terminal or, if given, so many columns."""
    from rich.console import Console

    return Console(width=width or (None if sys.stdout.isatty() else WIDE), highlight=False)


def print_whole(drawn: Table) -> None:
    """Print a table whose columns cannot give way: on a narrow terminal its lines go on below, and no digit is lost."""
    needed = console(width=10_000).measure(drawn).maximum
    console(width=max(needed, console().width)).print(drawn)


def fits(drawn: Table) -> bool:
    """Whether a table is no wider than the terminal."""
    return console(width=10_000).measure(drawn).maximum <= console().width


def say(text: str) -> None:
    """A line for the reader, on standard error."""
    print(text, file=sys.stderr, flush=True)


def emit(values: Any) -> None:
    """Values as JSON on standard output."""
    print(json.dumps(plain(values), indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """The value in JSON's own types: paths as strings, what is no number as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def table(
    columns: Sequence[str],
    lines: Iterable[Sequence[str]],
    title: str = "",
    numbers: bool = True,
    spare: Sequence[str] = (),
) -> Table:
    """A table whose first column names things.

    With `numbers` the others are set flush right and never broken; on a narrow terminal the columns named in `spare`
    give way, the first one first.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[Text.from_markup(cell) for cell in line] for line in lines]
    kept = list(range(len(columns)))
    for name in spare:
        needed = sum(max([len(columns[i]), *(line[i].cell_len for line in cells)]) + 3 for i in kept)
        if needed > console().width:
            kept.remove(list(columns).index(name))
    drawn = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i in kept:
        right = numbers and i > 0
        drawn.add_column(columns[i], justify="right" if right else "left", no_wrap=numbers or i == 0, overflow="fold")
    for line in cells:
        drawn.add_row(*(line[i] for i in kept))
    return drawn


def arms_table(rows: Sequence[Row], target: float | None = None, title: str = "") -> Table:
    """The table of arms; the best mean test accuracy is set in bold."""
    from rich.markup import escape

    from gossamer import units

    def shown(estimate: Estimate | None) -> str:
        return units.fraction(estimate.mean, estimate.half_width) if estimate else units.NONE

    best = max(rows, key=lambda row: row.accuracy.mean if row.accuracy else -1.0)
    seeds = {row.seeds for row in rows}
    columns = ["arm", *(["seeds"] if len(seeds) > 1 else [])]
    attacked = any(row.attack for row in rows)
    columns += ["test accuracy", "worst node", *(["attack success"] if attacked else [])]
    private = any(row.epsilon for row in rows)
    columns += ["merged model", "own validation", *(["epsilon"] if private else []), "sent", "time"]
    columns += [] if target is None else [f"to reach {target:g}"]
    lines = []
    for row in rows:
        cells = [escape(row.arm), *([str(row.seeds)] if len(seeds) > 1 else [])]
        cells += [
            *map(shown, (row.accuracy, row.worst, *([row.attack] if attacked else []), row.merged, row.validation)),
            *([units.number(row.epsilon.mean) if row.epsilon else units.NONE] if private else []),
            units.size(row.bytes.mean if row.bytes else None),
            units.duration(row.seconds.mean if row.seconds else None),
        ]
        if row.reach:
            cells.append(reached(row.reach))
        lines.append([f"[bold]{cell}[/]" if row is best and len(rows) > 1 else cell for cell in cells])
    of = f", {max(seeds)} seeds" if len(seeds) == 1 else " over the seeds of each row"
    note = f"mean ± half of the 95 % interval{of}" if max(seeds) > 1 else ""
    spare = ["merged model", "time", "sent", "own validation"]
    return table(columns, lines, title=title or note, spare=spare)


def reached(reach: Reach) -> str:
    """What it took to reach a target: '12 rounds, 3.10 MB, 4.0 s', and how many seeds did where not all."""
    from gossamer import units

    if not (reach.bytes and reach.seconds):
        return reach.rounds_in_words()
    spent = f"{units.size(reach.bytes.mean)}, {units.duration(reach.seconds.mean)}"
    return f"{reach.rounds_in_words()}, {spent}{reach.seeds_in_words()}"
