"""Methods for low-rank factors, on a plain loop over their protocol: what the server's model is after a round, against
the dense ideal W + s * sum_k p_k B_k A_k. Local work is a random change of what may change.

Shapes as in test_lowrank: N senders, D numbers of a row, r ranks of a row, W is [m, n].
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import small
from method_cases import result
from test_lowrank import changes, close, ideal, layout_of, rows_of
from torch import Tensor, nn

import gossamer
from gossamer.backends.eager import Eager
from gossamer.engines.local import Local
from gossamer.errors import AggregationError, ExperimentError
from gossamer.experiment import Experiment
from gossamer.federation import Federation
from gossamer.layout import Layout
from gossamer.learners.sgd import SGD
from gossamer.lowrank import held, joined, products, residual, rest, stacked
from gossamer.methods import Context, Inbox, Method, Task, Terms, View
from gossamer.methods.fedavg import FedAvg
from gossamer.methods.fedex_lora import FedExLoRA
from gossamer.methods.flexlora import FlexLoRA
from gossamer.methods.flora import FLoRA
from gossamer.methods.rolora import RoLoRA
from gossamer.training import descend

State = dict[str, Tensor]
RANK = 3
LAYOUT = layout_of((6, 5), (4, 7), rank=RANK, scale=0.7)
METHODS: dict[str, Method] = {"flexlora": FlexLoRA(), "flora": FLoRA(), "fedex_lora": FedExLoRA(), "rolora": RoLoRA()}
TYPES = [(torch.float64, 1e-12), (torch.float32, 1e-6)]
MIXED = (3, 1, 2, 1)


def context(ranks: tuple[int, ...] = (), dtype: torch.dtype = torch.float64, layout: Layout = LAYOUT) -> Context:
    shared_S = torch.randn(layout.shared[-1].stop, generator=torch.Generator().manual_seed(3)).to(dtype)
    return Context(4, 6, layout, SGD(), (10, 20, 30, 40), seed=5, ranks=ranks, shared_S=shared_S)


def view(seen: Context, node: int, round: int = 0) -> View:
    return View(node, round, seen, seen.samples[node] if node >= 0 else sum(seen.samples), seen.nodes)


def started(method: Method, seen: Context) -> State:
    assert seen.shared_S is not None
    row_D = rows_of(seen.layout, 1, seed=8)[0].to(seen.shared_S.dtype)
    for pair in seen.layout.factors:
        products(row_D, pair)[1].zero_()
    return method.init(seen, row_D)[0]


def task_of(method: Method, seen: Context, state: State, node: int, round: int) -> Task:
    """As the engine hands it out: nodes have no more than their rank."""
    at = view(seen, node, round)
    task = method.prepare({}, method.publish(state, at), at)
    return dataclasses.replace(task, row=task.row * held(seen.layout, seen.ranks[node])) if seen.ranks else task


def worked(task: Task, seen: Context, node: int, round: int) -> Tensor:
    """The row after local work."""
    change_D = rows_of(seen.layout, 1, seed=100 * round + node)[0].to(task.row.dtype)
    if task.moves_T is not None:
        change_D[: len(task.moves_T)] *= task.moves_T
    return task.row + (change_D * held(seen.layout, seen.ranks[node]) if seen.ranks else change_D)


def merged(method: Method, seen: Context, state: State, rows: list[Tensor], round: int, order: Any = range(4)) -> State:
    """The server's state after it heard these rows."""
    boxes = []
    for node in order:
        task = task_of(method, seen, state, node, round)
        boxes.append(method.finish(task, result(rows[node]), {}, view(seen, node, round))[0])
    weights = tuple(box.weight for box in boxes)
    stack = {name: torch.stack([box.common[name] for box in boxes]) for name in boxes[0].common}
    shares_N = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    fields = {name: torch.tensordot(shares_N.to(value.dtype), value, 1) for name, value in stack.items()}
    given = ({}, stack, weights) if method.gathers else (fields, {}, ())
    inbox = Inbox(given[0], len(boxes), sum(weights), given[1], given[2])
    return {**state, **method.merge(state, inbox, view(seen, -1, round))}


