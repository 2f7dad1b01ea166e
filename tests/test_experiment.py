"""The typed experiment: round trips, and errors that name the field and the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.plugs import discover, families


def test_defaults_round_trip() -> None:
    experiment = Experiment()
    assert Experiment.from_toml(experiment.to_toml()) == experiment
    assert Experiment.from_dict(experiment.to_dict()) == experiment


@given(
    seed=st.integers(0, 2**63 - 1),
    alpha=st.floats(1e-3, 1e3),
    lr=st.floats(1e-6, 10),
    topology=st.sampled_from([{"kind": "ring"}, {"kind": "random_regular", "degree": 4}, {"kind": "complete"}]),
    transforms=st.lists(st.sampled_from([{"kind": "cast"}, {"kind": "cast", "to": "bfloat16"}]), max_size=2),
    validation=st.floats(0, 0.9),
)
def test_any_experiment_round_trips_through_toml(
    seed: int, alpha: float, lr: float, topology: Any, transforms: Any, validation: float
) -> None:
    experiment = Experiment(
        seed=seed,
        partition={"kind": "dirichlet", "alpha": alpha},
        learner={"kind": "adam", "lr": lr},
        method="dsgd",
        topology=topology,
        transforms=transforms,
        validation=validation,
    )
    again = Experiment.from_toml(experiment.to_toml())
    assert again == experiment
    assert again.digest() == experiment.digest()


def test_the_digest_sees_what_matters_and_only_that() -> None:
    base = Experiment()
    assert base.replace(name="other", workers=2, backend="eager").digest() == base.digest()
    assert base.replace(seed=1).digest() != base.digest()
    assert base.replace(learner={"kind": "sgd", "lr": 0.2}).digest() != base.digest()


def test_the_schema_names_every_kind() -> None:
    schema = json.dumps(Experiment.model_json_schema())
    for family in ("partitions", "methods", "topologies", "learners", "models", "data"):
        for kind in discover(families()[family]):
            assert f'"{kind}"' in schema


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"learnr": "sgd"}, ["learnr", "did you mean 'learner'"]),
        ({"learner": {"kind": "sgd", "lrr": 1}}, ["learner.lrr", "did you mean 'lr'"]),
        ({"partition": {"kind": "dirichlet", "alpha": 0}}, ["partition.alpha = 0", "greater than 0"]),
        ({"partition": {"kind": "dirichlett"}}, ["partition", "did you mean 'dirichlet'", "natural"]),
        ({"partition": {"alfa": 1}}, ["partition.alfa", "did you mean 'alpha'"]),
        ({"nodes": 0}, ["nodes = 0", "greater than or equal to 1"]),
        ({"rounds": "many"}, ["rounds = 'many'", "integer"]),
        ({"evaluate": {"evry": 3}}, ["evaluate.evry", "did you mean 'every'"]),
        ({"evaluate": {"nodes": -1}}, ["evaluate.nodes", "0 or more"]),
        ({"learner": {"kind": "sgd", "epochs": 1, "steps": 1}}, ["learner", "either epochs or steps"]),
        ({"learner": {"kind": "sgd", "nesterov": True}}, ["learner", "momentum"]),
        ({"method": "dsgd"}, ["method.kind = 'dsgd'", "topology"]),
        ({"method": "scaffold", "topology": "ring"}, ["scaffold", "needs a server"]),
        ({"schedule": {"kind": "every", "participation": 1.5}}, ["schedule.participation = 1.5"]),
        ({"schedule": {"kind": "every", "k": 2}}, ["schedule.k", "server"]),
        (
            {"method": "dsgd", "topology": {"kind": "edge_list", "pairs": [[0, 1]], "directed": True}},
            ["topology.weights", "undirected", "uniform"],
        ),
        ({"model": 3.5}, ["model", "float"]),
        ({"name": "a/b"}, ["name = 'a/b'"]),
        ({"transforms": [{"kind": "cast", "to": "int3"}]}, ["transforms.0.to", "float16"]),
        ({"aggregator": {"file": "nowhere.py"}}, ["nowhere.py", "does not exist"]),
    ],
)
def test_errors_name_the_field_and_the_fix(values: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ExperimentError) as caught:
        Experiment(**values)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"not valid TOML.*line 1"):
        Experiment.from_toml("nodes = = 3")
    with pytest.raises(ExperimentError, match="cannot read"):
        Experiment.load(tmp_path / "absent.toml")
    with pytest.raises(ExperimentError, match="cannot read"):
        Experiment.load(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExperimentError, match="cannot read"):
        Experiment.load(binary)


def test_natural_groups_need_no_node_count() -> None:
    assert Experiment.from_toml('partition = { kind = "natural" }').nodes is None
    assert Experiment.from_toml("").nodes == 20


def test_a_plug_of_the_users_own_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from typing import Literal\n"
        "from gossamer.aggregators import Aggregator\n"
        "class Mine(Aggregator):\n"
        "    kind: Literal['mine'] = 'mine'\n"
        "    power: float = 2.0\n"
        "    def aggregate(self, updates_ND, weights_N, own_D=None, layout=None):\n"
        "        return updates_ND.mean(0)\n"
    )
    experiment = Experiment(aggregator={"file": "mine.py", "power": 3.0})
    assert experiment.aggregator.kind == "mine"
    assert Experiment.from_toml(experiment.to_toml()).to_toml() == experiment.to_toml()
    with pytest.raises(ExperimentError, match=r"aggregator.*pwr"):
        Experiment(aggregator={"file": "mine.py", "pwr": 3.0})


def test_objects_are_taken_as_they_are() -> None:
    experiment = Experiment(nodes=2, partition=[np.array([0, 1]), np.array([2, 3])])
    assert experiment.partition.kind == "function"
    edges = Experiment(method="dsgd", topology=[(0, 1), (1, 2)], nodes=3)
    assert edges.topology.kind == "edge_list"
