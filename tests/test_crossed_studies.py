"""Crossed arms: what pairs of levels are, and that tables, heat maps and claims take the same extremes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from command_line import command_line, write  # noqa: F401 - the fixture `call`
from scipy import stats
from synthetic import synthetic_run
from tiny_study import BASE, changed, study

import gossamer
from gossamer.arms import load_arms
from gossamer.studies.drawing import heat
from gossamer.studies.findings import find
from gossamer.studies.matrices import matrix
from gossamer.studies.results import arms_cells, crossed_cells, markdown, results
from gossamer.studies.study import read_study

CROSS = f"""
title = "Rules"
seeds = [0, 1]
{BASE.replace("nodes = 4", "nodes = 6")}
hostile = {{ count = 1 }}
[arms.clean]
hostile = "nobody"
[cross.rule.mean]
learner = {{ lr = 0.05 }}
[cross.rule.nnm-trimmed]
aggregator = {{ kind = "trimmed_mean", before = ["nnm"] }}
[cross.attack.ipm]
attack = "ipm"
aggregator = {{ f = 1 }}
[cross.attack.flip]
attack = "label_flip"
[cross.attack.none]
[quick]
rounds = 1
[[claims]]
name = "stands up"
value = 'worst("nnm-trimmed", local) - worst(mean, local)'
at_least = 0
[[claims]]
name = "stays away from its aim"
value = "most(mean, attack)"
at_most = 0.5
[[plots]]
kind = "heatmap"
metric = "local"
[[plots]]
kind = "lines"
metric = "local"
"""
CROSSED = CROSS.replace("aggregator = { f = 1 }\n", "")


def crossed(old="", new=""):
    assert old in CROSSED
    return CROSSED.replace(old, new, 1)


def test_each_pair_of_levels_is_an_arm_of_both_their_differences(call):
    folder = study(CROSSED, "rules")
    found, quick = read_study(folder), read_study(folder, quick=True)
    pairs = [f"{rule}--{attack}" for rule in ("mean", "nnm-trimmed") for attack in ("ipm", "flip", "none")]
    assert list(found.experiments) == list(quick.experiments) == ["clean", *pairs]
    differences = {
        "mean": 'learner = { kind = "sgd", lr = 0.05, steps = 2 }',
        "nnm-trimmed": 'aggregator = { kind = "trimmed_mean", before = ["nnm"] }',
        "ipm": 'attack = "ipm"',
        "flip": 'attack = "label_flip"',
        "none": "",
    }
    arms = [f"[arms.{pair}]\n{''.join(differences[level] + chr(10) for level in pair.split('--'))}" for pair in pairs]
    head = CROSSED[CROSSED.index("nodes") : CROSSED.index("[cross")]
    assert dict(found.experiments) == load_arms(write(f'name = "rules"\n{head}{"".join(arms)}'))
    assert {e.rounds for e in quick.experiments.values()} == {1}
    assert found.chosen_arms(["flip", "clean", "mean--flip"]) == ("mean--flip", "nnm-trimmed--flip", "clean")
    assert found.run_folder(Path("runs"), pairs[0], 0) == Path("runs/study-rules/mean--ipm-s0")


def test_the_second_level_is_put_over_the_first(call):
    with_f = read_study(study(CROSS.replace("[cross.rule.mean]", '[cross.rule.mean]\naggregator = "krum"'), "rules"))
    assert with_f.experiments["mean--ipm"].aggregator.f == 1
    assert with_f.experiments["nnm-trimmed--ipm"].aggregator.kind == "trimmed_mean"
    assert with_f.experiments["nnm-trimmed--ipm"].aggregator.before != ()
    assert with_f.experiments["nnm-trimmed--flip"].aggregator.f == 0.2


@pytest.mark.parametrize(
    ("kept", "arms"),
    [
        ('cross = { rule = ["mean"] }', ["clean", "mean--ipm", "mean--flip", "mean--none"]),
        ('cross = { attack = ["flip"], rule = ["mean"] }', ["clean", "mean--flip"]),
        ('arms = []\ncross = { attack = ["none"] }', ["mean--none", "nnm-trimmed--none"]),
        (
            'arms = ["nnm-trimmed--ipm"]\ncross = { rule = ["mean"], attack = ["none"] }',
            ["mean--none", "nnm-trimmed--ipm"],
        ),
        ('arms = ["mean--ipm"]', ["mean--ipm"]),
    ],
)  # fmt: skip
def test_a_quick_look_keeps_arms_by_name_and_levels(call, kept, arms):
    found = read_study(study(crossed("[quick]", f"[quick]\n{kept}"), "rules"), quick=True)
    assert list(found.experiments) == arms
    levels = {*found.cross.rows, *found.cross.columns}
    assert levels == {level for arm in arms if "--" in arm for level in arm.split("--")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (crossed("[cross.attack.none]", "[cross.third.none]"), "cross: write two factors of one table for each level"),
        (crossed("[cross.attack.none]", "[cross.attack.mean]"), "cross.attack.mean: both factors have a level of this"),
        (crossed("[cross.attack.none]", "[cross.attack.no--ne]"), "cross.attack.no--ne: a name holds letters"),
        (crossed("[cross.attack.none]", "[cross.attack]\nnone = 1"), "cross.attack.none: write a table"),
        (crossed("[arms.clean]", "[arms.mean--ipm]"), "arms.mean--ipm: crossed arms, or a level of them, have this"),
        (crossed("[arms.clean]", "[arms.flip]"), "arms.flip: crossed arms, or a level of them, have this name"),
        (crossed('attack = "label_flip"', 'attack = "label_flop"'), "arm 'mean--flip': attack"),
        (crossed("rounds = 1\n", "rounds = 0\n"), "with [quick]: arm 'clean': rounds = 0"),
        (crossed("[quick]", '[quick]\ncross = { rules = ["mean"] }'), "quick.cross: no factor 'rules'; factors: rule"),
        (crossed("[quick]", '[quick]\ncross = { rule = ["flip"] }'), "quick.cross.rule: no level 'flip'; levels: me"),
        (crossed("worst(mean, local)", "worst(men, local)"), "no level 'men'; did you mean 'mean'?"),
        (crossed("worst(mean, local)", "worst(clean, local)"), "claim 'stands up': no level 'clean'"),
        (crossed("worst(mean, local)", "worst(mean, attack)"), "worst(mean, attack): of 'attack' more is worse"),
        (crossed("worst(mean, local)", "worst(mean, lokal)"), "no metric 'lokal'; did you mean 'local'?"),
        (changed('"ring.merged"', '"worst(ring, merged)"'), "is about crossed arms, and there is no table [cross]"),
        (changed('kind = "curves"', 'kind = "heatmap"'), "a heat map is of crossed arms, and there is no"),
        (changed('kind = "curves"', 'kind = "lines"'), "lines are of crossed arms, and there is no"),
        (crossed('metric = "local"', 'metrics = ["local"]'), "heat maps show one metric of all crossed arms"),
    ],
)  # fmt: skip
def test_a_broken_cross_is_refused_in_one_line(call, text, message):
    study(text, "rules")
    code, out, err = call("study", "run", "rules")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_tables_and_claims_of_crossed_arms_take_the_extreme_for_each_seed(call, tmp_path):
    values = {  # [row, column, seed]
        ("mean", "ipm"): (0.2, 0.6), ("mean", "flip"): (0.4, 0.3), ("mean", "none"): (0.9, 0.9),
        ("nnm-trimmed", "ipm"): (0.7, 0.8), ("nnm-trimmed", "flip"): (0.8, 0.6), ("nnm-trimmed", "none"): (0.8, 0.9),
    }  # fmt: skip
    runs = {"clean": {s: synthetic_run(tmp_path / f"c{s}", [[0.95, 0.95]], seed=s) for s in (0, 1)}}
    for (row, column), of in values.items():
        arm = f"{row}--{column}"
        runs[arm] = {s: synthetic_run(tmp_path / f"{arm}{s}", [[of[s], of[s]]], seed=s) for s in (0, 1)}
        for s in (0, 1):
            table = runs[arm][s].metrics
            success = [1 - of[s] if column == "flip" else None] * table.num_rows
            at = table.column_names.index("attack_success")
            runs[arm][s].__dict__["metrics"] = table.set_column(
                at, table.schema.field(at), pa.array(success, table.schema.field(at).type)
            )
    found = find(read_study(study(CROSSED, "rules")), (0, 1), runs)
    stands, aim = found.claims
    assert stands.per_seed == pytest.approx((0.7 - 0.2, 0.6 - 0.3))
    assert aim.per_seed == pytest.approx((0.6, 0.7)), "attacks without an aim are passed over"
    one = matrix(found, "local")
    assert (one.rows, one.columns) == (("mean", "nnm-trimmed"), ("ipm", "flip", "none"))
    assert [cell.mean for cell in one.cells[0]] == pytest.approx([0.4, 0.35, 0.9])
    assert [worst.mean for worst in one.worst] == pytest.approx([0.25, 0.65])
    assert matrix(found, "attack").columns == ("flip",)
    assert matrix(found, "merged") is None
    (_, (columns, means)), (_, (_, halves)), *of_attack = crossed_cells(found, spread=True)
    assert columns == ["", "ipm", "flip", "none", "worst"]
    assert means[0] == ["mean", "0.400", "0.350", "0.900", "0.250"]
    half = stats.t.ppf(0.975, 1) * 0.2
    assert halves[0][:2] == ["mean", f"{half:.3f}"]
    assert len(of_attack) == 2, "asked for by a claim"
    assert [line[0] for line in arms_cells(found)[1]] == ["clean"]
    page = markdown(found)
    assert page.count("| mean |") == 4
    assert "mean--ipm" not in page
    assert results(found)["cross"] == {"rule": ("mean", "nnm-trimmed"), "attack": ("ipm", "flip", "none")}
    assert results(found)["arms"]["mean--flip"]["attack"] == pytest.approx([0.6, 0.7])
    drawn = heat(found, found.study.plots[0]).axes[0]
    assert [text.get_text() for text in drawn.texts][:4:2] == [".40", ".35"]
    del runs["mean--flip"]
    found = find(read_study(study(CROSSED, "rules")), (0, 1), runs)
    assert found.claims[0].judgement.note == "needs arm mean--flip, without a finished run"
    assert matrix(found, "local").worst[0] is None


def test_a_crossed_study_runs_and_many_arms_are_counted_not_listed(call, monkeypatch):
    monkeypatch.setattr("gossamer.cli.study.FEW", 2)
    study(CROSSED, "rules")
    code, out, err = call("study", "run", "rules", "--quick", "--seeds", "1", "--arms", "mean,clean")
    assert code == 0
    assert "1 of 4 runs done" in err
    assert re.search(r"left; 3 of 4 arms are not done yet$", err, re.MULTILINE)
    assert "left: mean--none 0/1, clean 0/1" in err
    summaries = {
        a: gossamer.open_run(f"runs/study-rules-quick/mean--{a}-s0").summary() for a in ("ipm", "flip", "none")
    }
    line = next(line.split() for line in out.splitlines() if line.split()[:1] == ["mean"])
    cells = [summaries[attack]["test_accuracy"] for attack in ("ipm", "flip", "none")]
    assert line[1:] == [f"{value:.3f}" for value in [*cells, min(cells)]]
    told = json.loads(Path("studies/rules/results-quick/results.json").read_text(encoding="utf-8"))
    assert told["claims"][1]["per_seed"] == [summaries["flip"]["attack_success"]]
    for name in ("heatmap-local", "lines-local"):
        assert Path(f"studies/rules/results-quick/{name}.png").read_bytes().startswith(b"\x89PNG")