def played(method: Method, seen: Context, state: State, round: int) -> tuple[list[Tensor], State]:
    """The rows that local work of a round gave, and the server's state after it."""
    rows = [worked(task_of(method, seen, state, node, round), seen, node, round) for node in range(4)]
    return rows, merged(method, seen, state, rows, round)


def base(state: State, seen: Context) -> Tensor:
    shared_S = state.get("shared", seen.shared_S)
    assert shared_S is not None
    return shared_S


def weights_of(shared_S: Tensor, changed: list[Any], layout: Layout = LAYOUT) -> list[Any]:
    """W + s * change, for each of the weights, as [m, n]."""
    found = []
    for pair, entry, change in zip(layout.factors, layout.shared, changed, strict=True):
        weight = shared_S[entry.start : entry.stop].view(entry.shape).double().numpy()
        found.append((weight.T if pair.transposed else weight) + pair.scale * change)
    return found


def shares(weighting: str = "samples") -> Tensor:
    return torch.tensor([0.1, 0.2, 0.3, 0.4] if weighting == "samples" else [0.25] * 4, dtype=torch.float64)


# ---- what the server's model is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("weighting", ["samples", "uniform"])
@pytest.mark.parametrize(
    ("cls", "ranks"), [(FLoRA, ()), (FLoRA, MIXED), (FedExLoRA, ()), (FedExLoRA, MIXED), (RoLoRA, ())]
)
def test_exact_methods_equal_the_dense_ideal_in_every_round(
    cls: type[FlexLoRA | RoLoRA], ranks: tuple[int, ...], weighting: Any, dtype: torch.dtype, tolerance: float
) -> None:
    method, seen = cls(weighting=weighting), context(ranks, dtype)
    state = started(method, seen)
    for round in range(4):
        shared_S = base(state, seen)
        rows, state = played(method, seen, state, round)
        rows_ND = torch.stack(rows)
        expected = weights_of(shared_S, ideal(LAYOUT, rows_ND, shares(weighting)))
        for found, wanted in zip(weights_of(base(state, seen), changes(LAYOUT, state["row"])), expected, strict=True):
            close(found, wanted, tolerance)
        mean_R = joined(shares(weighting) @ rows_ND.double(), rest(LAYOUT))
        close(joined(state["row"], rest(LAYOUT)), mean_R, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("ranks", [(), MIXED])
def test_flexlora_is_off_by_the_singular_values_that_it_discards(
    ranks: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    method, seen = FlexLoRA(), context(ranks, dtype)
    state = started(method, seen)
    for round in range(3):
        rows, state = played(method, seen, state, round)
        rows_ND = torch.stack(rows)
        for pair, dense in zip(LAYOUT.factors, ideal(LAYOUT, rows_ND, shares()), strict=True):
            values = np.linalg.svd(dense, compute_uv=False)
            # What a node of rank k starts from is the best approximation of rank k.
            a_rn, b_mr = products(state["row"].double(), pair)
            for k in range(1, RANK + 1):
                error = np.linalg.norm(dense - (b_mr[:, :k] @ a_rn[:k]).numpy())
                expected = math.sqrt((values[k:] ** 2).sum())
                assert error == pytest.approx(expected, rel=10 * tolerance, abs=10 * tolerance)
        mean_R = joined(shares() @ rows_ND.double(), rest(LAYOUT))
        close(joined(state["row"], rest(LAYOUT)), mean_R, tolerance)


@pytest.mark.parametrize("frozen", ["", ".a"])
def test_fedavg_of_factors_is_off_by_the_formula(frozen: str) -> None:
    """FedIT; with A frozen and shared (FFA-LoRA) the formula is zero."""
    method, seen = FedAvg(), context()
    state = started(method, seen)
    rows_ND = state["row"] + rows_of(LAYOUT, 4, seed=1)
    if frozen:
        for pair in LAYOUT.factors:
            products(rows_ND, pair)[0].copy_(products(state["row"], pair)[0])
    state = merged(method, seen, state, list(rows_ND), 0)
    for pair, found, dense in zip(
        LAYOUT.factors, changes(LAYOUT, state["row"]), ideal(LAYOUT, rows_ND, shares()), strict=True
    ):
        left, right = residual(*products(rows_ND, pair), shares(), *products(state["row"], pair))
        close(found + (left @ right).numpy(), dense)
        assert bool(np.abs(found - dense).max() < 1e-12) == bool(frozen)


@pytest.mark.parametrize("kind", METHODS)
def test_the_order_of_senders_changes_nothing(kind: str) -> None:
    method, seen = METHODS[kind], context()
    state = started(method, seen)
    rows, one = played(method, seen, state, 0)
    other = merged(method, seen, state, rows, 0, order=(2, 0, 3, 1))
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", METHODS)
def test_who_has_no_weight_has_no_effect(kind: str) -> None:
    """Not even with NaN in its message, where the messages themselves are seen."""
    method, seen = METHODS[kind], dataclasses.replace(context(), samples=(10, 0, 30, 40))
    state = started(method, seen)
    rows, one = played(method, seen, state, 0)
    rows[1] = torch.full_like(rows[1], math.nan if method.gathers else 7.0)
    other = merged(method, seen, state, rows, 0)
    gone = merged(method, seen, state, rows, 0, order=(0, 2, 3))
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gone[name], one[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind, method in METHODS.items() if method.gathers])
def test_a_message_that_holds_nan_is_named(kind: str) -> None:
    method, seen = METHODS[kind], context()
    state = started(method, seen)
    rows, _ = played(method, seen, state, 0)
    rows[2][0] = math.inf
    with pytest.raises(AggregationError, match="message 2 of 4"):
        merged(method, seen, state, rows, 0)


@pytest.mark.parametrize("kind", METHODS)
def test_halves_are_pure_and_states_keep_their_form(kind: str) -> None:
    method, seen = METHODS[kind], context()
    state = started(method, seen)
    for round in range(2):
        before = {name: value.clone() for name, value in state.items()}
        _, after = played(method, seen, state, round)
        _, again = played(method, seen, state, round)
        at = view(seen, 0, round)
        task = method.model({}, method.publish(state, at), at)
        assert task.steps == 0
        assert torch.equal(joined(task.row, rest(LAYOUT)), joined(state["row"], rest(LAYOUT)))
        assert all(torch.equal(state[name], before[name]) for name in before)
        assert after.keys() == before.keys()
        for name, value in after.items():
            assert torch.equal(value, again[name])
            assert (value.shape, value.dtype) == (before[name].shape, before[name].dtype)
        state = after


@pytest.mark.parametrize("kind", METHODS)
def test_messages_can_be_outlined_without_numbers(kind: str) -> None:
    """What is planned is planned on tensors without storage, and is what is sent."""
    method, seen = METHODS[kind], context()
    state = started(method, seen)
    at = view(seen, 0)
    bare = dataclasses.replace(seen, shared_S=base(state, seen).to("meta"))
    bare_state, own = method.init(bare, state["row"].to("meta"))
    bare_at = view(bare, 0)
    outlined = method.publish(bare_state, bare_at)
    task = method.prepare(own, outlined, bare_at)
    outbox = method.finish(task, result(task.row), own, bare_at)[0]
    down = method.publish(state, at)
    sent = method.finish(method.prepare({}, down, at), result(state["row"]), {}, at)[0]
    for found, wanted in ((outlined, down), (outbox.common, sent.common)):
        assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in wanted.items()}


