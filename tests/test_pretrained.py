"""Bases: weights from a folder or the hub, bitwise and complete, or an error that says what to do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformer_cases import IMAGE, LENGTH, built, heads, inputs, logits, refused, same

pytest.importorskip("transformers", reason="needs the extra 'foundation'")

import transformers

from gossamer.errors import ExperimentError
from gossamer.models.hugging_face import HuggingFace
from gossamer.pretrained import located
from gossamer.wrapping import save_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base: a ViT for 5 classes."""
    save_base(built("vit", seed=7), tmp_path / "base")
    return tmp_path / "base"


def test_a_base_is_loaded_bitwise_with_its_head(folder: Path) -> None:
    module = HuggingFace(base=str(folder)).build(IMAGE, 5)
    assert same(module, built("vit", seed=7))
    assert module.training
    assert all(p.dtype == torch.float32 and p.requires_grad for p in module.parameters())


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
    damaged = f"model.base = '{folder}': model.safetensors is damaged"
    assert damaged in refused(HuggingFace(base=str(folder)), IMAGE)
    with pytest.raises(ExperimentError, match="is damaged"):
        located(str(folder), weights=False)
    (folder / "model.safetensors").unlink()
    assert "no weights" in refused(HuggingFace(base=str(folder)), IMAGE)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    assert "config.json cannot be used" in refused(HuggingFace(base=str(folder)), IMAGE)


def test_a_base_with_numbers_that_are_none_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("weight"))
    weights[name].view(-1)[3] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert f"'{name}' holds NaN or infinity" in refused(HuggingFace(base=str(folder)), IMAGE)


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


def test_a_plan_reads_no_weights_of_a_base(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({name: torch.full_like(value, torch.nan) for name, value in weights.items()}, file, {"format": "pt"})
    with torch.device("meta"):
        module = HuggingFace(base=str(folder), config={"hidden_dropout_prob": 0.1}).build(IMAGE, 7)
    shapes = {name: p.shape for name, p in built("vit").named_parameters()}
    assert {n: p.shape for n, p in module.named_parameters() if "classifier" not in n}.items() <= shapes.items()
