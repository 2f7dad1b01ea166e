"""Commands that run experiments: run, sweep, resume."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gossamer.cli.output import File, Json, Settings, arms_table, console, emit, say
from gossamer.cli.progress import progress
from gossamer.errors import ExperimentError, GossamerError, Interrupted, NodeError

if TYPE_CHECKING:
    from gossamer.experiment import Experiment
    from gossamer.runs import Run

app = typer.Typer()

Seeds = Annotated[str, typer.Option("--seeds", metavar="0,1,2", help="Run every arm with each of these seeds.")]
Folder = Annotated[Path, typer.Option("--folder", help="Where run folders are kept.")]
Backend = Annotated[str | None, typer.Option("--backend", help="auto, eager, parallel or vmap: where local work runs.")]


@app.command(
    epilog="Examples:\n\n  gossamer run examples/first.toml\n\n"
    "  gossamer run examples/first.toml --set learner.lr=0.05 --set rounds=50 --seeds 0,1,2"
)
def run(
    file: File,
    set_: Settings = None,
    seeds: Seeds = "",
    folder: Folder = Path("runs"),
    backend: Backend = None,
    resume_: Annotated[
        bool, typer.Option("--resume", help="Keep what an earlier call finished, go on with what was interrupted.")
    ] = False,
    json: Json = False,
) -> None:
    """Run an experiment file: every arm, every seed, one after the other; then a table and an HTML report.

    Each run gets a new folder. Ctrl-C finishes the round and saves; `gossamer resume` goes on.
    """
    from gossamer.arms import expand, load_arms

    settings = with_backend(set_, backend)
    arms = expand(load_arms(file, settings), {}, seed_list(seeds))
    finished: dict[str, list[Run]] = {}
    try:
        _play(arms, folder, finished, reuse=resume_, tolerant=False)
    except Interrupted as stop:
        if sum(map(len, arms.values())) == 1:
            raise
        words = ["gossamer", "run", str(file), *(word for setting in settings for word in ("--set", setting))]
        words += [*(["--seeds", seeds] if seeds else []), "--folder", str(folder), "--resume"]
        raise Interrupted(f"{stop}; with all that is left: {shlex.join(words)}") from None
    show(finished, _report(finished, folder), json)


@app.command(
    epilog='Example, with a table [sweep] in the file such as  "learner.lr" = [0.1, 0.01] :\n\n'
    "  gossamer sweep examples/first.toml --seeds 0,1,2"
)
def sweep(
    file: File,
    set_: Settings = None,
    seeds: Seeds = "",
    folder: Folder = Path("runs"),
    backend: Backend = None,
    json: Json = False,
) -> None:
    """Run every arm at every point of the grid in the file; go on where an earlier sweep stopped.

    Finished runs of the same experiment are kept, interrupted ones resumed. Where a node fails, the other arms go on.
    Choose settings by the validation column, which the test items have no part in.
    """
    from gossamer.arms import expand, load_arms, load_sweep

    settings = with_backend(set_, backend)
    arms = expand(load_arms(file, settings), load_sweep(file, settings), seed_list(seeds))
    finished: dict[str, list[Run]] = {}
    failed = _play(arms, folder, finished, reuse=True, tolerant=True)
    told = {"failed": {label: str(error) for label, error in failed.items()}}
    if finished:
        show(finished, _report(finished, folder), json, **told)
    elif json:
        emit({"arms": [], "report": None, **told})
    if failed:
        label, error = next(iter(failed.items()))
        raise NodeError(error.node, error.round, error.stage, f"{error.reason} (in {label})", error.traceback)


@app.command(epilog="Example:\n\n  gossamer resume runs/first-fedavg-s0")
def resume(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of an interrupted run.", show_default=False)
    ],
    backend: Backend = None,
    json: Json = False,
) -> None:
    """Go on with an interrupted run from its last checkpoint; the result equals that of an uninterrupted run."""
    from gossamer.rounds import resume as go_on
    from gossamer.runs import open_run

    if (run_folder / "record.json").is_file() and (done := open_run(run_folder)).record["status"] == "finished":
        say(f"{run_folder} has already finished")
    else:
        with progress(1) as shown:
            done = go_on(run_folder, shown.listen(run_folder.name), backend=backend)
    arms = {done.name: [done]}
    show(arms, _report(arms, run_folder.parent), json)


def _play(
    arms: Mapping[str, Sequence[Experiment]],
    folder: Path,
    finished: dict[str, list[Run]],
    reuse: bool,
    tolerant: bool,
) -> dict[str, NodeError]:
    """Run all experiments of all arms, adding to `finished`; with `reuse`, what an earlier call left is used.

    Returns the runs where a node failed, by label; unless `tolerant`, such a failure is raised at once.
    """
    failed: dict[str, NodeError] = {}
    with progress(sum(map(len, arms.values()))) as shown:
        for arm, experiments in arms.items():
            for experiment in experiments:
                label = arm if len(experiments) == 1 else f"{arm} s{experiment.seed}"
                earlier = earlier_run(folder, experiment) if reuse else None
                if earlier is not None and earlier.record["status"] == "finished":
                    shown.skip(label, f"finished before, {earlier.folder}")
                    finished.setdefault(arm, []).append(earlier)
                    continue
                try:
                    done = _one(experiment, folder, earlier, shown.listen(label))
                except NodeError as error:
                    if not tolerant:
                        raise
                    failed[label] = error
                else:
                    finished.setdefault(arm, []).append(done)
    return failed


def _one(experiment: Experiment, folder: Path, earlier: Run | None, listener: Any) -> Run:
    from gossamer import rounds

    if earlier is not None:
        return rounds.resume(earlier.folder, listener)
    return rounds.run(experiment, fresh_folder(folder, experiment), listener)


def fresh_folder(folder: Path, experiment: Experiment) -> Path:
    """`folder`/NAME-sSEED, with a number added if that is taken."""
    base = folder / f"{experiment.name}-s{experiment.seed}"
    place, number = base, 1
    while place.exists():
        number += 1
        place = base.with_name(f"{base.name}-{number}")
    return place


def earlier_run(folder: Path, experiment: Experiment) -> Run | None:
    """The run of this very experiment in the folder: a finished one if there is, else one to go on with."""
    from gossamer.runs import open_run

    found = []
    for place in sorted(folder.glob(f"{experiment.name}-s{experiment.seed}*")):
        try:
            run = open_run(place)
        except GossamerError:
            continue  # no run, or one whose record was never finished: a new folder is taken
        if run.record.get("digest") == experiment.digest():
            found.append(run)
    return next((run for run in found if run.record["status"] == "finished"), found[0] if found else None)


def _report(arms: Mapping[str, Sequence[Run]], folder: Path) -> Path:
    """Write the report: of one run into its folder, of several beside them."""
    from gossamer.report import title, write_report

    runs = [run for members in arms.values() for run in members]
    place = runs[0].folder / "report.html" if len(runs) == 1 else folder / f"{title(arms)}.html"
    return write_report(arms, place)


def show(arms: Mapping[str, Sequence[Run]], report: Path, json: bool, **more: Any) -> None:
    """The results of runs on standard output: a table and where the report is, or JSON."""
    from gossamer.compare import rows

    table = rows(arms)
    if json:
        of_runs = {
            arm: [{"folder": run.folder, "seed": run.seed, **run.summary()} for run in runs]
            for arm, runs in arms.items()
        }
        emit({"arms": [{**asdict(row), "runs": of_runs[row.arm]} for row in table], "report": report, **more})
        return
    out = console()
    out.print(arms_table(table))
    out.print(f"Report: {report}", soft_wrap=True)


def seed_list(text: str, option: str = "--seeds") -> list[int]:
    """'0,1,2' as numbers; empty for none. Raises ExperimentError, which names the option."""
    try:
        return [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise ExperimentError(
            f"{option} {text}: write whole numbers with commas between, e.g. {option} 0,1,2"
        ) from None


def with_backend(settings: list[str] | None, backend: str | None) -> list[str]:
    """The settings, with --backend as one of them."""
    return [*(settings or []), *([f"backend={backend}"] if backend else [])]
