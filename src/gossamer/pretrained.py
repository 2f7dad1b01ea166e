"""Where pre-trained weights lie, and what their config and what was loaded of them must be."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.errors import ExperimentError
from gossamer.wrapping import base_of, library

if TYPE_CHECKING:
    from torch import nn

PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]
SET_ELSEWHERE = {
    "num_labels": "it is the number of classes of the data",
    "id2label": "labels are those of the data",
    "label2id": "labels are those of the data",
    "dtype": "set model.precision",
    "torch_dtype": "set model.precision",
    "attn_implementation": "set model.attention",
}


def located(base: str, weights: bool) -> Path:
    """The folder of a base, after fetching it where it is a name on the hub; its config alone without `weights`.

    Raises ExperimentError where there is none, or where its weights are in a pickle.
    """
    if base.endswith(".toml"):
        raise ExperimentError(
            f"model.base = '{base}' is an experiment that makes a base; run: gossamer pretrain {base}"
        )
    folder = Path(base).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ExperimentError(f"model.base = '{base}': the folder has no config.json; is it one of a model?")
        _check_format(base, folder)
        return folder
    if folder.exists():
        raise ExperimentError(f"model.base = '{base}' is a file; give the folder that has config.json and the weights")
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise ExperimentError(f"model.base = '{base}': no such folder (looked from {Path.cwd()})")
    return _fetched(base, weights)


def _check_format(base: str, folder: Path) -> None:
    if files := sorted(folder.glob("*.safetensors")):
        for file in files:
            _check_header(base, file)
        return
    pickles = next((found for pattern in PICKLES if (found := sorted(folder.glob(pattern)))), None)
    if pickles is None:
        raise ExperimentError(f"model.base = '{base}': the folder has no weights (*.safetensors)")
    code = (
        "import torch, safetensors.torch as s; "
        f"s.save_file({{k: v.clone() for f in {[str(path) for path in pickles]} "
        "for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}, "
        f"'{folder / 'model.safetensors'}', metadata={{'format': 'pt'}})"
    )
    raise ExperimentError(
        f"model.base = '{base}': the weights are a pickle ({pickles[0].name}), which can run any code when it is "
        f'loaded; convert it, if you trust where it is from: python -c "{code}"'
    )


def _check_header(base: str, file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            return
    except SafetensorError as error:
        raise ExperimentError(
            f"model.base = '{base}': {file.name} is damaged ({_line(error)}); write or fetch it again"
        ) from error


def _fetched(name: str, weights: bool) -> Path:
    """The folder of a model of the hub: of this machine if it is there, else fetched."""
    hub = library("huggingface_hub")
    wanted = FILES if weights else FILES[:1]
    try:
        kept = Path(hub.snapshot_download(name, allow_patterns=wanted, local_files_only=True))
    except (hub.errors.LocalEntryNotFoundError, hub.errors.HFValidationError):
        kept = None
    if kept and (kept / "config.json").is_file() and (not weights or _complete(kept)):
        return kept
    try:
        files = [str(found.rfilename) for found in hub.HfApi().model_info(name, timeout=10).siblings]
        if any(file.endswith(".safetensors") for file in files):
            return Path(hub.snapshot_download(name, allow_patterns=wanted))
    except Exception as error:
        raise ExperimentError(
            f"model.base = '{name}' is no folder here, and cannot be had from the hub ({type(error).__name__}: "
            f"{_line(error)}); give a folder, or leave base away and give a config"
        ) from error
    raise ExperimentError(
        f"model.base = '{name}': the hub has no safetensors of it, and pickles, which can run any code when they are "
        "loaded, are not read; download and convert it"
    )


def _complete(folder: Path) -> bool:
    """Whether all weights are there: one file, or all those that the index names."""
    import json

    for index in folder.glob("*.safetensors.index.json"):
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return all((folder / file).is_file() for file in files)
    return any(folder.glob("*.safetensors"))


def config_class(values: Mapping[str, Any]) -> Any:
    """The class of `values['model_type']`. Raises ExperimentError, with the nearest names, where there is none."""
    mapping = library("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    kind = values.get("model_type")
    if kind is None:
        raise ExperimentError("model.config.model_type is missing (there is no model.base); e.g. 'vit', 'bert', 'gpt2'")
    if kind not in mapping:
        near = difflib.get_close_matches(str(kind), list(mapping), n=3)
        raise ExperimentError(f"model.config.model_type = '{kind}' is not known; {_nearest(near)}")
    return mapping[kind]


def fresh_config(kind: Any, values: Mapping[str, Any]) -> Any:
    """A config of a class, with its defaults for what is not given. Raises ExperimentError for values it has not."""
    given = _known(kind, values)
    try:
        return kind(**given)
    except Exception as error:
        raise ExperimentError(f"model.config: {_line(error)}") from error


def stored_config(base: str, folder: Path, values: Mapping[str, Any]) -> Any:
    """The config of a folder with some values changed. Raises ExperimentError for values that it has not."""
    try:
        auto = library("transformers").AutoConfig
        config = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ExperimentError(f"model.base = '{base}': its config.json cannot be used: {_line(error)}") from error
    kind = type(config).model_type
    if values.get("model_type", kind) != kind:
        raise ExperimentError(f"model.config.model_type = '{values['model_type']}', but that of model.base is '{kind}'")
    try:
        for name, value in _known(type(config), values).items():
            setattr(config, name, value)
    except ExperimentError:
        raise
    except Exception as error:
        raise ExperimentError(f"model.config: {_line(error)}") from error
    return config


def _known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under the names of a config class, which would keep others and say nothing."""
    fields, found = kind.__dataclass_fields__, {}
    for name, value in values.items():
        if name in SET_ELSEWHERE:
            raise ExperimentError(f"model.config.{name} cannot be set: {SET_ELSEWHERE[name]}")
        if name != "model_type":
            if name not in fields and name not in kind.attribute_map:
                near = difflib.get_close_matches(name, sorted({*fields, *kind.attribute_map}), n=3)
                raise ExperimentError(f"model.config.{name}: model_type '{kind.model_type}' has none; {_nearest(near)}")
            found[kind.attribute_map.get(name, name)] = value
    return found


