"""Pictures of an experiment's world: how the items are split over the nodes, and who hears whom.

N nodes, C classes; `histogram_NC[i, c]` counts the training items of class c at node i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.plots import GRID, INK, MUTED, SURFACE, blank, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gossamer.runs import Run

Array = np.ndarray[Any, Any]

CLASS_HUES = (
    "#cc6677", "#6652b5", "#ddcc77", "#2a8a4a", "#88ccee", "#a0366f", "#44aa99", "#999933", "#aa4499", "#9aa3ad",
)  # fmt: skip
"""Paul Tol's muted scheme, its two darkest colours lifted so that they also show on a dark page."""
FEW = 48
"""Up to this many nodes each is drawn for itself; more are drawn as a mass."""


def world(arms: Mapping[str, Sequence[Run]]) -> list[tuple[Figure, str]]:
    """A picture and what it shows for each different split and graph, of the first seed of the arms that have it."""
    splits: dict[str, list[str]] = {}
    graphs: dict[str, list[str]] = {}
    for arm, runs in arms.items():
        record = runs[0].record
        if record["histogram"]:
            splits.setdefault(str(record["histogram"]), []).append(arm)
        if record["edges"] and record["world"] == "graph":
            graphs.setdefault(str(record["edges"]), []).append(arm)
    drawn = []
    for members in splits.values():
        record = arms[members[0]][0].record
        whose = "" if len(splits) == 1 else f" Arms: {', '.join(members)}."
        form = "stacked by class" if record["nodes"] > FEW else "of each class; the area is the number"
        note = f"Training items of each node, {form}.{whose}"
        drawn.append((partition(record["histogram"], record["classes"], record["names"]), note))
    for members in graphs.values():
        record = arms[members[0]][0].record
        name = record["experiment"]["topology"]["kind"].replace("_", " ")
        many = record["nodes"] > FEW
        form = "colour shows its most frequent class" if many else "pie shows its classes, its size its items"
        note = f"Who hears whom in the first round; a node's {form}. Arms: {', '.join(members)}."
        drawn.append((graph(record["edges"], record["nodes"], record["histogram"], name), note))
    return drawn


def class_colours(classes: int) -> list[str]:
    """A colour for each class: distinct hues for up to ten, then the viridis scale."""
    if classes <= len(CLASS_HUES):
        return list(CLASS_HUES[:classes])
    import matplotlib
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in matplotlib.colormaps["viridis"](np.linspace(0, 1, classes))]


def partition(histogram_NC: Array, classes: Sequence[str] = (), names: Sequence[str] = ()) -> Figure:
    """How the classes are spread over the nodes: a disc for each node and class, its area the number of items.

    Above it the items of each node. More than 48 nodes are drawn as stacked shares instead, largest node first.
    """
    histogram_NC = np.asarray(histogram_NC, dtype=float)
    N, C = histogram_NC.shape
    classes = list(classes) or [str(c) for c in range(C)]
    if N > FEW or C > FEW:
        return _shares(histogram_NC, classes)
    width = float(np.clip(1.6 + 0.42 * N, 4.6, 13))
    figure, (top, ax) = blank(width, 1.7 + 0.27 * C, nrows=2, sharex=True, height_ratios=[1, max(1.6, 0.27 * C)])
    nodes_N = np.arange(N)
    top.bar(nodes_N, histogram_NC.sum(1), width=0.62, color=MUTED, alpha=0.75)
    top.set_ylabel("items")
    title(top, "Who holds what", f"{N} nodes, {int(histogram_NC.sum()):,} training items")
    largest = histogram_NC.max() or 1.0
    for c, colour in enumerate(class_colours(C)):
        area_N = histogram_NC[:, c] / largest * 330
        ax.scatter(nodes_N, np.full(N, c), s=area_N, color=colour, linewidths=0)
    ax.set_yticks(range(C), classes)
    ax.set_ylim(C - 0.4, -0.6)
    ax.set_ylabel("class")
    shown = list(names) or [str(i) for i in nodes_N]
    slant = {"rotation": 35, "ha": "right"} if max(map(len, shown)) > 3 else {}
    ax.set_xticks(nodes_N, shown, fontsize=8 if N <= 30 else 6, **slant)
    ax.set_xlim(-0.7, N - 0.3)
    ax.set_xlabel("node")
    return figure


def _shares(histogram_NC: Array, classes: Sequence[str]) -> Figure:
    """Many nodes: items of each node stacked by class, largest node first."""
    ordered_NC = histogram_NC[np.argsort(-histogram_NC.sum(1), kind="stable")]
    N, C = ordered_NC.shape
    figure, ax = blank(9, 3.8)
    edges = np.arange(N + 1)
    below = np.zeros(N)
    for c, colour in enumerate(class_colours(C)):
        label = classes[c] if C <= 20 else None
        ax.stairs(below + ordered_NC[:, c], edges, baseline=below, fill=True, color=colour, label=label)
        below = below + ordered_NC[:, c]
    ax.set_xlim(0, N)
    ax.set_xlabel("nodes, largest first")
    ax.set_ylabel("items")
    title(ax, "Who holds what", f"{N} nodes, {int(histogram_NC.sum()):,} training items")
    if C <= 20:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, labelcolor=INK,
                  handlelength=1, reverse=True)  # fmt: skip
    return figure


