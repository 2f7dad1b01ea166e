"""Models of the transformers library: pre-trained, from a folder or a hub, or fresh, from a config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.models import Model
from gossamer.pretrained import config_class, fresh_config, located, new_weights, require_numbers, stored_config
from gossamer.quantised_layers import quantise
from gossamer.wrapping import base_of, heads_of, images, library, quiet, sides, texts

if TYPE_CHECKING:
    from torch import nn

Task = Literal["image_classification", "text_classification", "causal_lm"]
CLASSES: dict[Task, str] = {
    "image_classification": "AutoModelForImageClassification",
    "text_classification": "AutoModelForSequenceClassification",
    "causal_lm": "AutoModelForCausalLM",
}
NAMES: dict[Task, str] = {
    "image_classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "text_classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "causal_lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
}


class HuggingFace(Model):
    """Any model of the transformers library for images or token ids: pre-trained (base), or fresh (config).

    Weights are read from safetensors only. A head for another number of classes is replaced by a new one. Images get
    the channels and size of the config; padding at the end of texts is masked.
    """

    source: ClassVar[str] = "Wolf et al. 2020 (transformers); Dettmers et al. 2022 and 2023 for 8 and 4 bits"

    kind: Literal["hugging_face"] = "hugging_face"
    base: str = Field(
        default="",
        description="pre-trained weights: a folder (config.json, *.safetensors), a name on the hub, or the experiment "
        "file (.toml) of a `gossamer pretrain`; empty: a fresh model of config",
    )
    config: dict[str, Any] = Field(
        default={},
        description="values of the model's config; without a base with model_type ('vit', 'bert', 'gpt2', ...), "
        "image_size and num_channels then being those of the data, if not given",
    )
    task: Literal["auto", "image_classification", "text_classification", "causal_lm"] = Field(
        default="auto",
        description="auto: images are classified, and so are texts, unless there are as many classes as tokens and the "
        "model can only predict the next one",
    )
    attention: Literal["sdpa", "eager"] = Field(
        default="sdpa",
        description="sdpa: torch's fused kernels, if the model has them; eager: plain products, which batch under vmap",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="bfloat16: the base's matrices are stored, and products computed, in 16 bits; what is trained and "
        "the logits stay in 32",
    )
    bits: Literal[4, 8] | None = Field(
        default=None, description="linear layers of the base in 4 (NF4) or 8 bits, frozen; the head stays as it is"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again for the gradient instead of keeping them"
    )
    new_head: bool = Field(default=False, description="draw a new head even where the base has one that fits")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        import torch

        library("transformers")
        meta = torch.get_default_device().type == "meta"
        with quiet():
            folder = located(self.base, weights=not meta) if self.base else None
            config = self._config(folder, shape, classes)
            task = self._task(config, shape, classes)
            check_sizes(config, task, shape, classes)
            if task != "causal_lm":
                config.num_labels = classes
            if task == "text_classification" and (
                getattr(config, "pad_token_id", None) is None or (folder is None and "pad_token_id" not in self.config)
            ):
                # That of data. Decoders look for the last token that is none of these.
                config.pad_token_id = 0
            model, heads = self._model(None if meta else folder, config, task)
            self._shrink(model, heads)
            if self.gradient_checkpointing:
                if not model.supports_gradient_checkpointing:
                    raise ExperimentError(
                        f"model.gradient_checkpointing: model_type '{config.model_type}' has none; set it to false"
                    )
                model.gradient_checkpointing_enable({"use_reentrant": False})
        half = self.precision == "bfloat16"
        if task == "image_classification":
            module = images(model, shape, half)
        else:
            module = texts(model, decoder_only(config), classes if task == "causal_lm" else None, half)
        check_length(module, task, shape)
        return module.train()

    def _config(self, folder: Path | None, shape: tuple[int, ...], classes: int) -> Any:
        """The transformers config: the base's with the values given, or the values with those that the data have."""
        if folder is not None:
            return stored_config(self.base, folder, self.config)
        kind = config_class(self.config)
        return fresh_config(kind, {**self._from_data(kind, shape, classes), **self.config})

    def _from_data(self, kind: Any, shape: tuple[int, ...], classes: int) -> dict[str, Any]:
        """What the data say of a fresh model."""
        if len(shape) == 3:
            side = shape[1] if shape[1] == shape[2] else list(shape[1:])
            values = {"image_size": side, "num_channels": shape[0]}
        else:
            values = {"vocab_size": classes} if self.task == "causal_lm" else {}
        return {name: value for name, value in values.items() if name in kind.__dataclass_fields__}

    def _task(self, config: Any, shape: tuple[int, ...], classes: int) -> Task:
        """What the model is for. Raises ExperimentError where there is no such model or the data do not suit it."""
        kind = config.model_type
        if len(shape) not in (1, 3):
            raise ExperimentError(
                f"model.kind = 'hugging_face' takes images (channels, height, width) or token ids (length,), found "
                f"shape {shape}; choose 'mlp' or 'softmax_regression'"
            )
        if self.task != "auto":
            task: Task = self.task
        elif len(shape) == 3:
            task = "image_classification"
        else:
            next_token = decoder_only(config) and classes == getattr(config.get_text_config(), "vocab_size", 0)
            task = "causal_lm" if next_token else "text_classification"
        if (len(shape) == 3) != (task == "image_classification"):
            raise ExperimentError(f"model.task = '{task}' does not take inputs of shape {shape}")
        if not serves(kind, task):
            can = ", ".join(other for other in CLASSES if serves(kind, other)) or "none of these tasks"
            raise ExperimentError(f"model: model_type '{kind}' has no model for {task}; it can do: {can}")
        return task

    def _model(self, folder: Path | None, config: Any, task: Task) -> tuple[Any, tuple[str, ...]]:
        """The model of the library, with weights of the folder, if one is given, and the names of its head's parts."""
        import torch

        maker = getattr(library("transformers"), CLASSES[task])
        config.dtype = torch.float32
        config.architectures = config.architectures or []  # Which the library asks for, but leaves at None.
        attention = "eager" if self.attention == "eager" else None
        try:
            if folder is None:
                model = maker.from_config(config, attn_implementation=attention)
            else:
                model, report = maker.from_pretrained(
                    folder,
                    config=config,
                    attn_implementation=attention,
                    dtype=torch.float32,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ExperimentError(
                f"model: '{self.base or config.model_type}' could not be built: {type(error).__name__}: {reason}"
            ) from error
        heads = () if task == "causal_lm" else heads_of(model)
        if folder is not None:
            new_weights(model, self.base, heads, report, self.new_head)
            require_numbers(model, self.base)
        return model, heads

    def _shrink(self, model: Any, heads: tuple[str, ...]) -> None:
        """Store what is not the head in fewer bits."""
        import torch

        kept = [model.get_submodule(name) for name in heads]
        if self.bits is not None:
            output = model.get_output_embeddings()
            quantise(base_of(model), self.bits, () if output is None else (output,))
            # By this peft knows which of its layers go around them.
            model.is_loaded_in_4bit, model.is_loaded_in_8bit = self.bits == 4, self.bits == 8
        if self.precision == "bfloat16":
            of_head = {id(parameter) for part in kept for parameter in part.parameters()}
            for parameter in model.parameters():
                # Norms and biases are few and are computed with in float32.
                if parameter.dim() >= 2 and parameter.is_floating_point() and id(parameter) not in of_head:
                    parameter.data = parameter.data.to(torch.bfloat16)


def serves(kind: str, task: Task) -> bool:
    """Whether the library has a model of this type for a task."""
    return kind in getattr(library("transformers.models.auto.modeling_auto"), NAMES[task])


def decoder_only(config: Any) -> bool:
    """Whether no token sees a later one, in models of this type: they predict the next, and no masked ones."""
    kind, masked = (
        config.model_type,
        library("transformers.models.auto.modeling_auto").MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )
    return serves(kind, "causal_lm") and kind not in masked and not config.is_encoder_decoder


def check_sizes(config: Any, task: Task, shape: tuple[int, ...], classes: int) -> None:
    """Raise ExperimentError where images or tokens do not fit the sizes of a config."""
    if task == "image_classification":
        size, patch = sides(getattr(config, "image_size", None)), sides(getattr(config, "patch_size", None))
        if size and patch and any(side % cut for side, cut in zip(size, patch, strict=True)):
            raise ExperimentError(
                f"model.config: image_size = {config.image_size} is no multiple of patch_size = {config.patch_size}"
            )
        if shape[0] not in (1, config.num_channels):
            raise ExperimentError(
                f"model.config: num_channels = {config.num_channels}, but the images have {shape[0]} channels"
            )
    if task == "causal_lm" and config.get_text_config().vocab_size < classes:
        raise ExperimentError(
            f"model.config: vocab_size = {config.get_text_config().vocab_size}, but the data have {classes} tokens; "
            "use the tokenizer that belongs to the model, or for a fresh model leave vocab_size away"
        )


def check_length(module: nn.Module, task: Task, shape: tuple[int, ...]) -> None:
    """Raise ExperimentError where texts are longer than the places that a model has."""
    from torch import nn

    if task == "image_classification":
        return
    model: Any = module.model
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    for part in model.modules():
        # Some count places from the padding id on, and have fewer than they say.
        if (
            isinstance(part, nn.Embedding)
            and part.num_embeddings == places
            and part is not model.get_input_embeddings()
        ):
            places -= 0 if part.padding_idx is None else part.padding_idx + 1
            break
    if 0 < places < shape[0]:
        raise ExperimentError(
            f"data.length = {shape[0]} tokens, but model_type '{model.config.model_type}' has places for {places}; "
            f"set data.length to at most {places}"
        )
