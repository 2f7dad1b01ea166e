"""Heat maps: every value is there, the better the brighter, and no letters lie over others."""

from __future__ import annotations

import itertools
import math

import numpy as np

from gossamer.heatmaps import heatmap


def test_a_heat_map_shows_every_value_brighter_where_better():
    means_RC = np.array([[0.1, 0.95, math.nan], [0.5, 1.0, 0.5]])
    figure = heatmap(means_RC, ["a", "b"], ["x", "y", "worst"], "accuracy", apart=1, best=[1])
    ax, bar = figure.axes
    assert [text.get_text() for text in ax.texts] == [".10", ".95", "–", ".50", "1.00", ".50"]
    light = [float(np.dot(patch.get_facecolor()[:3], (0.299, 0.587, 0.114))) for patch in ax.patches]
    assert light[0] < light[3] < light[1] < light[4]
    dark = heatmap(means_RC, ["a", "b"], ["x", "y", "worst"], "success", low_is_good=True).axes[0].patches
    assert float(np.sum(dark[0].get_facecolor())) > float(np.sum(dark[1].get_facecolor()))
    assert (bar.get_ylabel(), bar.get_ylim()) == ("accuracy", (0, 1))
    assert [label.get_fontweight() for label in ax.get_yticklabels()] == ["normal", "bold"]
    left, right = ax.patches[1], ax.patches[2]
    assert right.get_x() - left.get_x() > ax.patches[1].get_x() - ax.patches[0].get_x(), "the last stands apart"


def test_large_heat_maps_keep_their_letters_apart():
    rng = np.random.default_rng(0)
    rows, columns = [f"a_long_rule_{i}" for i in range(16)], [f"an_attack_{i}" for i in range(12)]
    figure = heatmap(rng.random((16, 12)), rows, columns, "accuracy", half_widths_RC=rng.random((16, 12)))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 16 * 12, "where there is no room, no half widths"
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    ticks = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(box.x0 >= 0 for box in ticks)
