"""Parts of networks found in the libraries' own models, and heads trained on cached features."""

from __future__ import annotations

import copy

import pytest
import torch
from adapted import MODELS, fresh, inputs, loss_of, outputs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gossamer.anatomy import (
    attention_outputs,
    blocks,
    embeddings,
    features,
    from_features,
    head_of,
    keys_and_values,
    linears,
    mlp_output,
    norms,
    patch_embedding,
    queries_and_values,
    steady,
    widths,
)
from gossamer.errors import ExperimentError
from gossamer.parametrisations.head import Head
from gossamer.wrapping import library

# ---- parts -----------------------------------------------------------------------------------------------------------

PARTS = {
    # first block; what makes queries and values; what ends attention; what ends the MLP
    "vit": ("model.vit.layers.0", ["q_proj", "v_proj"], ["attention.o_proj"], "mlp.fc2"),
    "bert": ("model.bert.encoder.layer.0", ["query", "value"], ["attention.output.dense"], "output.dense"),
    "distilbert": ("model.distilbert.transformer.layer.0", ["q_lin", "v_lin"], ["attention.out_lin"], "ffn.lin2"),
    "gpt2": ("model.transformer.h.0", ["c_attn"], ["attn.c_proj"], "mlp.c_proj"),
    "gpt2_classifier": ("model.transformer.h.0", ["c_attn"], ["attn.c_proj"], "mlp.c_proj"),
    "llama": ("model.model.layers.0", ["q_proj", "v_proj"], ["self_attn.o_proj"], "mlp.down_proj"),
    "encoder": ("1.layers.0", [], [], "linear2"),
}


@pytest.mark.parametrize("model", PARTS)
def test_parts_of_the_libraries_models(model: str) -> None:
    first, into, out, mlp = PARTS[model]
    found = blocks(fresh(model))
    assert list(found) == [first, first[:-1] + "1"]
    for block in found.values():
        assert [name.rpartition(".")[2] for name in queries_and_values(block)] == into
        assert list(attention_outputs(block)) == out
        assert mlp_output(block) == mlp
        assert widths(block.get_submodule(mlp)) == (64 if "gpt2" in model else 32, 16)


def test_heads() -> None:
    heads = {model: head_of(fresh(model)) for model in MODELS}
    assert heads["vit"] == heads["bert"] == ("model.classifier",)
    assert heads["distilbert"] == ("model.pre_classifier", "model.classifier")
    assert heads["gpt2"] == heads["llama"] == ()
    assert heads["gpt2_classifier"] == ("model.score",)
    assert heads["plain"] == heads["encoder"] == ("3",)
    assert head_of(nn.Conv2d(1, 1, 1)) == ()
    assert head_of(nn.Linear(1, 1)) == ("",)


def test_patches_words_and_norms() -> None:
    assert patch_embedding(fresh("vit")) == (4, 16)
    assert all(patch_embedding(fresh(model)) is None for model in MODELS if model != "vit")
    assert list(embeddings(fresh("bert"))) == ["model.bert.embeddings.word_embeddings"]
    assert list(embeddings(fresh("gpt2"))) == ["model.transformer.wte"]
    assert embeddings(fresh("vit")) == {}
    assert [len(norms(fresh(model))) for model in ("vit", "bert", "gpt2", "llama", "plain")] == [5, 5, 5, 5, 0]
    assert [len(keys_and_values(fresh(model))) for model in ("vit", "gpt2", "plain")] == [4, 2, 0]


def test_blocks_in_stages_are_all_found_and_lists_of_other_things_are_not() -> None:
    transformers = library("transformers")
    config = transformers.SwinConfig(embed_dim=8, depths=[1, 2], num_heads=[1, 2], image_size=16, patch_size=2)
    swin = blocks(transformers.SwinModel(config))
    assert len(swin) == 3
    assert all(type(block).__name__ == "SwinLayer" for block in swin.values())
    assert blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == {}
    assert blocks(nn.ModuleList(nn.Sequential(nn.Conv2d(1, 1, 1)) for _ in range(3))) == {}
    mixers = nn.ModuleList(nn.ModuleDict({"mix": nn.Linear(4, 4), "mlp": nn.Linear(4, 4)}) for _ in range(3))
    assert list(blocks(mixers)) == ["0", "1", "2"]
    assert mlp_output(mixers[0]) == "mlp"
    assert mlp_output(nn.ModuleDict({"query": nn.Linear(4, 4), "out": nn.Linear(4, 4)})) == ""
    assert mlp_output(nn.ModuleDict({"c": nn.Conv2d(1, 1, 1)})) == ""


