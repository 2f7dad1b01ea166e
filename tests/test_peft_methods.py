"""Every method of the peft library that is let in trains its row alone; those that cannot are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from adapted import adapted, fresh, inputs, outputs, resident, train

from gossamer.anatomy import head_of
from gossamer.errors import ExperimentError
from gossamer.parametrisations.peft import OURS, REFUSED, Peft
from gossamer.wrapping import library

SETTINGS: dict[str, dict[str, Any]] = {
    # What their defaults are too large for, or what they need.
    "adaption_prompt": {"adapter_len": 3, "adapter_layers": 1},
    "c3a": {"block_size": 8},
    "fourierft": {"n_frequency": 20},
    "miss": {"r": 2},
    "oft": {"oft_block_size": 4},
    "psoft": {"r": 2},
    "randlora": {"r": 2, "randlora_alpha": 8},
    "road": {"group_size": 8},
    "shira": {"r": 2},
    "trainable_tokens": {"token_indices": [1, 2]},
    "vblora": {"vector_length": 8, "num_vectors": 16, "topk": 2},
    "waveft": {"n_frequency": 20},
}
EVERYWHERE = {"deft", "fourierft", "frod", "gralora", "hira", "ia3", "pvera", "randlora", "tinylora", "unilora"}
EVERYWHERE |= {"vblora", "vera", "waveft"}
LINEAR = {"adamss", "beft", "boft", "c3a", "delora", "glora", "hra", "lily", "loha", "lokr", "miss", "oft", "osf"}
LINEAR |= {"peanut", "psoft", "road", "shira", "supertuning"}
PROMPTS = {"prompt_tuning", "prefix_tuning", "p_tuning", "cartridge"}
WORKS: dict[str, set[str]] = {
    "vit": EVERYWHERE | LINEAR | {"ln_tuning"},
    "bert": EVERYWHERE | LINEAR | PROMPTS | {"ln_tuning", "trainable_tokens"},
    "llama": EVERYWHERE | LINEAR | PROMPTS | {"ln_tuning", "trainable_tokens", "adaption_prompt"},
    "gpt2": EVERYWHERE | PROMPTS | {"ln_tuning", "trainable_tokens", "adaption_prompt"},
    "gpt2_classifier": EVERYWHERE
    | PROMPTS - {"prompt_tuning", "p_tuning"}
    | {"ln_tuning", "trainable_tokens", "adaption_prompt"},
    "distilbert": EVERYWHERE | LINEAR | {"prompt_tuning", "p_tuning", "ln_tuning", "trainable_tokens"},
    "plain": EVERYWHERE | LINEAR,
    "encoder": EVERYWHERE | LINEAR | {"ln_tuning"},
}
OFTEN = {"vit": {"ia3", "vera", "shira"}, "bert": {"prompt_tuning", "loha"}, "gpt2": {"prefix_tuning", "p_tuning"}}
METHODS = sorted(EVERYWHERE | LINEAR | PROMPTS | {"ln_tuning", "trainable_tokens", "adaption_prompt"})
CASES = [
    pytest.param(method, model, marks=[] if method in OFTEN.get(model, ()) else [pytest.mark.slow])
    for model in WORKS
    for method in METHODS
]


def part_of(method: str) -> Peft:
    return Peft(method=method, settings=SETTINGS.get(method, {}))


@pytest.mark.filterwarnings("ignore:Sparse invariant")
@pytest.mark.parametrize(("method", "model"), CASES)
def test_it_trains_its_row_and_nothing_else_or_is_refused(method: str, model: str) -> None:
    part, given = part_of(method), inputs(model)
    if method not in WORKS[model]:
        with pytest.raises(
            ExperimentError, match=rf"parametrisation.method = '{method}': .*; (use|change) "
        ) as refusal:
            adapted(part, model)
        assert "\n" not in str(refusal.value)
        return
    module, twin = adapted(part, model), adapted(part, model)
    bound, start = resident(part, module), resident(part, twin).row
    copied = resident(part, copy.deepcopy(module))
    assert torch.equal(bound.row, start)
    assert all(entry.trainable for entry in bound.layout.entries)
    assert len(head_of(module)) == len(head_of(fresh(model)))
    for head in head_of(module):
        assert any(entry.name.startswith(f"{head}.") for entry in bound.layout.entries)
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if name in bound.layout.frozen}
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    logits = outputs(module, given)
    assert logits.shape == outputs(fresh(model), given).shape
    train(bound, given, 4)
    assert all(torch.equal(p, frozen[name]) for name, p in module.named_parameters() if name in frozen)
    assert all(torch.equal(b, buffers[name]) for name, b in module.named_buffers())
    moved = sum(
        not torch.equal(bound.row[entry.start : entry.stop], start[entry.start : entry.stop])
        for entry in bound.layout.entries
    )
    # GLoRA has parts that are 'none' in every second layer.
    assert moved >= (len(bound.layout.entries) - 4 if method == "glora" else len(bound.layout.entries))
    after = outputs(module, given)
    assert after.isfinite().all()
    assert not torch.equal(after, logits)
    assert torch.equal(outputs(copied.module, given), logits)
    copied.load(bound.row)
    assert torch.equal(outputs(copied.module, given), after)


def test_every_method_of_the_library_is_tried_or_refused() -> None:
    library("peft")
    known = {str(kind.value).lower() for kind in library("peft.mapping").PEFT_TYPE_TO_CONFIG_MAPPING}
    assert known == set(METHODS) | set(REFUSED)
    told = (Peft.__doc__ or "").replace(",", " ").replace(";", " ").split()
    assert set(METHODS) <= {word.strip(".") for word in told}


@pytest.mark.parametrize("model", ["bert", "distilbert", "gpt2", "llama"])
def test_prompts_do_not_see_the_padding_behind_a_text(model: str) -> None:
    module, given = adapted(Peft(method="prompt_tuning", settings={"num_virtual_tokens": 4}), model), inputs(model)
    padded = torch.cat([given, torch.zeros(4, 3, dtype=torch.int64)], dim=1)
    logits, longer = outputs(module, given), outputs(module, padded)
    assert torch.allclose(longer[:, : len(given[0])] if logits.dim() == 3 else longer, logits, atol=1e-6)


def test_prompts_are_tokens_before_the_text() -> None:
    module, given = adapted(Peft(method="prompt_tuning", settings={"num_virtual_tokens": 4}), "llama"), inputs("llama")
    base = fresh("llama").eval().model
    prompts = module.model.prompt_encoder.default.embedding.weight
    words = torch.cat([prompts.expand(4, -1, -1), base.get_input_embeddings()(given)], dim=1)
    assert torch.allclose(base(inputs_embeds=words).logits[:, 4:], outputs(module, given), atol=1e-6)


def test_places_that_suit_the_method() -> None:
    def names(part: Peft, model: str) -> list[str]:
        entries = part.layout(adapted(part, model)).entries
        return [entry.name.rpartition(".ia3_l")[0].rpartition(".")[2] for entry in entries if "ia3_l" in entry.name]

    assert names(Peft(method="ia3"), "vit") == ["k_proj", "v_proj", "fc2"] * 2
    assert names(Peft(method="ia3", targets=("*.0.mlp.*",)), "vit") == ["fc1", "fc2"]
    # At the end of the MLP it is the input that is scaled.
    sizes = {entry.name: entry.shape for entry in Peft(method="ia3").layout(adapted(Peft(method="ia3"), "vit")).entries}
    assert sizes["model.vit.layers.0.mlp.fc2.ia3_l.default"] == (1, 32)
    part = Peft(method="ln_tuning", targets=("ln_1",), head=False)
    assert len(part.layout(adapted(part, "gpt2")).entries) == 4


def test_without_the_head() -> None:
    for method, model in (("ia3", "vit"), ("prompt_tuning", "bert")):
        part = Peft(method=method, head=False)
        assert not any("classifier" in entry.name for entry in part.layout(adapted(part, model)).entries)


def test_heads_are_found_inside_the_librarys_models() -> None:
    part = Peft(method="prefix_tuning")
    module = adapted(part, "bert")
    assert module.head_names == ("model.base_model.classifier",)
    assert [entry.name for entry in part.layout(module).entries] == [
        "model.base_model.classifier.weight",
        "model.base_model.classifier.bias",
        "model.prompt_encoder.default.embedding.weight",
    ]


@pytest.mark.parametrize(
    ("part", "model", "why"),
    [
        (Peft(method="lora"), "vit", r"'lora': it is a parametrisation of its own, kind = 'lora'; these work: ada"),
        (Peft(method="adalora"), "vit", r"'adalora': it needs a schedule and a penalty .*; these work: .*ia3"),
        (Peft(method="prompt_tunin"), "bert", r"peft has no such method; did you mean 'prompt_tuning'\?; these work"),
        (
            Peft(method="vera", settings={"rank": 3}),
            "vit",
            r"settings: 'vera' has no setting 'rank'; .*there are: .*r, ",
        ),
        (Peft(method="ia3", settings={"target_modules": "x"}), "vit", "'ia3' has no setting 'target_modules'"),
        (Peft(method="prompt_tuning"), "vit", "no place for prompts, .*; use kind = 'deep_prompt'"),
        (Peft(method="prompt_tuning"), "gpt2_classifier", "last token of a padded text; use method = 'prefix_tuning'"),
        (Peft(method="prefix_tuning"), "distilbert", "it ignores prompts of this kind"),
        (Peft(method="loha"), "gpt2", "the peft library cannot do this with this model .*Conv1D"),
        (Peft(method="osf"), "gpt2", "it changes no layer of this model; use kind = 'lora'"),
        (Peft(method="ln_tuning"), "plain", "the model has no layers that normalise"),
        (Peft(method="trainable_tokens"), "vit", "the model has no embedding"),
        (Peft(method="ia3", targets=("q_pro",)), "vit", "targets: 'q_pro' matches no layer; nearest: q_proj"),
        (Peft(method="c3a", settings={"block_size": 5}), "vit", "peft library cannot do this with this model"),
    ],
    ids=lambda value: value.method if isinstance(value, Peft) else "",
)
def test_what_cannot_be_says_so(part: Peft, model: str, why: str) -> None:
    with pytest.raises(ExperimentError, match=why) as refusal:
        adapted(part, model)
    assert "\n" not in str(refusal.value)


def test_fields_filled_in_here_are_no_settings() -> None:
    assert {"target_modules", "modules_to_save", "task_type"} <= OURS
