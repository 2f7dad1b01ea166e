"""Whether the tokens of texts are those that a model knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.bases import with_base
from gossamer.errors import ExperimentError
from gossamer.tokenising import fingerprint, load, padding_id

if TYPE_CHECKING:
    from torch import nn

    from gossamer.experiment import Experiment
    from gossamer.preprocessing import Shards


def check_tokens(module: nn.Module, shards: Shards, experiment: Experiment) -> None:
    """Raise ExperimentError where texts are numbered by another tokenizer than that of the model's base, or have ids
    that the model has no embedding for."""
    if shards.inputs.dtype.kind not in "iu":
        return
    known = getattr(module, "vocabulary", None)
    most = int(max(shards.inputs.max(), shards.test_inputs.max()))
    if known is not None and most >= known:
        raise ExperimentError(
            f"model: it knows {known} tokens, but the data have ids up to {most}; set model.config.vocab_size (from "
            "config), data.vocabulary, or data.tokenizer = the folder of the base"
        )
    padding = getattr(module, "padding", None) if shards.labels.ndim == 1 and shards.tokenizer else None
    if padding is not None and (fills := padding_id(load(shards.tokenizer))) != padding:
        raise ExperimentError(
            f"model: it takes id {padding} for padding, but the tokenizer fills up with {fills}; set "
            f"model.config.pad_token_id = {fills}"
        )
    base = Path(str(getattr(with_base(experiment.model), "base", ""))).expanduser() / "tokenizer.json"
    if shards.tokenizer and base.is_file() and fingerprint(load(shards.tokenizer)) != fingerprint(load(base)):
        raise ExperimentError(
            f"data.tokenizer: the texts are numbered by another tokenizer than that of model.base = "
            f"'{getattr(experiment.model, 'base', '')}', so its embeddings mean other words; leave data.tokenizer out"
        )
