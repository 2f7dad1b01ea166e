"""The methods once more: slow, straight from the papers, with torch.nn.Module copies, torch.optim and state dicts.

Nothing of Gossamer runs in these loops; they are given the data, who takes part and the order of the batches.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

State = dict[str, Tensor]
Optimiser = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Setting:
    """What both sides agree on before the first round."""

    module: nn.Module
    data: Sequence[tuple[Tensor, Tensor]]
    participants: Sequence[Sequence[int]]
    """Who takes part, one entry for each round."""
    batches: Callable[[int, int], Iterable[Any]]
    """(node, round) -> indices into the node's items, one array for each step."""
    optimiser: Optimiser
    lr: float


def copy_of(state: State) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


def work(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    setting: Setting,
    node: int,
    round: int,
    penalty: Callable[[], Tensor] | None = None,
    correct: Callable[[], None] | None = None,
) -> int:
    """Local training; returns the number of steps."""
    module.train()
    inputs, labels = setting.data[node]
    steps = 0
    for index in setting.batches(node, round):
        optimiser.zero_grad()
        loss = cross_entropy(module(inputs[index]), labels[index])
        if penalty is not None:
            loss = loss + penalty()
        loss.backward()
        if correct is not None:
            correct()
        optimiser.step()
        steps += 1
    return steps


def mean_of(states: Sequence[State], weights: Sequence[float]) -> State:
    total = sum(weights)
    return {name: sum(w / total * s[name] for w, s in zip(weights, states, strict=True)) for name in states[0]}


def items_of(setting: Setting, nodes: Sequence[int]) -> list[float]:
    return [float(len(setting.data[node][1])) for node in nodes]


def averaged(setting: Setting, server: nn.Module, round: int, mu: float = 0.0) -> State:
    """The mean of the state dicts of the participants after local training from the server's model."""
    states = []
    for node in setting.participants[round]:
        local = copy.deepcopy(server)
        pairs = list(zip(local.parameters(), [p.detach().clone() for p in server.parameters()], strict=True))
        penalty = (lambda pairs=pairs: mu / 2 * sum(((w - x) ** 2).sum() for w, x in pairs)) if mu else None
        work(local, setting.optimiser(local.parameters()), setting, node, round, penalty)
        states.append(copy_of(local.state_dict()))
    return mean_of(states, items_of(setting, setting.participants[round]))


def fedavg(setting: Setting, mu: float = 0.0) -> State:
    """FedAvg; FedProx where mu > 0, with the proximal term in the loss."""
    server = copy.deepcopy(setting.module)
    for round in range(len(setting.participants)):
        server.load_state_dict(averaged(setting, server, round, mu))
    return server.state_dict()


def fedavgm(setting: Setting, beta: float, server_lr: float) -> State:
    """torch's SGD with momentum at the server, whose gradient is the server's model minus the mean."""
    server = copy.deepcopy(setting.module)
    optimiser = torch.optim.SGD(server.parameters(), server_lr, momentum=beta)
    for round in range(len(setting.participants)):
        mean = averaged(setting, server, round)
        for name, parameter in server.named_parameters():
            parameter.grad = parameter.detach() - mean[name]
        optimiser.step()
        for name, buffer in server.named_buffers():
            buffer.copy_(mean[name])
    return server.state_dict()


def adaptive(setting: Setting, kind: str, server_lr: float, beta1: float, beta2: float, tau: float) -> State:
    """FedAdagrad, FedYogi, FedAdam: Reddi et al. 2021, Algorithm 2."""
    server = copy.deepcopy(setting.module)
    m = {name: torch.zeros_like(p) for name, p in server.named_parameters()}
    v = {name: torch.full_like(p, tau * tau) for name, p in server.named_parameters()}
    for round in range(len(setting.participants)):
        mean = averaged(setting, server, round)
        with torch.no_grad():
            for name, parameter in server.named_parameters():
                delta = mean[name] - parameter
                m[name] = beta1 * m[name] + (1 - beta1) * delta
                if kind == "fedadagrad":
                    v[name] = v[name] + delta**2
                elif kind == "fedyogi":
                    v[name] = v[name] - (1 - beta2) * delta**2 * torch.sign(v[name] - delta**2)
                elif kind == "fedadam":
                    v[name] = beta2 * v[name] + (1 - beta2) * delta**2
                parameter.copy_(parameter + server_lr * m[name] / (v[name].sqrt() + tau))
            for name, buffer in server.named_buffers():
                buffer.copy_(mean[name])
    return server.state_dict()


def fednova(setting: Setting, momentum: float, nesterov: bool, mu: float) -> State:
    """Wang et al. 2020 with tau_eff = sum_i p_i ||a_i||_1; a_i is built gradient by gradient."""
    server = copy.deepcopy(setting.module)
    for round in range(len(setting.participants)):
        nodes = setting.participants[round]
        sizes = items_of(setting, nodes)
        p = [n / sum(sizes) for n in sizes]
        before, directions, norms = copy_of(server.state_dict()), [], []
        for node in nodes:
            local = copy.deepcopy(server)
            anchors = [x.detach().clone() for x in server.parameters()]

            def penalty(local: nn.Module = local, anchors: list[Tensor] = anchors) -> Tensor:
                return mu / 2 * sum(((w - x) ** 2).sum() for w, x in zip(local.parameters(), anchors, strict=True))

            steps = work(local, setting.optimiser(local.parameters()), setting, node, round, penalty)
            norm = sum(abs(weight) for weight in gradient_weights(steps, setting.lr, momentum, nesterov, mu))
            norms.append(norm)
            after = local.state_dict()
            directions.append({name: (before[name] - after[name]) / norm for name in before})
        tau_eff = sum(w * n for w, n in zip(p, norms, strict=True))
        server.load_state_dict(
            {
                name: x - tau_eff * sum(w * d[name] for w, d in zip(p, directions, strict=True))
                for name, x in before.items()
            }
        )
    return server.state_dict()


