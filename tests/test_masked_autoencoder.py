"""A masked autoencoder: its loss written out, its dice, and the ViT that is left of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="needs the extra 'foundation'")

from gossamer.errors import ExperimentError
from gossamer.models.hugging_face import HuggingFace
from gossamer.models.masked_autoencoder import MaskedAutoencoder, positions
from gossamer.wrapping import save_base

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 4,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
SHAPE, PATCHES = (3, 16, 16), 16
LABELS = torch.zeros(4, dtype=torch.int64)


def built(shape: tuple[int, ...] = SHAPE, seed: int = 0, mask_ratio: float = 0.75, **config: Any) -> Any:
    torch.manual_seed(seed)
    return MaskedAutoencoder(config={**SIZES, **config}, mask_ratio=mask_ratio).build(shape, 10)


def images(shape: tuple[int, ...] = SHAPE, items: int = 4) -> Tensor:
    return torch.randn(items, *shape, generator=torch.Generator().manual_seed(1))


def patches(images_BCHW: Tensor, side: int = 4) -> Tensor:
    """[B, P, side * side * C], rows of patches from the top, each by row, column and channel."""
    cut = images_BCHW.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_loss_is_the_mean_squared_error_over_masked_patches(normalised: bool) -> None:
    module, given = built(norm_pix_loss=normalised).eval(), images()
    with torch.no_grad():
        filled, loss = module(given), module.loss(given, LABELS)
        hidden_P = torch.arange(PATCHES).double().mul(0.6180339887498949).frac().argsort()[PATCHES // 4 :]
        wanted = patches(given)
        if normalised:
            wanted = (wanted - wanted.mean(-1, keepdim=True)) / (wanted.var(-1, keepdim=True) + 1e-6).sqrt()
        error_BP = (patches(filled) - wanted).square().mean(-1)
    assert filled.shape == given.shape
    torch.testing.assert_close(loss, error_BP[:, hidden_P].mean())


def test_what_is_masked_is_not_seen() -> None:
    module, given = built().eval(), images()
    hidden = torch.arange(PATCHES).double().mul(0.6180339887498949).frac().argsort()[PATCHES // 4 :].tolist()
    blank = given.clone()
    for patch in hidden:
        row, column = 4 * (patch // 4), 4 * (patch % 4)
        blank[:, :, row : row + 4, column : column + 4] = 0
    with torch.no_grad():
        assert torch.equal(module(given), module(blank))
        assert not torch.equal(module(given), module(torch.zeros_like(given)))


@pytest.mark.parametrize("mask_ratio", [0.25, 0.5, 0.75, 0.9])
def test_the_share_that_is_masked(mask_ratio: float) -> None:
    module = built(mask_ratio=mask_ratio).eval()
    mask_BP = module._seen(images()).mask
    assert mask_BP.sum(1).tolist() == [PATCHES - int(PATCHES * (1 - mask_ratio))] * 4
    assert torch.equal(mask_BP, mask_BP[:1].expand(4, -1))


def test_training_draws_from_torchs_dice_and_measuring_does_not() -> None:
    module, given = built(), images()
    torch.manual_seed(4)
    first, second = module.loss(given, LABELS), module.loss(given, LABELS + 1)
    torch.manual_seed(4)
    assert torch.equal(module.loss(given, LABELS + 2), first)
    assert not torch.equal(first, second)
    dice = torch.get_rng_state()
    module.eval()
    alone = torch.stack([module.loss(given[i : i + 1], LABELS) for i in range(4)])
    torch.testing.assert_close(module.loss(given, LABELS), alone.mean())
    assert torch.equal(torch.get_rng_state(), dice)


def test_it_learns_what_is_where() -> None:
    module = built()
    given = torch.linspace(-1, 1, 16).expand(8, 3, 16, 16).contiguous()
    labels = torch.zeros(8, dtype=torch.int64)
    optimiser = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        module.loss(given, labels).backward()
        optimiser.step()
    # Who does not know where a patch is cannot be better than the mean of all patches.
    cut = patches(given)
    blind = (cut - cut.mean(1, keepdim=True)).square().mean()
    assert module.eval().loss(given, labels) < 0.2 * blind


@pytest.mark.parametrize(("side", "width"), [(4, 32), (3, 8)])
def test_positions_are_those_of_published_weights(side: int, width: int) -> None:
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    theirs = build_2d_sinusoidal_position_embedding(side, side, width, cls_token=True, dtype=torch.float64)
    rows, columns = theirs.chunk(2, dim=1)
    torch.testing.assert_close(positions(side, width)[0], torch.cat([columns, rows], dim=1))
    assert len(positions(side, width)[0].unique(dim=0)) == side**2 + 1


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 16, 16), (1, 20, 12)])
def test_the_encoder_becomes_a_base(shape: tuple[int, ...], tmp_path: Path) -> None:
    # One channel is repeated, and another size resized, before and after.
    config = {"image_size": 16, "num_channels": 3}
    module, given = built(shape, **config), images(shape)
    dice = torch.get_rng_state()
    save_base(module, tmp_path)
    assert torch.equal(torch.get_rng_state(), dice)
    torch.manual_seed(1)
    classifier: Any = HuggingFace(base=str(tmp_path)).build(shape, 7)
    encoder = module.model.base_model
    loaded = classifier.model.base_model.state_dict()
    assert loaded.keys() == encoder.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in encoder.state_dict().items())
    assert all(p.requires_grad for p in classifier.parameters())
    seen: list[Tensor] = []
    hook = classifier.model.base_model.register_forward_hook(lambda part, given, out: seen.append(out[0]))
    with torch.no_grad():
        logits = classifier.eval()(given)
        hook.remove()
        # Without masking, and with the patches in their order.
        module.config.mask_ratio = 0.0
        from gossamer.wrapping import fitted

        order = torch.arange(PATCHES).float().expand(4, -1)
        expected = encoder.eval()(fitted(given, 3, (16, 16)), noise=order).last_hidden_state
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)
    assert logits.shape == (4, 7)
    torch.manual_seed(2)
    other: Any = HuggingFace(base=str(tmp_path)).build(shape, 7)
    assert not torch.equal(other.model.classifier.weight, classifier.model.classifier.weight)


def test_positions_are_fixed_and_the_rest_is_trained() -> None:
    module = built()
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    assert len(frozen) == 2
    for name in frozen:
        parameter = module.get_parameter(name)
        assert torch.equal(parameter, positions(4, parameter.shape[-1]).float())
    assert (module.head_names, module.width, module.vocabulary) == ((), 32, 0)


def test_the_dice_decide_and_nothing_else() -> None:
    one, again, other = (built(seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    assert not all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_plan_needs_no_weights() -> None:
    with torch.device("meta"), torch.no_grad():
        module = built().eval()
        assert module(torch.empty(2, *SHAPE)).shape == (2, *SHAPE)
        assert module.loss(torch.empty(2, *SHAPE), LABELS[:2]).shape == ()
    assert all(p.is_meta for p in module.parameters())


@pytest.mark.parametrize(
    ("shape", "fields", "said"),
    [
        ((10,), {}, "takes images"),
        (SHAPE, {"config": {"patch_sise": 4}}, "nearest: patch_size"),
        (SHAPE, {"config": {"patch_size": 5}}, "image_size = 16 must be a multiple of patch_size = 5"),
        (SHAPE, {"config": {**SIZES, "mask_ratio": 0.5}}, "set model.mask_ratio"),
        (SHAPE, {"config": {**SIZES, "num_channels": 4}}, "images have 3 channels"),
        (SHAPE, {"config": {**SIZES, "patch_size": 8}, "mask_ratio": 0.9}, "masks all or none"),
        (SHAPE, {"config": {**SIZES, "hidden_size": 30}}, "multiple of 4"),
        (SHAPE, {"config": {**SIZES, "image_size": [16, 16]}}, "each one number"),
    ],
)
def test_what_cannot_be_is_refused(shape: tuple[int, ...], fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        MaskedAutoencoder(**fields).build(shape, 10)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
