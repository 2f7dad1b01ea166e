"""The report and its figures: what is drawn is what was measured, and nothing is fetched from anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from synthetic import synthetic_run

from gossamer import embedding, pictures, plots, units
from gossamer.report import render, write_report

RING = [[i, (i + d) % 4] for i in range(4) for d in (1, -1)]
HISTOGRAM = [[4, 0, 0], [0, 9, 0], [1, 1, 1], [2, 0, 6]]


@pytest.fixture
def arms(tmp_path):
    def many(arm, top, **rest):
        return [
            synthetic_run(
                tmp_path / f"{arm}{seed}", [[top - 0.1, top, top, top + 0.05 * seed]] * 3, merged_R=[top] * 3,
                histogram=HISTOGRAM, name=f"first-{arm}", seed=seed, **rest,
            )
            for seed in (0, 1)
        ]  # fmt: skip

    return {
        "alone": many("alone", 0.5, world="alone", bytes_per_round=0, method="local"),
        "ring": many("ring", 0.8, edges=RING, warnings=("the graph <is> odd",)),
    }


class Outline(HTMLParser):
    """Collects tags, the references they make, and whether they nest."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self):
        super().__init__()
        self.stack, self.tags, self.references, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def outline(text):
    parser = Outline()
    parser.feed(text)
    parser.close()
    assert parser.stack == []
    return parser


def test_report_is_one_well_formed_page_that_fetches_nothing(arms):
    text = render(arms, target=0.7)
    page = outline(text)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}, "names of formats, not requests"
    assert not re.findall(r"@import|url\((?!#)", text)


def test_report_says_the_numbers_of_the_summaries(arms):
    said = " ".join(outline(render(arms)).text)
    for members in arms.values():
        mean = np.mean([run.summary()["test_accuracy"] for run in members])
        assert f"{mean:.3f} ± " in said
    gain = 100 * np.subtract(*(np.mean([r.summary()["test_accuracy"] for r in arms[arm]]) for arm in ("ring", "alone")))
    assert f"{gain:+.1f}" in said
    for needed in ("method.kind", "dsgd", "torch", "2.13", "eager, 1 worker", "2 seeds", units.size(3000)):
        assert needed in said, needed


def test_report_escapes_what_runs_say_and_shows_their_warnings(arms):
    text = render({"a<b>&": arms["ring"]})
    assert "a<b>&" not in text
    assert "the graph &lt;is&gt; odd" in text


def test_report_says_when_a_run_has_not_finished(arms, tmp_path):
    arms["ring"][0].record["status"] = "interrupted"
    path = write_report(arms, tmp_path / "deep" / "report.html")
    assert "has not finished (status: interrupted)" in path.read_text(encoding="utf-8")


def test_the_same_figure_gives_the_same_text(arms):
    assert len({embedding.embedded(plots.curves(arms), "curves") for _ in range(2)}) == 1


def test_a_heavy_figure_becomes_an_image(arms, monkeypatch):
    monkeypatch.setattr(embedding, "HEAVY", 10)
    page = outline(embedding.embedded(plots.phases(arms), "where <time> went"))
    assert page.tags == ["img"]
    assert page.references[0].startswith("data:image/png;base64,")


def test_figures_follow_the_theme_of_the_page(arms):
    text = embedding.embedded(plots.curves(arms), "curves")
    assert text.startswith('<svg role="img" aria-label="curves"')
    assert "var(--ink)" in text
    assert plots.INK not in text
    assert plots.looks(list(arms))["ring"].colour not in text


def test_rows_tell_validation_seeds_and_what_is_not_the_default(arms, tmp_path):
    rest = {"edges": RING, "histogram": HISTOGRAM, "seed": 0, "transforms": [{"kind": "cast"}], "aggregator": "median"}
    other = synthetic_run(tmp_path / "other", [[0.9] * 4], merged_R=[0.9], name="first-other", **rest)
    said = " ".join(outline(render({**arms, "other": [other]})).text)
    assert "Own validation" in said
    assert "dsgd · ring · median · cast" in said
    assert "· 1 seed " in said
    assert "dsgd · ring · 2 seeds" in said
    assert f"by other, {units.size(250)} for each node" in said


