"""Diagnostics: what is measured beside accuracy, from closed forms and direct transcriptions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from federations import small, state_of
from torch import nn

import gossamer
from gossamer.evaluation import disagreement, layers, merge_models, reestimate
from gossamer.federation import Federation
from gossamer.record import read_table

GRAPH = {"method": "dsgd", "topology": "ring"}


def test_disagreement_is_the_squared_distance_to_the_mean_and_its_mean_the_consensus_distance(tmp_path):
    run = gossamer.run(small(**GRAPH, dtype="float64"), tmp_path / "run")
    rows = state_of(run)["state.row"]
    expected = (rows - rows.mean(0)).square().sum(1)
    last = [line for line in run.metrics.to_pylist() if line["round"] == 5 and line["node"] >= 0]
    assert [line["disagreement"] for line in last] == pytest.approx(expected.tolist(), rel=1e-9)
    assert run.summary()["consensus_distance"] == pytest.approx(float(expected.mean()), rel=1e-9)


def test_the_mergeability_gap_is_the_loss_that_merging_saves(tmp_path):
    run = gossamer.run(small(**GRAPH), tmp_path / "run")
    for round, gap in zip(*run.rounds.select(["round", "mergeability_gap"]).to_pydict().values(), strict=True):
        lines = [line for line in run.metrics.to_pylist() if line["round"] == round]
        own = [line["test_loss"] for line in lines if line["node"] >= 0]
        merged = next(line["test_loss"] for line in lines if line["node"] == -1)
        assert gap == pytest.approx(np.mean(own) - merged, rel=1e-12)


def test_convex_losses_are_always_mergeable(tmp_path):
    """Jensen: the loss of the mean of linear models is at most the mean of their losses, however far apart they are."""
    run = gossamer.run(
        small(method="dsgd", topology="complete", model="softmax_regression", partition={"kind": "shards"},
              schedule={"kind": "every", "share": 0.0, "final": "merge"}, evaluate={"before_exchange": True}),
        tmp_path / "run",
    )  # fmt: skip
    assert min(run.rounds["mergeability_gap"].to_pylist()) >= -1e-6


def test_layers_tell_the_variance_of_every_tensor_and_its_share_of_the_distance(tmp_path):
    run = gossamer.run(small(**GRAPH, evaluate={"layers": True}, dtype="float64"), tmp_path / "run")
    table = read_table(run.folder, "layers").to_pylist()
    assert {line["round"] for line in table} == {1, 2, 3, 4, 5}
    last = {line["layer"]: line for line in table if line["round"] == 5}
    federation = Federation(run.experiment)
    assert set(last) == {entry.name for entry in federation.layout.entries}
    rows = state_of(run)["state.row"]
    for entry in federation.layout.entries:
        part, line = rows[:, entry.start : entry.stop], last[entry.name]
        assert line["variance"] == pytest.approx(float(part.var(1, correction=0).mean()), rel=1e-9)
        assert line["variance_merged"] == pytest.approx(float(part.mean(0).var(correction=0)), rel=1e-9)
    total = sum(line["distance"] for line in last.values())
    assert total == pytest.approx(run.summary()["consensus_distance"], rel=1e-9)


def test_measuring_changes_no_result(tmp_path):
    """The counterfactual merge, the layers and the re-estimation enter nothing that is trained."""
    much = {"every": 1, "layers": True, "before_exchange": True, "batch_norm_batches": 4}
    a = gossamer.run(small(**GRAPH, model=Norm, evaluate=much), tmp_path / "much")
    b = gossamer.run(small(**GRAPH, model=Norm, evaluate={"every": 0}), tmp_path / "little")
    for name, value in state_of(a).items():
        assert torch.equal(value, state_of(b)[name]), name


class Norm(nn.Module):
    """A network with BatchNorm and dropout, on 8x8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def test_reestimated_statistics_are_those_of_the_merged_model_on_all_training_items():
    """With batches that together see many items, they approach the mean and variance of its own activations."""
    federation = Federation(
        small(
            **GRAPH,
            model=Norm,
            init={"shared": False},
            learner={"batch_size": 64},
            evaluate={"batch_norm_batches": 200},
        )
    )
    merge_models(federation, 0)
    before = federation.merged.clone()
    reestimate(federation, 0)
    named = {entry.name: view for entry, view in federation.layout.views(federation.merged)}
    trained = federation.layout.trainable
    assert torch.equal(federation.merged[:trained], before[:trained]), "weights stay"
    pool = np.concatenate(federation.shards.train)
    inputs = federation.items.inputs[torch.from_numpy(pool)].flatten(1)
    hidden = inputs @ named["net.1.weight"].T + named["net.1.bias"]
    torch.testing.assert_close(named["net.2.running_mean"], hidden.mean(0), rtol=0.02, atol=0.02)
    torch.testing.assert_close(named["net.2.running_var"], hidden.var(0), rtol=0.1, atol=0.02)
    assert not torch.equal(federation.merged, before)


