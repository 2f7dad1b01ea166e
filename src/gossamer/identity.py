"""What a run is: what it was made of when it began, so that only the same thing is resumed."""

from __future__ import annotations

import hashlib
import os
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer import __version__
from gossamer.errors import RunError
from gossamer.experiment import Experiment

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from gossamer.federation import Federation


def about(federation: Federation, backend: str, reason: str, workers: int) -> dict[str, Any]:
    """The contents of record.json at the start of a run."""
    import torch

    experiment, shards = federation.experiment, federation.shards
    return {
        "status": "running",
        "digest": experiment.digest(),
        "fingerprints": fingerprints(federation),
        "experiment": experiment.to_dict(),
        "world": federation.method.world,
        "own_models": not federation.has_server or federation.method.personal,
        "nodes": federation.nodes,
        "hostile": federation.placement.hostile.tolist(),
        "parameters": federation.layout.size,
        "trainable": federation.layout.trainable,
        "samples": list(shards.sizes),
        "validation_samples": [len(part) for part in shards.validation],
        "histogram": shards.histogram_NC.tolist(),
        "classes": list(shards.classes),
        "names": list(shards.names),
        "licence": federation.licence,
        "input_shape": list(federation.shape),
        "edges": federation.exchanges.links(0).tolist(),
        "message_bytes": {"up": federation.up_bytes, "down": federation.down_bytes},
        "setup_bytes": federation.setup_bytes * federation.nodes,
        "privacy": federation.guard.ledger.about() if federation.guard.ledger else None,
        "backend": backend,
        "backend_reason": reason,
        "workers": workers,
        "versions": {
            "gossamer": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            **_accountant(federation),
        },
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
        "seconds": 0.0,
    }


def _accountant(federation: Federation) -> dict[str, str]:
    """The library that epsilon comes from, and its version."""
    from importlib.metadata import version

    if federation.guard.ledger is None:
        return {}
    library = "opacus" if federation.guard.ledger.mechanism.accountant == "prv" else "dp-accounting"
    return {library: version(library)}


def fingerprints(federation: Federation) -> dict[str, str]:
    """Hashes of what the experiment only names: its data as dealt, the graph, the model's layout and frozen part."""
    shards, layout, rounds = federation.shards, federation.layout, federation.experiment.rounds
    frozen = dict(federation.whole.named_parameters())
    return {
        "data": _hash(shards.inputs, shards.labels, shards.test_inputs, shards.test_labels),
        "partition": _hash(*shards.train, *shards.validation),
        # The first, the middle and the last one of a graph that changes.
        "graph": _hash(*(federation.exchanges.links(round) for round in sorted({0, rounds // 2, rounds - 1}))),
        "files": _hash(*(np.fromfile(path, np.uint8) for path in _files(federation.experiment))),
        "model": _hash(np.frombuffer(repr([(e.name, e.shape) for e in layout.entries]).encode(), np.uint8)),
        "frozen part": _hash(*(_bytes(frozen[name]) for name in layout.frozen)),
    }


def _bytes(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A tensor as numpy has it, or, of a type that numpy has not, its bytes."""
    if tensor.is_floating_point() and tensor.element_size() < 4:
        import torch

        tensor = tensor.detach().contiguous().flatten().view(torch.uint8)
    return tensor.detach().numpy()


def _files(experiment: Experiment) -> list[str]:
    """Files beside the data that the experiment names: who comes and goes, who meets whom."""
    named = (getattr(experiment.clock, "trace", ""), getattr(experiment.topology, "path", ""))
    return [os.path.expanduser(path) for path in named if path]


def _hash(*arrays: np.ndarray[Any, Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def same_experiment(folder: Path, record: dict[str, Any], objects: dict[str, Any]) -> Experiment:
    """The experiment of a run folder, with what was passed as Python objects put back.

    Raises RunError that names the fields that were changed since the run began.
    """
    from gossamer.experiment import parse_toml, read_text

    then = record["experiment"]
    path = folder / "experiment.toml"
    experiment = Experiment.from_dict({**(parse_toml(read_text(path)) if path.exists() else then), **objects})
    if experiment.digest() != record["digest"]:
        now = experiment.to_dict()
        changed = sorted(k for k in now.keys() | then.keys() if now.get(k) != then.get(k))
        raise RunError(
            f"{folder}: the experiment was changed since the run began ({', '.join(changed)}); "
            "undo the change, or start a new run"
        )
    return experiment


def same_world(folder: Path, record: dict[str, Any], federation: Federation) -> None:
    """Raise RunError where what the experiment only names (data, edges, model) is not what it was."""
    now = fingerprints(federation)
    changed = [name for name, value in record["fingerprints"].items() if now[name] != value]
    if changed:
        raise RunError(
            f"{folder}: what the experiment names has changed since the run began: {', '.join(changed)}; "
            "bring it back, or start a new run"
        )
