"""The report: one HTML file with the numbers, the figures and the experiment, that needs nothing else to be read."""

from __future__ import annotations

import html
import importlib.resources
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import tomli_w

import gossamer
from gossamer import compare, gallery, pictures, plots, units
from gossamer.arms import flattened, in_words
from gossamer.hostility import in_runs, rule_in_words

if TYPE_CHECKING:
    from gossamer.compare import Estimate, Reach, Row
    from gossamer.runs import Run

MOST = 8
"""Arms drawn in figures; of more, the best ones, which the report says."""


def write_report(runs: Mapping[str, Sequence[Run]], path: str | Path, target: float | None = None) -> Path:
    """Write the report on these arms (each a list of runs that differ in the seed) and return where it is."""
    from gossamer.record import whole

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = render(runs, target)
    with whole(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return path


def render(arms: Mapping[str, Sequence[Run]], target: float | None = None) -> str:
    """The report as HTML text: inline style and figures, no request to anywhere."""
    arms = {arm: compare.distinct(runs) for arm, runs in arms.items()}
    rows = compare.rows(arms, target)
    look = plots.looks(list(arms))
    best = sorted(rows, key=lambda row: -_mean(row.accuracy))
    drawn = {row.arm: arms[row.arm] for row in rows if row in best[:MOST]}
    first = next(iter(arms.values()))[0]
    template = Template(importlib.resources.files("gossamer").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title(arms)),
        lede=_lede(arms, first),
        warnings=_warnings(arms),
        cards=_cards(rows, best[0], arms),
        results=_results(rows, best[0], arms, look, target),
        privacy=_privacy(arms),
        curves=gallery.curves(drawn, look, target, len(arms)),
        world=gallery.laid_out(pictures.world(drawn)),
        experiment=_experiments(arms),
        environment=_environment(arms),
        footer=f"Written by Gossamer {gossamer.__version__}. Accuracies lie between 0 and 1; ± is half of the 95 % "
        "Student-t interval over seeds; 1 MB is 1,000,000 bytes.",
    )


def _mean(estimate: Estimate | None) -> float:
    return estimate.mean if estimate else float("-inf")


def title(arms: Mapping[str, Sequence[Run]]) -> str:
    """What the names of all experiments share, up to a hyphen; 'comparison' if nothing."""
    names = [runs[0].name.split("-") for runs in arms.values()]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, itertools.zip_longest(*names))
    return "-".join(parts[0] for parts in shared) or "comparison"


def _lede(arms: Mapping[str, Sequence[Run]], run: Run) -> str:
    record, asked = run.record, run.record["experiment"]
    seeds = {one.seed for runs in arms.values() for one in runs}
    parts = [f"<b>{record['nodes']} nodes</b> learn <b>{html.escape(asked['data']['kind'])}</b>"]
    parts.append(f"split by {html.escape(in_words('partition', asked['partition']).replace('_', ' '))},")
    parts.append(f"with a model of {units.count(record['parameters'])} parameters, over {asked['rounds']} rounds")
    arms_text = f"{len(arms)} arms, " if len(arms) > 1 else ""
    counted = f"{arms_text}{len(seeds)} seed{'s' if len(seeds) > 1 else ''}."
    return " ".join([*parts[:-1], f"{parts[-1]}.", counted, html.escape(in_runs(arms))]).rstrip()


def _warnings(arms: Mapping[str, Sequence[Run]]) -> str:
    texts = [f"{arm}: {text}" for arm, runs in arms.items() for run in runs for text in warnings_of(run)]
    items = "".join(f"<li>{html.escape(text)}</li>" for text in dict.fromkeys(texts))
    return f'<div class="warnings"><b>Warnings</b><ul>{items}</ul></div>' if items else ""


def warnings_of(run: Run) -> list[str]:
    """The warnings among the run's events, and one if it has not finished."""
    texts = [str(event["text"]) for event in run.events if event["event"] == "warning"]
    if run.record["status"] != "finished":
        texts.append(f"seed {run.seed} has not finished (status: {run.record['status']})")
    return texts


