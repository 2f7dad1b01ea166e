"""Models of the transformers library: the library's own results, from config, folder or hub, whole or in few bits."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

pytest.importorskip("transformers", reason="needs the extra 'foundation'")

import transformers

from gossamer.errors import ExperimentError
from gossamer.layout import Layout
from gossamer.models.hugging_face import HuggingFace
from gossamer.resident import converted
from gossamer.wrapping import save_base

VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 8,
}
TEXT = {"vocab_size": 50, "pad_token_id": 0}
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 20,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    **TEXT,
}
DISTILBERT = {
    "model_type": "distilbert",
    "dim": 32,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 64,
    "max_position_embeddings": 20,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "seq_classif_dropout": 0.0,
    **TEXT,
}
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 20,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "vocab_size": 50,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 20,
    "vocab_size": 50,
}
RESNET = {
    "model_type": "resnet",
    "hidden_sizes": [8, 12],
    "depths": [1, 1],
    "embedding_size": 8,
    "layer_type": "basic",
}
IMAGE, LENGTH = (3, 16, 16), 12
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "vit": (VIT, 5),
    "bert": (BERT, 5),
    "distilbert": (DISTILBERT, 5),
    "gpt2": (GPT2, 5),
    "llama": (LLAMA, 5),
    "gpt2-lm": (GPT2, 50),
    "llama-lm": (LLAMA, 50),
}
HEADS = {
    "vit": ("model.classifier",),
    "bert": ("model.classifier",),
    "distilbert": ("model.pre_classifier", "model.classifier"),
    "gpt2": ("model.score",),
    "llama": ("model.score",),
    "gpt2-lm": (),
    "llama-lm": (),
}
TEXTS = [name for name in CASES if name != "vit"]
CLASSIFIERS = [name for name in TEXTS if not name.endswith("-lm")]


def built(name: str, seed: int = 0, **fields: Any) -> Any:
    config, classes = CASES[name]
    torch.manual_seed(seed)
    plug = HuggingFace(config={**config, **fields.pop("config", {})}, **fields)
    return plug.build(IMAGE if name == "vit" else (LENGTH,), classes)


def inputs(name: str, items: int = 4, seed: int = 1) -> Tensor:
    """Images, or texts of which the later ones have more padding."""
    draw = torch.Generator().manual_seed(seed)
    if name == "vit":
        return torch.randn(items, *IMAGE, generator=draw)
    ids_BL = torch.randint(1, 50, (items, LENGTH), generator=draw)
    if not name.endswith("-lm"):
        for item in range(items):
            ids_BL[item, LENGTH - item :] = 0
    return ids_BL


def logits(module: nn.Module, given: Tensor) -> Tensor:
    with torch.no_grad():
        return module.eval()(given)


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = dict(other.named_parameters())
    return all(torch.equal(p, theirs[name]) for name, p in one.named_parameters())


def refused(plug: HuggingFace, shape: tuple[int, ...] = (LENGTH,), classes: int = 5) -> str:
    with pytest.raises(ExperimentError) as caught:
        plug.build(shape, classes)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base: a ViT for 5 classes."""
    save_base(built("vit", seed=7), tmp_path / "base")
    return tmp_path / "base"


# ---- the same as the library's own -----------------------------------------------------------------------------------


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


# ---- training --------------------------------------------------------------------------------------------------------


def loss_of(module: nn.Module, given: Tensor, labels: Tensor, changed: dict[str, Tensor] | None = None) -> Tensor:
    out = torch.func.functional_call(module, changed, (given,)) if changed else module(given)
    return F.cross_entropy(out if out.dim() == 2 else out[:, -1], labels)


def some(module: nn.Module) -> dict[str, Tensor]:
    """What a node might train: biases, norms and the head."""
    heads = tuple(module.head_names)  # type: ignore[arg-type]
    return {
        name: p.detach()
        for name, p in module.named_parameters()
        if name.endswith("bias") or "norm" in name or name.startswith(heads)
    }


