"""Arms, settings and grids: what a file with differences means."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from gossamer.arms import apply, expand, flattened, in_words, load_arms, load_sweep, merge
from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment

FILE = """
name = "first"
rounds = 7
learner = { lr = 0.05, momentum = 0.9 }
partition = "iid"

[arms.server]
[arms.ring]
method = "dsgd"
topology = "ring"
"learner.batch_size" = 8
[arms.adam]
learner = { kind = "adam", lr = 0.001 }
partition.min_size = 2
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_arms_equal_experiments_built_in_python(tmp_path):
    text = FILE.replace("partition.min_size = 2\n", "")
    sgd = {"kind": "sgd", "lr": 0.05, "momentum": 0.9}
    shared = {"rounds": 7, "partition": "iid"}
    assert load_arms(written(tmp_path, text)) == {
        "server": Experiment(name="first-server", learner=sgd, **shared),
        "ring": Experiment(
            name="first-ring", method="dsgd", topology="ring", learner={**sgd, "batch_size": 8}, **shared
        ),
        "adam": Experiment(name="first-adam", learner={"kind": "adam", "lr": 0.001}, **shared),
    }


def test_a_file_without_arms_is_one_arm_named_after_the_experiment(tmp_path):
    arms = load_arms(written(tmp_path, 'name = "solo"\nrounds = 3\n'))
    assert arms == {"solo": Experiment(name="solo", rounds=3)}


def test_an_unknown_key_names_the_arm_and_the_nearest_key(tmp_path):
    with pytest.raises(ExperimentError, match=r"arm 'adam': unknown key 'partition\.min_size'"):
        load_arms(written(tmp_path, FILE))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms = 3", "one table for each arm"),
        ("arms = { a = 3 }", r"arms\.a: write a table"),
        ('[arms."a b"]', "letters, digits"),
        ("sweep = [1]", "a table of lists"),
        ('[sweep]\n"learner.lr" = 0.1', "give a list"),
        ('[sweep]\n"learner.lr" = []', "at least one value"),
        ("name = ", "experiment.toml: the file is not valid TOML"),
        ('transforms = ["cast"]\n[arms.a.transforms]\nx = 1', "arm 'a': 'transforms' is a list"),
    ],
)
def test_a_wrong_shape_is_one_line_that_says_what_to_write(tmp_path, text, message):
    with pytest.raises(ExperimentError, match=message) as caught:
        load_arms(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_settings_hold_for_every_arm_and_the_name_keeps_the_arm(tmp_path):
    path = written(tmp_path, FILE.replace("partition.min_size = 2\n", ""))
    arms = load_arms(path, ["rounds=2", "learner.lr=0.5", "name=other"])
    assert [arm.name for arm in arms.values()] == ["other-server", "other-ring", "other-adam"]
    assert {arm.rounds for arm in arms.values()} == {2}
    assert {arm.learner.lr for arm in arms.values()} == {0.5}
    assert arms["adam"].learner.kind == "adam"


SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)
)


@given(SCALARS | st.lists(st.integers(-100, 100), max_size=4))
def test_a_setting_written_as_toml_arrives_with_its_type(value):
    text = tomli_w.dumps({"v": value}).strip().removeprefix("v = ")
    got = apply({}, f"a.b = {text}")["a"]["b"]
    assert got == value
    assert type(got) is type(value)


def test_bare_words_are_strings_and_dots_go_into_tables():
    assert apply({}, "method=fedavg") == {"method": "fedavg"}
    assert apply({"topology": "ring"}, "topology.weights=uniform") == {
        "topology": {"kind": "ring", "weights": "uniform"}
    }
    assert apply({"learner": {"kind": "sgd", "momentum": 0.9}}, "learner.kind=adam") == {"learner": {"kind": "adam"}}

    assert apply({"model": {"kind": "mlp", "hidden": [8]}}, 'model={file="m.py"}') == {"model": {"file": "m.py"}}


@pytest.mark.parametrize("setting", ["rounds", "=3", "a..b=3", "a=[1", "a=", 'a="x'])
def test_a_malformed_setting_says_how_to_write_one(setting):
    with pytest.raises(ExperimentError, match="--set"):
        apply({}, setting)


TABLES = st.recursive(
    st.integers(0, 3) | st.text("xy", max_size=2),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "c", "kind"]), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


