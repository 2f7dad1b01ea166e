"""What holds for everything that trains a small part of a frozen base, on models of all kinds."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from adapted import adapted, fresh, inputs, loss_of, outputs, resident, train
from torch import Tensor

from gossamer.adapting import matching, targets
from gossamer.errors import ExperimentError
from gossamer.example_gradients import Routes
from gossamer.gradient_routes import written_out
from gossamer.parametrisations import Parametrisation
from gossamer.parametrisations.bias import Bias
from gossamer.parametrisations.bottleneck import Bottleneck
from gossamer.parametrisations.deep_prompt import DeepPrompt
from gossamer.parametrisations.head import Head
from gossamer.parametrisations.lora import Lora
from gossamer.parametrisations.peft import Peft

PARTS: dict[str, tuple[Parametrisation, tuple[str, ...]]] = {
    "head": (Head(), ("vit", "distilbert", "gpt2_classifier", "plain", "encoder")),
    "bias": (Bias(), ("vit", "bert", "gpt2", "plain", "encoder")),
    "bottleneck": (Bottleneck(reduction=4), ("vit", "bert", "distilbert", "gpt2", "llama", "encoder")),
    "houlsby": (Bottleneck(reduction=4, position="both"), ("vit", "bert", "llama")),
    "shared": (Bottleneck(reduction=4, shared=True), ("vit", "gpt2")),
    "deep_prompt": (DeepPrompt(tokens=3), ("vit",)),
    "lora": (Lora(rank=3), ("vit", "bert", "distilbert", "gpt2", "llama", "plain", "encoder")),
    "ffa": (Lora(rank=3, train="b"), ("vit", "gpt2")),
    "convolutions": (Lora(rank=3, targets=("*projection",)), ("vit",)),
    "ia3": (Peft(method="ia3"), ("vit", "gpt2", "encoder")),
    "ln_tuning": (Peft(method="ln_tuning"), ("llama",)),
    "vera": (Peft(method="vera", settings={"r": 4}), ("bert",)),
}
CASES = [(kind, model) for kind, (_, models) in PARTS.items() for model in models]
EXACT = [kind for kind in PARTS if kind not in ("deep_prompt",)]
"""What starts as the base, bit for bit."""


def trained(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("kind", "model"), CASES)
def test_only_the_row_moves_and_all_of_it(kind: str, model: str) -> None:
    part, _ = PARTS[kind]
    module, given = adapted(part, model), inputs(model)
    bound = resident(part, module)
    assert [entry.name for entry in bound.layout.entries] == list(trained(module))
    assert bound.layout.size == bound.layout.trainable == sum(p.numel() for p in trained(module).values())
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    start = bound.row.clone()
    train(bound, given)
    after = dict(module.named_parameters())
    assert frozen.keys() == set(bound.layout.frozen)
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())
    assert all(torch.equal(b, buffers[name]) for name, b in module.named_buffers())
    for entry in bound.layout.entries:
        assert not torch.equal(bound.row[entry.start : entry.stop], start[entry.start : entry.stop]), entry.name


@pytest.mark.parametrize(("kind", "model"), [case for case in CASES if case[0] in EXACT])
def test_it_starts_as_the_base_bit_for_bit(kind: str, model: str) -> None:
    given = inputs(model)
    assert torch.equal(outputs(adapted(PARTS[kind][0], model), given), outputs(fresh(model), given))


@pytest.mark.parametrize(("kind", "model"), CASES)
def test_training_changes_what_is_measured(kind: str, model: str) -> None:
    """torch's own transformer layers take a short cut in evaluation, past what was changed about their layers."""
    part, _ = PARTS[kind]
    module, given = adapted(part, model), inputs(model)
    before = outputs(module, given)
    train(resident(part, module), given)
    measured = outputs(module, given)
    assert (measured - before).abs().max() > 1e-4
    with torch.enable_grad():
        assert torch.allclose(module.train()(given), measured, atol=1e-5)


