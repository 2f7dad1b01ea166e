"""A model of the transformers library as a module that maps inputs to logits.

Shapes: B items; images [B, C, H, W]; token ids [B, L], padded at the end; K classes or V tokens.
"""

from __future__ import annotations

import functools
import importlib
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor, nn


def library(name: str) -> Any:
    """A module of an optional library. Raises ExperimentError where that is not installed."""
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise ExperimentError(
            f'{name.split(".")[0]} is missing ({error}): pip install "gossamer[foundation]"'
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block the libraries show no progress bars, and say nothing that is not an error."""
    try:
        talk: Any = importlib.import_module("transformers.utils.logging")
    except ImportError:
        talk = None
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub", "bitsandbytes")]
    levels = [logger.level for logger in loggers]
    bars = talk is not None and talk.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            if bars:
                talk.disable_progress_bar()
            yield
        finally:
            if bars:
                talk.enable_progress_bar()
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def base_of(model: nn.Module) -> nn.Module:
    """The part of a model that is pre-trained: its `base_model`, or where it names none, its largest part."""
    base: Any = model.base_model
    if base is model:
        base = max(model.children(), key=lambda part: sum(p.numel() for p in part.parameters()))
    found: nn.Module = base
    return found


def heads_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the parts beside the base that have parameters, in order."""
    base = base_of(model)
    return tuple(
        name for name, part in model.named_children() if part is not base and any(True for _ in part.parameters())
    )


def save_base(module: nn.Module, folder: Path) -> None:
    """Write what was pre-trained as config.json and safetensors, which `model.base = folder` then loads.

    Raises ExperimentError where the weights are in few bits.
    """
    if any(not p.is_floating_point() for p in module.parameters()):
        raise ExperimentError("model.bits: weights in few bits are no base for others; pre-train without model.bits")
    with quiet():
        module.base().save_pretrained(folder)  # type: ignore[operator]


def images(model: nn.Module, shape: tuple[int, ...], half: bool = False) -> nn.Module:
    """A classifier of images, for images of `shape` [C, H, W]: logits [B, K].

    One channel is repeated to those of the model, and another size is resized bilinearly.
    """
    config: Any = model.config
    size = sides(getattr(config, "image_size", None)) or shape[1:]
    wrapped: nn.Module = _wrappers()[0](model, config.num_channels, size, half)
    return wrapped


def texts(model: nn.Module, causal: bool, tokens: int | None = None, half: bool = False) -> nn.Module:
    """A classifier of token ids, logits [B, K], or, for so many `tokens`, a language model, logits [B, L, tokens].

    `causal`: no token sees a later one. Embeddings that a language model has besides, to fill up its matrix, are no
    tokens and have no logits.
    """
    wrapped: nn.Module = _wrappers()[1](model, causal, tokens, half)
    return wrapped


def sides(size: Any) -> tuple[int, int] | None:
    """(height, width) of a size that is given as one number or as two."""
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


@functools.cache
def _wrappers() -> tuple[type[nn.Module], type[nn.Module]]:
    import torch
    from torch import nn

    class Wrapped(nn.Module):
        """What the wrappers have in common: where the head is, and how numbers are stored and multiplied."""

        base_model_prefix = ""
        """Of transformers' own models; peft asks whatever has one of these inside."""

        def __init__(self, model: nn.Module, head_names: tuple[str, ...], half: bool) -> None:
            super().__init__()
            self.model: Any = model
            if half:
                for part in model.modules():
                    if isinstance(part, (nn.LayerNorm, nn.GroupNorm)):
                        part.register_forward_pre_hook(_widened)
            self.head_names = head_names
            self.half_precision = half
            self.vocabulary = 0
            """How many token ids there are; 0 for images."""

        @property
        def config(self) -> Any:
            return self.model.config

        @property
        def width(self) -> int:
            """Numbers of a hidden state (where it grows from stage to stage, of the last)."""
            width = getattr(self.config, "hidden_size", None) or self.config.hidden_sizes[-1]
            return int(width)

        def base(self) -> nn.Module:
            """What `save_base` writes."""
            found: nn.Module = self.model
            return found

        def logits(self, **given: Any) -> Tensor:
            if not self.half_precision:
                found: Tensor = self.model(**given).logits
                return found
            device = next(iter(given.values())).device.type
            if device == "meta":
                # There is no autocast for shapes alone; these are the same in float32.
                numbers = {name: p.float() for name, p in self.model.named_parameters() if p.is_floating_point()}
                return torch.func.functional_call(self.model, numbers, (), given).logits  # type: ignore[no-any-return]
            with torch.autocast(device, torch.bfloat16):
                found = self.model(**given).logits
            return found.float()

    class Images(Wrapped):
        def __init__(self, model: nn.Module, channels: int, size: tuple[int, int], half: bool) -> None:
            super().__init__(model, tuple(f"model.{name}" for name in heads_of(model)), half)
            self.channels, self.size = channels, size

        def forward(self, inputs: Tensor) -> Tensor:
            return self.logits(pixel_values=fitted(inputs, self.channels, self.size))

    class Texts(Wrapped):
        def __init__(self, model: nn.Module, causal: bool, tokens: int | None, half: bool) -> None:
            heads = () if tokens is not None else heads_of(model)
            super().__init__(model, tuple(f"model.{name}" for name in heads), half)
            self.causal, self.tokens = causal, tokens
            self.vocabulary = int(self.config.get_text_config().vocab_size)
            # Models that write word after word can keep what they have seen; nobody asks for it here.
            self.options = {"use_cache": False} if causal and hasattr(self.config, "use_cache") else {}

        def forward(self, inputs: Tensor) -> Tensor:
            if inputs.is_floating_point():
                raise ExperimentError(
                    "model.kind = 'hugging_face': texts are token ids (whole numbers), found inputs of "
                    f"{inputs.dtype} {list(inputs.shape[1:])}; use data of texts or images"
                )
            logits = self.logits(input_ids=inputs, attention_mask=self.mask(inputs), **self.options)
            return logits if self.tokens is None else logits[..., : self.tokens]

        def mask(self, ids_BL: Tensor) -> Tensor:
            """Which positions are attended to: 1 or 0 of each [B, L]; or within `torch.func`, what is added to scores.

            The first always is, so that an empty text has something to look at. A language model is asked about every
            position, and its ids may all be tokens; padding comes after the positions that count, which do not see it.
            """
            length = ids_BL.shape[1]
            places_L = torch.arange(length, device=ids_BL.device)
            seen_BL = (ids_BL != self.padding) | (places_L == 0)
            if self.language:
                seen_BL = torch.ones_like(seen_BL)
            if not torch._C._are_functorch_transforms_active() and not ids_BL.is_meta:
                return seen_BL.long()
            # The library asks a mask of two dimensions whether it is all ones, which has no one answer under vmap, and
            # none for shapes alone.
            seen_B1QL = seen_BL[:, None, None, :]
            if self.causal:
                seen_B1QL = seen_B1QL & (places_L <= places_L[:, None])
            stored = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
            dtype = torch.float32 if self.half_precision else stored
            scores = torch.zeros((), dtype=dtype, device=ids_BL.device)
            # The least number of 16 bits, so that it is finite in any precision.
            return scores.masked_fill(~seen_B1QL, torch.finfo(torch.bfloat16).min)

        @property
        def language(self) -> bool:
            """Whether it says what comes after every token."""
            return self.tokens is not None

        @property
        def padding(self) -> int:
            """The token id that stands for no token."""
            found = getattr(self.config.get_text_config(), "pad_token_id", None)
            return 0 if found is None else int(found)

    return Images, Texts


def _widened(norm: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What goes into a norm in the precision of its weights, which autocast sees to on some devices only."""
    return given if norm.weight is None else (given[0].to(norm.weight.dtype), *given[1:])


def fitted(images_BCHW: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Images with so many channels, one being repeated, and of that size, by bilinear interpolation."""
    from torch.nn.functional import interpolate

    if images_BCHW.shape[1] != channels:
        images_BCHW = images_BCHW.expand(-1, channels, -1, -1)
    if tuple(images_BCHW.shape[2:]) != size:
        images_BCHW = interpolate(images_BCHW, size, mode="bilinear", align_corners=False)
    return images_BCHW
