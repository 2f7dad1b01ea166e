"""The model of a run as one of the transformers library: as it was before it was adapted, and with what was adapted
merged into its weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from gossamer.errors import RunError
from gossamer.groundwork import initial_module
from gossamer.models.hugging_face import Task
from gossamer.parametrisations.identity import Identity
from gossamer.parametrisations.peft import Peft
from gossamer.wrapping import library

if TYPE_CHECKING:
    from torch import nn

    from gossamer.runs import Run


def plain(run: Run, meta: bool = False) -> nn.Module:
    """The run's module before anything was adapted or trained, in float32 (`meta`: names and shapes alone)."""
    import torch

    experiment = run.experiment
    model = experiment.model
    if getattr(model, "bits", None) is not None:
        model = model.model_copy(update={"bits": None})
    # What does not fit together any more is not asked of it.
    untouched = experiment.model_copy(update={"model": model, "parametrisation": Identity()})
    with torch.device("meta" if meta else "cpu"):
        module: Any = initial_module(untouched, tuple(run.record["input_shape"]), len(run.record["classes"]))
    module.half_precision = False
    found: nn.Module = module.float().eval()
    return found


def merged(run: Run, module: nn.Module) -> nn.Module:
    """The module with its changes merged into the weights, in float64, and then in float32; it is changed itself.

    What it is made of is then what it was before the parametrisation. Raises RunError where that cannot be.
    """
    inside: Any = module.model
    if hasattr(inside, "peft_config"):
        raise RunError(f"--as merged: {kind_of(run)}: prompts are no part of the weights; use --as adapter")
    module.double()
    for name, layer in tuned(module).items():
        try:
            layer.merge()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise RunError(f"--as merged: {kind_of(run)} cannot be merged ({reason}); use --as adapter") from error
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, layer.get_base_layer())
    require_plain(run, module)
    return module.float().eval()


def require_plain(run: Run, module: nn.Module) -> None:
    """Raise RunError where the module has weights beside those that it had before the parametrisation."""
    odd = sorted(module.state_dict().keys() ^ plain(run, meta=True).state_dict().keys())
    if odd:
        raise RunError(no_form(run, f"it adds '{odd[0]}', for which no library has a place"))


def label(model: Any, task: Task | None, classes: Collection[str]) -> None:
    """Write the names of the classes into the config of a model that is to be saved."""
    if task in ("image_classification", "text_classification"):
        model.config.id2label = dict(enumerate(classes))
        model.config.label2id = {name: number for number, name in enumerate(classes)}
    model.config._name_or_path = ""  # Where it was loaded from is nobody's business.


def task_of(module: nn.Module) -> Task:
    """What a model of the transformers library is for, by its wrapper."""
    language = getattr(module, "language", None)
    if language is None:
        return "image_classification"
    return "causal_lm" if language else "text_classification"


def tuned(module: nn.Module) -> dict[str, Any]:
    """The layers of the peft library by name, but those that are part of another one."""
    layer_class = library("peft.tuners.tuners_utils").BaseTunerLayer
    found: dict[str, Any] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, layer_class) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = layer
    return found


def kind_of(run: Run) -> str:
    """The parametrisation, for messages."""
    part = run.experiment.parametrisation
    return f"parametrisation.kind = '{part.kind}'" + (f", method = '{part.method}'" if isinstance(part, Peft) else "")


def no_form(run: Run, why: str) -> str:
    """What to do with a model that only Gossamer can load."""
    return (
        f"{kind_of(run)} cannot be taken to other libraries: {why}; write its state, gossamer export {run.folder}, and "
        f"load it with gossamer.open_run('{run.folder}').model()"
    )
