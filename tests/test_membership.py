"""Membership audits: what scores show, held to closed forms and simulations; what canaries are; real runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from command_line import command_line  # noqa: F401 - the fixture `call`
from hypothesis import given, settings
from hypothesis import strategies as st

import gossamer
from gossamer import accounting
from gossamer.audits.advantage import (
    Guesses,
    Scores,
    advantage,
    auc,
    auc_interval,
    best_threshold,
    chance_of,
    crossed,
    difference,
    epsilon_shown,
    evidence,
    guess,
    halves,
    surest,
    tpr_at,
    wilson,
)
from gossamer.audits.canaries import plant, relabelling
from gossamer.audits.drawing import largest_tpr, roc
from gossamer.audits.membership import Promise, findings, membership, promised
from gossamer.data import Dataset
from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.groundwork import initial_module, load_dataset
from gossamer.preprocessing import hold_out
from gossamer.randomness import generator


def scores(values, inside, seed=0):
    return Scores(np.asarray(values, dtype=float), np.asarray(inside, dtype=bool), seed)


def drawn(rng, canaries, shift, seed=0):
    """Normal scores that are `shift` higher where the coin says in."""
    inside_K = rng.random(canaries) < 0.5
    return scores(rng.normal(size=canaries) + shift * inside_K, inside_K, seed)


FEW_SCORES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12).filter(
    lambda pairs: len({inside for _, inside in pairs}) == 2
)


# ---- what scores show ----------------------------------------------------------------------------------------


def test_perfect_scores_are_an_advantage_of_one_and_equal_ones_of_none():
    inside_K = np.arange(400) % 2 == 0
    seen = evidence([scores(inside_K, inside_K)])
    assert (seen.advantage.value, seen.auc.value, seen.tpr_at_1) == (1.0, 1.0, 1.0)
    assert 0.96 < seen.advantage.low < 1
    assert seen.epsilon > 3
    seen = evidence([scores(np.zeros(400), inside_K)])
    assert (seen.advantage.value, seen.auc.value, seen.tpr_at_1, seen.epsilon) == (0.0, 0.5, 0.0, 0.0)
    # An attack that is always wrong shows as little as one that guesses.
    assert evidence([scores(~inside_K, inside_K)]).advantage.value <= 0


@given(FEW_SCORES)
def test_the_best_threshold_is_the_best_of_all(pairs):
    run = scores(*zip(*pairs, strict=True))

    def gain(threshold):
        made = guess(run, threshold)
        return made.hits / made.inside - made.alarms / made.outside

    every = [-math.inf, *(np.unique(run.scores_K) + 0.5), math.inf]
    assert gain(best_threshold(run)) == pytest.approx(max(map(gain, every)), abs=1e-12)
    assert best_threshold(run) not in run.scores_K, "equal scores get equal guesses"


@given(FEW_SCORES)
def test_the_area_is_the_share_of_pairs(pairs):
    run = scores(*zip(*pairs, strict=True))
    ins, outs = run.scores_K[run.inside_K], run.scores_K[~run.inside_K]
    wins = [(a > b) + 0.5 * (a == b) for a in ins for b in outs]
    assert auc(run) == pytest.approx(np.mean(wins))
    fpr, tpr = roc(run)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auc(run))
    assert tpr_at(run, 0.4) == max(t for t, f in zip(tpr, fpr, strict=True) if f <= 0.4)


def test_each_half_is_guessed_by_what_the_other_taught():
    # In one half high scores are in, in the other low ones: what is learned on the first misleads on the other, which
    # teaches that a high score never means "in".
    first_K = np.isin(np.arange(200), halves(scores(np.arange(200), np.ones(200)))[0].scores_K)
    high_K = np.arange(200) >= 100
    made = crossed(scores(np.arange(200), high_K == first_K))
    assert made.hits < 0.05 * made.inside
    assert made.alarms > 0.45 * made.outside
    one, other = halves(scores(np.arange(200), high_K))
    assert sorted([*one.scores_K, *other.scores_K]) == list(range(200))
    assert len(one.scores_K) == len(other.scores_K)


def test_intervals_are_those_of_the_papers():
    """Newcombe 1998, Table II, method 10; Wilson's by scipy."""
    from scipy.stats import binomtest

    for counts, low, high in (((56, 70, 48, 80), 0.0524, 0.3339), ((9, 10, 3, 10), 0.1705, 0.8090),
                              ((10, 10, 0, 10), 0.6075, 1.0)):  # fmt: skip
        assert difference(Guesses(*counts))[1:] == pytest.approx((low, high), abs=1e-4)
    for count, of in ((0, 7), (3, 10), (50, 50)):
        assert wilson(count, of) == pytest.approx(tuple(binomtest(count, of).proportion_ci(method="wilson")), abs=1e-12)