@pytest.mark.parametrize(("kind", "model"), CASES)
def test_layouts_need_no_weights(kind: str, model: str) -> None:
    part, _ = PARTS[kind]
    with torch.device("meta"), torch.no_grad():
        module = adapted(part, model)
    assert all(parameter.is_meta for parameter in module.parameters())
    assert part.layout(module) == part.layout(adapted(part, model))


@pytest.mark.parametrize(("kind", "model"), CASES)
def test_a_copy_is_another_model(kind: str, model: str) -> None:
    part, _ = PARTS[kind]
    module, given = adapted(part, model), inputs(model)
    twin = copy.deepcopy(module)
    before = outputs(module, given)
    one, other = resident(part, module), resident(part, twin)
    train(other, given)
    assert torch.equal(outputs(module, given), before)
    one.load(other.row)
    assert torch.equal(outputs(module, given), outputs(twin, given))


@pytest.mark.parametrize("kind", PARTS)
def test_dice_are_all_that_a_row_depends_on(kind: str) -> None:
    """Not what was trained in the module before; other dice draw another row where anything is drawn."""
    part, models = PARTS[kind]
    module = fresh(models[0])
    for place, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(place % 3 == 0)
    torch.manual_seed(1)
    again = part.applied(module)
    rows = [resident(part, made).row for made in (adapted(part, models[0]), again, adapted(part, models[0], seed=2))]
    assert torch.equal(rows[0], rows[1])
    draws = kind not in ("head", "bias", "ffa", "ia3", "ln_tuning", "vera")
    assert torch.equal(rows[0], rows[2]) == (not draws)


@pytest.mark.parametrize("kind", ["head", "bias", "bottleneck", "shared", "deep_prompt", "lora", "ffa", "ia3"])
def test_many_nodes_train_as_one_batch_on_one_base(kind: str) -> None:
    part, _ = PARTS[kind]
    module, given = adapted(part, "vit").double(), inputs("vit").double()
    bound = resident(part, module, torch.float64)
    rows_ND = bound.row + 0.1 * torch.randn(3, bound.layout.size, dtype=torch.float64)

    def gradient(row_D: Tensor) -> Tensor:
        named = {entry.name: view for entry, view in bound.layout.views(row_D)}
        return loss_of(torch.func.functional_call(module, named, (given,)))

    batched_ND = torch.func.vmap(torch.func.grad(gradient))(rows_ND)
    for row_D, batched_D in zip(rows_ND, batched_ND, strict=True):
        bound.load(row_D)
        alone_D = torch.cat(bound.gradients(loss_of(module(given))))
        assert torch.allclose(batched_D, alone_D, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "route"),
    [("head", "opacus"), ("bottleneck", "opacus"), ("shared", "opacus"), ("lora", "opacus"), ("deep_prompt", "vmap")],
)
def test_gradients_of_single_examples_add_up(kind: str, route: str) -> None:
    pytest.importorskip("opacus")
    part, _ = PARTS[kind]
    module, given = adapted(part, "vit"), inputs("vit")
    bound = resident(part, module)
    bound.row.add_(torch.randn(bound.layout.size), alpha=0.1)
    labels = torch.arange(4) % 3
    routes = Routes(bound, 0.0, given, labels)
    assert routes.taken == route
    found = [written_out(gradient).sum(0) for gradient in routes.gradients(given, labels)[0]]
    whole = bound.gradients(torch.nn.functional.cross_entropy(module(given), labels, reduction="sum"))
    for one, other in zip(found, whole, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bottleneck", "deep_prompt", "lora", "ia3"])
def test_activations_computed_again_give_the_same_gradients(kind: str) -> None:
    part, _ = PARTS[kind]
    bound = [resident(part, adapted(part, "vit", gradient_checkpointing=again)) for again in (False, True)]
    first, second = (train(one, inputs("vit")) for one in bound)
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("kind", ["bias", "bottleneck", "deep_prompt", "lora", "ia3"])
@pytest.mark.parametrize("fields", [{"precision": "bfloat16"}, {"bits": 4}, {"bits": 8}], ids=str)
def test_on_a_base_of_few_bits_what_is_trained_is_whole(kind: str, fields: dict[str, object]) -> None:
    if "bits" in fields:
        pytest.importorskip("bitsandbytes")
    part, _ = PARTS[kind]
    module, given = adapted(part, "vit", **fields), inputs("vit")
    if kind in EXACT:
        assert torch.equal(outputs(module, given), outputs(fresh("vit", **fields), given))
    assert all(tensor.dtype == torch.float32 for tensor in trained(module).values())
    bound = resident(part, module)
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if name in bound.layout.frozen}
    train(bound, given)
    assert all(torch.equal(p, frozen[name]) for name, p in module.named_parameters() if name in frozen)
    with torch.device("meta"), torch.no_grad():
        assert part.layout(adapted(part, "vit", **fields)) == bound.layout