@pytest.mark.parametrize(
    "fields",
    [{"attention": "eager"}, {"bits": 4}, {"bits": 8}, {"precision": "bfloat16", "attention": "eager"}],
    ids=str,
)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_nodes_train_as_one_batch_over_an_unbatched_base(name: str, fields: dict[str, Any]) -> None:
    module = built(name, **fields).train()
    given = torch.stack([inputs(name, seed=node) for node in range(3)])
    labels = torch.randint(5, (3, 4), generator=torch.Generator().manual_seed(2))
    rows = {key: torch.stack([p + 0.01 * node for node in range(3)]) for key, p in some(module).items()}

    def gradient(row: dict[str, Tensor], mine: Tensor, label: Tensor) -> dict[str, Tensor]:
        return torch.func.grad(lambda part: loss_of(module, mine, label, part))(row)

    batched = torch.func.vmap(gradient)(rows, given, labels)
    for node in range(3):
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for key, row in rows.items():
                parameters[key].copy_(row[node])
        module.zero_grad()
        loss_of(module, given[node], labels[node]).backward()
        for key in rows:
            exact = "precision" not in fields
            tolerance = {"rtol": 1e-4, "atol": 1e-5} if exact else {"rtol": 0.05, "atol": 0.02}
            torch.testing.assert_close(batched[key][node], parameters[key].grad, **tolerance)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_drawn_in_training_without_dropout(name: str) -> None:
    module = built(name).train()
    before = torch.get_rng_state()
    module(inputs(name))
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_draws_from_torchs_dice() -> None:
    module = built("gpt2", config={"resid_pdrop": 0.5}).train()
    torch.manual_seed(1)
    one, other = module(inputs("gpt2")), module(inputs("gpt2"))
    torch.manual_seed(1)
    assert not torch.equal(one, other)
    assert torch.equal(one, module(inputs("gpt2")))


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2-lm"])
def test_gradients_are_the_same_when_activations_are_computed_again(name: str) -> None:
    plain, again = built(name), built(name, gradient_checkpointing=True)
    given, labels = inputs(name), torch.tensor([0, 1, 2, 3])
    saved: list[int] = []
    for module in (plain, again):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):
            loss = loss_of(module.train(), given, labels)
        loss.backward()
        saved.append(sum(sizes))
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert saved[1] < saved[0] / 2


# ---- bases -----------------------------------------------------------------------------------------------------------


def test_a_base_is_loaded_bitwise_with_its_head(folder: Path) -> None:
    module = HuggingFace(base=str(folder)).build(IMAGE, 5)
    assert same(module, built("vit", seed=7))
    assert module.training
    assert all(p.dtype == torch.float32 and p.requires_grad for p in module.parameters())


def heads(module: Any) -> list[Tensor]:
    return [p for name in module.head_names for p in module.get_submodule(name).parameters()]


@pytest.mark.parametrize(("classes", "new_head"), [(6, False), (5, True)])
def test_a_new_head_is_drawn_from_the_dice(folder: Path, classes: int, new_head: bool) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(HuggingFace(base=str(folder), new_head=new_head).build(IMAGE, classes))
    weights = [heads(module)[0] for module in found]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert 0.015 < weights[0].std() < 0.025  # initializer_range
    original = built("vit", seed=7)
    assert same(found[0].model.base_model, original.model.base_model)
    assert classes != 5 or not torch.equal(weights[0], heads(original)[0])


def test_all_parts_of_a_head_can_be_drawn_anew(tmp_path: Path) -> None:
    save_base(built("distilbert", seed=7), tmp_path)
    kept, drawn = (HuggingFace(base=str(tmp_path), new_head=new).build((LENGTH,), 5) for new in (False, True))
    assert same(kept, built("distilbert", seed=7))
    assert same(kept.model.base_model, drawn.model.base_model)
    assert not any(torch.equal(a, b) for a, b in zip(heads(kept), heads(drawn), strict=True) if a.dim() > 1)