def test_the_interval_of_an_area_solves_its_equation():
    for area, inside, outside in ((0.5, 40, 60), (0.9, 500, 480), (1.0, 20, 30), (0.0, 20, 30)):
        found = auc_interval(area, inside, outside)
        for end in {found.low, found.high} - {0.0, 1.0}:
            more = (inside + outside) / 2 - 1
            spread = end * (1 - end) * (1 + more * ((1 - end) / (2 - end) + end / (1 + end))) / (inside * outside)
            assert abs(area - end) == pytest.approx(1.959964 * math.sqrt(spread), rel=1e-5)
        mirrored = auc_interval(1 - area, inside, outside)
        assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high), abs=1e-9)


@pytest.mark.parametrize(("canaries", "shift"), [(60, 0.0), (400, 0.0), (400, 0.7), (400, 3.0)])
def test_intervals_hold_the_truth_in_95_of_100_cases(canaries, shift):
    from scipy.stats import norm

    rng, repeats = np.random.default_rng(5), 300
    true_area, best = norm.cdf(shift / math.sqrt(2)), 2 * norm.cdf(shift / 2) - 1
    held = np.zeros(2)
    for seed in range(repeats):
        run = drawn(rng, canaries, shift, seed)
        found = advantage([run]), auc_interval(auc(run), run.inside_K.sum(), (~run.inside_K).sum())
        held += [one.low <= true <= one.high for one, true in zip(found, (best, true_area), strict=True)]
    # 95 % of 300 with three standard deviations.
    assert (held >= 274).all()


def test_more_seeds_narrow_the_interval():
    rng = np.random.default_rng(0)
    runs = [drawn(rng, 400, 1.0, seed) for seed in range(4)]
    one, four = evidence(runs[:1]).advantage, evidence(runs).advantage
    assert four.high - four.low < 0.6 * (one.high - one.low)
    assert four.low < 2 * 0.6914625 - 1 < four.high


# ---- a lower bound on epsilon --------------------------------------------------------------------------------


def transcribed(canaries, made, right, epsilon, delta):
    """The p-value of Steinke, Nasr and Jagielski 2023, Appendix D, as a loop."""
    from scipy.stats import binom

    share = math.exp(epsilon) / (1 + math.exp(epsilon))
    most = between = 0.0
    for i in range(1, right + 1):
        between += binom.pmf(right - i, made, share)
        most = max(most, between / i)
    return min(1.0, sum(binom.pmf(k, made, share) for k in range(right, made + 1)) + 2 * canaries * delta * most)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 50), st.floats(0, 4), st.sampled_from([0.0, 1e-5, 0.01]))
def test_the_chance_of_right_guesses_is_that_of_the_paper(made, right, more, epsilon, delta):
    right = min(right, made)
    expected = transcribed(made + more, made, right, epsilon, delta)
    assert chance_of(right, made, made + more, epsilon, delta) == pytest.approx(expected, abs=1e-12)


def test_randomised_response_is_never_shown_to_spend_more_than_it_does():
    """A mechanism that tells each coin with chance e / (1 + e) has epsilon 1: more is shown in 5 % of cases at most."""
    rng, found = np.random.default_rng(1), []
    for seed in range(150):
        inside_K = rng.random(2000) < 0.5
        told_K = inside_K ^ (rng.random(2000) > math.e / (1 + math.e))
        found.append(epsilon_shown([scores(told_K + rng.random(2000) / 2, inside_K, seed)], 0.0))
    assert np.mean(np.array(found) > 1) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)
    assert 0.75 < np.median(found) < 1


def test_surest_guesses_are_at_both_ends():
    made = surest(scores(np.arange(16), np.arange(16) >= 9), 1 / 4)
    assert (made.hits, made.inside, made.alarms, made.outside, made.right) == (4, 4, 0, 4, 8)


# ---- canaries ------------------------------------------------------------------------------------------------

SMALL = {"nodes": 5, "partition": {"kind": "dirichlet", "alpha": 1.0}, "backend": "eager", "rounds": 1}


def dealt(experiment):
    """The data and the training items of each node, without canaries."""
    dataset = load_dataset(experiment)
    labels = dataset.train.labels
    parts = experiment.partition.deal(labels, None, experiment.nodes, generator(experiment.seed, "partition"))
    return dataset, hold_out(parts, labels, experiment.validation, experiment.seed)[0]


