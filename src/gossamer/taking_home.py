"""The adapted model of a run as a folder that other libraries load.

    adapter   what was trained, in the form of the peft library, to be put on the base that it was trained on
    merged    the whole model, in the form of the transformers library

Either is loaded again before it is kept, and its outputs are compared with those of the run's model.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gossamer.adapter_folder import write_adapter
from gossamer.errors import RunError
from gossamer.input_files import settle_ends, write_input_files
from gossamer.merging import label, merged, no_form, plain, task_of
from gossamer.model_card import Subject, model_card
from gossamer.models.hugging_face import CLASSES, HuggingFace
from gossamer.randomness import generator
from gossamer.wrapping import library, quiet

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gossamer.runs import Run

Form = Literal["adapter", "merged"]
ALIKE = 1e-4
"""Outputs of a folder may differ by this share of the largest one: more than rounding makes, less than a mistake."""


def take_home(run: Run, form: Form, folder: str | Path | None = None, node: int | None = None) -> Path:
    """Write the model of a run, or of one of its nodes, as a folder of the peft or the transformers library.

    The folder (default: the form's name, in the run's folder) is whole or absent. Raises RunError where the run has no
    such model, or the library no such form.
    """
    place = Path(folder) if folder else run.folder / (form if node is None else f"{form}-node{node}")
    _require(run, form, place, node)
    with quiet(), whole_folder(place) as aside:
        module: Any = run.model(node)
        if module.half_precision:
            module.half_precision = False
            module.float()
        write_input_files(run, aside, module.config, node)
        inputs_B = _trial(run, module)
        expected = _outputs(module, inputs_B)
        loaded = write_adapter(run, module, aside) if form == "adapter" else _write_merged(run, module, aside)
        settle_ends(run, aside)
        # Weights in few bits are not those of the base that others have.
        if getattr(run.experiment.model, "bits", None) is None:
            _compare(run, form, _outputs(loaded, inputs_B), expected)
        whole = sum(parameter.numel() for parameter in plain(run, meta=True).parameters())
        subject = Subject(form, task_of(loaded), whole, node, base_beside=(aside / "base").is_dir())
        (aside / "README.md").write_text(model_card(run, subject), encoding="utf-8")
    return place


def _require(run: Run, form: Form, place: Path, node: int | None) -> None:
    """Raise RunError where there is nothing that could be written, or no room for it."""
    experiment = run.experiment
    if not isinstance(experiment.model, HuggingFace):
        raise RunError(
            f"--as {form}: model.kind = '{experiment.model.kind}' is no model of the transformers library; leave --as "
            "away, and its state is written as safetensors"
        )
    if run.record["status"] != "finished":
        raise RunError(f"{run.folder} has not finished ({run.record['status']}); go on: gossamer resume {run.folder}")
    own = run.record["world"] != "server" or experiment.method.personal
    if node is not None and not own and not experiment.parametrisation.ranks(run.record["nodes"]):
        raise RunError(
            f"--node {node}: with method.kind = '{experiment.method.kind}' all nodes have one model; leave it out"
        )
    if node is None and not (run.folder / "model.safetensors").is_file():
        raise RunError(f"{run.folder}: there is no common model, every node has its own; name one with --node")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise RunError(f"{place} exists and is not empty; name another folder with --to")
    if form == "merged" and experiment.model.bits is not None:
        raise RunError(
            f"--as merged: model.bits = {experiment.model.bits}: changes cannot be added exactly to weights in so few "
            "bits; use --as adapter"
        )
    if form == "adapter" and experiment.method.merges_into_base:
        raise RunError(
            f"--as adapter: method.kind = '{experiment.method.kind}' changes the base itself, which an adapter leaves "
            "as it is; use --as merged"
        )


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder to write aside; on leaving it takes the place of what was there: `place` is whole, or as it was."""
    aside, before = (place.with_name(f".{place.name}.{os.getpid()}{end}") for end in ("", ".before"))
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if place.exists():
            place.rename(before)
        aside.rename(place)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _write_merged(run: Run, module: nn.Module, folder: Path) -> nn.Module:
    """config.json and model.safetensors; returns a module with the model that was loaded from these."""
    whole: Any = merged(run, module)
    task = task_of(whole)
    label(whole.model, task, run.record["classes"])
    whole.model.save_pretrained(folder)
    found: Any = plain(run, meta=True)
    found.model = getattr(library("transformers"), CLASSES[task]).from_pretrained(folder, local_files_only=True)
    loaded: nn.Module = found
    return loaded


def _trial(run: Run, module: Any) -> Tensor:
    """Two inputs for the model: images of noise, or random tokens, the second text being padded."""
    import torch

    rng, shape = generator(run.seed, "trial inputs"), tuple(run.record["input_shape"])
    if not module.vocabulary:
        return torch.from_numpy(rng.standard_normal((2, *shape)))
    ids_BL = torch.from_numpy(rng.integers(0, module.vocabulary, (2, *shape)))
    ids_BL[ids_BL == module.padding] = (module.padding + 1) % module.vocabulary
    ids_BL[1, (shape[0] + 1) // 2 :] = module.padding
    return ids_BL


def _outputs(module: nn.Module, inputs_B: Tensor) -> Tensor:
    """The logits of inputs, in float64; of a text those of its own tokens, not of prompts before it."""
    import torch

    dtype = next(p.dtype for p in module.parameters() if p.is_floating_point())
    with torch.no_grad():
        logits: Tensor = module.eval()(inputs_B.to(dtype) if inputs_B.is_floating_point() else inputs_B)
    return logits[:, -inputs_B.shape[1] :].double() if logits.dim() == 3 else logits.double()


def _compare(run: Run, form: Form, found: Tensor, expected: Tensor) -> None:
    """Raise RunError where a folder does not give what the run's model gives."""
    off = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    if not off <= ALIKE:
        raise RunError(
            f"--as {form}: " + no_form(run, f"loaded again, outputs are off by {off:.1g} of the largest one")
        )