# ---- FLoRA ---------------------------------------------------------------------------------------------------------


def test_flora_draws_factors_as_lora_does_for_every_round_and_all_nodes() -> None:
    layout = layout_of((40, 300), (30, 200), rank=25)
    method, seen = FLoRA(), context(layout=layout)
    state = started(method, seen)
    assert torch.equal(task_of(method, seen, state, 2, 0).row, state["row"])
    _, after = played(method, seen, state, 0)
    for node in range(4):
        assert torch.equal(task_of(method, seen, after, node, 1).row, after["row"])
    for pair in layout.factors:
        first, second = (products(row, pair)[0] for row in (state["row"], after["row"]))
        assert not products(after["row"], pair)[1].any()
        peft_rn = nn.init.kaiming_uniform_(torch.empty(25, pair.inputs), a=math.sqrt(5))
        bound = float(peft_rn.abs().max())
        for drawn in (first, second):
            assert float(drawn.abs().max()) == pytest.approx(bound, rel=0.01)
            assert float(drawn.std()) == pytest.approx(float(peft_rn.std()), rel=0.05)
        assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.05
    other = dataclasses.replace(seen, seed=6)
    assert not torch.equal(started(method, other)["row"], state["row"])


def test_flora_sends_no_factors() -> None:
    method, seen = FLoRA(), context()
    state = started(method, seen)
    down = method.publish(state, view(seen, 0))
    assert {name: value.shape for name, value in down.items()} == {"rest": (6 + 4 + 6 + 2,)}
    assert torch.equal(down["rest"], joined(state["row"], rest(LAYOUT)))


