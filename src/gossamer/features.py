"""Features: where only the head of a model is trained, what goes into the head is the same in every epoch.

It is computed once for every item, and the head trained on it: the same model, the same gradients, without the base.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gossamer.anatomy import features, from_features, steady
from gossamer.errors import ExperimentError
from gossamer.parametrisations.head import Head
from gossamer.training import evaluation_batch

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gossamer.experiment import Experiment
    from gossamer.preprocessing import Array, Shards


def keeps_features(experiment: Experiment, module: nn.Module, shards: Shards) -> bool:
    """Whether the input of the head is a matter of the item alone: nothing before the head draws or changes, and items
    are the same for all nodes and in all rounds."""
    part, preprocess = experiment.parametrisation, experiment.preprocess
    if not isinstance(part, Head) or not part.cache or hasattr(module, "loss"):
        return False
    alike = preprocess.normalise != "per_node" and not preprocess.crop and not preprocess.flip
    # Attacks put their marks on inputs.
    if not alike or not experiment.init.shared or experiment.attack.kind != "honest":
        return False
    import torch

    try:
        return steady(module, torch.from_numpy(shards.test_inputs[:2]))
    except ExperimentError:
        return False  # The head is more than one layer at the end.


def featured(module: nn.Module, shards: Shards, dtype: torch.dtype) -> tuple[Shards, nn.Module]:
    """The shards with features [M, d] for inputs, and the module that takes these, with the same parameters."""
    inputs, test_inputs = (_of(module, items, dtype) for items in (shards.inputs, shards.test_inputs))
    return dataclasses.replace(shards, inputs=inputs, test_inputs=test_inputs), from_features(module)


def _of(module: nn.Module, inputs_M: Array, dtype: torch.dtype) -> Array:
    import torch

    module.eval()
    size = evaluation_batch(inputs_M.shape[1:])
    with torch.no_grad():
        parts = [features(module, torch.from_numpy(inputs_M[i : i + size])) for i in range(0, len(inputs_M), size)]
    found: Array = torch.cat(parts).to(dtype).numpy()
    return found
