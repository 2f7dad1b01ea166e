"""Pre-training: the experiment that makes a base is run once, and the base kept for all that are adapted from it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.bases import base_folder
from gossamer.errors import ExperimentError, Interrupted, RunError
from gossamer.experiment import Experiment
from gossamer.input_files import settle_ends, write_input_files
from gossamer.merging import label, merged, task_of
from gossamer.model_card import Subject, model_card
from gossamer.models.hugging_face import HuggingFace
from gossamer.models.masked_autoencoder import MaskedAutoencoder
from gossamer.record import is_running
from gossamer.rounds import resume, run
from gossamer.runs import Run
from gossamer.taking_home import whole_folder
from gossamer.wrapping import quiet, save_base

if TYPE_CHECKING:
    from gossamer.rounds import Listener


def pretrain(file: str | Path, listener: Listener | None = None, again: bool = False) -> Path:
    """The folder of the base that an experiment file makes, after running it where that has not been done.

    A run that was interrupted is gone on with. With `again` everything is done anew. Raises ExperimentError where the
    experiment makes no base, Interrupted after Ctrl-C.
    """
    folder, place = base_folder(file), run_folder(file)
    if is_trained(file) and not again:
        return folder
    experiment = Experiment.load(file)
    check(experiment, file)
    if again:
        _forget(place)
    try:
        made = _played(experiment, place, listener)
    except Interrupted:
        raise Interrupted(f"{file}: stopped, and saved; go on with: gossamer pretrain {file}") from None
    write_base(made, folder)
    return folder


def is_trained(file: str | Path) -> bool:
    """Whether the base of an experiment file is there."""
    return (base_folder(file) / "config.json").is_file()


def run_folder(file: str | Path) -> Path:
    """The folder of the run that makes, or made, the base of an experiment file: beside it."""
    folder = base_folder(file)
    return folder.with_name(f"{folder.name}.run")


def untrained(experiments: Iterable[Experiment]) -> list[str]:
    """The experiment files of the bases that these need and that are not there, each behind those that it needs
    itself."""
    found: list[str] = []
    for experiment in experiments:
        base = str(getattr(experiment.model, "base", ""))
        if base.endswith(".toml") and not is_trained(base):
            found += [*untrained([Experiment.load(base)]), base]
    return list(dict.fromkeys(found))


def check(experiment: Experiment, file: str | Path) -> None:
    """Raise ExperimentError where an experiment makes no base."""
    model, method = experiment.model, experiment.method
    if not isinstance(model, (HuggingFace, MaskedAutoencoder)):
        raise ExperimentError(
            f"{file}: model.kind = '{model.kind}' makes no base that others can be adapted from; use 'hugging_face' or "
            "'masked_autoencoder'"
        )
    if getattr(model, "bits", None) is not None:
        raise ExperimentError(
            f"{file}: model.bits: weights in few bits are no base for others; leave it out, and give it where the base "
            "is adapted"
        )
    one = method.pools_data or experiment.nodes == 1 or (method.world != "alone" and method.one_model)
    if not one:
        raise ExperimentError(
            f"{file}: method.kind = '{method.kind}' ends with no model for all, which a base is; use 'centralised' or "
            "'fedavg'"
        )


def _played(experiment: Experiment, place: Path, listener: Listener | None) -> Run:
    """The finished run of the experiment in its folder, begun or gone on with if need be."""
    if (place / "record.json").is_file():
        return resume(place, listener)
    _forget(place)  # What was killed before its first record.
    return run(experiment, place, listener)


def _forget(place: Path) -> None:
    """Remove a run. Raises RunError where it is in progress."""
    if is_running(place):
        raise RunError(f"{place}: another process is running this; wait for it, or stop it")
    shutil.rmtree(place, ignore_errors=True)


def write_base(made: Run, folder: Path) -> None:
    """Write what a finished run pre-trained as a folder of the transformers library, with its tokenizer and its card;
    whole, or not at all."""
    with quiet(), whole_folder(folder) as aside:
        module: Any = made.model()
        if not isinstance(made.experiment.model, MaskedAutoencoder):
            module = merged(made, module)
        task = None if hasattr(module, "loss") else task_of(module)
        label(module.model, task, made.record["classes"])
        save_base(module.float(), aside)
        write_input_files(made, aside, module.config)
        settle_ends(made, aside)
        parameters = sum(parameter.numel() for parameter in module.base().parameters())
        (aside / "README.md").write_text(model_card(made, Subject("base", task, parameters)), encoding="utf-8")