@pytest.mark.parametrize("ranks", [(), MIXED])
@pytest.mark.parametrize("heard", [(), (1,), (0, 2), (0, 1, 2, 3)])
def test_flora_counts_what_the_stack_takes(ranks: tuple[int, ...], heard: tuple[int, ...]) -> None:
    seen = context(ranks)
    rows_ND = rows_of(LAYOUT, 4, ranks=ranks)[list(heard)]
    count = 0
    for pair in LAYOUT.factors:
        left_mR, right_Rn = stacked(*products(rows_ND, pair), torch.ones(len(heard)))
        count += min(left_mR.numel() + right_Rn.numel(), len(left_mR) * right_Rn.shape[1])
    assert FLoRA().besides(seen, heard) == count
    assert bool(count) == bool(heard)


# ---- FedEx-LoRA ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [(), MIXED, (3, 3, 1, 1), (2, 2, 2, 2)])
@pytest.mark.parametrize("heard", [(), (1,), (0, 2), (0, 1, 2), (0, 1, 2, 3)])
def test_fedex_counts_the_rank_of_what_is_added(ranks: tuple[int, ...], heard: tuple[int, ...]) -> None:
    """That of sum_k p_k (B_k - Bbar)(A_k - Abar) for factors in general position."""
    layout = layout_of((60, 50), (40, 70), rank=RANK)
    seen, count = context(ranks, layout=layout), 0
    rows_ND = rows_of(layout, 4, ranks=ranks)[list(heard)]
    for pair in layout.factors if heard else ():
        shares_N = torch.full((len(heard),), 1 / len(heard), dtype=torch.float64)
        left, right = residual(*products(rows_ND, pair), shares_N, *products(rows_ND.mean(0), pair))
        count += int(torch.linalg.matrix_rank(left @ right, atol=1e-9, rtol=0.0)) * (pair.outputs + pair.inputs)
    assert FedExLoRA().besides(seen, heard) == count


def test_fedex_counts_the_sum_where_that_is_shorter() -> None:
    assert FedExLoRA().besides(context(), (0, 1, 2, 3)) == 6 * 5 + 4 * 7
    assert FedExLoRA().besides(context(), (0, 1)) == 6 * 5 + 4 * 7
    assert FedExLoRA().besides(context((1, 1, 1, 1)), (0, 1)) == 11 + 11


# ---- FlexLoRA ------------------------------------------------------------------------------------------------------


def test_flexlora_keeps_ranks_alive_that_few_nodes_have() -> None:
    """Where only nodes of rank 1 were heard, the others' ranks still have an A to learn a B for."""
    method, seen = FlexLoRA(), context((1, 1, 1, 3))
    state = started(method, seen)
    rows, _ = played(method, seen, state, 0)
    after = merged(method, seen, state, rows, 0, order=(1,))
    for pair in LAYOUT.factors:
        a_rn, b_mr = products(after["row"], pair)
        assert not b_mr[:, 1:].any()
        assert torch.equal(a_rn[1:], products(state["row"], pair)[0][1:])
        assert a_rn.any(1).all()