def _cards(rows: Sequence[Row], best: Row, arms: Mapping[str, Sequence[Run]]) -> str:
    several = len(rows) > 1
    cards = [("Best test accuracy" if several else "Test accuracy", _large(best.accuracy), html.escape(best.arm))]
    alone = [row for row in rows if arms[row.arm][0].record["world"] == "alone" and row is not best]
    if alone and best.accuracy and alone[0].accuracy:
        gain = 100 * (best.accuracy.mean - alone[0].accuracy.mean)
        cards.append(("Gained by learning together", f"{gain:+.1f}", f"points over {html.escape(alone[0].arm)}"))
    if best.worst:
        cards.append(("Worst node", units.fraction(best.worst.mean), f"of {html.escape(best.arm)}"))
    if best.bytes:
        per_node = best.bytes.mean / arms[best.arm][0].record["nodes"]
        whose = f"by {html.escape(best.arm)}, " if several else ""
        cards.append(("Sent", units.size(best.bytes.mean), f"{whose}{units.size(per_node)} for each node"))
    seconds = sum(run.record["seconds"] for runs in arms.values() for run in runs)
    cards.append(("Time", units.duration(seconds), "all runs together" if several else f"{best.rounds} rounds"))
    return "".join(
        f'<div class="card{" first" if i == 0 else ""}"><div class="what">{what}</div>'
        f'<div class="value">{value}</div><div class="note">{note}</div></div>'
        for i, (what, value, note) in enumerate(cards)
    )


def _large(estimate: Estimate | None) -> str:
    """An estimate as a headline, its interval smaller."""
    if estimate is None or estimate.half_width is None:
        return _estimate(estimate)
    return f"{units.fraction(estimate.mean)}<small> ± {estimate.half_width:.3f}</small>"


def _estimate(estimate: Estimate | None) -> str:
    return units.fraction(estimate.mean, estimate.half_width) if estimate else units.NONE


