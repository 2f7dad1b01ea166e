"""Checkpoints: the complete state of a run after a round, in one file that is whole or absent.

A checkpoint is a safetensors file; its metadata holds the round, the number of metric parts, the digest of the
experiment and a BLAKE2b checksum over metadata and tensors. The last two are kept, so that a damaged one costs one
interval, not the run.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.errors import CheckpointError, RunError
from gossamer.record import whole

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 2


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    rounds_done: int
    parts: int
    """Metric parts that belong to the rounds done."""
    digest: str
    """Of the experiment."""
    backend: str
    sent: tuple[int, ...] = ()
    """Bytes each node has sent so far."""
    received: tuple[int, ...] = ()
    spent: int = 0
    """Model transfers so far."""
    clock: float = 0.0
    """Simulated seconds so far."""


def write_checkpoint(folder: Path, progress: Progress, tensors: dict[str, Tensor]) -> Path:
    """Write `checkpoints/round-NNNNNN.safetensors` and remove all but the last two."""
    about = json.dumps(asdict(progress), sort_keys=True)
    metadata = {"progress": about, "checksum": _checksum(about, tensors)}
    path = folder / "checkpoints" / f"round-{progress.rounds_done:06d}.safetensors"
    with whole(path) as aside:
        _write_tensors(aside, tensors, metadata)
    for old in sorted(path.parent.glob("round-*.safetensors"))[:-KEPT]:
        old.unlink()
    return path


def read_checkpoint(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    """Progress and tensors of a checkpoint. Raises CheckpointError where anything differs from what was written."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Any] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensors[name] = file.get_tensor(name)
        about = metadata["progress"]
        if metadata["checksum"] != _checksum(about, tensors):
            raise CheckpointError(f"{path.name} is damaged: its checksum differs")
        fields = json.loads(about)
        return Progress(**{**fields, "sent": tuple(fields["sent"]), "received": tuple(fields["received"])}), tensors
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"{path.name} is damaged: {error}") from None


def latest_checkpoint(folder: Path) -> tuple[Progress, dict[str, Tensor], list[str]] | None:
    """The newest sound checkpoint, with a warning for each damaged one passed over; None where none was written.

    Raises CheckpointError where there are checkpoints and all are damaged.
    """
    warnings: list[str] = []
    paths = sorted((folder / "checkpoints").glob("round-*.safetensors"), reverse=True)
    for path in paths:
        try:
            progress, tensors = read_checkpoint(path)
        except CheckpointError as error:
            warnings.append(f"{error}; using the one before it")
            continue
        return progress, tensors, warnings
    if paths:
        raise CheckpointError(f"{folder}: every checkpoint is damaged; run the experiment again")
    return None


def restore(into: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Copy a checkpoint's tensors into the arrays of a population. Raises RunError where they do not match."""
    if into.keys() != tensors.keys() or any(into[k].shape != tensors[k].shape for k in into):
        raise RunError(
            "the checkpoint does not fit the experiment: other tensors or shapes; was the model's code changed?"
        )
    for name, value in tensors.items():
        into[name].copy_(value)


def _write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file, written tensor by tensor: the library's own writer holds a second copy of all of them."""
    codes = {"torch.float32": "F32", "torch.float64": "F64", "torch.int64": "I64", "torch.int32": "I32"}
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": codes[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor in tensors.values():
            file.write(_bytes_of(tensor))


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, without copying it where it is contiguous."""
    return tensor.contiguous().numpy().reshape(-1).view("uint8").data


def _checksum(about: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()
