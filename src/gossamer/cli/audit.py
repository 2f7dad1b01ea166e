"""Commands that attack: audit membership, audit inversion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gossamer.cli.output import File, Json, Settings, console, emit, print_whole, say, table
from gossamer.cli.progress import progress
from gossamer.cli.running import fresh_folder, seed_list
from gossamer.errors import ExperimentError, RunError

if TYPE_CHECKING:
    from gossamer.audits.inversion import InversionAudit
    from gossamer.audits.membership import MembershipAudit
    from gossamer.experiment import Experiment

app = typer.Typer()
audit_app = typer.Typer(
    help="Attack what an experiment gives away: who was in the training data, which images a node held.",
    epilog="Examples:\n\n  gossamer audit membership examples/audit.toml\n\n"
    "  gossamer audit inversion examples/audit.toml --save leak.png",
    no_args_is_help=True,
)
app.add_typer(audit_app, name="audit")

Seeds = Annotated[str, typer.Option("--seeds", metavar="0,1,2", help="Audit with each of these seeds, all together.")]
Arm = Annotated[str, typer.Option("--arm", metavar="NAME", help="Only this arm of the file.", show_default=False)]
Save = Annotated[Path | None, typer.Option("--save", help="A picture: .png, .svg or .pdf.", show_default=False)]


@audit_app.command(
    epilog="Examples:\n\n  gossamer audit membership examples/audit.toml --seeds 0,1,2 --save audit.png\n\n"
    "  gossamer audit membership examples/audit.toml --unit node --canaries 200 --set nodes=200"
)
def membership(
    file: File,
    canaries: Annotated[int, typer.Option("--canaries", help="How many are planted.")] = 1000,
    unit: Annotated[
        Literal["example", "node"], typer.Option("--unit", help="What a canary is; that of the guarantee, if any.")
    ] = "example",
    seeds: Seeds = "",
    set_: Settings = None,
    arm: Arm = "",
    folder: Annotated[Path, typer.Option("--folder", help="Where run folders are kept.")] = Path("runs"),
    save: Save = None,
    json: Json = False,
) -> None:
    """Plant canaries, run every arm with half of them, and try to tell from its models which half.

    A canary is a training item with a wrong label, or a node whose labels are exchanged. The advantage is the true
    positive rate less the false positive rate: 0 for guessing, 1 for knowing.
    """
    from gossamer.audits.membership import membership as audit

    _check_picture(save)
    asked = _asked(file, set_, arm, seeds)
    found: dict[str, list[MembershipAudit]] = {}
    with progress(sum(map(len, asked.values()))) as shown:
        for name, experiments in asked.items():
            for one in experiments:
                label = name if len(experiments) == 1 else f"{name} s{one.seed}"
                place = fresh_folder(folder, one.replace(name=f"{one.name}-canaries"))
                found.setdefault(name, []).append(audit(one, canaries, unit, place, shown.listen(label)))
    if save is not None:
        from gossamer.audits.drawing import membership as drawn

        _write(drawn(found), save)
    if json:
        emit({"unit": unit, "canaries": canaries, "arms": [_told(*line) for line in found.items()], "picture": save})
        return
    out = console()
    columns = ["arm", "advantage", "AUC", "TPR at 1 % FPR", "epsilon, at least", "guarantee", "bound", "test accuracy"]
    spare = ["TPR at 1 % FPR", "test accuracy"]
    print_whole(table(columns, [_line(*line) for line in found.items()], spare=spare))
    for note in _notes(found, canaries, unit):
        out.print(f"[dim]{note}[/]", soft_wrap=True)
    _tell_picture(save)


@audit_app.command(epilog="Example:\n\n  gossamer audit inversion examples/audit.toml --items 4 --save leak.png")
def inversion(
    file: File,
    items: Annotated[int, typer.Option("--items", help="Images that a node's first step is on.")] = 4,
    node: Annotated[int, typer.Option("--node", help="Whose images.")] = 0,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of each attack.")] = 1000,
    restarts: Annotated[int, typer.Option("--restarts", min=1, help="Random starts of each attack.")] = 2,
    seeds: Seeds = "",
    set_: Settings = None,
    arm: Arm = "",
    save: Save = None,
    json: Json = False,
) -> None:
    """Reconstruct a node's images from its first message, from a secure sum with others, and from a noisy message.

    Of a file with several arms the first is taken, unless --arm names one. The picture is of the first seed.
    """
    from gossamer.audits.inversion import inversion as audit

    _check_picture(save)
    name, experiments = next(iter(_asked(file, set_, arm, seeds).items()))
    found = []
    for place, one in enumerate(experiments):
        say(f"[{place + 1}/{len(experiments)}] {name}, seed {one.seed}: reconstructing {items} images of node {node}")
        found.append(audit(one, node, items, steps=steps, restarts=restarts))
    if save is not None:
        from gossamer.audits.drawing import inversion as drawn

        _write(drawn(found[0]), save)
    if json:
        emit({"arm": name, "node": node, "items": items, "audits": [_seen(one) for one in found], "picture": save})
        return
    columns, lines = _views(found)
    print_whole(table(columns, lines))
    console().print(
        f"[dim]PSNR in dB, the higher the closer; 60: the same to the byte. Model and split of arm '{name}'.[/]",
        soft_wrap=True,
    )
    _tell_picture(save)


# ---- what is asked -------------------------------------------------------------------------------------------------


def _asked(file: Path, settings: list[str] | None, arm: str, seeds: str) -> Mapping[str, list[Experiment]]:
    """The experiments of each arm."""
    from gossamer.arms import expand, load_arms

    arms = load_arms(file, settings or ())
    if arm and arm not in arms:
        raise ExperimentError(f"--arm {arm}: the file has {', '.join(arms)}")
    return expand({arm: arms[arm]} if arm else arms, {}, seed_list(seeds))


def _check_picture(save: Path | None) -> None:
    if save is not None and save.suffix not in (".png", ".svg", ".pdf"):
        raise RunError(f"--save {save}: the name must end in .png, .svg or .pdf")


def _write(figure: Any, save: Path) -> None:
    save.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(save, dpi=160)


def _tell_picture(save: Path | None) -> None:
    if save is not None:
        console().print(f"Picture: {save}", soft_wrap=True)


# ---- membership ----------------------------------------------------------------------------------------------------


def _line(arm: str, audits: Sequence[MembershipAudit]) -> list[str]:
    """A line of the table: one arm, all its seeds together."""
    from rich.markup import escape

    from gossamer import units
    from gossamer.audits.membership import findings

    seen, promise = findings(audits), max((one.promise for one in audits), key=lambda one: one.epsilon)
    given = f"({promise.epsilon:.3g}, {promise.delta:.3g})" if math.isfinite(promise.epsilon) else "none"
    return [
        escape(arm),
        f"{seen.advantage.value:.3f} ({seen.advantage.low:.3f} to {seen.advantage.high:.3f})",
        f"{seen.auc.value:.3f} ({seen.auc.low:.3f} to {seen.auc.high:.3f})",
        f"{seen.tpr_at_1:.3f}",
        f"{seen.epsilon:.2f}",
        given,
        f"{promise.bound:.3f}",
        units.fraction(sum(one.test_accuracy for one in audits) / len(audits)),
    ]


def _notes(found: Mapping[str, Sequence[MembershipAudit]], canaries: int, unit: str) -> list[str]:
    """What is to be known of the table, a sentence each."""
    from gossamer.audits.membership import findings

    seeds = sorted({audit.experiment.seed for audits in found.values() for audit in audits})
    what = f"{canaries} {unit}s, half of them in the training data, with seed{'s' if len(seeds) > 1 else ''} "
    notes = [
        f"Canaries: {what}{', '.join(map(str, seeds))}; in brackets: 95 % intervals.",
        "Advantage: thresholds are chosen on half of the canaries and used on the other half. Bound: the most that the "
        "guarantee (epsilon, delta) allows anybody.",
    ]
    for arm, audits in found.items():
        promise = max((one.promise for one in audits), key=lambda one: one.epsilon)
        if findings(audits).epsilon > promise.epsilon:
            notes.append(f"{arm}: epsilon is shown to be above that of the guarantee, which therefore does not hold.")
    return notes


def _told(arm: str, audits: Sequence[MembershipAudit]) -> dict[str, Any]:
    """An arm for JSON."""
    from gossamer.audits.membership import ATTACKS, findings

    def judged(group: Sequence[MembershipAudit]) -> dict[str, Any]:
        return {attack: _plain(findings(group, attack)) for attack in ATTACKS}

    promise = max((one.promise for one in audits), key=lambda one: one.epsilon)
    runs = [
        {"seed": one.experiment.seed, "folder": one.folder, "inside": int(one.inside_K.sum()),
         "test_accuracy": one.test_accuracy, "attacks": judged([one])}
        for one in audits
    ]  # fmt: skip
    guarantee = {"epsilon": promise.epsilon, "delta": promise.delta, "bound": promise.bound}
    return {"arm": arm, "guarantee": guarantee, "attacks": judged(audits), "runs": runs}


def _plain(seen: Any) -> dict[str, Any]:
    intervals = {name: getattr(seen, name)._asdict() for name in ("advantage", "auc")}
    return {**intervals, "tpr_at_1_percent_fpr": seen.tpr_at_1, "epsilon_at_least": seen.epsilon}


# ---- inversion -----------------------------------------------------------------------------------------------------


def _views(found: Sequence[InversionAudit]) -> tuple[list[str], list[list[str]]]:
    """The table of what was reconstructed from each view: a column for each seed, and their mean."""
    from gossamer.audits.drawing import in_words
    from gossamer.compare import estimate

    several = len(found) > 1
    columns = ["", "PSNR", *(["seed by seed"] if several else []), "of each image", "images found"]
    lines = []
    for name in (view.name for view in found[0].views):
        views = [audit.view(name) for audit in found]
        means = [float(view.psnr_B.mean()) for view in views]
        middle = estimate(means)
        assert middle is not None
        spread = f" ± {middle.half_width:.1f}" if middle.half_width is not None else ""
        each = [f"{value:.0f}" for view in views for value in view.psnr_B]
        there = sum(len(view.psnr_B) for view in views)
        lines.append(
            [
                in_words(name, found[0]),
                f"{middle.mean:.1f}{spread}",
                *([" ".join(f"{mean:.1f}" for mean in means)] if several else []),
                " ".join(each),
                f"{sum(view.anybody for view in views)} of {there}",
            ]
        )
    for head, values in (
        ("the mean picture", [audit.mean_psnr for audit in found]),
        ("other pictures", [audit.other_psnr for audit in found]),
    ):
        rest = [" ".join(f"{value:.1f}" for value in values)] if several else []
        lines.append([head, f"{sum(values) / len(values):.1f}", *rest, "", ""])
    return columns, lines


def _seen(audit: InversionAudit) -> dict[str, Any]:
    """An audit for JSON."""
    return {
        "seed": audit.experiment.seed,
        "labels": audit.labels_B.tolist(),
        "views": {
            view.name: {
                "psnr": float(view.psnr_B.mean()), "psnr_of_each": view.psnr_B.tolist(),
                "gradient_apart": view.apart, "images_found": view.anybody,
            }
            for view in audit.views
        },
        "mean_picture_psnr": audit.mean_psnr,
        "other_pictures_psnr": audit.other_psnr,
        "epsilon": audit.epsilon,
        "noise_multiplier": audit.noise_multiplier,
    }  # fmt: skip
