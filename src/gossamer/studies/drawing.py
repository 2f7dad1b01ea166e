"""Figures of a study: metrics over rounds or bytes, at the end with every seed as a dot, crossed arms as colours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer import units
from gossamer.heatmaps import heatmap
from gossamer.plots import GRID, HUES, INK, OVER, blank, legend, looks, title
from gossamer.record import whole
from gossamer.studies.matrices import WORST, matrix
from gossamer.studies.outcomes import METRICS, Array, Metric, outcome, sent, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from gossamer.runs import Run
    from gossamer.studies.contents import Plot
    from gossamer.studies.findings import Findings

Arms = Mapping[str, Sequence["Run"]]
DOTS = 150
"""Pixels for an inch of a PNG file."""
MB = 1e6
FAR = 30
"""Values that lie further apart than this factor are drawn on a log axis."""


def draw(found: Findings, folder: Path) -> list[Path]:
    """Write the plots of a study as PNG files, those of arms that have runs; returns the paths."""
    every = list(found.study.experiments)
    written: list[Path] = []
    for plot in found.study.plots:
        # An arm looks the same in all figures, unless there are more arms than colours.
        look = looks(plot.arms if plot.arms and len(every) > len(HUES) else every)
        names = [arm for arm in plot.arms or found.runs if arm in found.runs]
        arms = {arm: list(found.runs[arm].values()) for arm in names}
        if plot.kind == "heatmap":
            figure = heat(found, plot)
        elif plot.kind == "lines":
            figure = lines(found, plot)
        else:
            figure = curves(arms, plot, look) if plot.kind == "curves" else bars(arms, plot)
        if figure is None:
            continue
        path = folder / f"{plot.file_name}.png"
        number = 2
        while path in written:
            path, number = folder / f"{plot.file_name}-{number}.png", number + 1
        with whole(path) as aside:
            figure.savefig(aside, dpi=DOTS, format="png")
        written.append(path)
    return written


def curves(arms: Arms, plot: Plot, look: Mapping[str, Any]) -> Figure | None:
    """A metric after each round: a line for each arm, the mean over seeds, the range of the seeds shaded.

    It runs along the rounds, or along what had been sent by their ends, which is a mean over seeds too. None where no
    run has measured it.
    """
    metric = METRICS[plot.metric]
    lines = {arm: line for arm, runs in arms.items() if (line := _line(runs, plot)) is not None}
    if not lines:
        return None
    seeds = {len(values_SR) for _, values_SR in lines.values()}
    figure, ax = blank(7.2, 4.2)
    if plot.over == "bytes":
        _along_bytes(ax, np.concatenate([x_R for x_R, _ in lines.values()]))
    for arm, (x_R, values_SR) in lines.items():
        if plot.over == "bytes" and not x_R.any():
            dots = {"color": look[arm].colour, "linestyle": (0, (1, 2)), "linewidth": 1.8}
            ax.axhline(values_SR[:, -1].mean(), label=f"{arm} (sends nothing)", **dots)
            continue
        if ax.get_xscale() == "log":
            x_R, values_SR = x_R[x_R > 0], values_SR[:, x_R > 0]
        if len(values_SR) > 1:
            band = {"color": look[arm].colour, "alpha": 0.16, "linewidth": 0}
            ax.fill_between(x_R, values_SR.min(0), values_SR.max(0), **band)
        marker = "o" if len(x_R) == 1 else None
        style = {"color": look[arm].colour, "linestyle": look[arm].dash, "linewidth": 2, "marker": marker}
        ax.plot(x_R, values_SR.mean(0), label=arm, **style)
    _labels(ax, plot.title or _capital(metric.words) + OVER[plot.over], seeds, "mean and range of")
    drawn = [float(y) for line in ax.lines for y in np.ravel(line.get_ydata())]
    if metric.unit == "number" and min(drawn) > 0 and max(drawn) > FAR * min(drawn):
        ax.set_yscale("log")
    else:
        _from_zero(ax.yaxis, metric, min(drawn), max(drawn))
    ax.set_ylabel(metric.words)
    if plot.over == "rounds":
        ax.set_xlabel("round")
        ax.xaxis.get_major_locator().set_params(integer=True)
    if ax.get_xscale() != "log":
        ax.set_xlim(0, None)
    legend(figure, ax)
    return figure


def _line(runs: Sequence[Run], plot: Plot) -> tuple[Array, Array] | None:
    """x [R] and values [S, R] of an arm at the rounds in which all seeds have measured what is drawn; None without
    such.

    x are these rounds, or what had been sent by their ends: in MB, the mean over seeds.
    """
    measured = [(run, *series(run, METRICS[plot.metric])) for run in runs]
    measured = [(run, rounds_R, values_R) for run, rounds_R, values_R in measured if len(rounds_R)]
    if not measured:
        return None
    common_R = measured[0][1]
    for _, rounds_R, _ in measured[1:]:
        common_R = np.intersect1d(common_R, rounds_R)
    if not len(common_R):
        return None
    values_SR = np.stack([values_R[np.isin(rounds_R, common_R)] for _, rounds_R, values_R in measured])
    if plot.over == "rounds":
        return common_R, values_SR
    return np.mean([sent(run, common_R) for run, _, _ in measured], axis=0) / MB, values_SR


def _along_bytes(ax: Axes, drawn: Array) -> None:
    """An axis of MB: from zero, or a log axis where what is drawn lies far apart; that has no place for zero."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_xlabel("sent by all, MB")
    there = drawn[drawn > 0]
    if len(there) and there.max() > FAR * there.min():
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def bars(arms: Arms, plot: Plot) -> Figure | None:
    """Metrics at the end: a group of bars for each arm, from zero to the mean over seeds, every seed a dot.

    None where no run has measured any of them.
    """
    seeds: set[int] = set()
    drawn: list[float] = []
    thick = 0.8 / len(plot.metrics)
    figure, ax = blank(7.2, 1.1 + len(arms) * (0.2 + 0.24 * len(plot.metrics)))
    for i, (name, colour) in enumerate(zip(plot.metrics, itertools.cycle(HUES), strict=False)):
        label: str | None = METRICS[name].words
        for place, runs in enumerate(arms.values()):
            values_S = [value for value in (outcome(run, name) for run in runs) if value is not None]
            if not values_S:
                continue
            seeds.add(len(values_S))
            drawn += values_S
            at = place + (i - (len(plot.metrics) - 1) / 2) * thick
            ax.barh(at, np.mean(values_S), height=0.88 * thick, color=colour, alpha=0.55, linewidth=0, label=label)
            ax.scatter(values_S, [at] * len(values_S), s=18, color=colour, edgecolors=INK, linewidths=0.5, zorder=3)
            label = None  # once in the legend
    if not seeds:
        return None
    metric = METRICS[plot.metrics[0]]
    single = len(plot.metrics) == 1
    _labels(ax, plot.title or _capital(metric.words if single else f"{_KINDS[metric.unit]} at the end"), seeds,
            "bar: mean of", ", dots: each seed")  # fmt: skip
    ax.set_yticks(range(len(arms)), list(arms), color=INK)
    ax.set_ylim(len(arms) - 0.45, -0.55)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    _from_zero(ax.xaxis, metric, min(drawn), max(drawn))
    ax.set_xlabel(metric.words if single else _KINDS[metric.unit])
    if not single:
        legend(figure, ax)
    return figure


