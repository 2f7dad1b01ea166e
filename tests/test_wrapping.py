"""What nodes do with wrapped models: train some of them as a batch, draw, plan without weights, fork, keep quiet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformer_cases import CASES, IMAGE, TEXTS, built, heads, inputs, logits, loss_of

pytest.importorskip("transformers", reason="needs the extra 'foundation'")

from gossamer.layout import Layout
from gossamer.models.hugging_face import HuggingFace
from gossamer.resident import converted
from gossamer.wrapping import save_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base: a ViT for 5 classes."""
    save_base(built("vit", seed=7), tmp_path / "base")
    return tmp_path / "base"


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
