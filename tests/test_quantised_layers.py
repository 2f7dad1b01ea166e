"""Layers in few bits: near what they were, those of bitsandbytes, and never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformer_cases import built, inputs, logits, loss_of

pytest.importorskip("transformers", reason="needs the extra 'foundation'")

from gossamer.errors import ExperimentError
from gossamer.quantised_layers import quantise
from gossamer.wrapping import save_base


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