def heat(found: Findings, plot: Plot) -> Figure | None:
    """A metric of crossed arms at the end, in colours; the last column is the worst over the others for each seed.

    None where no run has measured it.
    """
    shown, metric = matrix(found, plot.metric), METRICS[plot.metric]
    if shown is None:
        return None
    cells = [[*cells, worst] for cells, worst in zip(shown.cells, shown.worst, strict=True)]
    means_RC = np.array([[math.nan if cell is None else cell.mean for cell in line] for line in cells])
    half_RC = np.array([[math.nan if cell is None or cell.half_width is None else cell.half_width for cell in line]
                        for line in cells])  # fmt: skip
    extreme = np.nanmin if metric.low_is_good else np.nanmax
    worst_R = means_RC[:, -1]
    best = np.flatnonzero(worst_R == extreme(worst_R)).tolist() if np.isfinite(worst_R).any() else []
    count = len(found.seeds)
    seeds = f"mean ± half of the 95 % interval over {count} seeds" if count > 1 else "one seed"
    note = f"{seeds}; worst: the {'highest' if metric.low_is_good else 'lowest'} of the row for each seed"
    limits = (0.0, 1.0) if metric.unit in ("accuracy", "share") else None
    return heatmap(means_RC, shown.rows, [*shown.columns, WORST], metric.words, half_widths_RC=half_RC, apart=1,
                   best=best, low_is_good=metric.low_is_good, limits=limits, text=plot.title, note=note)  # fmt: skip


