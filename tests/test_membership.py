"""Membership audits: what canaries are, who is trained on which, and what real runs show."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from command_line import command_line  # noqa: F401 - the fixture `call`
from hypothesis import given
from hypothesis import strategies as st

import gossamer
from gossamer import accounting
from gossamer.audits.canaries import plant, relabelling
from gossamer.audits.drawing import largest_tpr
from gossamer.audits.membership import Promise, findings, membership, promised
from gossamer.data import Dataset
from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.groundwork import initial_module, load_dataset
from gossamer.preprocessing import hold_out
from gossamer.randomness import generator

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
