"""A table as colours: how well each row stands up to each column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.plots import GRID, INK, MUTED, SURFACE, blank, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]


def heatmap(
    means_RC: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    *,
    half_widths_RC: Array | None = None,
    apart: int = 0,
    best: Sequence[int] = (),
    low_is_good: bool = False,
    limits: tuple[float, float] | None = (0.0, 1.0),
    text: str = "",
    note: str = "",
) -> Figure:
    """A table in colours: a cell for each row and column with its value (NaN: a dash), the better the brighter.

    Half widths stand below the values where there is room. The last `apart` columns stand apart; the names of the rows
    in `best` are bold. Colours span `limits`, or (None) the values.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    R, C = means_RC.shape
    roomy = half_widths_RC is not None and C <= 8 and R <= 12
    place_C = np.arange(C) + 0.2 * (np.arange(C) >= C - apart)
    high = 0.46 if roomy else 0.33
    letters = (0.075 * max(map(len, rows)), 0.075 * max(map(len, columns)))
    tilted = letters[1] > (0.95 if roomy else 0.55)
    figure, ax = blank(2.1 + letters[0] + (1.05 if roomy else 0.62) * C, 1.2 + high * R + (0.7 * letters[1] * tilted))
    there = means_RC[np.isfinite(means_RC)]
    low, top = limits or (float(there.min(initial=0.0)), float(there.max(initial=0.0)) or 1.0)
    scale, paint = Normalize(low, top), colormaps["viridis_r" if low_is_good else "viridis"]
    for (r, c), value in np.ndenumerate(means_RC):
        mean = float(value)
        face = paint(scale(mean)) if math.isfinite(mean) else GRID
        ax.add_patch(Rectangle((place_C[c] - 0.48, r - 0.46), 0.96, 0.92, facecolor=face, linewidth=0))
        pale = not math.isfinite(mean) or float(np.dot(face[:3], (0.299, 0.587, 0.114))) > 0.55
        style = {"color": INK if pale else SURFACE, "ha": "center", "va": "center"}
        spread = float(half_widths_RC[r, c]) if roomy and half_widths_RC is not None else math.nan
        up = 0.14 if math.isfinite(spread) else 0.0
        ax.text(place_C[c], r - up, _cell(mean, limits is not None), fontsize=9.5, **style)
        if up:
            ax.text(place_C[c], r + 0.22, f"± {_cell(spread, limits is not None)}", fontsize=7, **style)
    ax.set_xlim(-0.55, place_C[-1] + 0.55)
    ax.set_ylim(R - 0.45, -0.55)
    ax.grid(visible=False)
    ax.spines["bottom"].set_visible(False)
    ax.xaxis.tick_top()
    slant = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if tilted else {}
    ax.set_xticks(place_C, columns, color=INK, **slant)
    ax.set_yticks(range(R), rows, color=INK)
    for r in best:
        ax.get_yticklabels()[r].set_fontweight("bold")
    figure.set_layout_engine("constrained", h_pad=0.08)
    bar = figure.colorbar(ScalarMappable(scale, paint), ax=ax, pad=0.02, aspect=max(12.0, 1.6 * R), fraction=0.05)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=8.5, length=0)
    bar.set_label(label, color=MUTED, fontsize=9)
    title(ax, text or label[:1].upper() + label[1:])
    if note:
        figure.supxlabel(note, x=0.01, ha="left", color=MUTED, fontsize=8.5)
    return figure


def _cell(value: float, fraction: bool) -> str:
    """'.81' for fractions, three digits for other numbers."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.2f}" if fraction else f"{value:.3g}"
    return text.removeprefix("0") if text.startswith("0.") else text
