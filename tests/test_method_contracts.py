"""What all methods have in common, on a plain loop over their protocol. Shapes as in method_cases."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from method_cases import D, State, T, context, random, view
from torch import Tensor

from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.learners import Learner
from gossamer.learners.sgd import SGD
from gossamer.methods import Context, Inbox, Method, Result, Task, Terms
from gossamer.methods.dsgd import DSGD
from gossamer.methods.fedavg import FedAvg
from gossamer.methods.fedavgm import FedAvgM
from gossamer.methods.fedbuff import FedBuff
from gossamer.methods.fednova import FedNova
from gossamer.methods.fedper import FedPer
from gossamer.methods.fedprox import FedProx
from gossamer.methods.local import Local
from gossamer.methods.scaffold import Scaffold
from gossamer.plugs import discover
from gossamer.training import descend

# Rankings need a supermask: tests/test_frl.py has their contract.
METHODS = {kind: cls() for kind, cls in discover(Method).items() if not kind.startswith("frl") and not cls.gathers}
# The model of the contracts has no bias for each class.
METHODS["balanced_merge"] = type(METHODS["balanced_merge"])(adjust=0, ridge=1.0)  # type: ignore[call-arg]
SERVER = {
    **{kind: method for kind, method in METHODS.items() if method.world == "server" and kind != "fedasync"},
    "fedavg, half": FedAvg(server_lr=0.5),
    "fednova, proximal": FedNova(mu=0.2, server_lr=0.7),
    "scaffold, half": Scaffold(server_lr=0.5),
}


def train(task: Task, inputs: Tensor, labels: Tensor, learner: Learner, lr: float) -> Result:
    """Plain steps on all items with autograd: logits = inputs @ body @ head; the buffer follows the inputs' mean."""
    row = task.row.clone()
    slots = {name: value.clone() for name, value in (task.slots or learner.fresh(row[:T])).items()}
    slots.pop("row", None)
    steps = learner.steps_for(len(labels)) if task.steps is None else task.steps
    for _ in range(steps):
        leaf = row[:T].clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(inputs @ leaf[:6].view(3, 2) @ leaf[6:].view(2, 2), labels)
        (grad,) = torch.autograd.grad(loss, leaf)
        if task.terms.anchor is not None:
            grad = grad + task.terms.proximal * (row[:T] - task.terms.anchor)
        if task.terms.drift is not None:
            grad = grad + task.terms.drift
        descend([row[:T]], [grad.clone()], [slots], [Terms()], learner, lr)
        row[T:] += 0.1 * (inputs.mean(0) - row[T:])
    return Result(row, slots, steps, lr, 0.0, 0.0)


@dataclasses.dataclass
class Population:
    """A plain loop over the protocol: with a server, on a ring with weights 1/3, or alone."""

    method: Method
    seen: Context
    items: list[tuple[Tensor, Tensor]]

    def __post_init__(self) -> None:
        starts = [self.method.init(self.seen, random(D, seed=5)) for _ in range(self.seen.nodes)]
        self.own = [own for _, own in starts]
        self.states = [state for state, _ in starts][: 1 if self.method.world == "server" else None]

    def round(self, round: int) -> None:
        outboxes = []
        for node, (inputs, labels) in enumerate(self.items):
            at = view(self.seen, node, round)
            down = self.method.publish(self.states[node if len(self.states) > 1 else 0], at)
            task = self.method.prepare(self.own[node], down, at)
            done = train(task, inputs, labels, self.seen.learner, self.seen.learner.rate(round, self.seen.rounds))
            outbox, changed = self.method.finish(task, done, self.own[node], at)
            self.own[node] = {**self.own[node], **changed}
            outboxes.append(outbox)
        if self.method.world == "alone":
            return
        nodes = range(self.seen.nodes)
        for receiver in range(len(self.states)):
            if self.method.world == "server":
                weights = [outbox.weight for outbox in outboxes]
            else:
                weights = [
                    1.0 if (j - receiver) % self.seen.nodes in (0, 1, self.seen.nodes - 1) else 0.0 for j in nodes
                ]
            fields = {
                name: sum((weights[j] * outboxes[j].common[name] for j in nodes), torch.zeros(1)) / sum(weights)
                for name in outboxes[0].common
            }
            at = view(self.seen, receiver if self.method.world == "graph" else -1, round)
            changed = self.method.merge(self.states[receiver], Inbox(fields, len(nodes), sum(weights)), at)
            self.states[receiver] = {**self.states[receiver], **changed}

    def model(self, node: int) -> Task:
        at = view(self.seen, node, 4)
        down = self.method.publish(self.states[node if len(self.states) > 1 else 0], at)
        return self.method.model(self.own[node], down, at)