# ---- RoLoRA --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round", range(4))
def test_rolora_trains_and_sends_one_factor(round: int) -> None:
    """With momentum and weight decay the other one stays as it is, to the bit."""
    method, seen = RoLoRA(), context()
    task = task_of(method, seen, {"row": rows_of(LAYOUT, 1, seed=4)[0]}, 0, round)
    learner, trainable = SGD(lr=0.1, momentum=0.9, weight_decay=0.1), LAYOUT.trainable
    row_D = task.row.clone()
    slots = learner.fresh(row_D[:trainable])
    assert task.moves_T is not None
    for step in range(3):
        grad_T = rows_of(LAYOUT, 1, seed=50 + step)[0][:trainable]
        descend([row_D[:trainable]], [grad_T], [slots], [Terms()], learner, 0.1, [task.moves_T])
    for pair in LAYOUT.factors:
        for factor, trained in zip(products(row_D - task.row, pair), (round % 2 == 1, round % 2 == 0), strict=True):
            assert factor.all() if trained else not factor.any()
    assert joined((row_D != task.row)[:trainable], [r for r in rest(LAYOUT) if r[1] <= trainable]).all()
    half = method.finish(task, result(row_D), {}, view(seen, 0, round))[0].common["half"]
    # B has 3 * (6 + 4) numbers, A has 3 * (5 + 7): what is left over is padding.
    assert len(half) == 3 * 12 + 18
    assert int((half != 0).sum()) == (3 * 10 if round % 2 == 0 else 3 * 12) + 16
    assert not half[-6:].any() or round % 2 == 1


def test_rolora_moves_the_server_by_its_step() -> None:
    seen, state = context(), started(RoLoRA(), context())
    rows, whole = played(RoLoRA(), seen, state, 0)
    half = merged(RoLoRA(server_lr=0.5), seen, state, rows, 0)
    expected = state["row"] + 0.5 * (whole["row"] - state["row"])
    trainable = LAYOUT.trainable
    close(half["row"][:trainable], expected[:trainable])
    close(half["row"][trainable:], whole["row"][trainable:])


# ---- what does not fit together ------------------------------------------------------------------------------------

LORA: dict[str, Any] = {"parametrisation": {"kind": "lora", "rank": 2}}
CENTRAL = {"kind": "central", "noise_multiplier": 1.0}
GATHERING = ("flexlora", "flora", "fedex_lora")


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"parametrisation": "identity"}, "parametrisation.kind = 'identity'"),
        ({"parametrisation": {"kind": "lora", "train": "b"}}, "parametrisation.train = 'b'"),
        ({"parametrisation": {"kind": "lora", "dora": True}}, "parametrisation.dora = true"),
        ({**LORA, "topology": "ring"}, "needs a server"),
        ({**LORA, "clock": "events"}, "needs rounds"),
    ],
)
def test_factors_at_a_server_are_asked_for(kind: str, settings: dict[str, Any], words: str) -> None:
    refused(words, method=kind, **settings)


@pytest.mark.parametrize("kind", GATHERING)
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"aggregator": "median"}, "aggregator.kind = 'median'"),
        ({"secure_sum": {}}, "secure_sum: .* no sum of messages"),
        ({"privacy": CENTRAL}, "privacy.kind = 'central': .* no sum of messages"),
        ({"transforms": [{"kind": "top_k"}]}, "'top_k' is made for what local work changed"),
    ],
)
def test_methods_that_multiply_say_that_they_do_not_add(kind: str, settings: dict[str, Any], words: str) -> None:
    refused(words, method={"kind": kind, "weighting": "uniform"}, **LORA, **settings)


def test_rolora_adds_and_so_takes_what_needs_a_sum() -> None:
    uniform = {"kind": "rolora", "weighting": "uniform"}
    for settings in ({"aggregator": "median"}, {"secure_sum": {}}, {"privacy": CENTRAL}):
        Experiment(method=uniform, **LORA, **settings)
    refused("their ranks are 2 to 4", method="rolora", parametrisation={"kind": "lora", "rank": [4, 2]})
    for kind in GATHERING:
        Experiment(method=kind, parametrisation={"kind": "lora", "rank": [4, 2]})


