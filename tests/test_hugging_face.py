"""Models of the transformers library: the library's own results, for the data at hand, and what cannot be."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from transformer_cases import (
    BERT,
    CASES,
    CLASSIFIERS,
    GPT2,
    HEADS,
    IMAGE,
    LENGTH,
    RESNET,
    VIT,
    built,
    inputs,
    logits,
    refused,
    same,
)

pytest.importorskip("transformers", reason="needs the extra 'foundation'")

import transformers

from gossamer.errors import ExperimentError
from gossamer.layout import Layout
from gossamer.models.hugging_face import HuggingFace


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_librarys_own_model(name: str) -> None:
    config, classes = CASES[name]
    maker = {"vit": "ForImageClassification", "lm": "ForCausalLM"}.get(name.split("-")[-1], "ForSequenceClassification")
    values = {**config, "num_labels": classes, "attn_implementation": "eager"}
    if name == "vit":
        values["image_size"] = 16
    else:
        values["pad_token_id"] = None if name.endswith("-lm") else 0
    torch.manual_seed(3)
    theirs = getattr(transformers, f"AutoModel{maker}").from_config(
        transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    )
    module, given = built(name, seed=3, attention="eager"), inputs(name)
    assert same(module.model, theirs)
    named = {"pixel_values": given} if name == "vit" else {"input_ids": given, "attention_mask": (given != 0).long()}
    with torch.no_grad():
        assert torch.equal(logits(module, given), theirs.eval()(**named).logits)
    torch.testing.assert_close(logits(built(name, seed=3), given), logits(module, given), rtol=1e-4, atol=1e-5)


def test_vit_b_16_has_the_parameters_of_its_closed_form_and_no_pooler() -> None:
    d, blocks, patch, classes = 768, 12, 16, 100
    sizes = {"hidden_size": d, "num_hidden_layers": blocks, "num_attention_heads": 12, "intermediate_size": 4 * d}
    with torch.device("meta"):
        module: Any = HuggingFace(config={"model_type": "vit", "patch_size": patch, **sizes}).build(
            (3, 224, 224), classes
        )
    block = 4 * (d * d + d) + 2 * 4 * d * d + 5 * d + 4 * d
    expected = (3 * patch**2 + 1) * d + d + ((224 // patch) ** 2 + 1) * d + blocks * block + 2 * d + classes * (d + 1)
    assert sum(p.numel() for p in module.parameters()) == expected == 85_875_556
    assert sum(p.numel() for p in module.get_submodule(module.head_names[0]).parameters()) == 76_900
    assert module.width == d
    assert not [name for name, _ in module.named_modules() if "pool" in name]


@pytest.mark.parametrize("name", CASES)
def test_the_head_is_what_stands_beside_the_base(name: str) -> None:
    module = built(name)
    assert module.head_names == HEADS[name]
    assert module.width == 32
    assert module.vocabulary == (0 if name == "vit" else 50)
    assert all(parameter.startswith("model.") for parameter, _ in module.named_parameters())
    assert Layout.of(module).trainable == Layout.of(module).size == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", CASES)
def test_the_dice_decide_and_nothing_else(name: str) -> None:
    one, again, other = built(name, seed=5), built(name, seed=5), built(name, seed=6)
    assert same(one, again)
    assert not same(one, other)
    given = inputs(name)
    before = logits(one, given)
    assert torch.equal(before, logits(one, given))
    other.load_state_dict(one.state_dict())
    assert torch.equal(before, logits(other, given))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_item_does_not_see_the_rest_of_its_batch(name: str, attention: str) -> None:
    module, batch = built(name, attention=attention), inputs(name)
    alone = torch.cat([logits(module, batch[i : i + 1]) for i in range(len(batch))])
    torch.testing.assert_close(logits(module, batch), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_padding_does_not_count(name: str) -> None:
    module, batch = built(name), inputs(name)
    for item in range(1, len(batch)):
        unpadded = batch[item : item + 1, : LENGTH - item]
        torch.testing.assert_close(logits(module, unpadded)[0], logits(module, batch)[item], rtol=1e-4, atol=1e-5)
    assert logits(module, torch.zeros_like(batch)).isfinite().all()


@pytest.mark.parametrize("name", ["gpt2-lm", "llama-lm"])
def test_a_language_model_does_not_look_ahead_and_takes_token_zero_for_a_token(name: str) -> None:
    module, ids_BL = built(name), inputs(name)
    changed_BL = ids_BL.clone()
    changed_BL[:, 5] = 0
    before, after = logits(module, ids_BL), logits(module, changed_BL)
    assert before.shape == (4, LENGTH, 50)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-6)
    zeros_BL = changed_BL.clone()
    zeros_BL[:, 5] = 1
    assert not torch.allclose(logits(module, zeros_BL)[:, 8], after[:, 8], atol=1e-4)


def test_images_get_the_channels_and_size_of_the_model() -> None:
    config = {"image_size": 16, "num_channels": 3}
    torch.manual_seed(0)
    module = HuggingFace(config={**VIT, **config}).build((1, 12, 20), 5)
    grey = torch.randn(2, 1, 12, 20)
    size = F.interpolate(grey.repeat(1, 3, 1, 1), (16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(logits(module, grey), logits(module, size))


@pytest.mark.parametrize(("shape", "size"), [((1, 16, 16), 16), ((3, 8, 24), [8, 24])])
def test_a_fresh_model_has_the_size_of_the_images(shape: tuple[int, ...], size: Any) -> None:
    module: Any = HuggingFace(config=VIT).build(shape, 5)
    assert (module.config.image_size, module.config.num_channels) == (size, shape[0])
    assert logits(module, torch.randn(2, *shape)).shape == (2, 5)


def test_convolutional_networks_need_no_size() -> None:
    module: Any = HuggingFace(config=RESNET).build((3, 20, 12), 5)
    assert (module.width, module.head_names) == (12, ("model.classifier",))
    assert logits(module, torch.randn(2, 3, 20, 12)).shape == (2, 5)


def test_types_with_several_classifiers() -> None:
    module: Any = HuggingFace(config={**VIT, "model_type": "deit"}).build(IMAGE, 5)
    assert type(module.model).__name__ == "DeiTForImageClassification"


def test_the_task_follows_from_shape_type_and_classes() -> None:
    tasks = {name: type(built(name).model).__name__ for name in CASES}
    assert {name: re.sub(r".*?(For|LM).*?(\w+)$", r"\2", tasks[name]) for name in ("vit", "bert")} == {
        "vit": "ImageClassification",
        "bert": "SequenceClassification",
    }
    assert tasks["gpt2"] == "GPT2ForSequenceClassification"
    assert tasks["gpt2-lm"] == "GPT2LMHeadModel"
    sized = {key: value for key, value in GPT2.items() if key != "vocab_size"}
    model: Any = HuggingFace(config=sized, task="causal_lm").build((LENGTH,), 33)
    assert model.vocabulary == 33
    as_many: Any = HuggingFace(config=BERT).build((LENGTH,), 50)
    assert type(as_many.model).__name__ == "BertForSequenceClassification"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "model_type is missing"),
        ({"model_type": "vitt"}, "nearest: vit"),
        ({**BERT, "hiden_size": 3}, "nearest: hidden_size"),
        ({**GPT2, "zzz": 3}, "nothing has a name like it"),
        ({**BERT, "num_labels": 3}, "number of classes of the data"),
        ({**BERT, "dtype": "float16"}, "model.precision"),
        ({**BERT, "hidden_size": "large"}, "expected int"),
        ({**BERT, "hidden_size": 33}, "multiple of the number of attention"),
        ({**BERT, "max_position_embeddings": 11}, "data.length = 12 tokens"),
        ({**BERT, "model_type": "roberta", "max_position_embeddings": 12, "pad_token_id": 1}, "at most 10"),
        (VIT, "no model for text_classification; it can do: image_classification"),
    ],
)
def test_configs_that_cannot_be_are_refused(config: dict[str, Any], said: str) -> None:
    assert said in refused(HuggingFace(config=config))


@pytest.mark.parametrize(
    ("plug", "shape", "said"),
    [
        (HuggingFace(config=VIT), (3, 20, 16), "no multiple of patch_size = 8"),
        (HuggingFace(config={**VIT, "num_channels": 3}), (2, 16, 16), "images have 2 channels"),
        (HuggingFace(config=VIT), (16, 16), "takes images (channels, height, width) or token ids (length,)"),
        (HuggingFace(config=BERT, task="text_classification"), IMAGE, "does not take inputs of shape"),
        (HuggingFace(config=BERT), IMAGE, "it can do: text_classification, causal_lm"),
        (HuggingFace(config=RESNET, gradient_checkpointing=True), IMAGE, "gradient_checkpointing"),
    ],
)
def test_data_that_do_not_suit_are_refused(plug: HuggingFace, shape: tuple[int, ...], said: str) -> None:
    assert said in refused(plug, shape)


def test_a_language_model_knows_the_tokens_of_the_data_and_may_know_more() -> None:
    plug = HuggingFace(config=GPT2, task="causal_lm")
    assert "vocab_size = 50, but the data have 60 tokens" in refused(plug, classes=60)
    torch.manual_seed(0)
    padded = plug.build((LENGTH,), 40)
    torch.manual_seed(0)
    whole = plug.build((LENGTH,), 50)
    ids = inputs("gpt2") % 40
    assert torch.equal(logits(padded, ids), logits(whole, ids)[..., :40])


def test_a_text_has_at_most_as_many_tokens_as_there_are_places() -> None:
    config = {**BERT, "model_type": "roberta", "max_position_embeddings": 14, "pad_token_id": 1}
    assert logits(HuggingFace(config=config).build((LENGTH,), 5), inputs("bert") % 40 + 2).shape == (4, 5)
    with pytest.raises((IndexError, RuntimeError)):
        HuggingFace(config=config).build((LENGTH,), 5)(torch.full((2, LENGTH + 1), 3))


def test_numbers_are_no_texts() -> None:
    with pytest.raises(ExperimentError, match="texts are token ids"):
        built("bert")(torch.randn(2, LENGTH))


@pytest.mark.parametrize("missing", ["transformers", "bitsandbytes"])
def test_a_library_that_is_missing_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gossamer import quantised_layers

    quantised_layers._layers.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    text = refused(HuggingFace(config=VIT, bits=4), IMAGE)
    assert missing in text
    assert 'pip install "gossamer[foundation]"' in text
