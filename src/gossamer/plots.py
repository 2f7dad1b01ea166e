"""Figures over runs: curves, nodes, time. Every function returns a matplotlib Figure and touches no global state.

In a notebook the returned figure shows itself; in a script `figure.savefig("curves.png", dpi=150)`. Arms keep their
colour from figure to figure. Pictures of the split and of the graph are in `gossamer.pictures`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gossamer.compare import PHASES, Over, band, column, curve, node_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gossamer.runs import Run

Arms = Mapping[str, Sequence["Run"]]

INK, MUTED, GRID, SURFACE = "#1c2530", "#5c6773", "#dde2e8", "#ffffff"
HUES = ("#0072b2", "#d55e00", "#009e73", "#b4569b", "#e69f00", "#3a9fd6", "#8a6d3b", "#6b7280")
"""Okabe and Ito's colours for all kinds of colour vision; the yellow, too pale for lines, gave way to brown."""
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
PHASE_HUES = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#9aa3ad")

TITLES = {
    "test_accuracy": "Test accuracy",
    "validation_accuracy": "Accuracy on the nodes' own validation items",
    "train_accuracy": "Training accuracy",
    "attack_success": "Success of the attack",
    "test_loss": "Test loss",
    "validation_loss": "Validation loss",
    "train_loss": "Training loss",
    "consensus_distance": "Distance between the nodes' models",
    "merged_accuracy": "Test accuracy of the mean of the nodes' models",
    "mergeability_gap": "Loss that merging saves",
    "transfers": "Models sent in a round",
    "epsilon": "Privacy spent",
    "clip": "Bound on the norm of a message",
}
OVER = {
    "rounds": "",
    "bytes": " over data sent",
    "seconds": " over time",
    "transfers": " over models sent",
    "simulated": " over simulated time",
}
AXES = {
    "rounds": "round",
    "bytes": "sent by all nodes together",
    "seconds": "seconds",
    "transfers": "models sent by all nodes together",
    "simulated": "simulated seconds",
}


class Look(NamedTuple):
    """How an arm is drawn."""

    colour: str
    dash: Any


def looks(arms: Sequence[str]) -> dict[str, Look]:
    """A colour and a dash for each arm, by position: eight hues, then the same hues dashed."""
    cycle = itertools.cycle(Look(hue, dash) for dash in DASHES for hue in HUES)
    return dict(zip(arms, cycle, strict=False))


def blank(width: float = 6.4, height: float = 3.8, **grid: Any) -> tuple[Figure, Any]:
    """A figure with quiet axes (an array of them if `grid` asks for rows or columns); sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=SURFACE)
    axes = figure.subplots(**grid)
    for ax in np.ravel(axes):
        quiet(ax)
    return figure, axes


def quiet(ax: Axes) -> None:
    """Axes without a box: muted ticks, a light horizontal grid behind the data."""
    ax.set_facecolor("none")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GRID)
    ax.tick_params(colors=MUTED, labelsize=9, length=0, pad=5)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=MUTED, fontsize=9)


def title(ax: Axes, text: str, note: str = "") -> None:
    """A title at the left, with a quieter note after it."""
    ax.set_title(text, loc="left", color=INK, fontsize=11, fontweight="bold", pad=12)
    if note:
        ax.set_title(note, loc="right", color=MUTED, fontsize=8.5, pad=12)


def curves(
    arms: Arms,
    metric: str = "test_accuracy",
    over: Over = "rounds",
    target: float | None = None,
    look: Mapping[str, Look] | None = None,
    width: float = 6.4,
) -> Figure:
    """A metric over rounds, bytes or seconds: a line for each arm, the mean over seeds, the range shaded.

    Accuracies are drawn on the whole scale from 0 to 1. An arm that sends nothing has no place on an axis of bytes:
    its last value is a dotted horizontal line there.
    """
    figure, ax = blank(width, 3.8)
    seeds: set[int] = set()
    ends = []
    look = look or looks(list(arms))
    for arm, runs in arms.items():
        drawn, (colour, dash) = band(runs, metric, over), look[arm]
        if not len(drawn.x):
            continue
        seeds.add(drawn.seeds)
        if over in ("bytes", "transfers") and not drawn.x.any():
            dots = {"linestyle": (0, (1, 2)), "linewidth": 1.8}
            ax.axhline(drawn.mean[-1], color=colour, label=f"{arm} (sends nothing)", **dots)
            continue
        if drawn.seeds > 1:
            ax.fill_between(drawn.x, drawn.low, drawn.high, color=colour, alpha=0.16, linewidth=0)
        marker = "o" if len(drawn.x) == 1 else None
        ax.plot(drawn.x, drawn.mean, color=colour, linestyle=dash, linewidth=2, label=arm, marker=marker)
        ends.append((drawn.x[-1], drawn.mean[-1], colour))
    for x, y, colour in ends:
        ax.plot(x, y, "o", color=colour, markersize=5, markeredgecolor=SURFACE, markeredgewidth=1, zorder=5)
    what = TITLES.get(metric, metric.replace("_", " ")) + OVER[over]
    of = f"{max(seeds)} seeds" if len(seeds) == 1 else "the seeds of each"
    title(ax, what, f"mean and range of {of}" if max(seeds, default=1) > 1 else "")
    _scale(ax, metric)
    ax.set_xlabel(AXES[over])
    _scale_x(ax, over, [x for x, _, _ in ends])
    if target is not None:
        ax.axhline(target, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        place = {"xycoords": ax.get_yaxis_transform(), "ha": "left", "va": "bottom"}
        ax.annotate(f" target {target:g}", (0, target), color=MUTED, fontsize=8.5, **place)
    legend(figure, ax)
    return figure


def _scale(ax: Axes, metric: str) -> None:
    """Accuracy on 0..1; distances, which shrink by orders of magnitude, on a log axis; losses from 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines] or [np.empty(0)])
    if metric.endswith(("accuracy", "f1", "auc", "success")):
        ax.set_ylim(0, 1.01)
        ax.set_yticks(np.linspace(0, 1, 6))
    elif metric == "consensus_distance" and len(values) and (values > 0).all() and values.max() > 30 * values.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    elif len(values) and values.min() >= 0:
        ax.set_ylim(0, None)