def test_a_base_in_half_precision_is_widened(folder: Path) -> None:
    module = built("vit", seed=7)
    module.model.to(torch.bfloat16).save_pretrained(folder)
    wide = HuggingFace(base=str(folder)).build(IMAGE, 5)
    assert all(p.dtype == torch.float32 for p in wide.parameters())
    assert torch.equal(heads(wide)[0], heads(module)[0].float())


def test_a_base_may_lack_a_pooler_but_nothing_else(tmp_path: Path) -> None:
    trained = built("bert", seed=7).model
    transformers.BertForMaskedLM(trained.config).save_pretrained(tmp_path)
    torch.manual_seed(0)
    module: Any = HuggingFace(base=str(tmp_path)).build((LENGTH,), 5)
    assert module.model.bert.pooler.dense.weight.std() > 0.01
    text = refused(HuggingFace(base=str(tmp_path), config={"num_hidden_layers": 3}))
    assert "encoder.layer.2" in text
    assert "more layers" in text


def test_values_of_a_base_can_be_changed_but_not_its_sizes(folder: Path) -> None:
    module: Any = HuggingFace(base=str(folder), config={"hidden_dropout_prob": 0.25}).build(IMAGE, 5)
    assert {part.p for part in module.modules() if isinstance(part, nn.Dropout)} == {0.25}
    assert "sizes of a base cannot be changed" in refused(
        HuggingFace(base=str(folder), config={"hidden_size": 48}), IMAGE
    )
    assert "that of model.base is 'vit'" in refused(HuggingFace(base=str(folder), config={"model_type": "bert"}), IMAGE)
    assert "nearest: hidden_size" in refused(HuggingFace(base=str(folder), config={"hidden_sise": 48}), IMAGE)


def test_a_language_model_becomes_a_classifier(tmp_path: Path) -> None:
    save_base(built("gpt2-lm", seed=7), tmp_path)
    module = HuggingFace(base=str(tmp_path)).build((LENGTH,), 4)
    assert same(module.model.base_model, built("gpt2-lm", seed=7).model.base_model)
    assert logits(module, inputs("gpt2")).shape == (4, 4)
    save_base(built("llama", seed=7), tmp_path / "classifier")
    assert "lm_head" in refused(HuggingFace(base=str(tmp_path / "classifier"), task="causal_lm"), classes=50)


def test_a_pickle_is_refused_with_a_command_that_converts_it(folder: Path) -> None:
    expected = logits(HuggingFace(base=str(folder)).build(IMAGE, 5), inputs("vit"))
    torch.save(built("vit", seed=7).model.state_dict(), folder / "pytorch_model.bin")
    torch.save({"lr": 1}, folder / "optimizer.pt")
    (folder / "model.safetensors").unlink()
    text = refused(HuggingFace(base=str(folder)), IMAGE)
    assert "pytorch_model.bin" in text
    assert "run any code" in text
    command = re.search(r'python -c "(.*)"$', text)
    assert command is not None
    exec(command[1], {})
    assert torch.equal(logits(HuggingFace(base=str(folder)).build(IMAGE, 5), inputs("vit")), expected)


def test_what_is_no_base_is_refused_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for base, said in (
        ("vit.toml", "run: gossamer pretrain vit.toml"),
        ("./nowhere", "no such folder"),
        (str(folder / "config.json"), "is a file"),
        (str(folder.parent), "no config.json"),
    ):
        assert said in refused(HuggingFace(base=base), IMAGE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for base in ("someone/no-such-model", "a b"):
        assert f"model.base = '{base}' is no folder here" in refused(HuggingFace(base=base), IMAGE)
    (folder / "model.safetensors").write_bytes(b"\x08")
    assert "SafetensorError" in refused(HuggingFace(base=str(folder)), IMAGE)
    (folder / "model.safetensors").unlink()
    assert "no weights" in refused(HuggingFace(base=str(folder)), IMAGE)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").touch()
    assert "config.json cannot be used" in refused(HuggingFace(base=str(folder)), IMAGE)


def test_a_model_of_the_hub_is_taken_from_this_machine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    kept, revision = tmp_path / "hub" / "models--someone--tiny", "0" * 40
    shutil.copytree(folder, kept / "snapshots" / revision)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(revision, encoding="utf-8")
    plug = HuggingFace(base="someone/tiny")
    assert same(plug.build(IMAGE, 5), built("vit", seed=7))
    (kept / "snapshots" / revision / "model.safetensors").unlink()
    assert "cannot be had from the hub" in refused(plug, IMAGE)


# ---- without weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{}, {"precision": "bfloat16"}, {"bits": 4}, {"bits": 8, "attention": "eager"}], ids=str
)
@pytest.mark.parametrize("name", CASES)
def test_a_plan_needs_no_weights(name: str, fields: dict[str, Any]) -> None:
    real, given = built(name, **fields), inputs(name)
    with torch.device("meta"), torch.no_grad():
        planned = built(name, **fields).to("meta").eval()
        assert planned(given.to("meta")).shape == logits(real, given).shape
    described = [[(k, p.shape, p.dtype, p.requires_grad) for k, p in m.named_parameters()] for m in (real, planned)]
    assert described[0] == described[1]
    assert all(p.is_meta for p in planned.parameters())
    assert planned.head_names == real.head_names


