"""Arrays of anybody's code in and out: a stack, or a list, of NumPy arrays or tensors as rows [N, D]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.errors import AggregationError

Array = np.ndarray[Any, Any]

if TYPE_CHECKING:
    from torch import Tensor

    Vectors = Any
    """An array or tensor [N, ...], or N of them of the same shape."""


def as_rows(vectors: Vectors) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Rows [N, D] in float32 or float64, not copied where that is avoidable, and what turns one row back into what was
    given: the same type, shape, dtype and device (float64 for integers).

    Raises AggregationError where there are none, or their shapes, types or devices differ.
    """
    import torch

    numpy = isinstance(vectors, np.ndarray)
    if not numpy and (isinstance(vectors, str) or not isinstance(vectors, (Sequence, torch.Tensor))):
        raise AggregationError(f"give a stack or a list of arrays or tensors, not a {type(vectors).__name__}")
    if isinstance(vectors, Sequence):
        if not vectors:
            raise AggregationError("there are no updates to aggregate")
        numpy = not isinstance(vectors[0], torch.Tensor)
        shapes = sorted({tuple(np.shape(v)) for v in vectors})
        if len(shapes) > 1:
            raise AggregationError(f"updates have different shapes: {', '.join(str(list(s)) for s in shapes)}")
        stacked = _tensor(np.stack([np.asarray(v) for v in vectors])) if numpy else torch.stack(list(vectors))
    else:
        stacked = _tensor(np.ascontiguousarray(vectors)) if numpy else vectors
    if stacked.dim() < 1 or len(stacked) == 0:
        raise AggregationError("there are no updates to aggregate")
    if stacked.is_complex() or stacked.dtype == torch.bool:
        raise AggregationError(f"updates must be real numbers, not {stacked.dtype}")
    given = stacked.dtype if stacked.is_floating_point() else torch.float64
    rows_ND = stacked.detach().to(given if given.itemsize >= 4 else torch.float32)
    rows_ND = rows_ND.reshape(len(stacked), -1)
    shape = stacked.shape[1:]

    def back(row_D: Tensor) -> Any:
        value = row_D.to(given).reshape(shape)
        return (value.numpy() if shape else value.numpy()[()]) if numpy else value

    return rows_ND, back


def _tensor(array: Array) -> Tensor:
    """An array as a tensor, in the machine's byte order. Raises AggregationError where there is no such type."""
    import torch

    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError:
        raise AggregationError(f"updates must be real numbers of at most 64 bits, not {array.dtype}") from None
