"""LoRA: the same as a dense change of the weights, padded ranks that stay padded, and what cannot be."""

from __future__ import annotations

import pytest
import torch
from adapted import adapted, fresh, inputs, outputs, resident, train
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gossamer.errors import ExperimentError
from gossamer.layout import Layout
from gossamer.learners import Learner
from gossamer.learners.adam import Adam
from gossamer.learners.adamw import AdamW
from gossamer.learners.sgd import SGD
from gossamer.parametrisations.lora import Lora

LEARNERS = [
    SGD(lr=0.2),
    SGD(lr=0.05, momentum=0.9, weight_decay=0.01),
    SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01, clip_norm=0.5),
    Adam(lr=0.01, weight_decay=0.01),
    AdamW(lr=0.01, weight_decay=0.1),
]


def merged(base: nn.Module, row_D: Tensor, layout: Layout) -> nn.Module:
    """The base with B A added to its weights, and the rest of the row in its place."""
    entries = dict(layout.views(row_D))
    named, base_named = {entry.name: view for entry, view in entries.items()}, dict(base.named_parameters())
    with torch.no_grad():
        for pair in layout.factors:
            change = pair.scale * (entries[pair.b].flatten(1) @ entries[pair.a].flatten(1))
            weight = base_named[pair.base.replace(".base_layer", "")]
            weight.add_((change.T if pair.transposed else change).reshape(weight.shape))
        for name, value in named.items():
            if ".lora_" not in name:
                base_named[name].copy_(value)
    return base


# ---- what it computes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "model"),
    [
        (Lora(rank=3), "vit"),
        (Lora(rank=3), "gpt2"),
        (Lora(rank=2, alpha=5.0), "llama"),
        (Lora(rank=4, rank_stabilised=True), "bert"),
        (Lora(rank=(2, 5)), "distilbert"),
        (Lora(rank=3, targets=("*",), head=False), "vit"),
        (Lora(rank=3, targets=("*projection", "fc1")), "vit"),
        (Lora(rank=3), "plain"),
        (Lora(rank=3), "encoder"),
    ],
    ids=str,
)
def test_merging_then_forward_is_the_forward(part: Lora, model: str) -> None:
    module, batch = adapted(part, model), inputs(model)
    bound = resident(part, module)
    train(bound, batch, 3)
    assert bound.layout.factors
    together = outputs(merged(fresh(model), bound.row, bound.layout), batch)
    assert (together - outputs(module, batch)).abs().max() <= 2e-6 * max(1.0, float(together.abs().max()))


def test_factors_say_what_they_change() -> None:
    part = Lora(rank=3, alpha=12.0)
    vit, gpt2 = (part.layout(adapted(part, model)) for model in ("vit", "gpt2"))
    first = vit.factors[0]
    assert first.base == "model.vit.layers.0.attention.q_proj.base_layer.weight"
    assert (first.rank, first.inputs, first.outputs, first.scale, first.transposed) == (3, 16, 16, 4.0, False)
    fused = gpt2.factors[1]
    assert fused.base == "model.transformer.h.1.attn.c_attn.base_layer.weight"
    assert (fused.inputs, fused.outputs, fused.transposed) == (16, 48, True)
    for layout, model in ((vit, "vit"), (gpt2, "gpt2")):
        module = adapted(part, model)
        shapes = [tuple(module.get_parameter(pair.base).shape) for pair in layout.factors]
        assert [entry.shape for entry in layout.shared] == shapes
        assert {pair.base for pair in layout.factors} <= set(layout.frozen)


@pytest.mark.parametrize(
    ("part", "scale"),
    [
        (Lora(rank=4), 2.0),
        (Lora(rank=4, alpha=2), 0.5),
        (Lora(rank=4, rank_stabilised=True), 4.0),
        (Lora(rank=(1, 4, 2)), 2.0),
        (Lora(rank=(1, 4), alpha=4), 1.0),
    ],
    ids=str,
)
def test_the_scale_is_that_of_the_largest_rank(part: Lora, scale: float) -> None:
    layout = part.layout(adapted(part, "vit"))
    assert {pair.scale for pair in layout.factors} == {scale}
    assert {pair.rank for pair in layout.factors} == {4}


def test_where_one_factor_is_frozen_or_lengths_are_apart_nothing_is_a_pair() -> None:
    frozen = Lora(rank=3, train="b")
    module = adapted(frozen, "vit")
    layout = frozen.layout(module)
    assert layout.factors == ()
    assert not any("lora_A" in entry.name for entry in layout.entries)
    assert sum("lora_A" in name for name in layout.frozen) == 4
    # A is drawn as it is where both are trained.
    name = "model.vit.layers.1.attention.v_proj.lora_A.default.weight"
    assert torch.equal(module.get_parameter(name), adapted(Lora(rank=3), "vit").get_parameter(name))
    assert Lora(rank=3, dora=True).layout(adapted(Lora(rank=3, dora=True), "vit")).factors == ()