def lines(found: Findings, plot: Plot) -> Figure | None:
    """A metric of crossed arms at the end: a line for each level of the first factor along those of the second.

    The mean over seeds, with bars to half of the 95 % interval on either side. None where no run has measured it.
    """
    shown, metric = matrix(found, plot.metric), METRICS[plot.metric]
    if shown is None:
        return None
    assert found.study.cross is not None, "there is no matrix without"
    figure, ax = blank(7.2, 4.2)
    drawn: list[float] = []
    for row, cells, (colour, dash) in zip(shown.rows, shown.cells, looks(shown.rows).values(), strict=True):
        points = [(place, cell) for place, cell in enumerate(cells) if cell is not None]
        means = [cell.mean for _, cell in points]
        halves = [cell.half_width or 0.0 for _, cell in points]
        drawn += means
        style = {"color": colour, "linestyle": dash, "linewidth": 2, "marker": "o", "markersize": 5, "capsize": 3}
        ax.errorbar([place for place, _ in points], means, yerr=halves, label=row, elinewidth=1.2, **style)
    _labels(ax, plot.title or _capital(metric.words), {len(found.seeds)}, "mean and 95 % interval of")
    _from_zero(ax.yaxis, metric, min(drawn), max(drawn))
    ax.set_xticks(range(len(shown.columns)), list(shown.columns))
    ax.set_xlim(-0.3, len(shown.columns) - 0.7)
    ax.set_xlabel(found.study.cross.factors[1].replace("-", " "))
    ax.set_ylabel(metric.words)
    legend(figure, ax)
    return figure


_KINDS = {
    "accuracy": "accuracy",
    "share": "share",
    "number": "value",
    "count": "count",
    "bytes": "bytes",
    "seconds": "seconds",
}
"""What an axis of several metrics of a unit is called."""


def _labels(ax: Axes, text: str, seeds: set[int], before: str, after: str = "") -> None:
    """The title, and at its right what is drawn of how many seeds."""
    of = f"{max(seeds)} seeds" if len(seeds) == 1 else "the seeds of each"
    title(ax, text, f"{before} {of}{after}" if max(seeds) > 1 else "one seed")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _from_zero(axis: Axis, metric: Metric, low: float, high: float) -> None:
    """Accuracies and shares on the whole scale from 0 to 1, other values from 0; bytes and seconds with their units."""
    from matplotlib.ticker import FuncFormatter

    if metric.unit in ("accuracy", "share"):
        axis.set_view_interval(0, 1.01, ignore=True)
        axis.set_ticks(list(np.linspace(0, 1, 6)))
    else:
        axis.set_view_interval(min(0.0, 1.05 * low), max(0.0, 1.05 * high), ignore=True)
    if metric.unit in ("bytes", "seconds"):
        shown = units.size if metric.unit == "bytes" else units.duration
        axis.set_major_formatter(FuncFormatter(lambda value, _: shown(value) if value else "0"))