def test_examples_that_are_out_are_in_no_training_data_and_those_in_have_wrong_labels():
    experiment = Experiment(**SMALL)
    dataset, held = dealt(experiment)
    planted = plant(experiment, 400, "example")
    train, canaries = planted.experiment.data.load(None).train, planted.scored.data.load(None).test
    # Digits hold no image twice, so an image names its item.
    name = {image.tobytes(): item for item, image in enumerate(dataset.train.inputs)}
    assert len(name) == len(dataset.train)
    there = [name[image.tobytes()] for image in train.inputs]
    chosen_K = np.array([name[image.tobytes()] for image in canaries.inputs])
    assert len(set(chosen_K)) == 400
    assert not set(chosen_K[~planted.inside_K]) & set(there)
    assert set(there) == set(np.concatenate(held)) - set(chosen_K[~planted.inside_K])
    assert (canaries.labels != dataset.train.labels[chosen_K]).all()
    wrong = dict(zip(chosen_K.tolist(), canaries.labels.tolist(), strict=True))
    assert train.labels.tolist() == [wrong.get(item, int(dataset.train.labels[item])) for item in there]
    # Every node keeps its own, and the scored items know whose they are.
    parts = planted.experiment.partition.deal(train.labels, None, 5, np.random.default_rng(0)).items
    for node, (own, part) in enumerate(zip(held, parts, strict=True)):
        assert {there[i] for i in part} == set(own) - set(chosen_K[~planted.inside_K])
        assert set(chosen_K[planted.node_Q == node]) <= set(own)
    assert planted.experiment.validation == 0
    # All wrong labels are equally likely: nine shifts, chi-square with 8 degrees of freedom.
    shifts = np.bincount((canaries.labels - dataset.train.labels[chosen_K]) % 10, minlength=10)[1:]
    assert ((shifts - 400 / 9) ** 2 / (400 / 9)).sum() < 26


def test_canary_nodes_are_left_out_whole_or_relabelled_whole():
    experiment = Experiment(**{**SMALL, "nodes": 40})
    dataset, held = dealt(experiment)
    planted = plant(experiment, 30, "node")
    train, canaries = planted.experiment.data.load(None).train, planted.scored.data.load(None).test
    name = {image.tobytes(): item for item, image in enumerate(dataset.train.inputs)}
    there = np.array([name[image.tobytes()] for image in train.inputs])
    parts = planted.experiment.partition.deal(train.labels, None, planted.experiment.nodes, np.random.default_rng(0))
    left = {frozenset(there[part].tolist()): train.labels[part] for part in parts.items}
    assert planted.experiment.nodes == len(left) == 40 - np.count_nonzero(~planted.inside_K)
    items_Q = np.array([name[image.tobytes()] for image in canaries.inputs])
    relabelled = 0
    for canary in range(30):
        own, labels = items_Q[planted.canary_Q == canary], canaries.labels[planted.canary_Q == canary]
        assert any(set(own) == set(node) for node in held)
        assert (frozenset(own.tolist()) in left) == planted.inside_K[canary]
        before = dataset.train.labels[own]
        assert len(set(zip(before, labels, strict=True))) == len(set(before)) == len(set(labels)), "one to one"
        assert (before != labels).all()
        relabelled += len(own)
    ordinary = [node for node in held if set(node) & set(items_Q) == set()]
    assert len(ordinary) == 10
    assert all((np.sort(left[frozenset(n.tolist())]) == np.sort(dataset.train.labels[n])).all() for n in ordinary)


def test_coins_are_fair_and_those_of_the_seed():
    experiment = Experiment(**SMALL)
    first, again = (plant(experiment, 1000, "example") for _ in range(2))
    other = plant(experiment.replace(seed=1), 1000, "example")
    assert (first.inside_K == again.inside_K).all()
    assert (first.scored.data.load(None).test.inputs == again.scored.data.load(None).test.inputs).all()
    assert (first.inside_K != other.inside_K).any()
    total = sum(plant(experiment.replace(seed=seed), 1000, "example").inside_K.sum() for seed in range(10))
    assert abs(total - 5000) < 4 * 50


@given(st.integers(2, 12), st.integers(0, 100))
def test_a_relabelling_leaves_no_class_as_it_was(classes, seed):
    permutation = relabelling(classes, np.random.default_rng(seed))
    assert sorted(permutation) == list(range(classes))
    assert (permutation != np.arange(classes)).all()


def sequences():
    text, labels = np.zeros((40, 5), np.int64), np.zeros((40, 5), np.int64)
    labels[0, 0] = 1
    return Dataset.of(text, labels, text, labels)