def test_a_plan_reads_no_weights_of_a_base(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not read")
    with torch.device("meta"):
        module = HuggingFace(base=str(folder), config={"hidden_dropout_prob": 0.1}).build(IMAGE, 7)
    shapes = {name: p.shape for name, p in built("vit").named_parameters()}
    assert {n: p.shape for n, p in module.named_parameters() if "classifier" not in n}.items() <= shapes.items()


# ---- fewer bits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2", "llama-lm"])
def test_sixteen_bits_for_the_base_and_thirty_two_for_the_rest(name: str) -> None:
    full, half = built(name), built(name, precision="bfloat16")
    of_head = {id(p) for p in heads(half)}
    for (key, parameter), exact in zip(half.named_parameters(), full.parameters(), strict=True):
        stored = torch.bfloat16 if parameter.dim() >= 2 and id(parameter) not in of_head else torch.float32
        assert parameter.dtype == stored, key
        assert torch.equal(parameter, exact.to(stored))
    given = inputs(name)
    assert logits(half, given).dtype == torch.float32
    torch.testing.assert_close(logits(half, given), logits(full, given), rtol=0, atol=0.02)
    assert not torch.equal(logits(half, given), logits(full, given))
    for key, parameter in half.named_parameters():
        parameter.requires_grad_(key.endswith("bias") or "norm" in key or id(parameter) in of_head)
    converted(half, Layout.of(half), torch.float32)
    assert {p.dtype for p in half.parameters() if p.requires_grad} <= {torch.float32}
    loss_of(half.train(), given, torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad.dtype == torch.float32 for p in half.parameters() if p.grad is not None)


def quantised(module: nn.Module) -> dict[str, Any]:
    return {name: part for name, part in module.named_modules() if hasattr(part, "dequantised")}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["vit", "distilbert", "gpt2", "llama", "gpt2-lm", "llama-lm"])