def _results(
    rows: Sequence[Row],
    best: Row,
    arms: Mapping[str, Sequence[Run]],
    look: Mapping[str, plots.Look],
    target: float | None,
) -> str:
    attacked = ["Attack success"] if any(row.attack for row in rows) else []
    private = ["Epsilon"] if any(row.epsilon for row in rows) else []
    heads = ["Test accuracy", "Worst node", *attacked, "Merged model", "Own validation", *private, "Sent", "Time"]
    differ = len({row.seeds for row in rows}) > 1
    if target is not None:
        heads.append(f"To reach {target:g}")
    body = []
    for row in rows:
        hue = f"var(--h{plots.HUES.index(look[row.arm].colour)})"
        told = _choices(arms[row.arm][0]) + (f" · {row.seeds} seed{'s' if row.seeds > 1 else ''}" if differ else "")
        share = 100 * max(0.0, min(1.0, row.accuracy.mean)) if row.accuracy else 0
        cells = [
            f'{_estimate(row.accuracy)}<span class="bar"><i style="width:{share:.1f}%;background:{hue}"></i></span>',
            _estimate(row.worst),
            *(_estimate(row.attack) for _ in attacked),
            _estimate(row.merged),
            _estimate(row.validation),
            *(units.number(row.epsilon.mean) if row.epsilon else units.NONE for _ in private),
            units.size(row.bytes.mean) if row.bytes else units.NONE,
            units.duration(row.seconds.mean) if row.seconds else units.NONE,
        ]
        if row.reach:
            cells.append(_reached(row.reach))
        body.append(
            f"<tr{' class=best' if row is best and len(rows) > 1 else ''}>"
            f'<th><span class="chip" style="background:{hue}"></span>'
            f"{html.escape(row.arm)}{_sub(told)}</th>"
            + "".join(f'<td class="number">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    head = "<th>Arm</th>" + "".join(f'<th class="number">{text}</th>' for text in heads)
    return f'<div class="panel"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _privacy(arms: Mapping[str, Sequence[Run]]) -> str:
    """The guarantee of each private arm, and all that it rests on; empty without such."""
    private = {arm: told for arm, runs in arms.items() if (told := runs[0].record.get("privacy"))}
    if not private:
        return ""
    body = []
    for arm, told in private.items():
        spent = "infinite" if told["epsilon"] is None else f"{told['epsilon']:.3g}"
        terms = f"at δ = {told['delta']:g}, for one {told['unit']}"
        hidden = told["hides"] if told["epsilon"] is not None else "nothing, as there is no noise"
        noise = f"{told['noise_multiplier']:.4g} × {told['clip']:g}{_sub(told['kind'].replace('_', ' '))}"
        rates = [one for one in told["releases"] if one["sampling"] != "none"]
        drawn = ", ".join(f"{one['times']} at rate {one['rate']:.3g} ({one['sampling']})" for one in rates)
        counted = drawn or ", ".join(f"{one['times']} times" for one in told["releases"])
        how = f"{told['accountant']}, {told['adjacency'].replace('_', ' ')}"
        assumed = "".join(f"<li>{html.escape(text)}</li>" for text in told["assumes"])
        body.append(
            f'<tr><th>{html.escape(arm)}</th><td class="number"><b>{spent}</b>{_sub(terms)}</td>'
            f'<td class="number">{noise}</td><td>{html.escape(counted)}{_sub(how)}</td>'
            f"<td>Hides {html.escape(hidden)}.<details><summary>Assuming</summary><ul>{assumed}</ul></details>"
            "</td></tr>"
        )
    head = '<th>Arm</th><th class="number">Epsilon</th><th class="number">Noise</th>'
    head += "<th>Accounted</th><th>Guarantee</th>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<section><h2>Privacy</h2><div class="panel">{table}</div></section>'


def _choices(run: Run) -> str:
    """What makes an arm: method, graph, and the aggregator and transforms where there are such."""
    asked = run.record["experiment"]
    told = [in_words("method", asked["method"])]
    if run.record["world"] != "alone":
        told.append(in_words("topology", asked["topology"]))
    if (part := asked.get("parametrisation", {"kind": "identity"}))["kind"] != "identity":
        told.append(in_words("parametrisation", part))
    if asked["aggregator"]["kind"] != "mean":
        told.append(rule_in_words(asked["aggregator"]))
    told += [in_words("transforms", part) for part in asked["transforms"]]
    told += [f"{in_words('downlink', part)} down" for part in asked.get("downlink", [])]
    if (privacy := asked.get("privacy", {"kind": "none"}))["kind"] != "none":
        told.append(f"{privacy['kind']} privacy")
    if asked.get("secure_sum"):
        told.append("secure sum")
    if asked.get("attack", {"kind": "honest"})["kind"] != "honest":
        told.append(f"under {in_words('attack', asked['attack'])}")
    return " · ".join(told).replace("_", " ")


def _reached(reach: Reach) -> str:
    """What it took to reach the target, and by how many seeds where not by all."""
    if not (reach.bytes and reach.seconds):
        return f"{reach.rounds_in_words()}{_sub('')}"
    spent = f"{units.size(reach.bytes.mean)}, {units.duration(reach.seconds.mean)}{reach.seeds_in_words()}"
    return f"{reach.rounds_in_words()}{_sub(spent)}"


def _sub(text: str) -> str:
    return f'<span class="sub">{html.escape(text)}</span>'


def _experiments(arms: Mapping[str, Sequence[Run]]) -> str:
    tables = {arm: flattened(runs[0].record["experiment"]) for arm, runs in arms.items()}
    keys = dict.fromkeys(key for table in tables.values() for key in table if key != "name")
    differing = [key for key in keys if len({str(table.get(key)) for table in tables.values()}) > 1]
    parts = []
    if differing:
        head = "".join(f"<th>{html.escape(arm)}</th>" for arm in arms)
        lines = "".join(
            f"<tr><th><code>{html.escape(key)}</code></th>"
            + "".join(f"<td>{html.escape(_toml(table.get(key)))}</td>" for table in tables.values())
            + "</tr>"
            for key in differing
        )
        parts.append("<p>What the arms differ in:</p>")
        parts.append(
            f'<div class="panel"><table><thead><tr><th></th>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
        )
        parts.append("<h3>Complete, as files that can be run</h3>")
    parts += [
        f"<details><summary>{html.escape(arm)}</summary><pre>{html.escape(tomli_w.dumps(runs[0].record['experiment']))}</pre></details>"
        for arm, runs in arms.items()
    ]
    return "".join(parts)


def _toml(value: Any) -> str:
    """A value as in an experiment file, without quotes; a dash for none."""
    if value is None:
        return units.NONE
    return str(value).lower() if isinstance(value, bool) else str(value)


def _environment(arms: Mapping[str, Sequence[Run]]) -> str:
    lines = []
    for arm, runs in arms.items():
        record = runs[0].record
        folders = "<br>".join(f"<code>{html.escape(str(run.folder))}</code>" for run in runs)
        backend = f"{record['backend']}, {record['workers']} worker{'s' if record['workers'] != 1 else ''}"
        lines.append(
            f"<tr><th>{html.escape(arm)}</th><td>{backend}{_sub(record['backend_reason'])}</td><td>{folders}</td></tr>"
        )
    facts: dict[str, dict[str, None]] = {}
    for runs in arms.values():
        for run in runs:
            for name, value in {**run.record["versions"], **run.record["hardware"]}.items():
                facts.setdefault(str(name), {})[str(value)] = None
    told = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(', '.join(values))}</td></tr>"
        for name, values in facts.items()
    )
    return (
        '<div class="panel"><table><thead><tr><th>Arm</th><th>Back end</th><th>Run folders</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div><h3>Versions and machine</h3>"
        f'<div class="panel"><table><tbody>{told}</tbody></table></div>'
    )