def population(method: Method, nodes: int = 4, alike: bool = False, **settings: Any) -> Population:
    learner = SGD(lr=0.1, batch_size=4, steps=3, **settings)
    """Nodes with 10, 20, ... items, or all with the same 12."""
    samples = tuple(12 if alike else 10 * (node + 1) for node in range(nodes))
    items = []
    for node, count in enumerate(samples):
        inputs = random(count, 3, seed=20 if alike else 20 + node)
        items.append((inputs, (inputs.sum(1) > 0).long()))
    return Population(method, context(nodes, learner, samples), items)


def run(method: Method, rounds: int = 3, **settings: Any) -> Population:
    made = population(method, **settings)
    for round in range(rounds):
        made.round(round)
    return made


def copied(state: State) -> State:
    return {name: value.clone() for name, value in state.items()}


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", METHODS)
def test_halves_are_pure(kind: str) -> None:
    """No function changes what it is given, and each gives the same answer twice."""
    method, made = METHODS[kind], run(METHODS[kind], rounds=2)
    state, own, at = made.states[0], made.own[0], view(made.seen, 0, 2)
    before_state, before_own = copied(state), copied(own)
    down = method.publish(state, at)
    before_down = copied(down)
    task = method.prepare(own, down, at)
    before_row = task.row.clone()
    done = train(task, *made.items[0], made.seen.learner, 0.1)
    before_done = done.row.clone()
    outbox, changed = method.finish(task, done, own, at)
    again, changed_again = method.finish(task, done, own, at)
    assert same(outbox.common, again.common)
    assert same(changed, changed_again)
    heard = Inbox(copied(outbox.common), made.seen.nodes, 1.0)
    if method.world != "alone":
        assert same(method.merge(state, heard, at), method.merge(state, heard, at))
        assert same(heard.fields, outbox.common)
    method.model(own, down, at)
    assert same(state, before_state)
    assert same(own, before_own)
    assert same(down, before_down)
    assert torch.equal(task.row, before_row)
    assert torch.equal(done.row, before_done)


@pytest.mark.parametrize("kind", METHODS)
def test_state_keeps_its_names_shapes_and_types(kind: str) -> None:
    """The engine holds each entry as one array, so entries may neither appear nor change shape."""
    start, end = population(METHODS[kind]), run(METHODS[kind])
    for before, after in (*zip(start.states, end.states, strict=True), *zip(start.own, end.own, strict=True)):
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert value.shape == after[name].shape
            assert value.dtype == after[name].dtype


