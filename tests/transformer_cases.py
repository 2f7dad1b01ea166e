"""Small models of the transformers library, and inputs for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gossamer.errors import ExperimentError
from gossamer.models.hugging_face import HuggingFace

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


def heads(module: Any) -> list[Tensor]:
    return [p for name in module.head_names for p in module.get_submodule(name).parameters()]


def loss_of(module: nn.Module, given: Tensor, labels: Tensor, changed: dict[str, Tensor] | None = None) -> Tensor:
    out = torch.func.functional_call(module, changed, (given,)) if changed else module(given)
    return F.cross_entropy(out if out.dim() == 2 else out[:, -1], labels)