def graph(
    edges: Array | Sequence[Sequence[int]],
    nodes: int,
    histogram_NC: Array | None = None,
    name: str = "Who hears whom",
) -> Figure:
    """The graph of a round: directed edges (sender, receiver) [E, 2] between `nodes` nodes.

    Up to 48 nodes are small pies of their classes, their area the number of items; more are dots in the
    colour of their most frequent class.
    """
    figure, ax = blank(4.6, 4.6)
    ax.grid(visible=False)
    ax.set_axis_off()
    ax.set_aspect("equal")
    edges_E2 = np.asarray(edges, dtype=int).reshape(-1, 2)
    place_N2 = positions(edges_E2, nodes)
    _draw_edges(ax, edges_E2, place_N2)
    histogram = None if histogram_NC is None else np.asarray(histogram_NC, dtype=float)
    if histogram is not None and nodes <= FEW:
        _draw_pies(ax, place_N2, histogram)
    else:
        colour = MUTED if histogram is None else np.array(class_colours(histogram.shape[1]))[histogram.argmax(1)]
        ax.scatter(*place_N2.T, s=max(8, 2400 / nodes), c=colour, edgecolors=SURFACE, linewidths=0.5, zorder=3)
    pairs = len(np.unique(np.sort(edges_E2, axis=1), axis=0))
    title(ax, name, f"{pairs} links")
    ax.set_xlim(-1.2, 1.2)
    ax.set_ylim(-1.2, 1.2)
    return figure


def positions(edges_E2: Array, nodes: int) -> Array:
    """Where the nodes are drawn, [N, 2] in -1..1: on a circle where that shows the structure, else by stress.

    Rings, complete graphs and small regular ones sit on a circle; larger or irregular graphs are laid out so that
    distances in the picture follow distances in the graph (Kamada and Kawai 1989), the largest ones by springs.
    """
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(edges_E2.tolist())
    degrees = {degree for _, degree in graph.degree()}
    if len(degrees) == 1 and nodes <= FEW:
        angle = np.pi / 2 - 2 * np.pi * np.arange(nodes) / nodes
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if nodes <= 200 and networkx.is_connected(graph):
        placed = networkx.kamada_kawai_layout(graph)
    else:
        placed = networkx.spring_layout(graph, seed=0, iterations=40)
    place_N2 = np.array([placed[i] for i in range(nodes)])
    place_N2 = place_N2 - (place_N2.max(0) + place_N2.min(0)) / 2
    return np.asarray(place_N2 / max(float(np.abs(place_N2).max()), 1e-9))


def _draw_edges(ax: Axes, edges_E2: Array, place_N2: Array) -> None:
    """Links as thin lines; a one-way link is an arrow."""
    from matplotlib.collections import LineCollection

    known = {(int(a), int(b)) for a, b in edges_E2}
    both = [(a, b) for a, b in known if a < b and (b, a) in known]
    alpha = float(np.clip(60 / max(1, len(both)), 0.15, 0.9))
    ax.add_collection(
        LineCollection([place_N2[[a, b]] for a, b in sorted(both)], colors=MUTED, linewidths=1.1, alpha=alpha)
    )
    for a, b in sorted(edge for edge in known if edge[::-1] not in known):
        ax.annotate("", place_N2[b], place_N2[a], arrowprops={
            "arrowstyle": "-|>", "color": MUTED, "alpha": 0.7, "shrinkA": 8, "shrinkB": 8, "linewidth": 1,
        })  # fmt: skip


def _draw_pies(ax: Axes, place_N2: Array, histogram_NC: Array) -> None:
    """Each node as a pie of its classes; the area of the pie follows its number of items."""
    from matplotlib.patches import Circle, Wedge

    items_N = histogram_NC.sum(1)
    room = min(0.16, 2.4 / max(6, len(place_N2)))
    radius_N = room * np.sqrt(np.clip(items_N / max(float(items_N.max()), 1.0), 0.12, 1))
    colours = class_colours(histogram_NC.shape[1])
    for (x, y), radius, row_C, items in zip(place_N2, radius_N, histogram_NC, items_N, strict=True):
        ax.add_patch(Circle((x, y), radius * 1.14, facecolor=SURFACE, edgecolor=GRID, linewidth=0.8, zorder=3))
        start = 90.0
        for count, colour in zip(row_C, colours, strict=True):
            if count:
                sweep = 360 * float(count) / float(items)
                ax.add_patch(Wedge((x, y), radius, start - sweep, start, facecolor=colour, linewidth=0, zorder=4))
                start -= sweep