def test_dora_is_its_definition() -> None:
    """Columns of W + s B A, brought to the trained lengths."""
    part = Lora(rank=3, dora=True)
    module, batch = adapted(part, "vit"), inputs("vit")
    assert torch.allclose(outputs(module, batch), outputs(fresh("vit"), batch), atol=1e-6)
    bound = resident(part, module)
    train(bound, batch, 3)
    base = fresh("vit")
    named = dict(module.named_parameters())
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            place = name.removesuffix(".weight")
            if f"{place}.lora_A.default.weight" in named:
                a, b = (named[f"{place}.lora_{factor}.default.weight"] for factor in "AB")
                long = parameter + 2 * b @ a
                length = named[f"{place}.lora_magnitude_vector.default.weight"]
                parameter.copy_(length[:, None] * long / long.norm(dim=1, keepdim=True))
            elif name in named:
                parameter.copy_(named[name])
    assert torch.allclose(outputs(base, batch), outputs(module, batch), atol=1e-5)


def test_dropout_in_training_only() -> None:
    part = Lora(rank=3, dropout=0.5)
    module, batch = adapted(part, "vit"), inputs("vit")
    resident(part, module).row.normal_()
    assert torch.equal(outputs(module, batch), outputs(module, batch))
    module.train()
    assert not torch.equal(module(batch), module(batch))


def test_a_head_where_there_is_one_and_it_is_wanted() -> None:
    def names(part: Lora, model: str) -> set[str]:
        return {entry.name for entry in part.layout(adapted(part, model)).entries if "lora" not in entry.name}

    assert names(Lora(), "vit") == {"model.classifier.weight", "model.classifier.bias"}
    assert names(Lora(head=False), "vit") == names(Lora(), "gpt2") == set()


@pytest.mark.parametrize("bits", [4, 8])
def test_on_weights_in_few_bits_factors_name_what_nothing_can_be_added_to(bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    part = Lora(rank=3)
    module = adapted(part, "gpt2", bits=bits)
    factors = part.layout(module).factors
    assert len(factors) == 2
    assert not any(module.get_parameter(pair.base).is_floating_point() or pair.transposed for pair in factors)


# ---- ranks -----------------------------------------------------------------------------------------------------------


def pad(row_D: Tensor, layout: Layout, rank: int) -> tuple[Tensor, Tensor]:
    """Zero beyond a rank, of a copy; where that is, for each number."""
    row_D = row_D.clone()
    beyond_D = torch.zeros(len(row_D), dtype=torch.bool)
    masks = {entry.name: mask for entry, mask in layout.views(beyond_D)}
    for pair in layout.factors:
        masks[pair.a.name][rank:] = True
        masks[pair.b.name][:, rank:] = True
    row_D[beyond_D] = 0
    return row_D, beyond_D


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
@pytest.mark.parametrize("model", ["vit", "gpt2"])
def test_what_lies_beyond_a_rank_stays_zero(learner: Learner, model: str) -> None:
    part = Lora(rank=(2, 5), targets=("*",))
    bound = resident(part, adapted(part, model))
    row_D, beyond_D = pad(bound.row, bound.layout, 2)
    bound.load(row_D)
    train(bound, inputs(model), 4, learner)
    assert not bound.row[beyond_D].any()
    assert (bound.row[~beyond_D] != row_D[~beyond_D]).float().mean() > 0.99


@given(small=st.integers(1, 4), more=st.integers(1, 4), place=st.integers(0, len(LEARNERS) - 1))
@settings(deadline=None, max_examples=8)
def test_a_padded_row_learns_what_a_smaller_one_with_alpha_in_proportion_does(
    small: int, more: int, place: int
) -> None:
    large, batch, learner = small + more, inputs("vit"), LEARNERS[place]
    wide = Lora(rank=(small, large), alpha=3.0 * large)
    narrow = Lora(rank=small, alpha=3.0 * small)
    one, other = (resident(part, adapted(part, "vit"), torch.float64) for part in (wide, narrow))
    row_D, _ = pad(one.row, one.layout, small)
    one.load(row_D)
    theirs = {entry.name: view for entry, view in other.layout.views(other.row)}
    for entry, view in one.layout.views(one.row):
        mine = view[:small] if "lora_A" in entry.name else view[:, :small] if "lora_B" in entry.name else view
        theirs[entry.name].copy_(mine)
    for bound in (one, other):
        train(bound, batch.double(), 3, learner)
    assert torch.allclose(outputs(one.module, batch.double()), outputs(other.module, batch.double()), atol=1e-8)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 12))
def test_ranks_are_dealt_in_turn(ranks: list[int], nodes: int) -> None:
    part = Lora(rank=tuple(ranks))
    dealt = [ranks[node % len(ranks)] for node in range(nodes)]
    assert part.largest == max(ranks)
    assert part.ranks(nodes) == (() if set(dealt) == {max(ranks)} else tuple(dealt))
    assert Lora(rank=ranks[0]).ranks(nodes) == ()


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_ranks_above_a_layer_are_refused() -> None:
    with pytest.raises(
        ExperimentError, match=r"rank = 17: layer 'model.vit.layers.0.attention.q_proj' with 16 inputs an"
    ):
        adapted(Lora(rank=(3, 17)), "vit")
    with pytest.raises(ExperimentError, match="'1' with 192 inputs and 16 outputs has room for a rank of 16 at most"):
        adapted(Lora(rank=17), "plain")
    adapted(Lora(rank=16), "vit")


@pytest.mark.parametrize("fields", [{"rank": 0}, {"rank": ()}, {"rank": (2, 0)}, {"alpha": 0}, {"dropout": 1}], ids=str)
def test_settings_are_checked(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"rank|alpha|dropout"):
        Lora(**fields)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ExperimentError, match=r'pip install "gossamer\[foundation\]"'):
        Lora().applied(fresh("plain"))