@given(TABLES, TABLES)
def test_merging_is_idempotent_and_changes_neither_table(base, differences):
    before = copy.deepcopy((base, differences))
    once = merge(base, differences)
    assert (base, differences) == before
    assert merge(base, {}) == base
    assert merge({}, base) == base
    assert merge(once, once) == once


@given(st.dictionaries(st.sampled_from("abcd"), st.integers()), st.dictionaries(st.sampled_from("abcd"), st.integers()))
def test_without_tables_merging_is_that_of_dictionaries(base, differences):
    assert merge(base, differences) == {**base, **differences}


def test_a_grid_is_the_product_of_its_axes_and_changes_nothing_else():
    arms = {"a": Experiment(name="x-a"), "b": Experiment(name="x-b", method="dsgd", topology="ring")}
    grid = {"learner.lr": [0.1, 0.01], "model": [{"kind": "mlp", "hidden": [8]}, "softmax_regression"]}
    points = expand(arms, grid, [3, 4])
    assert len(points) == 2 * 2 * 2
    assert set(points) >= {"a-lr0.1-mlp_hidden8", "b-lr0.01-softmax_regression"}
    for label, experiments in points.items():
        assert [one.seed for one in experiments] == [3, 4]
        base = flattened(arms[label[0]].to_dict())
        for one in experiments:
            assert one.name == f"x-{label}"
            changed = {key for key, value in flattened(one.to_dict()).items() if base.get(key) != value}
            assert changed <= {"name", "seed", "learner.lr", "model.kind", "model.hidden"}
    assert len({one.digest() for experiments in points.values() for one in experiments}) == 16


def test_a_grid_over_the_seed_gives_seeds_not_arms(tmp_path):
    path = written(tmp_path, "[sweep]\nseed = [5, 6]\nlearner.lr = [0.1]\n")
    points = expand(load_arms(path), load_sweep(path))
    assert list(points) == ["lr0.1"]
    assert [one.seed for one in points["lr0.1"]] == [5, 6]
    assert [one.seed for one in expand(load_arms(path), load_sweep(path), [9])["lr0.1"]] == [9]


def test_an_impossible_point_is_named_and_a_double_one_refused():
    arms = {"a": Experiment(name="x-a")}
    with pytest.raises(ExperimentError, match=r"arm 'a-lr-1': sweep\.\"learner\.lr\": learner\.lr = -1"):
        expand(arms, {"learner.lr": [-1]})
    with pytest.raises(ExperimentError, match=r"arm 'a-lrr1-rounds3': sweep\.\"learner\.lrr\": unknown key"):
        expand(arms, {"learner.lrr": [1], "rounds": [3]})
    with pytest.raises(ExperimentError, match="two points"):
        expand(arms, {"rounds": [3, 3]})


def test_keys_of_a_grid_may_need_each_other():
    arms = {"a": Experiment(name="x-a")}
    (one,) = expand(arms, {"method": ["dsgd"], "topology": ["ring"]})["a-dsgd-ring"]
    assert (one.method.kind, one.topology.kind) == ("dsgd", "ring")


@pytest.mark.parametrize("seeds", [[1, 2, 1], []])
def test_a_seed_given_twice_is_refused_and_named(seeds):
    with pytest.raises(ExperimentError, match="seed 1 is given twice"):
        expand({"a": Experiment(name="x-a")}, {} if seeds else {"seed": [1, 1]}, seeds)


ADAM = {"kind": "adam", "lr": 0.005, "batch_size": 16, "epochs": 2, "clip_norm": 1.0, "weight_decay": 0.1, "beta1": 0.8}
KEPT = {"batch_size": 16, "epochs": 2, "clip_norm": 1.0}


