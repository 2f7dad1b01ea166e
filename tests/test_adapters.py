"""Head, bias, bottleneck and prompts: how much they train, against closed forms, and what they compute."""

from __future__ import annotations

import math

import pytest
import torch
from adapted import adapted, fresh, inputs, outputs, resident, train
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import gelu

from gossamer.errors import ExperimentError
from gossamer.models.hugging_face import HuggingFace
from gossamer.parametrisations import Parametrisation
from gossamer.parametrisations.bias import Bias
from gossamer.parametrisations.bottleneck import Bottleneck
from gossamer.parametrisations.deep_prompt import DeepPrompt
from gossamer.parametrisations.head import Head
from gossamer.parametrisations.identity import Identity
from gossamer.parametrisations.lora import Lora

# ---- how much --------------------------------------------------------------------------------------------------------


def count(part: Parametrisation, module: nn.Module) -> int:
    return part.layout(part.applied(module)).size


def on_meta(classes: int, shape: tuple[int, ...], **config: object) -> nn.Module:
    with torch.device("meta"), torch.no_grad():
        return HuggingFace(config={"model_type": "vit", **config}).build(shape, classes)


@pytest.mark.parametrize(
    ("part", "numbers"),
    [
        (Identity(), 85_875_556),
        (Head(), 76_900),
        (Bias(), 179_812),
        (DeepPrompt(), 169_060),
        (Bottleneck(shared=True), 225_220),
        (Bottleneck(), 1_856_740),
        (Lora(), 371_812),
        (Lora(train="b"), 224_356),
        (Lora(head=False), 294_912),
    ],
    ids=lambda value: "" if isinstance(value, int) else type(value).__name__,
)
def test_vit_b_16_with_100_classes(part: Parametrisation, numbers: int) -> None:
    assert count(part, on_meta(100, (3, 224, 224))) == numbers


