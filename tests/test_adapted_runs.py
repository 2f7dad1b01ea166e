"""Runs in which a small part of a model is trained: bytes, bits, what composes with what, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import assert_same, small, state_of
from torch import nn

import gossamer
from gossamer import rounds
from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.federation import Federation
from gossamer.lowrank import add_to, products

peft = pytest.importorskip("peft", reason="needs the extra 'foundation'")

LORA: dict[str, Any] = {"kind": "lora", "rank": 3}
MIXED: dict[str, Any] = {"kind": "lora", "rank": [4, 2, 1]}
RING: dict[str, Any] = {"method": "dsgd", "topology": {"kind": "ring", "all_to_all": True}}
WORLDS: dict[str, dict[str, Any]] = {
    "mean of factors": {"parametrisation": LORA},
    "one factor": {"parametrisation": {**LORA, "train": "b"}},
    "alternating": {"parametrisation": LORA, "method": "rolora"},
    **{kind: {"parametrisation": LORA, "method": kind} for kind in ("flexlora", "flora", "fedex_lora")},
    "mixed ranks": {"parametrisation": MIXED},
    **{f"{kind}, mixed": {"parametrisation": MIXED, "method": kind} for kind in ("flexlora", "flora", "fedex_lora")},
    "some take part": {"parametrisation": MIXED, "method": "flora", "schedule": {"participation": 0.4}},
    "gossip": {"parametrisation": LORA, **RING},
    "gossip of products": {"parametrisation": LORA, "aggregator": "product_mean", **RING},
    "gossip of mixed ranks": {"parametrisation": MIXED, "aggregator": "product_mean", **RING},
    "one merge": {
        "parametrisation": MIXED,
        "aggregator": "product_mean",
        **RING,
        "schedule": {"kind": "late", "final": "merge"},
    },
    "head": {"parametrisation": "head"},
    "bias": {"parametrisation": "bias"},
}


def two_layers() -> nn.Module:
    """64 numbers to 10 classes, with a hidden layer of 16."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 10))


def adapted(**changes: Any) -> Experiment:
    """Ten nodes that adapt two layers."""
    return small(**{"model": two_layers, "rounds": 3, **changes})


@pytest.mark.parametrize("world", WORLDS)
def test_what_travels_is_what_was_planned(world, tmp_path):
    experiment = adapted(**WORLDS[world])
    planned, run = gossamer.plan(experiment), gossamer.run(experiment, tmp_path / "run")
    sizes = run.rounds.to_pydict()["bytes"]
    assert sum(sizes) == planned.bytes_total


@pytest.mark.parametrize(
    "world",
    [
        *("one factor", "alternating", "flora", "flexlora, mixed", "fedex_lora, mixed", "some take part"),
        *("gossip of products", "gossip of mixed ranks", "head"),
    ],
)
def test_the_same_bits_on_workers_and_after_a_restart(world, tmp_path):
    experiment = adapted(**WORLDS[world])
    whole = gossamer.run(experiment, tmp_path / "whole")
    parallel = gossamer.run(experiment.replace(backend="parallel", workers=3), tmp_path / "parallel")
    assert_same(whole, parallel)

    stopping = iter(range(100))

    def stop(event: Any) -> None:
        if event.kind == "round" and next(stopping) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rounds.run(experiment, tmp_path / "cut", stop)
    resumed = gossamer.resume(tmp_path / "cut", model=two_layers)
    assert_same(whole, resumed)


@pytest.mark.parametrize("world", [w for w in WORLDS if "flora" not in w and "fedex" not in w and "some" not in w])
def test_frozen_weights_do_not_move(world, tmp_path):
    experiment = adapted(**WORLDS[world])
    before = {
        name: value.clone()
        for name, value in Federation(experiment).whole.named_parameters()
        if name in Federation(experiment).layout.frozen
    }
    run = gossamer.run(experiment, tmp_path / "run")
    after = dict(run.model().named_parameters())
    assert before
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


