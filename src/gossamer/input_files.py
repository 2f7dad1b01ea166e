"""Files that tell other libraries what goes into a model: of texts the tokenizer, of images size and normalisation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.bases import with_base
from gossamer.groundwork import deal, load_dataset
from gossamer.normalisation import pooled_moments
from gossamer.tokenising import end_id, load, padding_id
from gossamer.wrapping import sides

if TYPE_CHECKING:
    from gossamer.runs import Run

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CONFIGS = ("config.json", "generation_config.json")
BILINEAR = 2
"""What the libraries call it."""


def write_input_files(run: Run, folder: Path, config: Any, node: int | None = None) -> None:
    """Write tokenizer.json and tokenizer_config.json for a model of texts, preprocessor_config.json for one of images
    (as a node normalises them, where nodes do so themselves).

    `config` is that of the model. Raises DataError where that takes the data set, and it is not at hand.
    """
    if len(run.record["input_shape"]) == 3:
        write_processor(run, folder, config, node)
    else:
        write_tokenizer(run, folder)


def write_tokenizer(run: Run, folder: Path) -> None:
    """The tokenizer of the model's base, or else of the data."""
    experiment = run.experiment
    base = Path(str(getattr(with_base(experiment.model), "base", ""))).expanduser()
    if (base / TOKENIZER[0]).is_file():
        for name in TOKENIZER:
            if (base / name).is_file():
                shutil.copy(base / name, folder / name)
        return
    text = load_dataset(experiment).tokenizer
    if not text:
        return  # Numbers that were given as such.
    tokenizer = load(text)
    names = {"pad_token": padding_id(tokenizer), "eos_token": end_id(tokenizer)}
    names |= {"bos_token": tokenizer.token_to_id("<bos>"), "cls_token": tokenizer.token_to_id("<cls>")}
    table = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": run.record["input_shape"][0],
        **{name: tokenizer.id_to_token(number) for name, number in names.items() if number is not None},
    }
    (folder / TOKENIZER[0]).write_text(text, encoding="utf-8")
    (folder / TOKENIZER[1]).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def settle_ends(run: Run, folder: Path) -> None:
    """Write into the configs of a model of texts which tokens begin and end a text, and fill it up, as the tokenizer in
    the folder says: where that was made here, the configs have the defaults of their type, for other tokens."""
    base = str(getattr(run.experiment.model, "base", ""))
    if not (folder / TOKENIZER[1]).is_file() or (base and not base.endswith(".toml")):
        return
    tokenizer = load(folder / TOKENIZER[0])
    table = json.loads((folder / TOKENIZER[1]).read_text(encoding="utf-8"))
    ids = {name: tokenizer.token_to_id(str(table.get(f"{name}_token"))) for name in ("bos", "eos", "pad")}
    for file in (place / name for place in (folder, folder / "base") for name in CONFIGS):
        if not file.is_file():
            continue
        config = json.loads(file.read_text(encoding="utf-8"))
        for name, number in ids.items():
            # Some types of model count places from the padding id on: where there is one it stays.
            if number is not None and (name != "pad" or config.get("pad_token_id") is None):
                config[f"{name}_token_id"] = number
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_processor(run: Run, folder: Path, config: Any, node: int | None = None) -> None:
    """How pixels become the numbers that the model was trained on."""
    mean_F, std_F = (list(map(float, values)) for values in scales(run, node))
    height, width = sides(getattr(config, "image_size", None)) or run.record["input_shape"][1:]
    table = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": repeated(mean_F, config.num_channels),
        "image_std": repeated(std_F, config.num_channels),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def repeated(values: Sequence[float], channels: int) -> list[float]:
    """A value for each channel; one for all is repeated, as a grey image is."""
    return list(values) * channels if len(values) == 1 else list(values)


def scales(run: Run, node: int | None = None) -> tuple[Any, Any]:
    """Mean and standard deviation [F] by which images are normalised: of all nodes, or as a node does it itself."""
    experiment, channels = run.experiment, run.record["input_shape"][0]
    normalise = experiment.preprocess.normalise
    if normalise == "none":
        return np.zeros(channels), np.ones(channels)
    dataset = load_dataset(experiment)
    if normalise == "fixed":
        return dataset.mean, dataset.std
    shards, _ = deal(experiment, dataset)
    pooled = pooled_moments(dataset, normalise, shards.train, shards.draw_NC)
    if node is None or shards.node_affine is None:
        return pooled.mean_F, pooled.std_F
    scale_F, offset_F = (values_NF[node] for values_NF in shards.node_affine)
    # (x - mean) / std * scale + offset = (x - (mean - offset * std / scale)) / (std / scale)
    return pooled.mean_F - offset_F * pooled.std_F / scale_F, pooled.std_F / scale_F
