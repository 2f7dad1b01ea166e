"""Commands about studies: study run, study show, study list."""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.output import Json, console, emit, print_whole, say, table
from gossamer.cli.pretrain import train
from gossamer.cli.progress import progress
from gossamer.errors import ExperimentError, Interrupted, NodeError

if TYPE_CHECKING:
    from gossamer.rounds import Event, Listener
    from gossamer.studies.agenda import Task
    from gossamer.studies.findings import Findings

app = typer.Typer()
study_app = typer.Typer(
    help="Reproduce published claims: run a study, show what it found, list those there are.",
    epilog="Examples:\n\n  gossamer study list\n\n  gossamer study run single-merge --quick",
    no_args_is_help=True,
)
app.add_typer(study_app, name="study")

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A folder in ./studies, or the path of one.", show_default=False)
]
Quick = Annotated[bool, typer.Option("--quick", help="A reduced study, as its table 'quick' says.")]
Seeds = Annotated[
    int | None, typer.Option("--seeds", metavar="N", help="How many of its seeds; default: all.", show_default=False)
]
Runs = Annotated[Path, typer.Option("--runs", help="Where run folders are kept, in one named after the study.")]
FEW = 6
"""Arms that are not done yet are named up to this number."""
COLOURS = {"holds": "green", "does not hold": "red"}


@study_app.command(
    epilog="Examples:\n\n  gossamer study run single-merge --quick\n\n"
    "  gossamer study run single-merge --seeds 3 --jobs 2"
)
def run(
    name: Name,
    quick: Quick = False,
    seeds: Seeds = None,
    arms: Annotated[
        str, typer.Option("--arms", metavar="A,B", help="Run these arms only; claims that need others say so.")
    ] = "",
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Runs at a time, each on one core; results are the same.")
    ] = 1,
    runs: Runs = Path("runs"),
    json: Json = False,
) -> None:
    """Run every arm of a study with every seed; then tables, figures and a verdict on each claim, in its results.

    Bases that arms are adapted from are trained first, if they are not there, as by gossamer pretrain. What is finished
    is kept, what was interrupted goes on, and a run whose experiment was changed is started anew. Ctrl-C finishes the
    round and saves; the same command goes on.
    """
    from gossamer.studies.findings import find, finished_runs, tasks_of
    from gossamer.studies.results import write
    from gossamer.studies.study import find_study, read_study

    study = read_study(find_study(name), quick)
    which, chosen = study.first_seeds(seeds), study.chosen_arms([arm.strip() for arm in arms.split(",") if arm.strip()])
    tasks = tasks_of(study, runs, which, chosen)
    failed: dict[Task, NodeError] = {}
    try:
        _play(tasks, jobs, failed)
    except (Interrupted, KeyboardInterrupt):
        words = ["gossamer", "study", "run", name, *(["--quick"] if quick else [])]
        words += [*(["--seeds", str(seeds)] if seeds else []), *(["--arms", arms] if arms else [])]
        words += [
            *(["--jobs", str(jobs)] if jobs > 1 else []),
            *(["--runs", str(runs)] if runs != Path("runs") else []),
        ]
        done = sum(map(len, finished_runs(study, runs, which).values()))
        raise Interrupted(f"stopped with {done} runs finished; go on with: {shlex.join(words)}") from None
    if there := finished_runs(study, runs, which):
        found = find(study, which, there)
        _show(found, write(found), json)
    if failed:
        task, error = next(iter(failed.items()))
        raise NodeError(error.node, error.round, error.stage, f"{error.reason} (in {task.label})", error.traceback)


@study_app.command(epilog="Example:\n\n  gossamer study show single-merge")
def show(name: Name, quick: Quick = False, seeds: Seeds = None, runs: Runs = Path("runs"), json: Json = False) -> None:
    """Show tables and verdicts from the runs of a study that are finished; runs nothing, writes nothing."""
    from gossamer.studies.findings import find, finished_runs
    from gossamer.studies.study import find_study, read_study

    study = read_study(find_study(name), quick)
    which = study.first_seeds(seeds)
    _show(find(study, which, finished_runs(study, runs, which)), (), json)


