"""Methods for graphs straight from the papers: as in `transcriptions`, nothing of Gossamer runs in these loops."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn
from transcriptions import Setting, State, copy_of, work


def ring_weights(nodes: int, chosen: Sequence[int]) -> list[dict[int, float]]:
    """What each node of a ring gives to whom it hears, by Metropolis-Hastings among those present."""
    here = set(chosen)
    heard = [{(i - 1) % nodes, (i + 1) % nodes} & here - {i} if i in here else set() for i in range(nodes)]
    weights = [{j: 1 / (1 + max(len(heard[i]), len(heard[j]))) for j in heard[i]} for i in range(nodes)]
    return [{**given, i: 1 - math.fsum(given.values())} for i, given in enumerate(weights)]


def mixed(states: Sequence[State], weights: Sequence[dict[int, float]]) -> list[State]:
    """sum_j w_ij * state_j for each i."""
    return [{name: sum(w * states[j][name] for j, w in given.items()) for name in states[0]} for given in weights]


def ring_corrected(setting: Setting, own: float) -> list[State]:
    """As the first author simulates variance correction: own share, mean of the neighbours, their mean variance."""
    nodes = len(setting.data)
    modules = [copy.deepcopy(setting.module) for _ in setting.data]
    optimisers = [setting.optimiser(module.parameters()) for module in modules]
    for round in range(len(setting.participants)):
        for node, module in enumerate(modules):
            work(module, optimisers[node], setting, node, round)
        rows = [copy_of(module.state_dict()) for module in modules]
        for i, module in enumerate(modules):
            left, right = rows[i - 1], rows[(i + 1) % nodes]
            after = {}
            for name, x in rows[i].items():
                after[name] = own * x + (1 - own) * (left[name] + right[name]) / 2
                if x.dim() >= 2:
                    target = (left[name].var(correction=0) + right[name].var(correction=0)) / 2
                    mean, variance = after[name].mean(), after[name].var(correction=0)
                    after[name] = (after[name] - mean) * torch.sqrt(target / variance) + mean
            module.load_state_dict(after)
    return [module.state_dict() for module in modules]


def pushed(setting: Setting, arrows: Sequence[tuple[int, int]]) -> list[State]:
    """Assran et al. 2019, Algorithm 1, with several local steps; who is absent neither sends nor hears."""
    x = [copy_of(setting.module.state_dict()) for _ in setting.data]
    w = [1.0] * len(x)
    parameters = [name for name, _ in setting.module.named_parameters()]
    for round, chosen in enumerate(setting.participants):
        for node in chosen:
            local = copy.deepcopy(setting.module)
            z = {name: value / w[node] for name, value in x[node].items()}
            local.load_state_dict(z)
            work(local, setting.optimiser(local.parameters()), setting, node, round)
            for name, value in local.state_dict().items():
                x[node][name] = x[node][name] + value - z[name] if name in parameters else w[node] * value
        present = [(s, r) for s, r in arrows if s in chosen and r in chosen]
        given = [{r for s, r in present if s == node} | {node} for node in range(len(x))]
        share = [{s: 1 / len(given[s]) for s in range(len(x)) if node in given[s]} for node in range(len(x))]
        x, w = mixed(x, share), [sum(p * w[s] for s, p in part.items()) for part in share]
    return [{name: value / mass for name, value in row.items()} for row, mass in zip(x, w, strict=True)]


def ring_gradient_tracking(setting: Setting, exchange_lr: float) -> list[State]:
    """Liu et al. 2023, Algorithm 1, from c = 0, on a ring."""
    nodes = len(setting.data)
    rows = [copy_of(setting.module.state_dict()) for _ in setting.data]
    zero = {name: torch.zeros_like(p) for name, p in setting.module.named_parameters()}
    c = [copy_of(zero) for _ in setting.data]
    for round, chosen in enumerate(setting.participants):
        z = [copy_of(zero) for _ in setting.data]
        for node in chosen:
            local = copy.deepcopy(setting.module)
            local.load_state_dict(rows[node])

            def correct(local: nn.Module = local, node: int = node) -> None:
                for name, parameter in local.named_parameters():
                    assert parameter.grad is not None
                    parameter.grad += c[node][name]

            steps = work(local, setting.optimiser(local.parameters()), setting, node, round, correct=correct)
            after, length = copy_of(local.state_dict()), steps * setting.lr
            for name in zero:
                z[node][name] = (rows[node][name] - after[name]) / length
                after[name] = rows[node][name] - exchange_lr * length * z[node][name]
            rows[node] = after
        weights = ring_weights(nodes, chosen)
        for node, mean in enumerate(mixed(z, weights)):
            c[node] = {name: c[node][name] - z[node][name] + mean[name] for name in zero}
        rows = mixed(rows, weights)
    return rows


def ring_quasi_global(setting: Setting, beta: float, mu: float) -> list[State]:
    """Lin et al. 2021, Algorithm 1 (QG-DSGDm), on a ring; the momentum stands still during the local steps."""
    nodes = len(setting.data)
    rows = [copy_of(setting.module.state_dict()) for _ in setting.data]
    zero = {name: torch.zeros_like(p) for name, p in setting.module.named_parameters()}
    m = [copy_of(zero) for _ in setting.data]
    for round, chosen in enumerate(setting.participants):
        half, lengths = [dict(row) for row in rows], [1.0] * nodes
        for node in chosen:
            local = copy.deepcopy(setting.module)
            local.load_state_dict(rows[node])

            def correct(local: nn.Module = local, node: int = node) -> None:
                for name, parameter in local.named_parameters():
                    assert parameter.grad is not None
                    parameter.grad += beta * m[node][name]

            steps = work(local, setting.optimiser(local.parameters()), setting, node, round, correct=correct)
            half[node], lengths[node] = copy_of(local.state_dict()), steps * setting.lr
        after = mixed(half, ring_weights(nodes, chosen))
        for node in chosen:
            for name in zero:
                moved = (rows[node][name] - after[node][name]) / lengths[node]
                m[node][name] = mu * m[node][name] + (1 - mu) * moved
        rows = after
    return rows
