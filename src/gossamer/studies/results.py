"""The results of a study as files: results.json, table.md and figures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer import units
from gossamer.compare import estimate
from gossamer.record import whole
from gossamer.studies.drawing import draw
from gossamer.studies.findings import Findings
from gossamer.studies.matrices import matrix, matrix_cells, metrics_shown, spreads
from gossamer.studies.outcomes import METRICS
from gossamer.studies.verdicts import Judgement

if TYPE_CHECKING:
    from gossamer.runs import Run

Cells = tuple[list[str], list[list[str]]]
"""A table as text: the names of its columns, and its lines."""
ASIDE = frozenset(name for name, metric in METRICS.items() if metric.fold in ("best", "late"))
"""Metrics that stand in a table only where a claim or a plot is about them."""


# ---- as JSON -------------------------------------------------------------------------------------------------


def number(value: float | None) -> float | str | None:
    """A value for JSON, which has no infinity: "inf" and "-inf" as words, null for what is undefined or not there."""
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def headline(found: Findings) -> dict[str, Any]:
    """The verdicts, for `--json`: {study, claims: [{name, verdict, value, interval, bar}]}."""
    claims = [
        {
            "name": one.claim.name,
            "verdict": one.judgement.verdict,
            "value": number(one.judgement.value),
            "interval": [number(end) for end in one.judgement.interval] if one.judgement.interval else None,
            "bar": one.claim.bar.to_dict(),
        }
        for one in found.claims
    ]
    return {"study": found.study.name, "claims": claims}


def results(found: Findings) -> dict[str, Any]:
    """All of it, for results.json; lists "per seed" are in the order of `seeds`."""
    head = headline(found)
    claims = [
        {
            **told,
            "about": one.claim.about,
            "expression": one.claim.value,
            "note": one.judgement.note,
            "per_seed": [number(value) for value in one.per_seed],
        }
        for told, one in zip(head["claims"], found.claims, strict=True)
    ]
    asked = _asked(found)
    arms = {
        arm: {
            name: [_counted(name, value) for value in values]
            for name, values in metrics.items()
            if _any(values) and (name in asked or METRICS[name].fold != "late")
        }
        for arm, metrics in found.outcomes.items()
    }
    cross = found.study.cross
    return {
        "study": head["study"],
        "title": found.study.title,
        "quick": found.study.quick,
        "seeds": list(found.seeds),
        "versions": facts(found, "versions"),
        "hardware": facts(found, "hardware"),
        **({"cross": dict(zip(cross.factors, (cross.rows, cross.columns), strict=True))} if cross else {}),
        "arms": arms,
        "claims": claims,
    }


def _counted(name: str, value: float | None) -> float | str | None:
    """A metric for JSON, counts as whole numbers."""
    return int(value) if value is not None and METRICS[name].unit in ("count", "bytes") else number(value)


def facts(found: Findings, part: str) -> dict[str, str]:
    """The versions or the hardware of the runs; where they differ, all that there are."""
    told: dict[str, dict[str, None]] = {}
    for run in _all_runs(found):
        for name, value in run.record[part].items():
            told.setdefault(name, {})[str(value)] = None
    return {name: ", ".join(values) for name, values in told.items()}


def seconds(found: Findings) -> float:
    """What all runs took together."""
    return math.fsum(run.record["seconds"] for run in _all_runs(found))


def _all_runs(found: Findings) -> list[Run]:
    return [run for members in found.runs.values() for run in members.values()]


def _asked(found: Findings) -> set[str]:
    """The metrics that claims and plots are about."""
    terms = [term for one in found.claims for term in one.claim.expression.terms]
    return {term.metric for term in terms} | {name for plot in found.study.plots for name in plot.shown}


def _any(values: Sequence[float | None]) -> bool:
    return any(value is not None for value in values)


# ---- as tables -----------------------------------------------------------------------------------------------


def arms_cells(found: Findings) -> Cells:
    """A line for each arm that is not crossed: mean over seeds and half of the 95 % interval of each metric that says
    something."""
    crossed = found.study.cross.arms if found.study.cross else ()
    plain = {arm: of for arm, of in found.outcomes.items() if arm not in crossed}
    asked = _asked(found)
    names = [
        name
        for name, metric in METRICS.items()
        if (name in asked or name not in ASIDE)
        and any(
            _any(of[name]) if metric.unit in ("accuracy", "share", "number") else any(of[name]) for of in plain.values()
        )
    ]
    lines = []
    for arm, of in plain.items():
        there = len(found.runs[arm])
        cells = [arm if there == len(found.seeds) else f"{arm} ({there} of {len(found.seeds)} seeds)"]
        for name in names:
            middle = estimate(value for value in of[name] if value is not None)
            cells.append(METRICS[name].shown(middle.mean, middle.half_width) if middle else units.NONE)
        lines.append(cells)
    return ["arm", *(name.replace("_", " ") for name in names)], lines


def crossed_cells(found: Findings, spread: bool = False) -> list[tuple[str, Cells]]:
    """The tables of crossed arms with what each is of: for each metric the means, and (`spread`) half of the 95 %
    intervals."""
    tables = []
    for name in metrics_shown(found):
        one = matrix(found, name)
        assert one is not None
        words = METRICS[name].words
        worst = f"worst: the {'highest' if METRICS[name].low_is_good else 'lowest'} of the row for each seed"
        tables.append((f"{words[:1].upper()}{words[1:]}, mean over seeds ({worst})", matrix_cells(one)))
        if spread and spreads(one):
            tables.append((f"± half of the 95 % interval of the {words}", matrix_cells(one, spread=True)))
    return tables


def claims_cells(found: Findings) -> Cells:
    """A line for each claim: its value over seeds, the 95 % interval, the bar, the verdict."""
    lines = [
        [
            one.claim.name,
            _shown(one.judgement.value),
            _interval(one.judgement),
            str(one.claim.bar),
            one.judgement.verdict,
        ]
        for one in found.claims
    ]
    return ["claim", "value", "95 % interval", "bar", "verdict"], lines


def _shown(value: float | None) -> str:
    if value is None or math.isnan(value):
        return units.NONE
    return f"{value:.4g}".replace("inf", "∞")


def _interval(judgement: Judgement) -> str:
    return " to ".join(map(_shown, judgement.interval)) if judgement.interval else units.NONE


def notes(found: Findings) -> list[str]:
    """What is to be known of a verdict, a line for each claim that has such."""
    return [f"{one.claim.name}: {one.judgement.note}" for one in found.claims if one.judgement.note]


def caption(found: Findings) -> str:
    """What the numbers are: seeds, the interval, what it took."""
    count = len(found.seeds)
    spread = "mean ± half of the 95 % interval (Student's t) over" if count > 1 else "values of"
    seeds = f"seed{'s' if count > 1 else ''} {', '.join(map(str, found.seeds))}"
    return f"{spread} {seeds}; {len(_all_runs(found))} runs, {units.duration(seconds(found))} of computing"


def markdown(found: Findings, figures: Sequence[str] = ()) -> str:
    """The tables as a page; `figures` are names of files beside it."""
    study = found.study
    quick = "*A quick look: fewer arms, seeds or rounds than the study itself.*" if study.quick else ""
    about = [
        f"- **{_plain(one.claim.name)}**: `{one.claim.expression.text}`. {one.claim.about}".rstrip()
        + (f" *{one.judgement.note}.*" if one.judgement.note else "")
        for one in found.claims
    ]
    machine = ", ".join(
        f"{name} {value}" for part in ("versions", "hardware") for name, value in facts(found, part).items()
    )
    parts = [
        f"# {study.title}",
        study.about,
        quick,
        *(f"{text}:\n\n{_table(cells)}" for text, cells in crossed_cells(found, spread=True)),
        _table(arms_cells(found)) if arms_cells(found)[1] else "",
        f"{caption(found)[0].upper()}{caption(found)[1:]}.",
        *(["## Claims", _table(claims_cells(found), bold=4), "\n".join(about)] if found.claims else []),
        *(f"![{name}]({name})" for name in figures),
        f"{machine}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(cells: Cells, bold: int = -1) -> str:
    columns, lines = cells
    rows = [columns, ["---"] * len(columns)]
    rows += [[f"**{_plain(cell)}**" if i == bold else _plain(cell) for i, cell in enumerate(line)] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def write(found: Findings) -> list[Path]:
    """Write results.json, table.md and the figures into the results of the study; returns what was written."""
    folder = found.study.results
    folder.mkdir(parents=True, exist_ok=True)
    figures = draw(found, folder)
    with whole(folder / "results.json") as aside:
        aside.write_text(_json(results(found)), encoding="utf-8")
    with whole(folder / "table.md") as aside:
        aside.write_text(markdown(found, [path.name for path in figures]), encoding="utf-8")
    return [folder / "results.json", folder / "table.md", *figures]


def _json(values: dict[str, Any]) -> str:
    """JSON with a line for each list of numbers."""
    text = json.dumps(values, indent=1, allow_nan=False)
    return re.sub(r"\[\n([^\[\]{}]*)\n *\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"
