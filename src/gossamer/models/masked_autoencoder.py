"""A masked autoencoder: it learns to see by filling in what is left out of images, without labels."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.models import Model
from gossamer.pretrained import fresh_config
from gossamer.wrapping import fitted, library, quiet

if TYPE_CHECKING:
    from torch import Tensor, nn

GOLDEN = 0.6180339887498949
"""Its multiples, without their whole parts, lie evenly in [0, 1)."""


class MaskedAutoencoder(Model):
    """A ViT that sees a quarter of an image's patches, and a small decoder that fills in the rest: for pre-training.

    The loss is the mean squared error over the masked patches; labels are not used, and there is no accuracy. What is
    kept afterwards is the ViT.
    """

    source: ClassVar[str] = "He et al. 2022, Masked Autoencoders Are Scalable Vision Learners, section 3"

    kind: Literal["masked_autoencoder"] = "masked_autoencoder"
    config: dict[str, Any] = Field(
        default={},
        description="sizes of the ViT (hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, "
        "patch_size, ...) and of the decoder (decoder_hidden_size, decoder_num_hidden_layers, ...); image_size and "
        "num_channels are those of the data, if not given",
    )
    mask_ratio: float = Field(default=0.75, gt=0, lt=1, description="share of the patches that is masked")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        transformers = library("transformers")
        if len(shape) != 3:
            raise ExperimentError(
                f"model.kind = 'masked_autoencoder' takes images (channels, height, width), found shape {shape}"
            )
        if "mask_ratio" in self.config:
            raise ExperimentError("model.config.mask_ratio cannot be set: set model.mask_ratio")
        with quiet():
            values = {"image_size": shape[1], "num_channels": shape[0], **self.config, "mask_ratio": self.mask_ratio}
            config = fresh_config(transformers.ViTMAEConfig, values)
            self._check(config, shape)
            model = transformers.ViTMAEForPreTraining(config)
        _place(model, config.image_size // config.patch_size)
        module: nn.Module = _wrapper()(model)
        return module.train()

    def _check(self, config: Any, shape: tuple[int, ...]) -> None:
        size, patch = config.image_size, config.patch_size
        if not isinstance(size, int) or not isinstance(patch, int) or size % patch or size == patch:
            raise ExperimentError(
                f"model.config: image_size = {size} must be a multiple of patch_size = {patch}, each one number"
            )
        if shape[0] not in (1, config.num_channels):
            raise ExperimentError(
                f"model.config: num_channels = {config.num_channels}, but the images have {shape[0]} channels"
            )
        patches = (size // patch) ** 2
        if not 0 < int(patches * (1 - self.mask_ratio)) < patches:
            raise ExperimentError(
                f"model.mask_ratio = {self.mask_ratio:g} of {patches} patches masks all or none; use smaller patches"
            )
        for field in ("hidden_size", "decoder_hidden_size"):
            if getattr(config, field) % 4:
                raise ExperimentError(f"model.config.{field} = {getattr(config, field)} must be a multiple of 4")


def positions(side: int, width: int) -> Tensor:
    """Where patches are in a grid [side, side]: sines and cosines of column and row, [1, 1 + side^2, width].

    The first row, of the class token, is zero. Frequencies fall from 1 to nearly 1 / 10,000.
    """
    import torch

    frequencies_F = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles_SF = torch.outer(torch.arange(side, dtype=torch.float64), frequencies_F)
    waves_S = torch.cat([angles_SF.sin(), angles_SF.cos()], dim=1)
    columns, rows = waves_S.repeat(side, 1), waves_S.repeat_interleave(side, dim=0)
    patches_PD = torch.cat([columns, rows], dim=1)
    return torch.cat([patches_PD.new_zeros(1, width), patches_PD])[None]


def _place(model: nn.Module, side: int) -> None:
    """Set the positions, of encoder and decoder, which the library leaves at zero where it reads no weights."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data.copy_(positions(side, parameter.shape[-1]))


@functools.cache
def _wrapper() -> type[nn.Module]:
    import torch
    from torch import nn

    class Autoencoder(nn.Module):
        """`loss(inputs, labels)`, and images filled in by `forward`."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model: Any = model
            self.head_names: tuple[str, ...] = ()
            self.vocabulary = 0

        @property
        def config(self) -> Any:
            return self.model.config

        @property
        def width(self) -> int:
            """Numbers of a hidden state of the ViT."""
            return int(self.config.hidden_size)

        def forward(self, inputs: Tensor) -> Tensor:
            """The images [B, C, H, W] as the decoder sees them, the patches included that were shown to it."""
            patches_BPV = self._seen(inputs).logits
            filled: Tensor = self.model.unpatchify(patches_BPV)
            return filled

        def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
            """The mean squared error over the masked patches of B images, a scalar. Labels do not matter."""
            error: Tensor = self._seen(inputs).loss
            return error

        def base(self) -> nn.Module:
            """The ViT, with the weights of the encoder: what `save_base` writes."""
            transformers = library("transformers")
            shared = set(transformers.ViTConfig.__dataclass_fields__) & set(self.config.__dataclass_fields__)
            values = {name: getattr(self.config, name) for name in shared - {"architectures", "transformers_version"}}
            with quiet(), torch.device("meta"):
                vit: nn.Module = transformers.ViTModel(transformers.ViTConfig(**values), add_pooling_layer=False)
            vit.load_state_dict(self.model.base_model.state_dict(), assign=True)
            return vit

        def _seen(self, images: Tensor) -> Any:
            size = self.config.image_size
            images_BCHW = fitted(images, self.config.num_channels, (size, size))
            return self.model(pixel_values=images_BCHW, noise=None if self.training else self._noise(images_BCHW))

        def _noise(self, images_BCHW: Tensor) -> Tensor:
            """[B, P] numbers whose order says which patches are masked: the same ones, evenly spread, of any image.

            In training the model draws them from torch's dice.
            """
            patches = (self.config.image_size // self.config.patch_size) ** 2
            places_P = torch.arange(patches, dtype=torch.float64, device=images_BCHW.device)
            return (places_P * GOLDEN % 1).expand(len(images_BCHW), -1)

    return Autoencoder