@given(d=st.integers(1, 6), depth=st.integers(1, 3), patch=st.integers(1, 4), classes=st.integers(2, 9), data=st.data())
@settings(deadline=None, max_examples=10)
def test_closed_forms(d: int, depth: int, patch: int, classes: int, data: st.DataObject) -> None:
    d, reduction, tokens = 4 * d, data.draw(st.sampled_from([1, 2, 4])), data.draw(st.integers(1, 5))
    rank = data.draw(st.integers(1, d))
    config = {"hidden_size": d, "num_hidden_layers": depth, "intermediate_size": 4 * d, "patch_size": patch}
    head, adapter = classes * (d + 1), 2 * d * (d // reduction) + d // reduction + d
    expected: list[tuple[Parametrisation, int]] = [
        (Head(), head),
        (Bias(), d + depth * 11 * d + d + head),
        (DeepPrompt(tokens=tokens), tokens * depth * d + head),
        (Bottleneck(reduction=reduction), depth * adapter + head),
        (Bottleneck(reduction=reduction, position="both"), 2 * depth * adapter + head),
        (Bottleneck(reduction=reduction, position="both", shared=True), adapter + head),
        (Lora(rank=rank), depth * 2 * rank * 2 * d + head),
    ]
    for part, numbers in expected:
        module = on_meta(classes, (3, 2 * patch, 2 * patch), num_attention_heads=2, **config)
        assert count(part, module) == numbers


# ---- head and bias ---------------------------------------------------------------------------------------------------


def test_a_head_of_several_modules_is_trained_whole() -> None:
    names = [entry.name for entry in Head().layout(adapted(Head(), "distilbert")).entries]
    parts = ("pre_classifier", "classifier")
    assert names == [f"model.{part}.{leaf}" for part in parts for leaf in ("weight", "bias")]


def test_buffers_of_a_frozen_base_that_change_in_training_are_in_the_row() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    layout = Head().layout(Head().applied(module))
    assert [(entry.name, entry.trainable) for entry in layout.entries if not entry.trainable] == [
        ("1.running_mean", False),
        ("1.running_var", False),
        ("1.num_batches_tracked", False),
    ]
    assert layout.frozen == ("0.weight", "0.bias", "1.weight", "1.bias")


def test_biases_are_all_with_that_name_and_nothing_else() -> None:
    names = {entry.name for entry in Bias().layout(adapted(Bias(), "vit")).entries}
    expected = {name for name, _ in fresh("vit").named_parameters() if name.endswith(".bias")}
    assert names == expected | {"model.classifier.weight"}


def test_models_without_head_or_biases_are_refused() -> None:
    with pytest.raises(ExperimentError, match="kind = 'head': the model has no head of its own"):
        adapted(Head(), "gpt2")
    with pytest.raises(ExperimentError, match="kind = 'bias': the model has no biases"):
        adapted(Bias(), "llama")


# ---- bottleneck ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["mlp", "both"])
def test_both_projections_of_each_block_learn(position: str) -> None:
    """With both at zero, as in the reference code, only the bias of the second ever would."""
    module = adapted(Bottleneck(reduction=4, position=position), "vit")
    adapters = {name: part for name, part in module.named_modules() if name.endswith(".adapter")}
    assert len(adapters) == (2 if position == "mlp" else 4)
    for adapter in adapters.values():
        assert 0.01 < float(adapter.down.weight.detach().std()) < 0.03
        assert not any(p.any() for p in (adapter.down.bias, adapter.up.weight, adapter.up.bias))
    before = {name: adapter.down.weight.detach().clone() for name, adapter in adapters.items()}
    bound = resident(Bottleneck(), module)
    first = dict(zip([e.name for e in bound.layout.entries], train(bound, inputs("vit"), 1), strict=True))
    second = dict(zip(first, train(bound, inputs("vit"), 1), strict=True))
    for name, adapter in adapters.items():
        assert not first[f"{name}.down.weight"].any()
        assert first[f"{name}.up.weight"].any()
        assert second[f"{name}.down.weight"].any()
        assert adapter.up.weight.any()
        assert not torch.equal(adapter.down.weight, before[name])


def test_an_adapter_is_where_and_what_it_says() -> None:
    part = Bottleneck(reduction=4, position="both")
    module, h = adapted(part, "llama"), torch.randn(2, 5, 32)
    train(resident(part, module), inputs("llama"))
    layer = module.get_submodule("model.model.layers.0.mlp.down_proj")
    base, weights = layer.weight @ h.unsqueeze(-1), dict(layer.adapter.named_parameters())
    base = base.squeeze(-1)
    narrow = gelu(base @ weights["down.weight"].T + weights["down.bias"])
    assert narrow.shape == (2, 5, 4)
    expected = base + narrow @ weights["up.weight"].T + weights["up.bias"]
    assert torch.allclose(layer(h), expected, atol=1e-5)
    assert hasattr(module.get_submodule("model.model.layers.1.self_attn.o_proj"), "adapter")
    assert not hasattr(module.get_submodule("model.model.layers.1.self_attn.q_proj"), "adapter")


def test_names_of_the_base_stay() -> None:
    before = [name for name, _ in fresh("bert").named_parameters()]
    after = [name for name, _ in adapted(Bottleneck(), "bert").named_parameters()]
    assert [name for name in after if ".adapter." not in name] == before


def test_a_shared_adapter_is_one_tensor_used_in_all_blocks() -> None:
    part = Bottleneck(reduction=4, shared=True)
    module, given = adapted(part, "vit"), inputs("vit")
    names = [entry.name for entry in part.layout(module).entries]
    where = "model.vit.layers.0.mlp.fc2.adapter."
    assert names[:4] == [where + leaf for leaf in ("down.weight", "down.bias", "up.weight", "up.bias")]
    # The same as one of its own in each block, with equal numbers.
    own = adapted(Bottleneck(reduction=4), "vit")
    for layer in (0, 1):
        theirs = own.get_submodule(f"model.vit.layers.{layer}.mlp.fc2.adapter")
        for leaf, value in theirs.named_parameters():
            with torch.no_grad():
                value.copy_(module.get_parameter(where + leaf).normal_(generator=torch.Generator().manual_seed(3)))
    assert torch.equal(outputs(own, given), outputs(module, given))


def test_bottlenecks_need_blocks_and_room() -> None:
    with pytest.raises(ExperimentError, match="kind = 'bottleneck': the model has no blocks"):
        adapted(Bottleneck(), "plain")
    with pytest.raises(ExperimentError, match=r"reduction = 17: a block is only 16 wide; use at most 16"):
        adapted(Bottleneck(reduction=17), "vit")
    with pytest.raises(ExperimentError, match=r"position = 'both': block '1.layers.0' has no attention .* = mlp, or"):
        adapted(Bottleneck(position="both"), "encoder")


# ---- prompts ---------------------------------------------------------------------------------------------------------


def test_prompts_start_in_their_range_and_lengthen_the_sequence_inside_blocks_only() -> None:
    part = DeepPrompt(tokens=3)
    module = adapted(part, "vit")
    prompts = torch.stack([block.prompt.detach() for block in module.model.vit.layers])
    bound = math.sqrt(6 / (3 * 4**2 + 16))
    assert prompts.shape == (2, 3, 16)
    assert 0.9 * bound < float(prompts.abs().max()) <= bound
    lengths: list[tuple[int, int]] = []
    for block in module.model.vit.layers:
        block.attention.register_forward_hook(lambda layer, x, y: lengths.append((x[0].shape[1], y[0].shape[1])))
        block.register_forward_hook(lambda layer, x, y: lengths.append((0, y.shape[1])))
    outputs(module, inputs("vit"))
    assert lengths == [(8, 8), (0, 5)] * 2


def test_prompts_against_a_transcription() -> None:
    part = DeepPrompt(tokens=3)
    module, given = adapted(part, "vit").eval(), inputs("vit")
    base = fresh("vit").eval().model
    hidden = base.vit.embeddings(given)
    for block, prompted in zip(base.vit.layers, module.model.vit.layers, strict=True):
        hidden = block(torch.cat([hidden, prompted.prompt.expand(4, -1, -1)], dim=1))[:, :5]
    assert torch.equal(base.classifier(base.vit.layernorm(hidden)[:, 0]), module(given))


def test_prompts_are_dropped_in_training_only() -> None:
    module, given = adapted(DeepPrompt(dropout=0.5), "vit"), inputs("vit")
    assert torch.equal(outputs(module, given), outputs(adapted(DeepPrompt(), "vit"), given))
    module.train()
    assert not torch.equal(module(given), module(given))


class Masked(nn.Module):
    """Cuts images into patches, but tells its blocks where these are."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(8, 8))

        def forward(self, hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
            return hidden + self.mlp(hidden) * places

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.blocks = nn.Conv2d(3, 8, 4, 4), nn.ModuleList(Masked.Block() for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.cut(images).flatten(2).mT
        for block in self.blocks:
            hidden = block(hidden, torch.ones(hidden.shape[1], 1))
        return self.head(hidden.mean(1))


def swin() -> nn.Module:
    config = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 2}
    return HuggingFace(config={**config, "patch_size": 2}).build((3, 8, 8), 3)


@pytest.mark.parametrize("model", ["bert", "gpt2", "plain", "encoder"])
def test_models_without_a_place_for_prompts_are_refused(model: str) -> None:
    with pytest.raises(
        ExperimentError, match=r"no place for prompts: .*patches; use kind = 'peft' with method = 'prom"
    ):
        adapted(DeepPrompt(), model)


def test_blocks_that_take_more_than_the_sequence_are_refused() -> None:
    with pytest.raises(ExperimentError, match=r"block '.*' does not take a sequence of vectors 8 wide"):
        DeepPrompt().applied(swin())
    module = DeepPrompt().applied(Masked())
    with pytest.raises(ExperimentError, match="its blocks take masks or positions besides the sequence"):
        module(torch.zeros(2, 3, 8, 8))


def test_settings_are_checked() -> None:
    for make in (lambda: Bottleneck(reduction=0), lambda: DeepPrompt(tokens=0), lambda: DeepPrompt(dropout=1.0)):
        with pytest.raises(ValueError, match="Input should be"):
            make()
