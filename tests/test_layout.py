"""Rows and models: zero-copy views, buffers behind parameters, the frozen part outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gossamer.errors import ExperimentError
from gossamer.layout import Layout
from gossamer.parametrisations.identity import Identity
from gossamer.resident import Resident


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_parameters_first_then_buffers() -> None:
    layout = Layout.of(network())
    assert layout.trainable == 3 * 4 + 4 + 4 + 4 + 4 * 2 + 2
    assert layout.size == layout.trainable + 4 + 4 + 1
    assert [e.trainable for e in layout.entries] == sorted((e.trainable for e in layout.entries), reverse=True)
    assert all(a.stop == b.start for a, b in zip(layout.entries, layout.entries[1:], strict=False))


def test_views_share_memory_for_one_row_and_for_many() -> None:
    layout = Layout.of(network())
    rows_ND = torch.zeros(5, layout.size)
    for entry, view in layout.views(rows_ND):
        assert view.shape == (5, *entry.shape)
        view.fill_(1.0)
    assert bool((rows_ND == 1).all())


def test_columns_join_neighbours() -> None:
    layout = Layout.of(network())
    assert layout.columns({"0.weight", "0.bias"}) == [(0, 16)]
    assert layout.columns({"0.weight", "2.bias"}) == [(0, 12), (32, 34)]


def test_a_resident_module_computes_with_its_row() -> None:
    torch.manual_seed(0)
    plain, bound = network(), network()
    bound.load_state_dict(plain.state_dict())
    layout = Layout.of(bound)
    resident = Resident(bound, layout, torch.float32)
    x = torch.randn(7, 3)
    for _ in range(3):
        assert torch.equal(plain(x), bound(x))
    resident.store_buffers()
    other = Resident(network(), layout, torch.float32)
    other.load(resident.row)
    for name, value in plain.state_dict().items():
        assert torch.equal(other.module.state_dict()[name], value), name


def test_gradients_come_in_the_parts_of_the_row() -> None:
    module = nn.Linear(3, 2)
    resident = Resident(module, Layout.of(module), torch.float32)
    weight, bias = resident.gradients(module(torch.full((1, 3), 2.0)).sum())
    assert weight.tolist() == [2.0] * 6
    assert bias.tolist() == [1.0] * 2
    unused, _ = resident.gradients(module.bias.sum())
    assert unused.tolist() == [0.0] * 6
    assert torch.equal(torch.cat(resident.parts), resident.row)
    assert [part.tolist() for part in resident.split(torch.arange(8))] == [[0, 1, 2, 3, 4, 5], [6, 7]]


def test_frozen_parameters_are_not_in_the_row_and_never_change() -> None:
    module = network()
    layout = Identity(freeze=("0.*",)).layout(module)
    before = module[0].weight.detach().clone()
    resident = Resident(module, layout, torch.float32)
    assert layout.frozen == ("0.weight", "0.bias")
    resident.load(torch.full((layout.size,), 0.5))
    module(torch.randn(4, 3)).sum().backward()
    assert torch.equal(module[0].weight, before)
    assert module[0].weight.grad is None


def test_freezing_needs_a_match_and_something_left() -> None:
    with pytest.raises(ExperimentError, match="matches no parameter"):
        Identity(freeze=("conv.*",)).layout(network())
    with pytest.raises(ExperimentError, match="nothing is left"):
        Identity(freeze=("*",)).layout(network())