@study_app.command("list", epilog="Example:\n\n  gossamer study list")
def list_(json: Json = False) -> None:
    """List the studies in ./studies."""
    from gossamer.studies.study import read_study, study_folders

    found = []
    for folder in study_folders():
        try:
            found.append(read_study(folder))
        except ExperimentError as error:
            say(f"warning: {error}")
    if json:
        told = [(study, {"name": study.name, "title": study.title, "folder": study.folder}) for study in found]
        counted = [
            {
                **words,
                "arms": list(study.experiments),
                "seeds": study.seeds,
                "claims": [one.name for one in study.claims],
            }
            for study, words in told
        ]
        emit(counted)
    elif not found:
        print("no studies in the folder 'studies' here")
    else:
        lines = [
            [
                study.name,
                _plain(study.title),
                f"{len(study.experiments)} arms, {len(study.seeds)} seeds",
                str(len(study.claims)),
            ]
            for study in found
        ]
        console().print(table(["study", "title", "runs", "claims"], lines, numbers=False))


def _play(tasks: Sequence[Task], jobs: int, failed: dict[Task, NodeError]) -> None:
    """Play the runs that are not finished, adding to `failed` those where a node fails; first the bases they need."""
    from gossamer.pretraining import untrained
    from gossamer.runs import open_run
    from gossamer.studies.agenda import Pace, due, one_by_one, standing
    from gossamer.studies.crew import side_by_side

    standings = [(task, standing(task)) for task in tasks]
    left = [(task, found) for task, found in standings if found.state != "finished"]
    ended = {task: "" for task, found in standings if found.state == "finished"}
    pace = Pace(standings)
    if bases := untrained(task.experiment for task, _ in left):
        train(bases)
    with progress(len(tasks)) as shown:
        for task in ended:
            shown.skip(task.label, f"finished before, {task.folder}")
        if not left:
            return

        def listen(task: Task) -> Listener:
            hear = shown.listen(task.label)

            def also(event: Event) -> None:
                if event.kind == "round":
                    pace.hear(task, event.values["seconds_left"])
                hear(event)

            return also

        orders, size = due(left, shown.note), min(jobs, len(left))
        played = one_by_one(orders, listen) if size == 1 else side_by_side(orders, size, listen)
        with contextlib.closing(played):
            for task, problem in played:
                ended[task] = ""
                if problem is not None:
                    failed[task] = problem
                pace.ended(task, None if problem else float(open_run(task.folder).record["seconds"]))
                shown.note(_state(tasks, set(ended), pace.seconds_left(jobs)))


def _state(tasks: Sequence[Task], ended: set[Task], seconds_left: float | None) -> str:
    """How far a study is: '4 of 12 runs done, about 3:20 min left: single 2/3, none 2/3'."""
    from gossamer import units

    text = f"{len(ended)} of {len(tasks)} runs done"
    of, done = Counter(task.arm for task in tasks), Counter(task.arm for task in ended)
    open_arms = [f"{arm} {done[arm]}/{count}" for arm, count in of.items() if done[arm] < count]
    if not open_arms:
        return text
    left = f", about {units.duration(seconds_left)} left" if seconds_left is not None else ""
    if len(open_arms) > FEW:
        return f"{text}{left}; {len(open_arms)} of {len(of)} arms are not done yet"
    return f"{text}{left}: {', '.join(open_arms)}"


def _show(found: Findings, written: Sequence[Path], json: bool) -> None:
    """Tables and verdicts on standard output, or the verdicts as JSON."""
    from gossamer.studies.results import arms_cells, caption, claims_cells, crossed_cells, headline, notes

    if json:
        emit(headline(found))
        return
    out = console()
    crossed = crossed_cells(found)
    if crossed:
        out.print(f"[bold]{_plain(found.study.title)}[/]")
    for title, (columns, lines) in crossed:
        out.print(f"\n[italic]{_plain(title)}[/]")
        print_whole(table(columns, [[_plain(cell) for cell in line] for line in lines]))
    columns, lines = arms_cells(found)
    if lines:
        spare = list(reversed(columns[2:]))
        cells = [[_plain(cell) for cell in line] for line in lines]
        out.print(table(columns, cells, title="" if crossed else found.study.title, spare=spare))
    out.print(f"[dim]{_plain(caption(found))}[/]\n")
    if found.claims:
        columns, lines = claims_cells(found)
        coloured = [
            [*map(_plain, line[:-1]), f"[bold {COLOURS.get(line[-1], 'yellow')}]{line[-1]}[/]"] for line in lines
        ]
        out.print(table(columns, coloured, numbers=False))
        for note in notes(found):
            out.print(f"[dim]{_plain(note)}[/]")
    if written:
        out.print(f"\nResults: {written[0].parent} ({', '.join(path.name for path in written)})", soft_wrap=True)


def _plain(text: str) -> str:
    """Text without marks of its own."""
    from rich.markup import escape

    return escape(text)
