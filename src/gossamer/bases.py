"""Bases: models that are pre-trained once, by an experiment of their own, and kept by its digest.

`model.base = "vit.toml"` names the experiment; what `gossamer pretrain vit.toml` made of it lies in a folder whose name
is the experiment's name and digest, so that another seed, another data set or another width is another base.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.pretrained import located

if TYPE_CHECKING:
    from gossamer.data import Data
    from gossamer.models import Model


def base_folder(path: str | Path) -> Path:
    """Where the base of an experiment file lies, or will: below GOSSAMER_BASES, else in the user's cache."""
    experiment = Experiment.load(path)
    shelf = os.environ.get("GOSSAMER_BASES") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "gossamer", "bases"
    )
    return Path(shelf).expanduser() / f"{experiment.name}-{experiment.digest()}"


def with_tokenizer(data: Data, model: Model) -> Data:
    """The data, if they are texts that name no tokenizer, with that of the model's base.

    Raises ExperimentError where the base has none: its embeddings would stand for other tokens.
    """
    base = str(getattr(with_base(model), "base", ""))
    if getattr(data, "tokenizer", None) != "" or not base:
        return data
    folder = Path(base).expanduser()
    folder = folder if folder.is_dir() else located(base, weights=True)
    if not (folder / "tokenizer.json").is_file():
        raise ExperimentError(
            f"data.tokenizer: model.base = '{base}' brings no tokenizer.json, so nobody knows which tokens its "
            "embeddings stand for; name the file of its tokenizer"
        )
    return data.model_copy(update={"tokenizer": str(folder)})


def with_base(model: Model) -> Model:
    """The model with the folder of its base in place of the experiment file that makes it.

    Raises ExperimentError where that has not been run.
    """
    base = str(getattr(model, "base", ""))
    if not base.endswith(".toml"):
        return model
    folder = base_folder(base)
    if not (folder / "config.json").exists():
        raise ExperimentError(f"model.base = '{base}' has not been trained yet; run: gossamer pretrain {base}")
    return model.model_copy(update={"base": str(folder)})
