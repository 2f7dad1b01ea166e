"""What the finished runs of a study say: metrics of every arm, verdicts on the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.errors import RunError
from gossamer.studies.agenda import Task, finished_run
from gossamer.studies.claims import Term
from gossamer.studies.contents import few
from gossamer.studies.outcomes import METRICS, outcome, reaches, within
from gossamer.studies.verdicts import OPEN, UNDEFINED, UNPAID, Judgement, judge

if TYPE_CHECKING:
    from gossamer.runs import Run
    from gossamer.studies.contents import Claim
    from gossamer.studies.study import Study

Runs = Mapping[str, Mapping[int, "Run"]]
"""Finished runs by arm and seed."""


def tasks_of(study: Study, runs: Path, seeds: Sequence[int], arms: Sequence[str]) -> list[Task]:
    """The runs of these arms, seed by seed, so that whatever is done first can be compared; they lie below `runs`."""
    return [
        Task(arm, seed, study.experiments[arm].replace(seed=seed), study.run_folder(runs, arm, seed))
        for seed in seeds
        for arm in arms
    ]


def finished_runs(study: Study, runs: Path, seeds: Sequence[int]) -> dict[str, dict[int, Run]]:
    """The runs of a study that are finished, by arm and seed."""
    found: dict[str, dict[int, Run]] = {}
    for task in tasks_of(study, runs, seeds, tuple(study.experiments)):
        if (run := finished_run(task)) is not None:
            found.setdefault(task.arm, {})[task.seed] = run
    return {arm: found[arm] for arm in study.experiments if arm in found}


@dataclass(frozen=True)
class Finding:
    """A claim with its verdict, and its value for each seed (None where a run is missing, NaN where undefined)."""

    claim: Claim
    judgement: Judgement
    per_seed: tuple[float | None, ...]


@dataclass(frozen=True)
class Findings:
    """What the finished runs of a study say over these seeds; `outcomes[arm][metric]` has a value for each seed."""

    study: Study
    seeds: tuple[int, ...]
    runs: Runs
    outcomes: Mapping[str, Mapping[str, Sequence[float | None]]]
    claims: tuple[Finding, ...]


def find(study: Study, seeds: Sequence[int], runs: Runs) -> Findings:
    """Metrics of the runs and verdicts on the claims.

    Raises RunError where there is no run, or one has not measured what a claim is about.
    """
    if not runs:
        quick = " --quick" if study.quick else ""
        raise RunError(f"no run of study '{study.name}' is finished; run it: gossamer study run {study.folder}{quick}")
    outcomes = {
        arm: {name: [outcome(of[seed], name) if seed in of else None for seed in seeds] for name in METRICS}
        for arm, of in runs.items()
    }
    return Findings(
        study, tuple(seeds), runs, outcomes, tuple(_finding(one, study, seeds, runs) for one in study.claims)
    )


def _finding(claim: Claim, study: Study, seeds: Sequence[int], runs: Runs) -> Finding:
    """A claim over the seeds for which all of its arms have a run."""
    terms = claim.expression.terms
    arms = dict.fromkeys(arm for term in terms for arm in study.arms_of(term))
    absent = [arm for arm in arms if arm not in runs]
    if absent:
        left_out = [arm for arm in absent if arm not in study.experiments]
        note = f"needs {_listed(left_out or absent)}, {'left out by [quick]' if left_out else 'without a finished run'}"
        return Finding(claim, Judgement(OPEN, None, None, note), tuple(None for _ in seeds))
    values: list[float | None] = []
    for seed in seeds:
        if not all(seed in runs[arm] for arm in arms):
            values.append(None)
            continue
        found = {term: _measured(claim, term, [runs[arm][seed] for arm in study.arms_of(term)]) for term in terms}
        values.append(claim.expression.value(found.__getitem__))
    undefined = UNDEFINED if all(term.budget is None for term in terms) else UNPAID
    return Finding(claim, judge(claim.bar, values, undefined), tuple(values))


def _measured(claim: Claim, term: Term, runs: Sequence[Run]) -> float:
    """What a claim asks of a run; or of several the extreme, those aside that have not measured it (an attack without
    an aim has no success)."""
    if term.target is not None:
        values = [reaches(run, term.metric, term.target) for run in runs]
    elif term.budget is not None:
        values = [within(run, term.metric, term.budget) for run in runs]
    else:
        values = [outcome(run, term.metric) for run in runs]
    there = [value for value in values if value is not None]
    if not there:
        raise RunError(
            f"claim '{claim.name}': {term} was not measured by {runs[0].folder}; "
            "take a metric that this arm has, or change what is evaluated"
        )
    return min(there) if term.over == "worst" else max(there)


def _listed(arms: Sequence[str]) -> str:
    return f"arm{'s' if len(arms) > 1 else ''} {few(arms)}"