@pytest.mark.parametrize(
    ("before", "difference", "after"),
    [
        ({"learner": ADAM}, {"learner": {"kind": "sgd"}}, {"kind": "sgd", **KEPT}),
        ({"learner": ADAM}, {"learner": "sgd"}, {"kind": "sgd", **KEPT}),
        ({"learner": ADAM}, {"learner.kind": "sgd"}, {"kind": "sgd", **KEPT}),
        ({"learner": ADAM}, {"learner": "adam"}, ADAM),
        ({"learner": ADAM}, {"learner": {"file": "own.py"}}, {"file": "own.py", **KEPT}),
        (
            {"learner": ADAM},
            {"learner": {"kind": "sgd", "steps": 5, "batch_size": 8}},
            {"kind": "sgd", "steps": 5, "batch_size": 8, "clip_norm": 1.0},
        ),
        (
            {"topology": {"kind": "random_regular", "degree": 3, "weights": "uniform"}},
            {"topology": "ring"},
            {"kind": "ring", "weights": "uniform"},
        ),
        (
            {"schedule": {"kind": "every", "k": 5, "participation": 0.5}},
            {"schedule": {"kind": "other"}},
            {"kind": "other", "participation": 0.5},
        ),
        (
            {"init": {"kind": "xavier", "shared": False}},
            {"init": {"kind": "zeros"}},
            {"kind": "zeros", "shared": False},
        ),
        ({"model": {"kind": "mlp", "hidden": [8]}}, {"model": {"kind": "lenet5"}}, {"kind": "lenet5"}),
    ],
)
def test_another_kind_keeps_what_every_kind_of_the_family_has(before, difference, after):
    (key,) = before
    assert merge(before, difference)[key] == after


def test_an_arm_and_a_setting_with_another_learner_do_the_same_local_work(tmp_path):
    text = 'learner = { kind = "adam", lr = 0.005, batch_size = 16, epochs = 2 }\n'
    expected = Experiment(learner={"kind": "sgd", "batch_size": 16, "epochs": 2}).learner
    arm = load_arms(written(tmp_path, text + '[arms.a]\nlearner = { kind = "sgd" }\n'))["a"]
    assert arm.learner == expected
    assert load_arms(written(tmp_path, text), ["learner.kind=sgd"])["experiment"].learner == expected


def test_a_choice_in_words_tells_what_is_not_the_default():
    table = Experiment(partition={"kind": "dirichlet", "alpha": 0.25}, method="dsgd", topology="ring").to_dict()
    assert in_words("partition", table["partition"]) == "dirichlet (alpha 0.25)"
    assert in_words("topology", table["topology"]) == "ring"
    assert in_words("transforms", {"kind": "cast", "to": "float16"}).startswith("cast")
    assert in_words("model", {"kind": "of nobody", "width": 3}) == "of nobody (width 3)"


def test_a_setting_cannot_silently_lose_to_the_grid(tmp_path):
    path = written(tmp_path, '[sweep]\n"learner.lr" = [0.1]\n')
    with pytest.raises(ExperimentError, match=r"sweeps over 'learner\.lr'"):
        load_sweep(path, ["learner.lr=0.5"])


def test_the_first_example_has_its_four_arms_and_a_valid_grid():
    path = Path(__file__).parent.parent / "examples" / "first.toml"
    arms = load_arms(path)
    assert {arm: (one.method.kind, one.topology.kind) for arm, one in arms.items() if arm != "alone"} == {
        "fedavg": ("fedavg", "server"),
        "ring": ("dsgd", "ring"),
        "regular": ("dsgd", "random_regular"),
    }
    assert arms["alone"].method.kind == "local"
    same = [{**one.to_dict(), "name": "", "method": "", "topology": ""} for one in arms.values()]
    assert all(table == same[0] for table in same), "the arms differ in who talks to whom, and in nothing else"
    assert len(expand(arms, load_sweep(path))) % len(arms) == 0


def test_a_kind_is_chosen_before_its_fields_are_set_and_steps_replace_epochs(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text("[learner]\nepochs = 2\n\n[arms.few]\nlearner.steps = 5\n\n[arms.base]\n")
    arms = load_arms(file)
    assert (arms["few"].learner.steps, arms["few"].learner.epochs) == (5, None)
    assert arms["base"].learner.epochs == 2
    changed = load_arms(file, ["learner.lr=0.01", "learner.kind=adam"])["base"].learner
    assert (changed.kind, changed.lr, changed.epochs) == ("adam", 0.01, 2)
    points = expand(arms, {"learner.lr": [0.01], "learner.kind": ["adam"]}, [0])
    learners = [one.learner for ones in points.values() for one in ones]
    assert len(learners) == 2
    assert all(learner.lr == 0.01 and learner.kind == "adam" for learner in learners)