def new_weights(model: Any, base: str, heads: tuple[str, ...], report: Mapping[str, Any], new_head: bool) -> None:
    """Draw a new head, if asked for, and see that everything else came from the base.

    `report` is what the library says of loading. What a base may lack is the head, and what comes after all the rest of
    the base model (a pooler, if it was trained without). Raises ExperimentError where it lacks anything else.
    """
    pretrained = base_of(model)
    inside = next(name for name, part in model.named_children() if part is pretrained)
    wrong = sorted(entry for entry in report["mismatched_keys"] if entry[0].split(".")[0] not in heads)
    if wrong:
        name, stored, asked = wrong[0]
        raise ExperimentError(
            f"model.config: with it '{name}' has shape {list(asked)}, but model.base = '{base}' has {list(stored)}; "
            "the sizes of a base cannot be changed"
        )
    parts = [name for name, part in pretrained.named_children() if any(True for _ in part.parameters())]
    last = {f"{inside}.{name}" for name, _ in pretrained.named_parameters() if name.split(".")[0] == parts[-1]}
    missing = {name for name in report["missing_keys"] if name.split(".")[0] not in heads}
    if missing and missing != last:
        raise ExperimentError(
            f"model.base = '{base}' has no weights for '{min(missing - last or missing)}' ({len(missing)} "
            "are missing); is it a model of this kind, and does model.config ask for more layers than it has?"
        )
    if new_head:
        for part in (part for name in heads for part in model.get_submodule(name).modules()):
            _draw(model, part)


def require_numbers(model: Any, base: str) -> None:
    """Raise ExperimentError where weights of a base are NaN or infinite."""
    for name, parameter in model.named_parameters():
        if not parameter.is_meta and parameter.is_floating_point() and not bool(parameter.isfinite().all()):
            raise ExperimentError(
                f"model.base = '{base}': '{name}' holds NaN or infinity; the file is damaged, or training went wrong: "
                "use another"
            )


def _draw(model: Any, part: nn.Module) -> None:
    """Fresh weights, as the library draws them, for a part that it takes for loaded."""
    for parameter in part.parameters(recurse=False):
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    model._init_weights(part)


def _nearest(near: list[str]) -> str:
    return f"nearest: {', '.join(near)}" if near else "nothing has a name like it"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