@pytest.mark.parametrize(
    ("changes", "canaries", "unit", "message"),
    [
        ({"validation": 0.0}, 5000, "example", "canaries = 5000: there are only 1438 training items"),
        ({}, 20, "node", "canaries = 20: there are only 5 nodes"),
        ({}, 3, "example", "canaries = 3: so few show nothing; use 20 or more"),
        ({}, 100, "client", "unit = 'client': canaries are of unit 'example' or 'node'"),
        ({"hostile": {"kind": "byzantine", "count": 1}}, 100, "example", "hostile.kind = 'byzantine'"),
        ({"partition": "dirichlet_pool"}, 100, "example", "partition.kind = 'dirichlet_pool'"),
        ({"partition": [[n] for n in range(30)], "nodes": 30}, 30, "example", "without an item; use fewer"),
        ({"partition": [np.arange(300)] * 30, "nodes": 30}, 20, "node", "nodes share items"),
        ({"data": sequences(), "partition": "iid"}, 20, "example", "one label for each item"),
        ({"method": {"kind": "fedper", "head": ["3.*"]}}, 100, "example", "method.kind = 'fedper'"),
    ],
)
def test_what_cannot_be_audited_is_named(changes, canaries, unit, message, tmp_path):
    experiment = Experiment(**{**SMALL, **changes})
    with pytest.raises(ExperimentError) as caught:
        membership(experiment, canaries, unit, tmp_path / "run")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# ---- runs ----------------------------------------------------------------------------------------------------

LEARNING = {
    "nodes": 2,
    "rounds": 25,
    "partition": "iid",
    "model": {"kind": "mlp", "hidden": [128]},
    "learner": {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "epochs": 4},
    "preprocess": {"normalise": "fixed"},
    "evaluate": {"every": 0},
    "backend": "eager",
}