def test_linear_layers_of_the_base_are_what_is_stored_in_few_bits(name: str, bits: int) -> None:
    from transformers.pytorch_utils import Conv1D

    full, few = built(name), built(name, bits=bits)
    linear = {key for key, part in full.named_modules() if isinstance(part, (nn.Linear, Conv1D))}
    assert quantised(few).keys() == {key for key in linear if not key.startswith((*few.head_names, "model.lm_head"))}
    for key, layer in quantised(few).items():
        exact: Any = full.get_submodule(key).weight.detach()
        exact_MN = exact.T if isinstance(full.get_submodule(key), Conv1D) else exact
        # Half of the widest gap between levels, times the scale.
        step = exact_MN.abs().amax(1, keepdim=True) / 254 if bits == 8 else 0.152 * exact_MN.abs().max()
        assert bool(((layer.dequantised(torch.float32) - exact_MN).abs() <= step * 1.001).all())
        assert not layer.weight.requires_grad
    torch.testing.assert_close(
        logits(few, inputs(name)), logits(full, inputs(name)), rtol=0, atol=0.1 if bits == 4 else 0.01
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_layers_in_few_bits_are_those_of_bitsandbytes(bits: int) -> None:
    import bitsandbytes

    from gossamer.quantised_layers import quantise

    holder, theirs = nn.Sequential(nn.Linear(128, 48)), nn.Linear(128, 48)
    plain = {key: value.clone() for key, value in holder[0].state_dict().items()}
    quantise(holder, bits)
    if bits == 4:
        theirs = bitsandbytes.nn.Linear4bit(128, 48, quant_type="nf4", compress_statistics=False)
    else:
        theirs = bitsandbytes.nn.Linear8bitLt(128, 48, has_fp16_weights=False)
    theirs.load_state_dict(plain)
    theirs.to("cpu")
    assert isinstance(holder[0], type(theirs))
    # Theirs rounds weights to 16 bits before it makes 8 of them, and inputs to 8 bits too.
    assert (holder[0].weight.data.int() - theirs.weight.data.int()).abs().max() <= (0 if bits == 4 else 1)
    given = torch.randn(6, 128)
    torch.testing.assert_close(holder(given), theirs(given), rtol=0, atol=1e-5 if bits == 4 else 0.05)


@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_go_through_layers_in_few_bits_and_leave_them_as_they_are(bits: int) -> None:
    module, given = built("gpt2", bits=bits), inputs("gpt2")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    dense = built("gpt2")
    with torch.no_grad():
        for key, layer in quantised(module).items():
            dense.get_submodule(key).weight.copy_(layer.dequantised(torch.float32).T)
    for each in (module, dense):
        loss_of(each.train(), given, torch.tensor([0, 1, 2, 3])).backward()
    theirs = dict(dense.named_parameters())
    trained = {key: p for key, p in module.named_parameters() if p.requires_grad}
    assert any(key.endswith("bias") for key in trained)
    for key, parameter in trained.items():
        torch.testing.assert_close(parameter.grad, theirs[key].grad, rtol=1e-4, atol=1e-6)
    torch.optim.SGD(trained.values(), lr=0.1).step()
    logits(module, given)
    after = module.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == trained.keys()
    fresh = built("gpt2", seed=9, bits=bits)
    fresh.load_state_dict(after)
    assert torch.equal(logits(fresh, given), logits(module, given))


def test_peft_puts_its_layers_around_them() -> None:
    peft = pytest.importorskip("peft")
    module = built("llama", bits=4)
    expected = logits(module, inputs("llama"))
    adapted = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["q_proj"]), module.model)
    assert type(adapted.model.layers[0].self_attn.q_proj) is peft.tuners.lora.bnb.Linear4bit
    assert torch.equal(logits(module, inputs("llama")), expected)
    loss_of(module.train(), inputs("llama"), torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad is not None for key, p in module.named_parameters() if "lora_B" in key)


def test_weights_in_few_bits_are_no_base(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"model\.bits"):
        save_base(built("vit", bits=4), tmp_path)


# ---- errors and silence ----------------------------------------------------------------------------------------------


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
        (HuggingFace(config=GPT2, task="causal_lm"), (LENGTH,), "vocab_size = 50, but the data have 5 tokens"),
        (HuggingFace(config=RESNET, gradient_checkpointing=True), IMAGE, "gradient_checkpointing"),
    ],
)
def test_data_that_do_not_suit_are_refused(plug: HuggingFace, shape: tuple[int, ...], said: str) -> None:
    assert said in refused(plug, shape)


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


def test_nothing_is_printed_and_nothing_stays_silenced(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    logging.set_verbosity_warning()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    HuggingFace(base=str(folder)).build(IMAGE, 9)
    save_base(built("vit"), folder)
    for name in TEXTS:
        built(name, gradient_checkpointing=True).train()(inputs(name)).sum().backward()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_a_forked_process_computes_the_same(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module, given = HuggingFace(base=str(folder)).build(IMAGE, 5), inputs("vit")
    expected = logits(module, given)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(logits(module, given), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert capfd.readouterr() == ("", "")