@pytest.mark.parametrize("kind", METHODS)
def test_a_nodes_number_makes_no_difference(kind: str) -> None:
    """Renaming the nodes (their neighbours too) renames the models and changes nothing else."""
    one, other = population(METHODS[kind]), population(METHODS[kind])
    other.items = other.items[::-1]
    other.seen = dataclasses.replace(other.seen, samples=other.seen.samples[::-1])
    for round in range(3):
        one.round(round)
        other.round(round)
    for node in range(4):
        torch.testing.assert_close(one.model(node).row, other.model(3 - node).row, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", METHODS)
def test_nodes_that_are_alike_are_as_one(kind: str) -> None:
    """Four nodes with the same items learn what a single one learns."""
    single, four = run(METHODS[kind], nodes=1, alike=True), run(METHODS[kind], nodes=4, alike=True)
    for node in range(4):
        torch.testing.assert_close(four.model(node).row, single.model(0).row, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["fedavg", "fednova", "scaffold", "dsgd", "fedper", "finetune", "local"])
def test_one_node_learns_as_if_alone(kind: str) -> None:
    settings = {"momentum": 0.9} if kind != "scaffold" else {}
    method = METHODS[kind] if kind not in ("dsgd", "local") else type(METHODS[kind])(keep_optimizer=False)
    alone = population(Local(keep_optimizer=False), nodes=1, **settings)
    row = alone.own[0]["row"]
    for _ in range(3):
        row = train(Task(row), *alone.items[0], alone.seen.learner, 0.1).row
    torch.testing.assert_close(run(method, nodes=1, **settings).model(0).row, row, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", SERVER)
def test_buffers_are_averaged_and_nothing_else(kind: str) -> None:
    """Whatever the server does to what is trained, its buffers become the mean of the nodes' buffers.

    FedAsync is none of these: it mixes one model after the other into its own.
    """
    method, made = SERVER[kind], run(SERVER[kind], rounds=1)
    start = random(D, seed=5)
    rows = [train(Task(start), *items, made.seen.learner, 0.1).row for items in made.items]
    uniform = isinstance(method, Scaffold | FedBuff)
    weights = [1.0] * 4 if uniform else [float(n) for n in made.seen.samples]
    expected = sum((w * row[T:] for w, row in zip(weights, rows, strict=True)), torch.zeros(3)) / sum(weights)
    torch.testing.assert_close(made.states[0]["row"][T:], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_fednova_with_equal_steps_is_fedavg(momentum: float, nesterov: bool) -> None:
    nova, avg = (run(method, momentum=momentum, nesterov=nesterov) for method in (FedNova(), FedAvg()))
    torch.testing.assert_close(nova.states[0]["row"], avg.states[0]["row"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "plain"),
    [
        (FedProx(mu=0.0), FedAvg()),
        (FedAvgM(beta=0.0, server_lr=0.3), FedAvg(server_lr=0.3)),
        (FedNova(mu=0.4), FedProx(mu=0.4)),
    ],
)
def test_special_cases(method: Method, plain: Method) -> None:
    torch.testing.assert_close(run(method).states[0]["row"], run(plain).states[0]["row"], rtol=1e-12, atol=1e-12)


def test_scaffold_control_variates_keep_their_mean() -> None:
    """With everybody taking part, the server's control variate stays the mean of the nodes'."""
    made = run(Scaffold(), rounds=4)
    mean = torch.stack([own["control"] for own in made.own]).mean(0)
    assert bool(mean.any())
    torch.testing.assert_close(made.states[0]["control"], mean)


def test_dsgd_keeps_the_mean_of_the_rows_when_mixing() -> None:
    """The ring's weights are doubly stochastic: without local steps mixing keeps the mean and shrinks the spread."""
    made = population(DSGD())
    for node, state in enumerate(made.states):
        state["row"] = random(D, seed=30 + node)
    made.seen = dataclasses.replace(made.seen, learner=SGD(steps=0))
    before = torch.stack([state["row"] for state in made.states])
    made.round(0)
    after = torch.stack([state["row"] for state in made.states])
    torch.testing.assert_close(after.mean(0), before.mean(0))
    assert float(after.std(0).sum()) < 0.6 * float(before.std(0).sum())


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_says_what_it_is(kind: str) -> None:
    cls = type(METHODS[kind])
    assert 20 < len(cls.summary()) <= 120
    assert cls.source or kind in ("local", "centralised")


# ---- what does not fit together --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "fednova", "learner": "adam"}, "learner.kind = 'adam'"),
        ({"method": "scaffold", "learner": "adamw"}, "learner.kind = 'adamw'"),
        ({"method": "scaffold", "learner": {"kind": "sgd", "momentum": 0.9}}, "learner.momentum = 0.9"),
        ({"method": "scaffold", "topology": "ring"}, "needs a server"),
        ({"method": "dsgd", "topology": "server"}, "graph"),
        ({"method": {"kind": "finetune", "steps": 1, "epochs": 1}}, "not both"),
        ({"method": "finetune", "learner": {"kind": "sgd", "lr_schedule": "cosine"}}, "learner.lr_final"),
        ({"method": {"kind": "fedadam", "tau": 0.0}}, "method.tau"),
        ({"method": {"kind": "fedavgm", "beta": 1.0}}, "method.beta"),
        ({"method": {"kind": "fedadagrad", "beta2": 0.9}}, "beta2"),
    ],
)
def test_bad_combinations_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ExperimentError, match=words) as caught:
        Experiment(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("head", "words"), [(("tail.*",), "tail"), (("body.*", "head.*"), "nothing is left to share")])
def test_fedper_refuses_heads_that_cannot_be(head: tuple[str, ...], words: str) -> None:
    with pytest.raises(ExperimentError, match=words) as caught:
        FedPer(head=head).init(context(), random(D))
    assert "head" in str(caught.value)
    assert "\n" not in str(caught.value)