def test_a_model_that_learned_by_heart_gives_its_canaries_away(tmp_path):
    experiment = Experiment(**LEARNING)
    audit = membership(experiment, 400, folder=tmp_path / "run")
    seen = findings([audit])
    assert seen.advantage.low > 0.5
    assert seen.epsilon > 1
    assert audit.promise == Promise(math.inf, 0.0)
    assert audit.promise.bound == 1.0
    # The scores are those of the run's own model, by a calculation of its own.
    import torch

    planted = plant(experiment, 400, "example")
    run = gossamer.open_run(tmp_path / "run", planted.experiment)
    assert run.record["status"] == "finished"
    assert sum(run.record["samples"]) == len(planted.experiment.data.load(None).train)
    canaries = planted.scored.data.load(None).test
    inputs = torch.from_numpy((canaries.inputs / 255 - 0.3053) / 0.3759).float()
    odds = []
    for model in (run.model(), initial_module(planted.experiment, (1, 8, 8), 10).eval()):
        with torch.no_grad():
            chance = model(inputs).double().softmax(1).numpy()[np.arange(400), canaries.labels]
        odds.append(np.log(chance) - np.log1p(-chance))
        if len(odds) == 1:
            np.testing.assert_allclose(audit.scores["loss"], np.log(chance), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(audit.scores["difference"], odds[0] - odds[1], rtol=1e-4, atol=1e-4)


def test_nodes_on_a_graph_are_asked_for_their_own_canaries(tmp_path):
    """Where nobody talks, only the own model knows a canary: others' models would show nothing."""
    normalised = {"preprocess": {"normalise": "per_node"}}
    alone = membership(Experiment(**{**LEARNING, **normalised, "method": "local"}), 400, folder=tmp_path / "alone")
    assert findings([alone]).advantage.low > 0.6
    seldom = {"method": "dsgd", "topology": "ring", "nodes": 3, "schedule": {"kind": "every", "k": 9}, "rounds": 10}
    ring = membership(Experiment(**{**LEARNING, **seldom}), 400, folder=tmp_path / "ring")
    assert findings([ring]).advantage.low > 0.3


def test_a_node_shows_in_a_model_of_few(tmp_path):
    experiment = Experiment(**{**LEARNING, "nodes": 24, "rounds": 30, "learner": {"lr": 0.2, "epochs": 3}})
    audit = membership(experiment, 20, "node", tmp_path / "run")
    assert findings([audit]).auc.low > 0.6
    assert len(audit.inside_K) == 20
    run = gossamer.open_run(tmp_path / "run", plant(experiment, 20, "node").experiment)
    assert run.record["nodes"] == 24 - np.count_nonzero(~audit.inside_K)


def test_privacy_per_example_keeps_canaries(tmp_path):
    pytest.importorskip("dp_accounting")
    privacy = {"kind": "per_example", "clip": 1.0, "epsilon": 1.0}
    brief = {"rounds": 5, "learner": {"lr": 0.05, "batch_size": 64, "epochs": 1}, "privacy": privacy}
    audit = membership(Experiment(**{**LEARNING, **brief}), 400, folder=tmp_path / "run")
    assert (audit.promise.epsilon, audit.promise.delta) == (pytest.approx(1.0, abs=0.01), 1e-5)
    assert audit.promise.bound == pytest.approx(0.462, abs=0.005)
    assert findings([audit]).advantage.high < audit.promise.bound
    assert findings([audit]).epsilon < 1


def test_what_a_guarantee_says_of_another_unit():
    node = {"unit": "node", "epsilon": 1.0, "delta": 1e-5, "adjacency": "add_or_remove"}
    assert promised({"privacy": node}, "node") == Promise(1.0, 1e-5)
    assert promised({"privacy": node}, "example") == Promise(2.0, pytest.approx((1 + math.e) * 1e-5))
    assert promised({"privacy": {**node, "adjacency": "replace_one"}}, "example") == Promise(1.0, 1e-5)
    nothing = Promise(math.inf, 0.0)
    for record in (
        {},
        {"privacy": None},
        {"privacy": {**node, "epsilon": None}},
        {"privacy": {**node, "unit": "example"}},
    ):
        assert promised(record, "node") == nothing


def test_the_curve_of_a_guarantee_has_its_advantage():
    fpr = np.linspace(0, 1, 200_001)
    for epsilon, delta in ((1.0, 1e-5), (8.0, 1e-5), (0.3, 0.05)):
        most = (largest_tpr(fpr, epsilon, delta) - fpr).max()
        assert most == pytest.approx(accounting.advantage(epsilon, delta), abs=1e-4)


# ---- the command ---------------------------------------------------------------------------------------------

FILE = """
name = "leaky"
nodes = 2
rounds = 3
partition = "iid"
learner = { lr = 0.1, steps = 3 }
evaluate = { every = 0 }
backend = "eager"
[arms.one]
[arms.two]
learner.lr = 0.01
"""


def test_the_command_tells_every_arm_and_draws(call, tmp_path):
    (tmp_path / "leaky.toml").write_text(FILE)
    words = ["audit", "membership", "leaky.toml", "--canaries", "60"]
    code, out, err = call(*words, "--seeds", "0,1", "--save", "pictures/audit.png")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith((" one ", " two "))] == ["one", "two"]
    assert "60 examples, half of them in the training data, with seeds 0, 1" in " ".join(out.split())
    assert (tmp_path / "pictures" / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert "[4/4] two s1: finished" in err
    code, out, _ = call(*words, "--arm", "two", "--json", "--folder", "again")
    told = json.loads(out)
    assert [arm["arm"] for arm in told["arms"]] == ["two"]
    arm = told["arms"][0]
    assert arm["guarantee"] == {"epsilon": None, "delta": 0.0, "bound": 1.0}
    assert set(arm["attacks"]) == {"difference", "loss"}
    assert arm["attacks"]["difference"]["advantage"]["low"] <= arm["attacks"]["difference"]["advantage"]["high"]
    assert arm["runs"][0]["folder"] == "again/leaky-two-canaries-s0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--canaries", "9999"], "canaries = 9999"),
        (["--arm", "three"], "--arm three: the file has one, two"),
        (["--unit", "client"], "'client' is not one of"),
        (["--save", "audit.bmp"], "--save audit.bmp: the name must end in"),
        (["--seeds", "a"], "--seeds a"),
    ],
)
def test_what_the_command_refuses_is_one_line(call, tmp_path, words, message):
    (tmp_path / "leaky.toml").write_text(FILE)
    code, out, err = call("audit", "membership", "leaky.toml", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_example_shows_what_the_page_says(tmp_path):
    """Without privacy nearly every canary is told apart; under epsilon 1 fewer than the bound, by far."""
    pytest.importorskip("dp_accounting")
    arms = gossamer.load_arms(Path(__file__).parent.parent / "examples" / "audit.toml")
    found = {arm: [membership(one.replace(seed=seed), 1000, folder=tmp_path / f"{arm}{seed}") for seed in range(3)]
             for arm, one in arms.items()}  # fmt: skip
    seen = {arm: findings(audits) for arm, audits in found.items()}
    assert seen["none"].advantage.low > 0.9
    assert seen["eps8"].advantage.high < 0.5 * seen["early"].advantage.low + 0.15
    assert seen["eps1"].advantage.high < found["eps1"][0].promise.bound / 2