def gradient_weights(steps: int, lr: float, momentum: float, nesterov: bool, mu: float) -> list[float]:
    """a: follow, as a list of weights of the gradients so far, first the velocity and then the way from the start."""
    velocity, way = [0.0] * steps, [0.0] * steps
    for step in range(steps):
        gradient = [-lr * mu * weight for weight in way]
        gradient[step] += 1
        velocity = [momentum * v + g for v, g in zip(velocity, gradient, strict=True)]
        move = [g + momentum * v for v, g in zip(velocity, gradient, strict=True)] if nesterov else velocity
        way = [w + m for w, m in zip(way, move, strict=True)]
    return way


def scaffold(setting: Setting, server_lr: float) -> State:
    """Karimireddy et al. 2020, Algorithm 1, option II."""
    server, nodes = copy.deepcopy(setting.module), len(setting.data)
    zero = {name: torch.zeros_like(p) for name, p in server.named_parameters()}
    c, c_i = copy_of(zero), [copy_of(zero) for _ in range(nodes)]
    for round, chosen in enumerate(setting.participants):
        moves, shifts = [], []
        for node in chosen:
            y = copy.deepcopy(server)

            def correct(y: nn.Module = y, node: int = node) -> None:
                for name, parameter in y.named_parameters():
                    assert parameter.grad is not None
                    parameter.grad += c[name] - c_i[node][name]

            steps = work(y, setting.optimiser(y.parameters()), setting, node, round, correct=correct)
            x, end = dict(server.named_parameters()), dict(y.named_parameters())
            with torch.no_grad():
                plus = {n: c_i[node][n] - c[n] + (x[n] - end[n]) / (steps * setting.lr) for n in x}
                moves.append({n: end[n] - x[n] for n in x})
                shifts.append({n: plus[n] - c_i[node][n] for n in x})
            c_i[node] = plus
        with torch.no_grad():
            for name, parameter in server.named_parameters():
                parameter += server_lr * sum(move[name] for move in moves) / len(chosen)
                c[name] = c[name] + len(chosen) / nodes * sum(shift[name] for shift in shifts) / len(chosen)
    return server.state_dict()


def alone(setting: Setting) -> list[State]:
    """Every node on its own, its optimiser alive from round to round."""
    modules = [copy.deepcopy(setting.module) for _ in setting.data]
    optimisers = [setting.optimiser(module.parameters()) for module in modules]
    for round, chosen in enumerate(setting.participants):
        for node in chosen:
            work(modules[node], optimisers[node], setting, node, round)
    return [module.state_dict() for module in modules]


def ring_dsgd(setting: Setting) -> list[State]:
    """Local steps, then averaging on a ring with Metropolis-Hastings weights among those present."""
    nodes = len(setting.data)
    modules = [copy.deepcopy(setting.module) for _ in setting.data]
    optimisers = [setting.optimiser(module.parameters()) for module in modules]
    for round, chosen in enumerate(setting.participants):
        for node in chosen:
            work(modules[node], optimisers[node], setting, node, round)
        here = set(chosen)
        heard = {i: {(i - 1) % nodes, (i + 1) % nodes} & here - {i} if i in here else set() for i in range(nodes)}
        rows = [copy_of(module.state_dict()) for module in modules]
        for i, module in enumerate(modules):
            weights = {j: 1 / (1 + max(len(heard[i]), len(heard[j]))) for j in heard[i]}
            weights[i] = 1 - math.fsum(weights.values())
            module.load_state_dict({name: sum(w * rows[j][name] for j, w in weights.items()) for name in rows[i]})
    return [module.state_dict() for module in modules]


def fedper(setting: Setting, head: str) -> list[State]:
    """Arivazhagan et al. 2019: parameters whose name starts with `head` stay at their node."""
    server = copy_of(setting.module.state_dict())
    heads = [{name: x for name, x in server.items() if name.startswith(head)} for _ in setting.data]
    for round, chosen in enumerate(setting.participants):
        states = []
        for node in chosen:
            local = copy.deepcopy(setting.module)
            local.load_state_dict({**server, **heads[node]})
            work(local, setting.optimiser(local.parameters()), setting, node, round)
            states.append(copy_of(local.state_dict()))
            heads[node] = {name: states[-1][name] for name in heads[node]}
        server = mean_of(states, items_of(setting, chosen))
    return [{**server, **own} for own in heads]


def finetuned(setting: Setting, steps_at: Callable[[int], Iterable[Any]]) -> list[State]:
    """The result of FedAvg, then more local steps at every node with these batches."""
    server = copy.deepcopy(setting.module)
    server.load_state_dict(fedavg(setting))
    states = []
    for node in range(len(setting.data)):
        local = copy.deepcopy(server)
        last = replace(setting, batches=lambda node, round: steps_at(node))
        work(local, setting.optimiser(local.parameters()), last, node, 0)
        states.append(local.state_dict())
    return states