@pytest.mark.parametrize("kind", GATHERING)
@pytest.mark.parametrize(("field", "value"), [("bits", 4), ("bits", 8), ("precision", "bfloat16")])
def test_a_base_that_sums_do_not_fit_into_is_not_merged_into(kind: str, field: str, value: Any) -> None:
    model = {"kind": "hugging_face", "base": "folder", field: value}
    if kind == "flexlora":
        assert getattr(Experiment(method=kind, model=model, **LORA).model, field) == value
    else:
        refused(f"model.{field} = '?{value}'?: .* not exact", method=kind, model=model, **LORA)


def refused(words: str, **settings: Any) -> None:
    with pytest.raises(ExperimentError, match=words) as caught:
        Experiment(**settings)
    assert "\n" not in str(caught.value)


# ---- in the engine -------------------------------------------------------------------------------------------------


def adapted(kind: str, rank: Any = 2, **changes: Any) -> Experiment:
    pytest.importorskip("peft")
    lora = {"kind": "lora", "rank": rank}
    return small(**{"method": kind, "parametrisation": lora, "nodes": 4, "rounds": 3, "partition": "iid", **changes})


@pytest.mark.parametrize("rank", [2, [3, 1, 2]], ids=str)
@pytest.mark.parametrize("kind", GATHERING)
def test_the_engine_makes_the_models_of_the_merged_weights(kind: str, rank: Any) -> None:
    federation = Federation(adapted(kind, rank, dtype="float64"))
    layout, population, local = federation.layout, federation.population, Local(federation, Eager(federation))
    weights = dict(federation.resident.module.named_parameters())

    def bases() -> Tensor:
        """The weights that the module computes with, [S]."""
        return torch.cat([weights[pair.base].detach().flatten() for pair in layout.factors])

    start_S = bases()
    for round in range(3):
        shared_S, result = bases(), local.train(round)
        rows_ND = federation.sent["row"].clone()
        local.exchange(result)
        for pair in layout.factors if federation.context.ranks else ():
            for row_D, held_rank in zip(rows_ND, federation.context.ranks, strict=True):
                assert not products(row_D, pair)[0][held_rank:].any()
        shares_N = torch.tensor(federation.context.samples, dtype=torch.float64)
        dense = ideal(layout, rows_ND, shares_N / shares_N.sum())
        found = weights_of(bases(), changes(layout, population.state["row"][0]), layout)
        if kind == "flexlora":
            best = [u[:, :3] * s[:3] @ v[:3] for u, s, v in map(np.linalg.svd, dense)]
            dense = best if rank != 2 else [u[:, :2] * s[:2] @ v[:2] for u, s, v in map(np.linalg.svd, dense)]
        for merged_mn, expected in zip(found, weights_of(shared_S, dense, layout), strict=True):
            close(merged_mn, expected, 1e-11)
    assert torch.equal(bases(), start_S) == (kind == "flexlora")


@pytest.mark.parametrize("rank", [2, [3, 1, 2]], ids=str)
@pytest.mark.parametrize("kind", ["fedavg", *METHODS])
def test_a_run_learns_in_the_bytes_that_were_planned(kind: str, rank: Any, tmp_path: Path) -> None:
    if kind == "rolora" and rank != 2:
        pytest.skip("RoLoRA is for nodes of one rank")
    learner = {"kind": "sgd", "lr": 0.3, "steps": 20, "batch_size": 16}
    experiment = adapted(kind, rank, learner=learner, schedule={"kind": "every", "participation": 0.75})
    run = gossamer.run(experiment, tmp_path / "run")
    assert gossamer.plan(experiment).bytes_total == run.summary()["bytes"]
    loss = [row["test_loss"] for row in run.metrics.to_pylist() if row["node"] == -1]
    assert loss[-1] < 0.9 * loss[0]


def test_rolora_trains_one_factor_in_the_engine() -> None:
    federation = Federation(adapted("rolora"))
    local = Local(federation, Eager(federation))
    for round in range(4):
        before_D = federation.population.state["row"][0].clone()
        local.exchange(local.train(round))
        for pair in federation.layout.factors:
            moved = [bool(part.any()) for part in products(federation.population.state["row"][0] - before_D, pair)]
            assert moved == [round % 2 == 1, round % 2 == 0]