def test_figures_are_never_blown_up_and_none_stands_beside_a_gap(arms):
    text = render(arms)
    styles = re.findall(r'<figure class="(\w*)" style="--most: (\d+)px">', text)
    assert len(styles) == text.count("<figure ")
    assert all(int(most) <= 100 * 10 for _, most in styles)
    for section in ("Learning", "The nodes and their data"):
        inside = text.partition(f"<h2>{section}</h2>")[2].partition("</section>")[0]
        rows = "".join("w" if wide else "h" for wide in re.findall(r'<figure class="(\w*)"', inside))
        assert re.fullmatch("(w|hh)+", rows)


def attacked(arms, values_R):
    """The arms, those of the ring with the success of an attack in the lines of their nodes."""
    for run in arms["ring"]:
        table = run.metrics
        at = table.column_names.index("attack_success")
        rounds, nodes = table["round"].to_pylist(), table["node"].to_pylist()
        success = [values_R[r - 1] if node >= 0 else None for r, node in zip(rounds, nodes, strict=True)]
        field = table.schema.field("attack_success")
        run.__dict__["metrics"] = table.set_column(at, field, pa.array(success, field.type))
    return arms


def test_the_success_of_an_attack_has_a_column_and_a_curve_where_it_was_measured(arms):
    assert "Attack success" not in render(arms)
    said = render(attacked(arms, [0.9, 0.5, 0.123]))
    results, _, figures = said.partition("<h2>Learning</h2>")
    assert "Attack success" in results
    assert "0.123" in results
    assert "Success of the attack" in figures
    (ax,) = plots.curves(arms, "attack_success").axes
    (line,) = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert (line.get_label(), list(line.get_ydata())) == ("ring", pytest.approx([0.9, 0.5, 0.123]))
    assert ax.get_ylim() == (0, 1.01)


def test_the_report_says_who_was_hostile(arms, tmp_path):
    assert "hostile" not in " ".join(outline(render(arms)).text).partition("Experiment")[0]
    rest = {"edges": RING, "histogram": HISTOGRAM, "attack": {"kind": "ipm", "scale": 0.5}}
    many = {
        f"f{count}": [synthetic_run(tmp_path / f"{count}{seed}", [[0.9] * 4], hostile={"listed": range(count)},
                                    seed=seed, **rest) for seed in range(seeds)]
        for count, seeds in ((1, 1), (2, 2))
    }  # fmt: skip
    said = " ".join(" ".join(outline(render({**arms, **many})).text).split())
    assert "1 of 4 nodes (0) was hostile; their attacks: ipm (scale 0.5)." in said
    assert "2 of 4 nodes were hostile; their attacks: ipm (scale 0.5)." in said
    assert "dsgd · ring · under ipm (scale 0.5)" in said


def test_a_run_that_repeats_a_seed_changes_no_row(arms, tmp_path):
    again = synthetic_run(tmp_path / "again", [[0.1] * 4] * 3, name="first-ring", seed=0)
    assert again.record["digest"] == arms["ring"][0].record["digest"]
    assert render({**arms, "ring": [*arms["ring"], again]}) == render(arms)


def test_many_arms_are_all_in_the_table_and_the_best_in_the_figures(arms):
    many = {f"arm{i}": arms["ring" if i else "alone"][:1] for i in range(9)}
    text = render(many)
    assert "The 8 best of 9 arms." in text
    results, _, figures = text.partition("<h2>Learning</h2>")
    assert all(f"arm{i}" in results for i in range(9))
    assert "arm0" not in figures.partition("<h2>Experiment</h2>")[0]


def test_curves_draw_the_measured_values_on_the_whole_scale(arms):
    figure = plots.curves(arms)
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert set(lines) == set(arms)
    expected = np.mean([run.curve("test_accuracy")[1] for run in arms["ring"]], axis=0)
    assert lines["ring"].get_xdata() == pytest.approx([1, 2, 3])
    assert lines["ring"].get_ydata() == pytest.approx(expected)
    assert ax.get_ylim()[0] == 0
    assert 1 <= ax.get_ylim()[1] < 1.02


