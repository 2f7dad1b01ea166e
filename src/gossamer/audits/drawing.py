"""Pictures of audits: the scores of canaries that are in and out, what can be told from them, reconstructed images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.audits.advantage import Scores, best_threshold
from gossamer.audits.membership import ATTACKS, findings
from gossamer.plots import GRID, HUES, INK, MUTED, blank, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gossamer.audits.inversion import InversionAudit
    from gossamer.audits.membership import MembershipAudit, Promise

Array = np.ndarray[Any, Any]

INSIDE, OUTSIDE = HUES[1], HUES[0]


def membership(arms: Mapping[str, Sequence[MembershipAudit]], attack: str = next(iter(ATTACKS))) -> Figure:
    """For each arm the scores of its canaries, and what can be told from them; all seeds of an arm together."""
    figure, axes = blank(9.2, 0.9 + 2.5 * len(arms), nrows=len(arms), ncols=2, squeeze=False, width_ratios=[1.45, 1])
    unit = next(iter(arms.values()))[0].unit
    for (arm, audits), (left, right) in zip(arms.items(), axes, strict=True):
        runs = [audit.scored(attack) for audit in audits]
        seen = findings(audits, attack)
        value, low, high = seen.advantage
        _histogram(left, runs)
        title(left, arm, f"advantage {value:.2f} ({low:.2f} to {high:.2f})")
        promise = max((audit.promise for audit in audits), key=lambda one: one.epsilon)
        _roc(right, runs, promise)
        title(right, f"AUC {seen.auc.value:.3f}", _guarantee(promise))
    axes[-1, 0].set_xlabel(_score_name(attack, unit))
    axes[-1, 1].set_xlabel("false positive rate")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    for ax in axes[:, 1]:
        more = ax.get_legend_handles_labels()
        new = [(h, text) for h, text in zip(*more, strict=True) if text not in labels]
        handles, labels = handles + [h for h, _ in new], labels + [text for _, text in new]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9,
                  labelcolor=INK, handlelength=1.8, columnspacing=1.6)  # fmt: skip
    return figure


def _guarantee(promise: Promise) -> str:
    if not math.isfinite(promise.epsilon):
        return "no guarantee"
    return f"ε = {promise.epsilon:.3g}, δ = {promise.delta:.3g}"


def _score_name(attack: str, unit: str) -> str:
    label = "the wrong label" if unit == "example" else "a node's own labels, mean of its items"
    return f"{'growth of the log-odds' if attack == 'difference' else 'log-likelihood'} of {label} (nats)"


def _histogram(ax: Axes, runs: Sequence[Scores]) -> None:
    """How many canaries that are in, and out, have which score, and the threshold that tells them apart best."""
    from matplotlib.ticker import MaxNLocator

    scores = np.concatenate([run.scores_K for run in runs])
    inside = np.concatenate([run.inside_K for run in runs])
    bins = int(np.clip(4 * len(scores) ** (1 / 3), 10, 40))
    edges = np.linspace(scores.min(), scores.max() + 1e-9, bins + 1)
    for which, colour, label in (
        (~inside, OUTSIDE, "not in the training data"),
        (inside, INSIDE, "in the training data"),
    ):
        counts, _ = np.histogram(scores[which], edges)
        ax.stairs(counts, edges, fill=True, color=colour, alpha=0.3)
        ax.stairs(counts, edges, color=colour, linewidth=1.4, label=label)
    threshold = best_threshold(Scores(scores, inside, 0))
    if math.isfinite(threshold):
        ax.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label="best threshold")
    ax.set_ylim(0, None)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_ylabel("canaries")


def _roc(ax: Axes, runs: Sequence[Scores], promise: Promise) -> None:
    """True over false positive rates for all thresholds, both on log axes; what the guarantee rules out is shaded.

    The axes begin where five canaries are false positives: rates of fewer are chance.
    """
    from matplotlib.ticker import FuncFormatter

    low = min(0.1, 5 / max(int(np.count_nonzero(~run.inside_K)) for run in runs))
    grid = np.geomspace(low, 1, 200)
    if math.isfinite(promise.epsilon):
        allowed = largest_tpr(grid, promise.epsilon, promise.delta)
        ax.fill_between(grid, allowed, 1.15, color=GRID, linewidth=0, label="ruled out by the guarantee")
    ax.plot(grid, grid, color=MUTED, linewidth=1, linestyle=(0, (1.5, 1.5)), label="guessing")
    for place, run in enumerate(runs):
        fpr, tpr = roc(run)
        label = "attack" + (", a line for each seed" if len(runs) > 1 else "")
        points = np.maximum([fpr, tpr], low / 2)
        ax.step(*points, where="post", color=INSIDE, linewidth=1.6, label="" if place else label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.minorticks_off()
    ax.set_xlim(low, 1)
    ax.set_ylim(low, 1.15)
    ax.set_ylabel("true positive rate")


def roc(run: Scores) -> tuple[Array, Array]:
    """False and true positive rates [U + 1] for all thresholds, from the highest down."""
    values_U, place_K = np.unique(run.scores_K, return_inverse=True)
    rates = []
    for which_K in (~run.inside_K, run.inside_K):
        counts_U = np.bincount(place_K[which_K], minlength=len(values_U))[::-1]
        rates.append(np.concatenate([[0.0], np.cumsum(counts_U) / max(1, int(counts_U.sum()))]))
    return rates[0], rates[1]


def largest_tpr(fpr: Array, epsilon: float, delta: float) -> Array:
    """The largest true positive rate that (epsilon, delta) allows at false positive rates.

    min(e^epsilon f + delta, 1 - e^-epsilon (1 - delta - f)), at most 1: Kairouz, Oh and Viswanath 2015, Theorem 2.1.
    """
    rising = np.exp(np.minimum(epsilon + np.log(np.maximum(fpr, 1e-300)), 1.0)) + delta
    return np.minimum(np.minimum(rising, 1 - math.exp(-epsilon) * (1 - delta - fpr)), 1.0)


def inversion(audit: InversionAudit) -> Figure:
    """The originals, and below them what was made of each view of the message, with the PSNR of each image in dB."""
    views = audit.views
    count = len(audit.originals_B)
    size = 1.15 if count <= 8 else 0.75
    figure, axes = blank(
        2.1 + size * count, 0.75 + (size + 0.32) * (len(views) + 1), nrows=len(views) + 1, ncols=count, squeeze=False
    )
    heads = ["what the node holds", *(in_words(view.name, audit) for view in views)]
    for row, head in enumerate(heads):
        images_B = views[row - 1].images_B if row else audit.originals_B
        for column in range(count):
            ax = axes[row, column]
            _show(ax, images_B[column])
            if row:
                ax.set_xlabel(f"{views[row - 1].psnr_B[column]:.0f} dB", color=MUTED, fontsize=8.5, labelpad=3)
        mean = f"\nmean {views[row - 1].psnr_B.mean():.1f} dB" if row else ""
        axes[row, 0].set_ylabel(head + mean, rotation=0, ha="right", va="center", color=INK, fontsize=9, labelpad=8)
    figure.suptitle("What can be reconstructed", x=0.02, ha="left", color=INK, fontsize=11, fontweight="bold")
    note = f"The mean picture has {audit.mean_psnr:.1f} dB, other pictures {audit.other_psnr:.1f} dB."
    figure.supxlabel(note, x=0.02, ha="left", color=MUTED, fontsize=8.5)
    return figure


def in_words(view: str, audit: InversionAudit) -> str:
    """What an adversary sees, for people."""
    return {
        "message": "from its message",
        "secure sum": f"from the sum of {audit.nodes} nodes",
        "noise": f"from a noisy message, ε = {audit.epsilon:g}",
    }[view]


def _show(ax: Axes, image: Array) -> None:
    """An image [F, H, W] in 0..1: grey, or in colour where it has three channels."""
    drawn = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)
    ax.imshow(drawn, cmap=None if len(image) == 3 else "gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
