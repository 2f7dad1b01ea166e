"""Tiny models to adapt, what goes into them, and local steps as the trainer takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.learners import Learner
from gossamer.learners.sgd import SGD
from gossamer.methods import Terms
from gossamer.models.hugging_face import HuggingFace
from gossamer.parametrisations import Parametrisation
from gossamer.resident import Resident
from gossamer.training import descend

TOKENS = 20
BERT = {
    "num_attention_heads": 2,
    "vocab_size": TOKENS,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}
GPT2 = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 32,
    "vocab_size": TOKENS,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "initializer_range": 0.2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"model_type": "vit", "num_attention_heads": 2, "patch_size": 4, "initializer_range": 0.2},
    "bert": {"model_type": "bert", **BERT},
    "distilbert": {
        "model_type": "distilbert",
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 32,
        "vocab_size": TOKENS,
        "max_position_embeddings": 32,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
        "initializer_range": 0.2,
    },
    "gpt2": {"model_type": "gpt2", **GPT2},
    "gpt2_classifier": {"model_type": "gpt2", **GPT2},
    "llama": {
        "model_type": "llama",
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": TOKENS,
        "max_position_embeddings": 32,
        "initializer_range": 0.2,
    },
}
"""With 16 wide hidden states, 2 blocks, and MLPs 32 wide (64 in GPT-2), where these are not said otherwise."""
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}


def plug(model: str, config: dict[str, Any] | None = None, **fields: Any) -> HuggingFace:
    named = {} if CONFIGS[model]["model_type"] in ("gpt2", "distilbert") else SIZES
    task = "causal_lm" if model in ("gpt2", "llama") else "auto"
    return HuggingFace(config={**named, **CONFIGS[model], **(config or {})}, task=task, attention="eager", **fields)


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 3))


def encoder() -> nn.Module:
    """torch's own transformer layers."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(24, 16), blocks, nn.Flatten(), nn.Linear(128, 3))


PLAIN = {"plain": plain, "encoder": encoder}
MODELS = [*CONFIGS, *PLAIN]


def fresh(model: str, config: dict[str, Any] | None = None, **fields: Any) -> nn.Module:
    """A model with the same weights every time."""
    torch.manual_seed(0)
    if model in PLAIN:
        return PLAIN[model]()
    classes = TOKENS if model in ("gpt2", "llama") else 3
    return plug(model, config, **fields).build((3, 8, 8) if model == "vit" else (6,), classes)


def inputs(model: str, items: int = 4) -> Tensor:
    dice = torch.Generator().manual_seed(1)
    if model in ("vit", "plain"):
        return torch.randn(items, 3, 8, 8, generator=dice)
    if model == "encoder":
        return torch.randn(items, 8, 24, generator=dice)
    return torch.randint(1, TOKENS, (items, 6), generator=dice)


def adapted(part: Parametrisation, model: str, seed: int = 1, **fields: Any) -> nn.Module:
    """A fresh model, adapted with dice of its own."""
    module = fresh(model, **fields)
    torch.manual_seed(seed)
    return part.applied(module)


def resident(part: Parametrisation, module: nn.Module, dtype: torch.dtype = torch.float32) -> Resident:
    return Resident(module, part.layout(module), dtype)


def outputs(module: nn.Module, given: Tensor) -> Tensor:
    """As models are measured."""
    with torch.inference_mode():
        return module.eval()(given).clone()


def loss_of(logits: Tensor) -> Tensor:
    """A loss that depends on all logits."""
    wanted = torch.arange(logits.numel() // logits.shape[-1], device=logits.device) % logits.shape[-1]
    return nn.functional.cross_entropy(logits.flatten(0, -2), wanted)


def train(bound: Resident, given: Tensor, steps: int = 2, learner: Learner | None = None) -> list[Tensor]:
    """Local steps as the trainer takes them; the gradients of the last."""
    learner = learner or SGD(lr=0.5)
    row_T = bound.row[: bound.layout.trainable]
    slots = learner.fresh(row_T)
    bound.module.train()
    for _ in range(steps):
        grads = bound.gradients(loss_of(bound.module(given)))
        descend([row_T], [torch.cat(grads)], [slots], [Terms()], learner, learner.lr)
    return grads