def test_a_forked_process_trains_its_own() -> None:
    part, _ = PARTS["lora"]
    bound, given = resident(part, adapted(part, "vit")), inputs("vit")
    start = bound.row.clone()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        train(bound, given)
        os.write(write, outputs(bound.module, given).numpy().tobytes())
        os._exit(0)
    os.close(write)
    told = os.read(read, 1 << 16)
    os.waitpid(child, 0)
    assert torch.equal(bound.row, start)
    train(bound, given)
    assert told == outputs(bound.module, given).numpy().tobytes()


class Padded(torch.nn.Module):
    """torch's own encoder, told where there is padding, as tokens at the end."""

    def __init__(self) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.words, self.encoder = torch.nn.Embedding(20, 16), torch.nn.TransformerEncoder(layer, 2)
        self.head = torch.nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.words(ids), src_key_padding_mask=ids == 0)[:, 0])


@pytest.mark.parametrize("part", [Bottleneck(), Lora(), Peft(method="ln_tuning")], ids=lambda part: part.kind)
def test_measured_as_trained_with_padding(part: Parametrisation) -> None:
    module = part.applied(Padded())
    given = inputs("bert")
    given[:2, 4:] = 0
    train(resident(part, module), given)
    assert torch.allclose(outputs(module, given), module.train()(given), atol=1e-6)


# ---- targets ---------------------------------------------------------------------------------------------------------


def test_default_targets() -> None:
    assert len(targets(fresh("vit"), (), head=True)) == 4
    assert targets(fresh("plain"), (), head=True) == targets(fresh("plain"), (), head=False) == ("1",)
    assert targets(fresh("encoder"), (), head=True) == tuple(f"1.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2))


def test_targets_by_full_or_last_name_never_the_head_that_is_trained_whole() -> None:
    module = fresh("vit")
    assert len(targets(module, ("fc?",), head=True)) == 4
    assert targets(module, ("*.1.mlp.*",), head=True) == tuple(f"model.vit.layers.1.mlp.fc{i}" for i in (1, 2))
    everything = targets(module, ("*",), head=True)
    assert len(everything) == 12
    assert targets(module, ("*",), head=False) == (*everything, "model.classifier")
    # Convolutions only where asked for.
    assert targets(module, ("*projection",), head=True) == ("model.vit.embeddings.patch_embeddings.projection",)


def test_targets_that_do_not_exist_say_which_are_near() -> None:
    with pytest.raises(ExperimentError, match=r"targets: 'query' matches no layer; nearest: .*q_proj"):
        Lora(targets=("k_proj", "query")).applied(fresh("llama"))
    with pytest.raises(ExperimentError, match=r"'q_porj' matches no layer; nearest: q_proj, "):
        targets(fresh("vit"), ("q_porj",), head=True)
    with pytest.raises(ExperimentError, match="there are none"):
        matching([], [], ("x",))
    with pytest.raises(ExperimentError, match="no linear layers to change besides its head"):
        Lora().applied(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2)))
