"""The figures of a report, each with what it shows, laid out in two columns."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gossamer import plots
from gossamer.compare import curve
from gossamer.embedding import embedded
from gossamer.experiment import Experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gossamer.runs import Run

SCALE = 100
"""Largest number of pixels for an inch of a figure, so that letters are not blown up."""
HALF = 6.4
"""Width in inches up to which two figures stand side by side."""


def curves(arms: Mapping[str, Sequence[Run]], look: Mapping[str, plots.Look], target: float | None, of: int) -> str:
    """What happened over the rounds, of these arms out of `of`."""
    only = f" The {len(arms)} best of {of} arms." if of > len(arms) else ""
    own = {arm: runs for arm, runs in arms.items() if runs[0].own_models}
    distances = {arm: runs for arm, runs in own.items() if runs[0].record["world"] == "graph"}
    note = "After each round: the mean over the nodes' own models, or the one model of a server." + only
    figures = [(plots.curves(arms, target=target, look=look, width=10), note)]
    if any(run.summary()["bytes"] for runs in arms.values() for run in runs):
        note = "The same accuracy over what all nodes (and the server) had sent by then."
        figures.append((plots.curves(arms, over="bytes", look=look), note))
    aimed = {arm: runs for arm, runs in arms.items() if any(len(curve(r, "attack_success").rounds) for r in runs)}
    if aimed:
        note = "Share of the test items with which the attack reaches its aim at honest nodes, or at the server."
        figures.append((plots.curves(aimed, "attack_success", look=look), note))
    private = {arm: runs for arm, runs in arms.items() if runs[0].record.get("privacy")}
    if private:
        note = "What the unit that spends most has spent of its privacy: epsilon at the delta of each arm."
        figures.append((plots.curves(private, "epsilon", look=look), note))
    if bounds := {arm: runs for arm, runs in private.items() if len(curve(runs[0], "clip").rounds)}:
        note = "Messages longer than this are scaled down; the bound follows a quantile of their norms."
        figures.append((plots.curves(bounds, "clip", look=look), note))
    figures.append((plots.curves(arms, "train_loss", look=look), "Mean over the nodes that trained in a round."))
    if distances:
        note = "Mean squared distance of the nodes' models from their average."
        figures.append((plots.curves(distances, "consensus_distance", look=look), note))
        note = "The mean of the nodes' models, whether or not they ever merge: nothing of it enters the training."
        figures.append((plots.curves(distances, "merged_accuracy", look=look), note))
    if any(uneven(run) for runs in distances.values() for run in runs):
        note = "One for each link used, 2(m-1) for an all-reduce among m nodes."
        figures.append((plots.curves(distances, "transfers", look=look), note))
    if any(timed(run) for runs in arms.values() for run in runs):
        note = "Time by the clock of the experiment: what computing and sending would cost, not what this run took."
        figures.append((plots.curves(arms, over="simulated", look=look), note))
    if own and (dots := plots.nodes(arms, look=look)):
        figures.append((dots, "How far the nodes lie apart at the end, all seeds together."))
    figures.append((plots.phases(arms), "Seconds of each phase over all rounds, mean over seeds."))
    return laid_out(figures)


def uneven(run: Run) -> bool:
    """Whether more is sent in some rounds than in others."""
    return len(set(run.rounds["transfers"].to_pylist())) > 1


def timed(run: Run) -> bool:
    """Whether the clock of a run was set, so that its simulated time means something."""
    return run.experiment.clock != Experiment().clock


def laid_out(figures: Sequence[tuple[Figure, str]]) -> str:
    """Figures with their captions in two columns; one that is wide, or would stand alone in its row, takes both."""
    texts, i = [], 0
    while i < len(figures):
        pair = figures[i : i + 2]
        together = len(pair) == 2 and all(figure.get_figwidth() <= HALF for figure, _ in pair)
        row = pair if together else pair[:1]
        texts += [_figure(figure, note, "" if together else "wide") for figure, note in row]
        i += len(row)
    return "".join(texts)


def _figure(figure: Figure, note: str, style: str) -> str:
    most = f"--most: {SCALE * figure.get_figwidth():.0f}px"
    caption = f"<figcaption>{html.escape(note)}</figcaption>"
    return f'<figure class="{style}" style="{most}">{embedded(figure, note)}{caption}</figure>'