@pytest.mark.parametrize("kind", ["flora", "fedex_lora"])
def test_weights_of_the_base_are_one_vector_that_only_the_server_writes(kind, tmp_path):
    experiment = adapted(parametrisation=LORA, method=kind)
    federation = Federation(experiment)
    shared_S = federation.population.state["shared"][0]
    parameters = dict(federation.resident.module.named_parameters())
    for entry in federation.layout.shared:
        weight = parameters[entry.name]
        assert weight.data_ptr() == shared_S[entry.start :].data_ptr()
        assert tuple(weight.shape) == entry.shape
        assert not weight.requires_grad
    first = shared_S.clone()
    run = gossamer.run(experiment, tmp_path / "run")
    last = state_of(run)["state.shared"][0]
    assert not torch.equal(first, last)
    model = dict(run.model().named_parameters())
    for entry in federation.layout.shared:
        assert torch.equal(model[entry.name].flatten(), last[entry.start : entry.stop])


def test_a_node_holds_its_own_rank_only():
    federation = Federation(adapted(parametrisation=MIXED, method="flexlora", learner={"kind": "adam", "lr": 0.01}))
    everybody = np.arange(10)
    row_D = federation.population.state["row"][0]
    row_D.copy_(torch.randn(len(row_D)))  # What a server may send has all ranks.
    for node, rank in enumerate([4, 2, 1, 4]):
        task, _ = federation.prepare(node, 0, everybody)
        result = federation.trainer.train(task, node, 0)
        for pair in federation.layout.factors:
            a_rn = result.row[pair.a.start : pair.a.stop].view(pair.a.shape)
            b_mr = result.row[pair.b.start : pair.b.stop].view(pair.b.shape)
            assert not a_rn[rank:].any()
            assert not b_mr[:, rank:].any()
            assert bool(a_rn[:rank].any())


def test_bytes_of_a_node_follow_its_rank():
    federation = Federation(adapted(parametrisation=MIXED, method="flexlora"))
    sizes = federation.lengths.up
    layout = federation.layout
    for node, rank in enumerate([4, 2, 1]):
        lost = sum((4 - rank) * (pair.inputs + pair.outputs) for pair in layout.factors)
        assert sizes[0] - sizes[node] == pytest.approx(4 * lost, abs=8)  # The header names another length.


