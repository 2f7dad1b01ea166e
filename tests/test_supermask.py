"""Supermasks: exact masks, gradients that reach the scores alone, weights that never change; and Conv8."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import small
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import gossamer
from gossamer.backends.vmap import Vmap
from gossamer.errors import ExperimentError
from gossamer.federation import Federation
from gossamer.groundwork import initial_module
from gossamer.models.conv8 import Conv8
from gossamer.models.mlp import MLP
from gossamer.parametrisations.supermask import Supermask, best
from gossamer.rankings import ranks_of, scores_of

SEMANTICS = ["intended", "reference"]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def masked(module: nn.Module | None = None, seed: int = 0, **fields: Any) -> nn.Module:
    torch.manual_seed(seed)
    return Supermask(**fields).applied(network() if module is None else module)


def mask_of(scores: Tensor, k: float, magnitude: bool = False) -> Tensor:
    """Straight from the definition: by a stable sort, the last n - floor((1 - k) n)."""
    flat = (scores.abs() if magnitude else scores).detach().flatten()
    order = sorted(range(len(flat)), key=lambda edge: (float(flat[edge]), edge))
    mask = torch.zeros(len(flat), dtype=scores.dtype)
    mask[order[math.floor((1 - k) * len(flat) + 1e-9) :]] = 1
    return mask.view(scores.shape)


# ---- masks ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=30), st.data())
@settings(deadline=None)
def test_a_mask_has_its_size_whatever_ties_and_agrees_with_ranks(values: list[float], data: st.DataObject) -> None:
    n = len(values)
    dropped = data.draw(st.integers(0, n - 1))
    scores_n = torch.tensor(values)
    mask_Ln = best(torch.stack([scores_n, scores_n.flip(0)]).numpy(), dropped)
    assert mask_Ln.sum(axis=1).tolist() == [n - dropped] * 2
    layout = Supermask().layout(nn.ParameterList([nn.Parameter(scores_n)]))
    for row, scores in zip(mask_Ln, (scores_n, scores_n.flip(0)), strict=True):
        assert np.array_equal(row, (ranks_of(scores, layout) >= dropped).numpy())


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("k", [0.1, 0.5, 0.9, 1.0])
def test_the_model_is_its_best_edges(semantics: str, k: float) -> None:
    module = masked(k=k, semantics=semantics, layers={"0.*": 0.7})
    images = torch.randn(5, 1, 5, 5)
    x = images
    for place, share in ((0, 0.7), (4, k), (6, k)):
        layer = module[place].parametrizations.weight
        weight = layer[0].signs * mask_of(layer.original, share, semantics == "reference")
        if place == 0:
            x = F.group_norm(F.conv2d(x, weight), 2).relu().flatten(1)
        else:
            x = x @ weight.T if place == 6 else (x @ weight.T).relu()
        assert torch.equal(module[place].weight, weight)
    torch.testing.assert_close(module(images), x)


def test_sizes_are_not_those_of_rounded_products() -> None:
    # In floating point (1 - 0.9) * 10 is just below 1.
    assert [Supermask(k=k).kept("0.weight", 10) for k in (0.9, 0.3, 1.0, 0.05)] == [9, 3, 10, 1]


def test_the_share_of_a_layer_goes_by_its_name_in_the_plain_module() -> None:
    mask = Supermask(k=0.5, layers={"4.*": 0.25, "*.weight": 1.0})
    module = masked(k=0.5, layers={"4.*": 0.25, "*.weight": 1.0})
    kept = {e.name: mask.kept(e.name, math.prod(e.shape)) for e in mask.layout(module).entries}
    assert kept == {
        "0.parametrizations.weight.original": 36,
        "4.parametrizations.weight.original": 72,
        "6.parametrizations.weight.original": 24,
    }


def test_reversing_all_scores_leaves_the_reference_mask_and_none_of_the_intended() -> None:
    for semantics, equal in zip(SEMANTICS, (0.0, 0.99), strict=True):
        module = masked(nn.Linear(400, 50), semantics=semantics)
        layout = Supermask().layout(module)
        scores_T = module.parametrizations.weight.original.detach().flatten().clone()
        before = module.weight != 0
        ranks_T = ranks_of(scores_T, layout)
        reversed_T = scores_of(len(ranks_T) - 1 - ranks_T, scores_T, layout)
        module.parametrizations.weight.original.data.copy_(reversed_T.view(50, 400))
        overlap = float((before & (module.weight != 0)).sum() / before.sum())
        assert overlap >= equal if equal else overlap == 0.0


# ---- what is drawn, and what is frozen -----------------------------------------------------------------------------


def test_weights_are_signed_constants_scores_uniform_and_biases_zero() -> None:
    module = masked(nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200), nn.Conv2d(2, 3, 5)))
    for layer, fan_in in ((module[0], 300), (module[2], 50)):
        signs, scores = layer.parametrizations.weight[0].signs, layer.parametrizations.weight.original.detach()
        torch.testing.assert_close(signs.abs(), torch.full_like(signs, math.sqrt(2 / fan_in)))
        assert float(scores.abs().max()) <= 1 / math.sqrt(fan_in)
        assert not bool(layer.bias.any())
    signs, scores = module[0].parametrizations.weight[0].signs, module[0].parametrizations.weight.original.detach()
    assert abs(float(signs.sign().mean())) < 4 / math.sqrt(60_000)
    assert float(scores.std()) == pytest.approx(1 / math.sqrt(3 * 300), rel=0.02)
    assert bool((module[1].weight == 1).all())
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert trained == ["0.parametrizations.weight.original", "2.parametrizations.weight.original"]
    layout = Supermask().layout(module)
    assert [e.name for e in layout.entries if e.trainable] == trained
    assert {"0.bias", "0.parametrizations.weight.0.signs", "1.weight"} <= set(layout.frozen)


def test_the_same_dice_draw_the_same_network_and_none_are_needed_for_a_plan() -> None:
    first, again, other = masked(seed=3), masked(seed=3), masked(seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first[4].weight, other[4].weight)
    with torch.device("meta"):
        blank = masked()
    assert Supermask().layout(blank) == Supermask().layout(first)
    assert blank(torch.empty(2, 1, 5, 5, device="meta")).shape == (2, 3)


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_gradients_go_straight_through_to_the_scores_alone(semantics: str) -> None:
    module, plain = masked(semantics=semantics), network()
    for place in (0, 4, 6):
        plain[place].weight.data.copy_(module[place].weight)
        plain[place].bias.data.zero_()
    images, labels = torch.randn(6, 1, 5, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    for model in (module, plain):
        F.cross_entropy(model(images), labels).backward()
    for place in (0, 4, 6):
        layer = module[place].parametrizations.weight
        expected = layer[0].signs * plain[place].weight.grad
        if semantics == "reference":
            expected = expected * layer.original.sign()
        torch.testing.assert_close(layer.original.grad, expected)
    assert [n for n, p in module.named_parameters() if p.grad is not None] == [
        n for n, p in module.named_parameters() if n.endswith("original")
    ]


def test_a_batch_of_nodes_has_the_gradients_of_each() -> None:
    module = masked(nn.Linear(7, 4)).double()
    inputs_NB = torch.randn(3, 5, 7, dtype=torch.float64)
    scores_N = torch.randn(3, 4, 7, dtype=torch.float64).round(decimals=1)  # Ties in some of them.

    def loss(scores: Tensor, inputs_B: Tensor) -> Tensor:
        named = {"parametrizations.weight.original": scores}
        return torch.func.functional_call(module, named, (inputs_B,)).square().sum()

    together_N = torch.func.vmap(torch.func.grad(loss))(scores_N, inputs_NB)
    each = [torch.func.grad(loss)(scores, inputs) for scores, inputs in zip(scores_N, inputs_NB, strict=True)]
    torch.testing.assert_close(together_N, torch.stack(each))
    assert bool(together_N.flatten(1).any(1).all())


def test_nothing_but_scores_is_trained_in_a_run(tmp_path: Path) -> None:
    experiment = small(parametrisation="supermask", rounds=2)
    before = initial_module(experiment, (1, 8, 8), 10).state_dict()
    run = gossamer.run(experiment, tmp_path / "run")
    after = run.model().state_dict()
    assert gossamer.plan(experiment).setup_bytes == 0
    for name, value in before.items():
        assert torch.equal(after[name], value) != name.endswith("original"), name


def test_vmap_has_the_gradients_of_eager() -> None:
    federation = Federation(small(parametrisation="supermask", dtype="float64", backend="vmap"))
    batched, eager = Vmap(federation).first_gradients()
    torch.testing.assert_close(batched, eager, rtol=1e-12, atol=1e-12)
    assert float(eager.abs().max()) > 1e-3


# ---- what cannot be masked -----------------------------------------------------------------------------------------


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    return module


@pytest.mark.parametrize(
    ("module", "fields", "told"),
    [
        (nn.Linear(5, 1), {"k": 0.9}, "parametrisation.k = 0.9: layer 'weight' with 5 edges is too small"),
        (nn.Sequential(nn.Linear(5, 1)), {"layers": {"0.*": 0.85}}, "k = 0.85: layer '0.weight' with 5 edges"),
        (network(), {"layers": {"conv.*": 0.5}}, "'conv.*' matches no layer; there are: 0.weight, 4.weight, 6.weight"),
        (nn.Sequential(nn.GRU(3, 4)), {}, "'0.weight_ih_l0' belongs to a GRU"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), {}, "belongs to a ParametrizationList"),
        (tied(), {}, "'0.weight' and '1.weight' are one tensor"),
        (nn.PReLU(), {}, "no trainable tensor of two or more dimensions"),
    ],
    ids=["small", "small by layer", "pattern", "recurrent", "weight norm", "tied", "nothing"],
)
def test_modules_it_is_not_for_are_refused(module: nn.Module, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        Supermask(**fields).applied(module)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"k": 0}, {"k": 1.1}, {"layers": {"0.*": 0.0}}])
def test_shares_are_above_0_and_at_most_1(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"greater than 0|less than or equal to 1"):
        Supermask(**fields)


def test_a_layer_that_is_whole_and_what_is_frozen_already_stay() -> None:
    module = MLP(hidden=(4,)).build((3,), 2)
    module[1].weight.requires_grad_(False)
    kept = module[1].weight.clone()
    masked(module, k=1.0)
    assert torch.equal(module[1].weight, kept)
    assert bool((module[3].weight != 0).all())


# ---- Conv8 ---------------------------------------------------------------------------------------------------------


def test_conv8_has_the_weights_of_the_paper() -> None:
    with torch.device("meta"):
        module = Conv8().build((3, 32, 32), 10)
    sizes = [9 * a * b for a, b in itertools.pairwise([3, 64, 64, 128, 128, 256, 256, 512, 512])]
    assert [p.numel() for p in module.parameters()] == [*sizes, 2048 * 256, 256 * 256, 2560]
    assert sum(p.numel() for p in module.parameters()) == 5_275_840


def test_conv8_follows_its_layer_list_at_any_width() -> None:
    module, images = Conv8(width=1 / 16).build((1, 33, 17), 7).double(), torch.randn(2, 1, 33, 17, dtype=torch.float64)
    weights = list(module.parameters())
    assert [len(w) for w in weights] == [4, 4, 8, 8, 16, 16, 32, 32, 16, 16, 7]
    x = images
    for place in range(8):
        x = F.conv2d(x, weights[place], padding=1).relu()
        x = F.max_pool2d(x, 2) if place % 2 else x
    assert x.shape == (2, 32, 2, 1)
    x = (x.flatten(1) @ weights[8].T).relu()
    torch.testing.assert_close(module(images), (x @ weights[9].T).relu() @ weights[10].T)
    assert len(next(Conv8(width=0.001).build((1, 16, 16), 2).parameters())) == 4


@pytest.mark.parametrize("shape", [(1, 15, 32), (64,)])
def test_conv8_refuses_small_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ExperimentError, match=r"model\.kind = 'conv8' takes images .* from 16x16"):
        Conv8().build(shape, 10)