def test_an_arm_that_sends_nothing_is_a_level_on_the_axis_of_bytes(arms):
    (ax,) = plots.curves(arms, over="bytes").axes
    lines = {line.get_label(): line for line in ax.lines}
    level = np.mean([run.summary()["test_accuracy"] for run in arms["alone"]])
    assert lines["alone (sends nothing)"].get_ydata() == pytest.approx([level, level])
    assert lines["ring"].get_xdata() == pytest.approx([1000, 2000, 3000])


def test_arms_keep_their_colour_and_are_all_told_apart():
    names = [f"arm{i}" for i in range(32)]
    looks = plots.looks(names)
    assert len({(look.colour, str(look.dash)) for look in looks.values()}) == 32
    assert plots.looks(names[:5]) == {name: looks[name] for name in names[:5]}


def test_every_node_is_a_dot_at_its_value(arms):
    (ax,) = plots.nodes(arms).axes
    dots = [np.asarray(collection.get_offsets())[:, 0] for collection in ax.collections]
    for drawn, members in zip(dots, arms.values(), strict=True):
        expected = np.concatenate([run.metrics.filter(last_nodes(run))["test_accuracy"].to_numpy() for run in members])
        assert sorted(drawn) == pytest.approx(sorted(expected))


def last_nodes(run):
    round_, node = (run.metrics[name].to_numpy() for name in ("round", "node"))
    return (round_ == round_.max()) & (node >= 0)


def test_bars_of_time_are_as_long_as_the_seconds(arms):
    (ax,) = plots.phases(arms).axes
    ends = {round(bar.get_x() + bar.get_width(), 6) for bar in ax.patches}
    assert max(ends) == pytest.approx(6.0), "three rounds of two seconds"


def test_discs_have_the_area_of_the_counts():
    top, ax = pictures.partition(HISTOGRAM, classes=["x", "y", "z"]).axes
    areas_CN = np.array([collection.get_sizes() for collection in ax.collections])
    assert areas_CN.T / areas_CN.max() == pytest.approx(np.array(HISTOGRAM) / 9)
    assert [bar.get_height() for bar in top.patches] == [4, 9, 3, 8]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["x", "y", "z"]


def test_many_nodes_are_drawn_as_a_mass_of_the_right_height():
    rng = np.random.default_rng(0)
    histogram_NC = rng.integers(0, 9, (300, 4))
    (ax,) = pictures.partition(histogram_NC).axes
    top = ax.patches[-1].get_data()
    assert top.values == pytest.approx(np.sort(histogram_NC.sum(1))[::-1])


def test_graph_draws_every_link_once_and_every_node_as_its_pie():
    (ax,) = pictures.graph(RING, 4, HISTOGRAM).axes
    (links,) = ax.collections
    assert len(links.get_segments()) == 4
    wedges = [patch for patch in ax.patches if hasattr(patch, "theta1")]
    assert sum(wedge.theta2 - wedge.theta1 for wedge in wedges) == pytest.approx(4 * 360)
    assert len(wedges) == np.count_nonzero(HISTOGRAM)


def test_a_one_way_link_is_an_arrow():
    (ax,) = pictures.graph([[0, 1], [1, 2], [2, 0]], 3).axes
    assert len([text for text in ax.texts if text.arrow_patch is not None]) == 3


@pytest.mark.parametrize("nodes", [1, 2, 7, 60])
def test_positions_are_apart_and_inside_the_picture(nodes):
    pairs = [[i, j] for i in range(nodes) for j in range(nodes) if abs(i - j) == 1]
    place_N2 = pictures.positions(np.array(pairs, dtype=int).reshape(-1, 2), nodes)
    assert np.abs(place_N2).max() <= 1 + 1e-9
    assert len(np.unique(place_N2.round(6), axis=0)) == nodes


def test_drawing_leaves_pyplot_alone():
    code = (
        "import io, sys; from gossamer import pictures; pictures.partition([[1, 2]]).savefig(io.BytesIO()); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (61706 * 4, "247 kB"),
        (3_214_000, "3.21 MB"),
        (9_999_000, "10.0 MB"),
    ],
)
def test_sizes_have_three_digits(value, text):
    assert units.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.417, "0.42 s"), (7.26, "7.3 s"), (48, "48 s"), (59.7, "1:00 min"), (185, "3:05 min"), (7620, "2:07 h")],
)
def test_durations_read_like_a_clock(value, text):
    assert units.duration(value) == text