def _scale_x(ax: Axes, over: Over, ends: list[float]) -> None:
    """Rounds as whole numbers; bytes with their unit, on a log axis where arms lie far apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    from gossamer import units

    positive = [x for x in ends if x > 0]
    far = bool(positive) and max(positive) > 20 * min(positive)
    if over != "rounds" and far:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=6))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_xlim(0, max(positive, default=1.0) * 1.03)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=over == "rounds"))
    if over == "bytes":
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: units.size(x, short=True)))


def legend(figure: Figure, ax: Axes) -> None:
    """A legend below the axes, outside the data."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        columns = min(5, len(labels)) if max(map(len, labels)) < 20 else 2
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9,
                      labelcolor=INK, handlelength=1.8, columnspacing=1.6)  # fmt: skip


def nodes(arms: Arms, metric: str = "test_accuracy", look: Mapping[str, Look] | None = None) -> Figure | None:
    """Every node's last value, a dot each (all seeds together), with their mean; a diamond where all share one model.

    None where no node has a model of its own.
    """
    values = {arm: np.concatenate([node_values(run, metric) for run in runs]) for arm, runs in arms.items()}
    if not any(len(values_N) for values_N in values.values()):
        return None
    figure, ax = blank(height=0.9 + 0.48 * len(values))
    look = look or looks(list(arms))
    for place, (arm, values_N) in enumerate(values.items()):
        if not len(values_N):
            shared = [curve(run, metric).values[-1] for run in arms[arm]]
            ax.scatter(shared, [place] * len(shared), s=60, marker="D", color=look[arm].colour, linewidths=0)
            continue
        ax.scatter(values_N, place + _offsets(values_N), s=26, color=look[arm].colour, alpha=0.55, linewidths=0)
        ax.plot([values_N.mean()] * 2, [place - 0.36, place + 0.36], color=INK, linewidth=2, solid_capstyle="butt")
    ax.set_yticks(range(len(values)), list(values), color=INK)
    ax.set_ylim(len(values) - 0.45, -0.55)
    ax.set_xlim(0, 1.01)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    title(ax, f"{TITLES.get(metric, metric)}, node by node", "bar: mean, diamond: one model for all nodes")
    return figure


def _offsets(values_N: np.ndarray[Any, Any], bins: int = 60, height: float = 0.34) -> np.ndarray[Any, Any]:
    """Vertical places of dots so that close values do not hide each other: a small pile in each bin, centred."""
    bin_N = np.floor(np.clip(values_N, 0, 1) * bins).astype(int)
    offset_N = np.zeros(len(values_N))
    for one in np.unique(bin_N):
        members = np.flatnonzero(bin_N == one)
        step = min(0.11, 2 * height / max(1, len(members) - 1))
        offset_N[members] = (np.arange(len(members)) - (len(members) - 1) / 2) * step
    return offset_N


def phases(arms: Arms) -> Figure:
    """Where the time went: seconds of each phase, added up over rounds, the mean over seeds; a bar for each arm."""
    figure, ax = blank(height=1.2 + 0.42 * len(arms))
    left = np.zeros(len(arms))
    for phase, colour in zip(PHASES, PHASE_HUES, strict=True):
        seconds = np.array([
            np.mean([np.nansum(column(run.rounds, f"seconds_{phase}")) for run in runs]) for runs in arms.values()
        ])  # fmt: skip
        ax.barh(range(len(arms)), seconds, left=left, height=0.56, color=colour, label=phase,
                edgecolor=SURFACE, linewidth=0.8)  # fmt: skip
        left += seconds
    ax.set_yticks(range(len(arms)), list(arms), color=INK)
    ax.set_ylim(len(arms) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_xlabel("seconds")
    title(ax, "Where the time went")
    legend(figure, ax)
    return figure
