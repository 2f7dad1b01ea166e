"""Commands about Gossamer itself: list, doctor."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gossamer.cli.output import Json, console, emit, table
from gossamer.errors import ExperimentError

app = typer.Typer()


@app.command("list", epilog="Examples:\n\n  gossamer list\n\n  gossamer list methods --json")
def list_(
    family: Annotated[
        str, typer.Argument(metavar="[FAMILY]", help="e.g. methods, topologies, data; default: all.")
    ] = "",
    json: Json = False,
) -> None:
    """List every method, topology, aggregator, data set ...: what it does, and where it comes from."""
    from rich.markup import escape

    from gossamer.plugs import discover, families, unknown_kind

    known = families()
    if family and family not in known:
        raise ExperimentError(unknown_kind(family, known).replace("kind", "family"))
    chosen = {family: known[family]} if family else dict(sorted(known.items()))
    found = {
        name: [
            {"kind": kind, "description": cls.summary(), "source": cls.source} for kind, cls in discover(base).items()
        ]
        for name, base in chosen.items()
    }
    if json:
        emit(found)
        return
    out = console()
    for name, plugs in found.items():
        lines = [[f"[bold]{p['kind']}[/]", escape(p["description"]), f"[dim]{escape(p['source'])}[/]"] for p in plugs]
        out.print(table([name, "", "source"], lines, numbers=False))


@app.command(epilog="Example:\n\n  gossamer doctor")
def doctor(
    folder: Annotated[Path, typer.Option("--folder", help="Where run folders will be kept.")] = Path("runs"),
    json: Json = False,
) -> None:
    """Look at this machine: versions, threads, memory, data sets, disk. Leaves with 1 if something is wrong."""
    checks = [*_versions(), *_machine(folder), *_data()]
    if json:
        emit([{"what": what, "ok": ok, "found": found} for what, ok, found in checks])
    else:
        marks = {True: "[green]ok[/]", False: "[red]wrong[/]", None: ""}
        console().print(
            table(["", "", "found"], [[what, marks[ok], found] for what, ok, found in checks], numbers=False)
        )
    if any(ok is False for _, ok, _ in checks):
        raise typer.Exit(1)


Check = tuple[str, bool | None, str]
"""What was looked at, whether it is right (None: only told), what was found."""


def _versions() -> list[Check]:
    checks: list[Check] = [("python", sys.version_info >= (3, 11), f"{platform.python_version()}, {sys.executable}")]
    for package in ("torch", "numpy", "pyarrow", "matplotlib", "scikit-learn"):
        try:
            checks.append((package, True, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            checks.append((package, False, f"not installed; pip install {package}"))
    try:
        pillow = importlib.metadata.version("pillow")
    except importlib.metadata.PackageNotFoundError:
        pillow = "not installed; image folders need it: pip install pillow"
    return [*checks, ("pillow", None, pillow)]


def _machine(folder: Path) -> list[Check]:
    from gossamer import units

    checks: list[Check] = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    checks.append(("cores", True, f"{cores} of {os.cpu_count()} may be used"))
    try:
        import torch

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found = f"{torch.get_num_threads()} threads, {', '.join(devices) or 'no GPU'}"
        checks.append(("torch runs", bool((torch.ones(2) + 1).sum() == 4), found))
    except ImportError as error:
        checks.append(("torch runs", False, str(error).splitlines()[0]))
    memory = _meminfo()
    if memory:
        free = f"{units.size(memory['MemAvailable'])} of {units.size(memory['MemTotal'])} free"
        checks.append(("memory", memory["MemAvailable"] > 500e6, free))
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    room = shutil.disk_usage(place)
    writable = os.access(place, os.W_OK)
    found = f"{units.size(room.free)} free at {place}" + ("" if writable else ", which cannot be written to")
    checks.append(("disk", writable and room.free > 200e6, found))
    return checks


def _meminfo() -> dict[str, float]:
    """Memory of the machine in bytes, where the system tells."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return {}
    lines: Any = (line.split() for line in path.read_text().splitlines())
    return {parts[0].rstrip(":"): 1024 * float(parts[1]) for parts in lines}


def _data() -> list[Check]:
    """The data folder, and which of the known data sets lie in it (by the folder's name; contents are not read)."""
    from gossamer.data import Data
    from gossamer.plugs import discover

    setting = os.environ.get("GOSSAMER_DATA", "")
    if not setting:
        return [("data folder", None, "GOSSAMER_DATA is not set; digits need no folder, other data sets do")]
    folder = Path(setting)
    if not folder.is_dir():
        return [("data folder", False, f"GOSSAMER_DATA = {setting} is not a folder")]
    sets = [kind for kind in discover(Data) if (folder / kind).exists()]
    others = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in sets)
    more = f"; other folders: {', '.join(others)}" if others else ""
    return [("data folder", True, f"{folder}: {', '.join(sets) or 'none of the known data sets'}{more}")]