def test_reestimation_is_the_same_every_time_and_part_of_the_exported_model(tmp_path):
    experiment = small(**GRAPH, model=Norm, evaluate={"batch_norm_batches": 8})
    a, b = gossamer.run(experiment, tmp_path / "a"), gossamer.run(experiment, tmp_path / "b")
    assert a.metrics.equals(b.metrics)
    plain = gossamer.run(small(**GRAPH, model=Norm), tmp_path / "plain")
    assert not torch.equal(a.model().net[2].running_mean, plain.model().net[2].running_mean)
    assert torch.equal(a.model().net[1].weight, plain.model().net[1].weight)


def test_disagreement_of_a_population_moved_by_hand():
    federation = Federation(small(**GRAPH, nodes=4))
    rows = federation.population.state["row"]
    rows.zero_()
    rows[0, 0], rows[1, 0] = 4.0, -4.0
    merge_models(federation, 0)
    assert disagreement(federation, 0) == [16.0, 16.0, 0.0, 0.0]
    first = layers(federation, 0)[0]
    assert first["distance"] == 8.0


def test_reestimation_and_buffers_do_not_enter_the_distance(tmp_path):
    """The consensus distance is that of what is trained; counters and running statistics are no disagreement."""
    plain = gossamer.run(small(**GRAPH, model=Norm), tmp_path / "plain")
    much = gossamer.run(small(**GRAPH, model=Norm, evaluate={"batch_norm_batches": 4}), tmp_path / "much")
    assert much.rounds["consensus_distance"].equals(plain.rounds["consensus_distance"])
    rows = state_of(plain)["state.row"][:, : Federation(plain.experiment).layout.trainable].double()
    expected = float((rows - rows.mean(0)).square().sum(1).mean())
    assert plain.summary()["consensus_distance"] == pytest.approx(expected, rel=1e-4)


def test_absent_nodes_are_measured_before_the_exchange_as_they_are(tmp_path):
    """A node that has never taken part still has its first model, whose loss is that of round 0."""
    changes = {"schedule": {"participation": 0.5}, "evaluate": {"before_exchange": True}}
    run = gossamer.run(small(**GRAPH, **changes, rounds=1), tmp_path / "run")
    federation = Federation(run.experiment)
    present = set(federation.participants(0).tolist())
    losses = {line["node"]: line["test_loss"] for line in run.metrics.to_pylist() if line["node"] >= 0}
    absent = {losses[node] for node in range(10) if node not in present}
    assert len(absent) == 1, "all start from one model"
    assert absent.isdisjoint(losses[node] for node in present)


def test_layers_are_a_table_of_the_run_and_exported(tmp_path):
    from gossamer.export import export_tables

    run = gossamer.run(small(**GRAPH, evaluate={"layers": True}), tmp_path / "run")
    assert len(run.layers) == 5 * 4
    assert {path.stem for path in export_tables(run, tmp_path / "out", "csv")} == {"metrics", "rounds", "layers"}
    plain = gossamer.run(small(**GRAPH), tmp_path / "plain")
    assert {path.stem for path in export_tables(plain, tmp_path / "plain out", "csv")} == {"metrics", "rounds"}