@pytest.mark.parametrize(
    "more",
    [
        {"hostile": {"count": 2}, "attack": "ipm", "aggregator": {"kind": "trimmed_mean", "f": 2}},
        {"hostile": {"count": 2}, "attack": "label_flip", "aggregator": {"kind": "multi_krum", "f": 2}},
        {"transforms": ["int8"]},
        {"transforms": ["error_feedback", {"kind": "top_k", "share": 0.1}]},
        {"schedule": {"participation": 0.5}},
        {
            "privacy": {"kind": "central", "clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-3},
            "method": {"kind": "fedavg", "weighting": "uniform"},
        },
        {"privacy": {"kind": "per_example", "clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-4}},
        {"secure_sum": {}},
        {"method": "scaffold"},
        {"method": "fedadam"},
    ],
    ids=lambda more: " ".join(map(str, more.values()))[:40],
)
@pytest.mark.parametrize("part", [LORA, "bias", "head"], ids=["lora", "bias", "head"])
def test_adapters_compose_with_the_rest(part, more, tmp_path):
    run = gossamer.run(adapted(parametrisation=part, **more), tmp_path / "run")
    tested = [x for x in run.metrics.to_pydict()["test_accuracy"] if x is not None]
    assert tested


def test_a_head_on_kept_features_is_the_head_on_the_model(tmp_path):
    runs = [
        gossamer.run(
            adapted(parametrisation={"kind": "head", "cache": cache}, dtype="float64", rounds=5), tmp_path / str(cache)
        )
        for cache in (True, False)
    ]
    kept, plain = (dict(run.model().named_parameters()) for run in runs)
    assert Federation(runs[0].experiment.replace(model=two_layers)).items.inputs.shape[1:] == (12,)
    for name, value in plain.items():
        torch.testing.assert_close(kept[name], value, rtol=1e-10, atol=1e-12)
    assert runs[0].record["setup_bytes"] == runs[1].record["setup_bytes"]


def test_kept_features_are_not_for_inputs_that_change():
    cached = {"parametrisation": {"kind": "head", "cache": True}}
    shape = tuple(Federation(adapted(**cached, preprocess={"crop": 1})).items.inputs.shape[1:])
    assert shape == (1, 8, 8)
    shape = tuple(Federation(adapted(**cached, preprocess={"normalise": "per_node"})).items.inputs.shape[1:])
    assert shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transforms": ["int8"]}, "transforms: 'int8' works on whole rows"),
        ({"secure_sum": {}}, "secure_sum"),
        ({"privacy": {"kind": "local", "clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-3}}, "privacy.kind = 'local'"),
        ({"method": "scaffold"}, "method.kind = 'scaffold'"),
    ],
)
def test_what_works_on_rows_of_one_length_says_so(changes, words):
    for ready in (gossamer.plan, Federation):
        with pytest.raises(ExperimentError, match=words):
            ready(adapted(parametrisation=MIXED, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parametrisation": LORA, "aggregator": "product_mean"}, "use method = 'flexlora'"),
        ({"aggregator": "product_mean", **RING}, "parametrisation = 'lora'"),
        ({"parametrisation": {**LORA, "train": "b"}, "aggregator": "product_mean", **RING}, "train = 'both'"),
        ({"parametrisation": LORA, **RING, "method": "flora"}, "needs a server"),
        ({"parametrisation": {**MIXED, "train": "b"}}, "not train = 'b'; give one rank"),
        ({"parametrisation": {**MIXED, "dora": True}}, "not dora = true; give one rank"),
        *(({"parametrisation": {**LORA, "rank": rank}}, "a rank is a whole number") for rank in (0, 2.5, [4, 0], [])),
        ({"parametrisation": {**LORA, "targets": "q_proj"}}, r"give a list of patterns: \['q_proj'\]"),
        ({"model": {"kind": "hugging_face", "config": {"model_type": "vit"}, "bits": 4}}, "cannot be trained"),
    ],
)
def test_rules_for_factors_say_what_they_need(changes, words):
    with pytest.raises(ExperimentError, match=words):
        adapted(**changes)


def test_products_of_a_complete_graph_agree_with_the_server(tmp_path: Path):
    """All nodes hear all: gossip of products is what a server that averages products does."""
    learner = {"lr": 0.1, "batch_size": 16, "steps": 3}
    same = {"dtype": "float64", "learner": learner, "rounds": 2, "parametrisation": {"kind": "lora", "rank": 12}}
    server = adapted(**same, method={"kind": "flexlora", "weighting": "uniform"})
    graph = adapted(
        **same, method={"kind": "dsgd", "keep_optimizer": False}, topology="complete", aggregator="product_mean"
    )
    moved = []
    for name, experiment in (("server", server), ("graph", graph)):
        federation = Federation(experiment)
        run = gossamer.run(experiment, tmp_path / name)
        state = dict(run.model().named_parameters())
        moved.append([state[pair.b.name].detach() @ state[pair.a.name].detach() for pair in federation.layout.factors])
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["flora", "fedex_lora"])
def test_who_missed_rounds_is_told_of_all_of_them(kind):
    federation = Federation(adapted(parametrisation=LORA, method=kind))
    lengths, layout = federation.lengths, federation.layout
    cohorts = [[0, 1], [0, 2], [0, 1], [3]]
    drawn = lambda round: np.array(cohorts[round])  # noqa: E731
    added = [federation.method.besides(federation.context, cohort) for cohort in cohorts]
    plain = lengths.down(0, drawn)
    assert len(set(plain.tolist())) == 1
    dense = sum(pair.inputs * pair.outputs for pair in layout.factors)
    missed = {0: added[2], 1: added[2], 2: added[1] + added[2], 3: sum(added[:3]), 9: sum(added[:3])}
    told = lengths.down(3, drawn) - plain
    for node, numbers in missed.items():
        assert told[node] == pytest.approx(4 * min(numbers, dense), abs=100)  # And a longer header.
    assert (lengths.down(1, drawn) == lengths.down(1, drawn)).all()
    assert (lengths.down(3, drawn) - plain == told).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learner": {"lr": 0.1, "momentum": 0.9, "steps": 2}}, "set method.keep_optimizer = false"),
        ({"learner": {"kind": "adam", "lr": 0.1, "steps": 2}}, "set method.keep_optimizer = false"),
        ({"method": "quasi_global_momentum"}, "method.kind = 'quasi_global_momentum' remembers"),
        ({"method": "tail_averaged"}, "method.kind = 'tail_averaged' remembers"),
        ({"method": {"kind": "dsgd", "pull_back": 0.1}}, "leave method.pull_back out"),
        ({"clock": "events"}, "use clock = 'rounds'"),
        ({"schedule": "adaptive"}, "schedule.kind = 'adaptive' looks at them"),
    ],
)
def test_nothing_may_refer_to_factors_that_a_rule_of_products_makes_anew(changes, words):
    with pytest.raises(ExperimentError, match=words):
        adapted(**{"parametrisation": LORA, "aggregator": "product_mean", **RING, **changes})


def test_distances_between_rows_that_stand_for_products_are_not_told(tmp_path):
    for rule, told in (("mean", True), ("product_mean", False)):
        run = gossamer.run(adapted(parametrisation=LORA, aggregator=rule, **RING), tmp_path / rule)
        assert (run.rounds.to_pydict()["consensus_distance"][-1] is not None) == told


def test_ranks_that_a_node_lacks_do_not_move_and_do_not_shrink(tmp_path):
    """FedAvg is of changes: without steps of any length the factors of all ranks stay as they were."""
    run = gossamer.run(adapted(parametrisation=MIXED, learner={"lr": 1e-30, "steps": 1}), tmp_path / "run")
    federation = Federation(adapted(parametrisation=MIXED))
    before = federation.population.state["row"][0][: federation.layout.trainable]
    after = state_of(run)["state.row"][0][: federation.layout.trainable]
    torch.testing.assert_close(before, after, rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("kind", ["flora", "fedex_lora"])
def test_merging_into_convolutions(kind, tmp_path):
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))

    part = {"kind": "lora", "rank": 2, "targets": ["0"]}
    run = gossamer.run(adapted(model=network, parametrisation=part, method=kind, rounds=2), tmp_path / "run")
    assert run.record["status"] == "finished"

    federation = Federation(adapted(model=network, parametrisation=part, method=kind))
    (pair,), module = federation.layout.factors, federation.resident.module.eval()
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    row_D = federation.resident.row.clone()
    a_rn, b_mr = products(row_D, pair)
    b_mr.copy_(torch.randn(b_mr.shape, generator=torch.Generator().manual_seed(1)))
    federation.resident.load(row_D)
    beside = module(images)
    shared_S = federation.population.state["shared"][0]
    shared_S.copy_(add_to(shared_S, federation.layout, [(b_mr.double(), a_rn.double())]))
    b_mr.zero_()
    federation.resident.load(row_D)
    torch.testing.assert_close(module(images), beside, rtol=1e-5, atol=1e-5)


