"""What a run trained on a frozen base, as a folder of the peft library."""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.bases import with_base
from gossamer.errors import RunError
from gossamer.merging import kind_of, label, no_form, plain, require_plain, task_of, tuned
from gossamer.models.hugging_face import CLASSES, Task
from gossamer.parametrisations.lora import Lora
from gossamer.parametrisations.peft import Peft
from gossamer.wrapping import library

if TYPE_CHECKING:
    from torch import nn

    from gossamer.runs import Run


def write_adapter(run: Run, module: nn.Module, folder: Path) -> nn.Module:
    """adapter_config.json and adapter_model.safetensors, and base/ where nobody else has the base.

    Returns a module with the base and the adapter that was loaded from the folder. Raises RunError where the library
    has no form for what was trained.
    """
    peft, configuration = library("peft"), _configuration(run, module)
    base: Any = plain(run)
    task, heads = task_of(base), [name.removeprefix("model.") for name in base.head_names]
    changed = [name.removeprefix("model.") for name in tuned(module)]
    saved = [head for head in heads if not any(f"{name}.".startswith(f"{head}.") for name in changed)]
    known = _known_base(run, base, saved, task)
    if not known:
        label(base.model, task, run.record["classes"])
        base.model.save_pretrained(folder / "base")
    _keep_heads(configuration, saved, task)
    adapted = peft.get_peft_model(base.model, configuration)
    configuration.base_model_name_or_path = known or "base"
    for name, value in vars(configuration).items():
        if isinstance(value, set):
            setattr(configuration, name, sorted(value))  # The same file every time.
    _fill(run, adapted, module, heads)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    loaded: Any = plain(run)
    loaded.model = peft.PeftModel.from_pretrained(loaded.model, folder)
    found: nn.Module = loaded
    return found


def _configuration(run: Run, module: nn.Module) -> Any:
    """The library's configuration of what was trained, from what it made of the module.

    Raises RunError where it did not make it.
    """
    part, peft, inside = run.experiment.parametrisation, library("peft"), getattr(module.model, "peft_config", None)
    if inside:
        return copy.deepcopy(inside["default"])
    layers = {name.removeprefix("model."): layer for name, layer in tuned(module).items()}
    known = [name.removeprefix("model.") for name, _ in plain(run, meta=True).named_modules()]
    if isinstance(part, Lora):
        return peft.LoraConfig(
            r=part.largest,
            lora_alpha=2 * part.largest if part.alpha is None else part.alpha,
            lora_dropout=part.dropout,
            target_modules=_shortest(layers, known),
            use_dora=part.dora,
            use_rslora=part.rank_stabilised,
            fan_in_fan_out=any(layer.fan_in_fan_out for layer in layers.values() if hasattr(layer, "fan_in_fan_out")),
        )
    if isinstance(part, Peft):
        kinds = library("peft.mapping").PEFT_TYPE_TO_CONFIG_MAPPING
        kind = next(kind for kind in kinds if str(kind.value).lower() == part.method)
        given: dict[str, Any] = {"target_modules": _shortest(layers, known)}
        if "feedforward_modules" in kinds[kind].__dataclass_fields__:
            forward = [name for name, layer in layers.items() if layer.is_feedforward]
            given = {"target_modules": sorted(layers), "feedforward_modules": forward}
        return kinds[kind](**given, **part.settings)
    require_plain(run, module)
    raise RunError(f"--as adapter: {kind_of(run)} trains weights of the model itself; use --as merged")


def _shortest(names: Collection[str], known: Collection[str]) -> list[str]:
    """The last parts of the names, if they mean just these of the known modules; else the names."""
    last = sorted({name.rpartition(".")[2] for name in names})
    return last if {name for name in known if name.rpartition(".")[2] in last} == set(names) else sorted(names)


def _keep_heads(configuration: Any, heads: list[str], task: Task) -> None:
    """Have the heads saved with the adapter, as the base has others."""
    if task == "causal_lm":
        configuration.task_type = "CAUSAL_LM"
    elif configuration.is_prompt_learning:
        configuration.task_type = "SEQ_CLS"  # It saves what is called classifier or score.
    else:
        configuration.task_type, configuration.modules_to_save = None, heads


def _fill(run: Run, adapted: Any, module: nn.Module, heads: Collection[str]) -> None:
    """Give the library's model what was trained. Raises RunError where it has no place for some of it."""
    import torch

    prefix = "" if hasattr(module.model, "peft_config") else "base_model.model."
    places, trained = adapted.state_dict(), {name for name, p in module.named_parameters() if p.requires_grad}
    for name, value in module.state_dict().items():
        key = prefix + name.removeprefix("model.")
        for head in heads:
            before, found, after = key.partition(f".{head}.")
            copied = f"{before}{found}modules_to_save.default.{after}"
            key = copied if copied in places else key
        if key in places and places[key].shape == value.shape:
            with torch.no_grad():
                places[key].copy_(value)
        elif name in trained:
            raise RunError("--as adapter: " + no_form(run, f"peft has no place for '{name}'"))


def _known_base(run: Run, base: Any, heads: Collection[str], task: Task) -> str:
    """The folder or the name on the hub of the base, or '' where others do not get the same model from it.

    The heads may differ: they come with the adapter.
    """
    import torch

    model: Any = with_base(run.experiment.model)
    if not model.base or model.config:
        return ""
    place = Path(model.base).expanduser()
    where = str(place.resolve()) if place.is_dir() else str(model.base)
    more = {} if task == "causal_lm" else {"num_labels": len(run.record["classes"]), "ignore_mismatched_sizes": True}
    maker = getattr(library("transformers"), CLASSES[task])
    theirs = maker.from_pretrained(where, dtype=torch.float32, use_safetensors=True, **more).state_dict()
    half = torch.bfloat16 if model.precision == "bfloat16" else torch.float32
    for name, ours in base.model.state_dict().items():
        value = theirs[name]
        alike = torch.equal(value, ours) or torch.equal(value.to(half).float(), ours)
        if not alike and not any(f"{name}.".startswith(f"{head}.") for head in heads):
            return ""
    return where
