"""Any other method of the peft library."""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer import adapting
from gossamer.anatomy import blocks, embeddings, head_of, keys_and_values, mlp_output, norms, patch_embedding
from gossamer.errors import ExperimentError
from gossamer.parametrisations import Parametrisation
from gossamer.wrapping import library, quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


REFUSED = {
    "lora": "it is a parametrisation of its own, kind = 'lora'",
    "adalora": "it needs a schedule and a penalty of its own in training",
    "cpt": "it needs a loss of its own",
    "multitask_prompt_tuning": "it needs to know the task of every item",
    "poly": "it needs to know the task of every item",
    "shadow": "it needs a second pass and a loss of its own",
    "xlora": "it mixes adapters that were trained before",
}
OURS = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
OURS |= {"inference_mode", "modules_to_save", "target_modules", "feedforward_modules"}
"""Fields of the library's configurations that are not settings: they are filled in here."""
TOKENS = 10
"""Virtual tokens of a method that has such, if no setting says otherwise."""


class Peft(Parametrisation):
    """Any method of the peft library: the row is what the method trains, and the head.

    Tried on ViT, BERT, LLaMA, GPT-2 and a plain network with peft 0.21:

        vectors     ia3, ln_tuning, beft, road, fourierft, waveft, c3a, vera, pvera, vblora, unilora, tinylora
        low rank    loha, lokr, hira, randlora, gralora, lily, peanut, adamss, glora, delora, deft, frod, miss
        rotations   oft, boft, hra, psoft, osf
        sparse      shira, supertuning, trainable_tokens (settings: token_indices)
        prompts     prompt_tuning, prefix_tuning, p_tuning, cartridge (text only); adaption_prompt (language models)

    On the Conv1D layers of GPT-2 these work: deft, fourierft, frod, gralora, hira, ia3, ln_tuning, pvera, randlora,
    tinylora, trainable_tokens, unilora, vblora, vera, waveft and prompts.
    """

    source: ClassVar[str] = "Mangrulkar et al. 2022 (peft), and who is named there for each method"

    kind: Literal["peft"] = "peft"
    method: str = Field(description="name of the method, e.g. 'ia3', 'ln_tuning', 'vera', 'prompt_tuning'")
    settings: dict[str, Any] = Field(
        default={},
        description="fields of its configuration in the library, e.g. { r = 4 } or { num_virtual_tokens = 5 }",
    )
    targets: tuple[str, ...] = Field(
        default=(),
        description="patterns of full or last names of layers; empty: what suits the method (ia3: keys, values and the "
        "end of the MLP; ln_tuning: norms; else as for kind = 'lora')",
    )
    head: bool = Field(default=True, description="the task's head is trained too, where there is one")

    def applied(self, module: nn.Module) -> nn.Module:
        peft = library("peft")
        mapping = library("peft.mapping")
        kinds = {str(known.value).lower(): known for known in mapping.PEFT_TYPE_TO_CONFIG_MAPPING}
        if self.method not in kinds or self.method in REFUSED:
            raise self._refused(sorted(set(kinds) - set(REFUSED)))
        configuration = mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kinds[self.method]]
        self._check_settings(sorted(set(configuration.__dataclass_fields__) - OURS))
        prompts = issubclass(configuration, peft.PromptLearningConfig)
        before = [*module.parameters(), *module.buffers()]
        adapting.freeze(module)
        with quiet():
            if prompts or self.method == "adaption_prompt":
                self._check_text(module)
                given = {**self._sizes(module), **self.settings} if prompts else self.settings
                task = "FEATURE_EXTRACTION" if head_of(module) else "CAUSAL_LM"
                with self._explained():
                    _wrap(module, peft, configuration(**given, task_type=task), prompts)
            else:
                given = {**self._places(module, configuration.__dataclass_fields__), **self.settings}
                box: Any = adapting.boxed(module)
                with self._explained():
                    mapping.PEFT_TYPE_TO_TUNER_MAPPING[kinds[self.method]](box, configuration(**given), "default")
                module = box.module
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise ExperimentError(
                f"parametrisation.method = '{self.method}': it changes no layer of this model; use kind = 'lora'"
            )
        adapting.settle(module, before)
        if self.head:
            adapting.train_head(module, self.kind)
        adapting.no_short_cuts(module)
        return module

    def _sizes(self, module: nn.Module) -> dict[str, int]:
        """Of virtual tokens: number, width (that of words, or of what attention sees of them), heads of attention."""
        model: Any = module.model
        inside = self.method in ("prefix_tuning", "cartridge")
        width = model.config.hidden_size if inside else model.get_input_embeddings().embedding_dim
        heads = model.config.num_attention_heads
        return {"num_virtual_tokens": TOKENS, "token_dim": width, "num_attention_heads": heads}

    def _places(self, module: nn.Module, fields: dict[str, Any]) -> dict[str, Any]:
        """The layers that are changed, as the fields of the configuration that name them."""
        mlps = [f"{name}.{mlp_output(block)}" for name, block in blocks(module).items() if mlp_output(block)]
        if self.method in ("ln_tuning", "trainable_tokens"):
            layers = list(norms(module) if self.method == "ln_tuning" else embeddings(module))
            if not layers:
                part = "layers that normalise" if self.method == "ln_tuning" else "embedding"
                raise ExperimentError(f"parametrisation.method = '{self.method}': the model has no {part}; use 'ia3'")
            names = adapting.matching(layers, [], self.targets or ("*",))
        elif self.method == "ia3" and not self.targets and keys_and_values(module):
            names = (*keys_and_values(module), *mlps)
        else:
            names = adapting.targets(module, self.targets, self.head)
        found: dict[str, Any] = {"target_modules": adapting.exactly(names)}
        if "feedforward_modules" in fields:
            found["feedforward_modules"] = adapting.exactly(name for name in names if name in mlps)
        return {**found, "progressbar": False} if "progressbar" in fields else found

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong in the library, as an error of the experiment."""
        try:
            yield
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise ExperimentError(
                f"parametrisation.method = '{self.method}': the peft library cannot do this with this model ({text}); "
                "change parametrisation.settings or targets, or use kind = 'lora'"
            ) from error

    def _refused(self, known: list[str]) -> ExperimentError:
        near = difflib.get_close_matches(self.method, known, n=1)
        why = REFUSED.get(self.method, "peft has no such method" + (f"; did you mean '{near[0]}'?" if near else ""))
        return ExperimentError(f"parametrisation.method = '{self.method}': {why}; these work: {', '.join(known)}")

    def _check_settings(self, known: list[str]) -> None:
        for name in self.settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise ExperimentError(
                    f"parametrisation.settings: '{self.method}' has no setting '{name}'; {hint}there are: "
                    f"{', '.join(known)}"
                )

    def _check_text(self, module: nn.Module) -> None:
        model = getattr(module, "model", None)
        if not hasattr(model, "get_input_embeddings") or patch_embedding(module) is not None:
            raise ExperimentError(
                f"parametrisation.method = '{self.method}': the model has no place for prompts, as it is no text model "
                "of the transformers library; use kind = 'deep_prompt' (vision transformers) or 'lora'"
            )
        if self.method in ("prompt_tuning", "p_tuning") and head_of(module) and getattr(module, "causal", False):
            raise ExperimentError(
                f"parametrisation.method = '{self.method}': behind prompts a decoder that classifies does not find the "
                "last token of a padded text; use method = 'prefix_tuning'"
            )


def _wrap(module: nn.Module, peft: Any, config: Any, prompts: bool) -> None:
    """Put the model inside the module into one of the library's own, and try whether it looks at the prompts."""
    import torch

    heads = [name.removeprefix("model.") for name in head_of(module)]
    model: Any = module.model
    module.model = peft.get_peft_model(model, config)
    inside = "model.base_model" if prompts else "model.base_model.model"
    module.head_names = tuple(f"{inside}.{name}" for name in heads)  # type: ignore[assignment]
    if not heads:
        module.register_forward_hook(_of_the_text)
    device, training = next(module.parameters()).device, module.training
    with torch.enable_grad():
        logits = module.eval()(torch.ones(1, 2, dtype=torch.int64, device=device))
    module.train(training)
    if not logits.requires_grad:
        raise ValueError("it ignores prompts of this kind")


def _of_the_text(module: nn.Module, given: tuple[Any, ...], logits: Tensor) -> Tensor:
    """The logits of the text, without those of the prompts before it."""
    return logits[:, -given[0].shape[1] :]