def test_the_output_of_torch_attention_is_no_linear_layer_to_change() -> None:
    assert "1.layers.0.self_attn.out_proj" not in linears(fresh("encoder"))
    assert set(linears(fresh("encoder"))) == {"0", "3", *(f"1.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2))}


# ---- features --------------------------------------------------------------------------------------------------------


def convolutional(width: int = 4, classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(36 * width, classes))


@pytest.mark.parametrize("model", ["vit", "bert", "plain", "encoder"])
def test_from_features_on_outputs_and_gradients_are_those_of_the_whole(model: str) -> None:
    part = Head()
    module = part.applied(fresh(model))
    given = inputs(model)
    with torch.no_grad():
        kept = features(module, given)
    rest = from_features(module)
    assert torch.equal(rest(kept), module(given))
    assert part.layout(rest).entries == part.layout(module).entries
    own, whole = dict(rest.named_parameters()), dict(module.named_parameters())
    assert own
    assert all(parameter is whole[name] for name, parameter in own.items())
    gradients = []
    for logits in (rest(kept), module(given)):
        gradients.append(torch.autograd.grad(loss_of(logits), list(own.values())))
    assert all(map(torch.equal, *gradients))


@given(st.integers(1, 5), st.integers(2, 4), st.integers(1, 6))
@settings(deadline=None, max_examples=15)
def test_layouts_agree_with_buffers_of_the_base_too(width: int, classes: int, items: int) -> None:
    part = Head()
    module = part.applied(convolutional(width, classes)).eval()
    rest = from_features(module)
    assert part.layout(rest).entries == part.layout(module).entries
    assert len(part.layout(rest).entries) == 5
    given = torch.randn(items, 3, 8, 8)
    assert torch.equal(copy.deepcopy(rest)(features(module, given)), module(given))


def test_a_single_layer_is_its_own_head() -> None:
    layer = nn.Linear(3, 2)
    assert from_features(layer) is layer
    given = torch.randn(4, 3)
    assert torch.equal(features(layer, given), given)


class Twice(nn.Module):
    def __init__(self, after: bool) -> None:
        super().__init__()
        self.head, self.after = nn.Linear(4, 4), after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) * 2 if self.after else self.head(self.head(x))


def test_heads_that_are_not_one_layer_at_the_end_are_refused() -> None:
    cases = [
        (fresh("distilbert"), inputs("distilbert"), "2 modules that are its head"),
        (fresh("gpt2_classifier"), inputs("gpt2_classifier"), "does not take one vector for each item"),
        (fresh("gpt2"), inputs("gpt2"), "0 modules"),
        (Twice(after=True), torch.randn(2, 4), "not yet its result"),
        (Twice(after=False), torch.randn(2, 4), "used 2 times"),
    ]
    for module, batch, why in cases:
        with pytest.raises(ExperimentError, match=rf"cache = true: .*{why}.*; set cache = false"):
            features(module, batch)
        assert not any(part._forward_hooks for part in module.modules())


def test_steady_features() -> None:
    given = torch.randn(4, 3, 8, 8)
    assert steady(fresh("vit"), given)
    assert steady(fresh("plain"), given)
    drawing = {"hidden_dropout_prob": 0.1}, {"attention_probs_dropout_prob": 0.1}
    for config in drawing:
        # That of attention is no module of its own.
        assert not steady(fresh("vit", config), given)
    module = convolutional()
    before = copy.deepcopy(module.state_dict())
    assert not steady(module, given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.training
    together = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(192, 3))
    assert not steady(together, given)


def test_what_comes_after_steady_is_as_before() -> None:
    module, given = fresh("vit", {"hidden_dropout_prob": 0.1}).eval(), inputs("vit")
    dice, result = torch.get_rng_state(), outputs(module, given)
    steady(module, given)
    assert torch.equal(torch.get_rng_state(), dice)
    assert not module.training
    assert torch.equal(outputs(module, given), result)