def test_a_tied_weight_cannot_be_merged_into():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.last.weight = self.first.weight

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.head(self.last(self.first(inputs.flatten(1)).tanh()))

    part = {"kind": "lora", "rank": 2, "targets": ["last"]}
    with pytest.raises(ExperimentError, match="another layer's weight too"):
        Federation(adapted(model=Tied, parametrisation=part, method="flora"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "flora", "downlink": ["int8"]}, "leave the transforms out"),
        ({"method": "rolora", "transforms": ["error_feedback", {"kind": "top_k", "share": 0.1}]}, "without memory"),
        ({"method": "rolora", "transforms": ["power_sgd"]}, "without memory"),
        ({"method": "rolora", "aggregator": "foolsgold"}, "of B and of A in turn"),
    ],
)
def test_factors_in_turn_and_merged_bases_say_what_they_cannot_do(changes, words):
    with pytest.raises(ExperimentError, match=words):
        adapted(parametrisation=LORA, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clock": "events", "method": "fedbuff"}, "clock.kind = 'events'"),
        ({"aggregator": "foolsgold"}, "aggregator.kind = 'foolsgold'"),
    ],
)
def test_ranks_that_differ_are_not_for_everything(changes, words):
    with pytest.raises(ExperimentError, match=words):
        gossamer.plan(adapted(parametrisation=MIXED, **changes))


def test_a_run_on_kept_features_gives_the_whole_model(tmp_path):
    run = gossamer.run(adapted(parametrisation="head"), tmp_path / "run")
    assert run.record["input_shape"] == [1, 8, 8]
    images = torch.randn(2, 1, 8, 8)
    assert run.model()(images).shape == (2, 10)
    assert run.model(0)(images).shape == (2, 10)
    assert torch.equal(run.model()(images), run.model(0)(images))
