"""Matrices travel as two thin factors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from gossamer.randomness import generator
from gossamer.transforms import Transform, numbers

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from gossamer.layout import Entry, Layout
    from gossamer.passages import Form, Passage
    from gossamer.wire import Message


class PowerSGD(Transform):
    """Send rank-r factors of every matrix: one power iteration from where the sender's last message ended.

        P = orthonormalised(M Q),     Q <- M^T P,     received: P Q^T = P P^T M

    M [m, n] is a trainable tensor of two or more dimensions, the first against the rest (m output channels of a
    convolution). Factors of all matrices travel together as `row.p` and `row.q`, everything else, also matrices that
    would not get shorter, as `row.rest`; fields that are no rows of the model go as they are. What is received is a
    projection, so never longer than the message: use it after 'error_feedback'. Each message decodes by itself.
    """

    source: ClassVar[str] = (
        "Vogels, Karimireddy and Jaggi 2019, Algorithm 1, with P of one sender instead of their mean"
    )
    needs: ClassVar[Form] = "whole"
    for_changes: ClassVar[bool] = True
    leaves: ClassVar[Form] = "numbers"

    kind: Literal["power_sgd"] = "power_sgd"
    rank: int = Field(default=2, ge=1, description="r, columns of the factors; a matrix takes r (m + n) numbers")

    def outline(self, like: Message, layout: Layout) -> Message:
        import torch

        out: Message = {}
        for name, value in like.items():
            matrices = self._matrices(value, layout)
            if not matrices:
                out[name] = value
                continue
            parts = {
                "p": sum(self.rank * _rows(entry) for entry in matrices),
                "q": sum(self.rank * _columns(entry) for entry in matrices),
                "rest": sum(stop - start for start, stop in _gaps(matrices, value.numel())),
            }
            for part, length in parts.items():
                if length:
                    out[f"{name}.{part}"] = torch.empty(length, dtype=value.dtype, device="meta")
        return out

    def memory(self, like: Message, layout: Layout) -> Message:
        import torch

        memory: Message = {}
        for name, value in like.items():
            if matrices := self._matrices(value, layout):
                firsts = [torch.from_numpy(_first(entry, self.rank)).view(-1) for entry in matrices]
                memory[f"{name}.q"] = torch.cat(firsts).to(_exact(value.dtype))
        return memory

    def forward(self, message: Message, passage: Passage) -> Message:
        import torch

        out: Message = {}
        for name, value in message.items():
            matrices = self._matrices(value, passage.layout)
            if not matrices:
                out[name] = value
                continue
            flat_D, remembered = value.reshape(-1), passage.memory[f"{name}.q"]
            last = torch.split(remembered, [self.rank * _columns(entry) for entry in matrices])
            ps, qs = [], []
            for entry, q in zip(matrices, last, strict=True):
                matrix_MN = flat_D[entry.start : entry.stop].view(_rows(entry), -1).to(q.dtype)
                p_MR = torch.linalg.qr(matrix_MN @ q.view(-1, self.rank)).Q
                q_NR = matrix_MN.T @ p_MR
                ps.append(p_MR.reshape(-1))
                qs.append(q_NR.reshape(-1))
                # Its length does not matter, and might overflow in the next product; nor is a bad message remembered.
                if 0 < (largest := float(q_NR.abs().max())) < math.inf:
                    q.copy_(qs[-1] / largest)
            out[f"{name}.p"] = torch.cat(ps).to(value.dtype)
            out[f"{name}.q"] = torch.cat(qs).to(value.dtype)
            if gaps := _gaps(matrices, len(flat_D)):
                out[f"{name}.rest"] = torch.cat([flat_D[start:stop] for start, stop in gaps])
        return out

    def reverse(self, message: Message, like: Message, passage: Passage) -> Message:
        import torch

        out: Message = {}
        for name, shape in like.items():
            matrices = self._matrices(shape, passage.layout)
            if not matrices:
                out[name] = message[name]
                continue
            row_D = torch.empty(shape.numel(), dtype=shape.dtype)
            ps = torch.split(message[f"{name}.p"], [self.rank * _rows(entry) for entry in matrices])
            qs = torch.split(message[f"{name}.q"], [self.rank * _columns(entry) for entry in matrices])
            for entry, p, q in zip(matrices, ps, qs, strict=True):
                exact = _exact(p.dtype)
                product_MN = p.view(-1, self.rank).to(exact) @ q.view(-1, self.rank).to(exact).T
                row_D[entry.start : entry.stop] = product_MN.view(-1)
            if gaps := _gaps(matrices, len(row_D)):
                rest = torch.split(message[f"{name}.rest"], [stop - start for start, stop in gaps])
                for (start, stop), part in zip(gaps, rest, strict=True):
                    row_D[start:stop] = part
            out[name] = row_D.view(shape.shape)
        return out

    def _matrices(self, value: Tensor, layout: Layout) -> list[Entry]:
        """The entries of a field that get shorter, in their order; none where the field is no row of the model."""
        if not numbers(value) or value.numel() not in (layout.size, layout.trainable):
            return []
        return [
            entry
            for entry in layout.entries
            if entry.trainable
            and len(entry.shape) >= 2
            and self.rank * (_rows(entry) + _columns(entry)) < entry.stop - entry.start
        ]


def _rows(entry: Entry) -> int:
    return entry.shape[0]


def _columns(entry: Entry) -> int:
    return math.prod(entry.shape[1:])


def _gaps(matrices: list[Entry], size: int) -> list[tuple[int, int]]:
    """The (start, stop) ranges between and around the matrices."""
    starts, stops = [entry.start for entry in matrices], [entry.stop for entry in matrices]
    return [(start, stop) for start, stop in zip([0, *stops], [*starts, size], strict=True) if start < stop]


def _first(entry: Entry, rank: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[n, r]: where the first power iteration starts, the same for all senders and runs."""
    return generator(0, f"power_sgd {entry.name} {entry.shape}").standard_normal((_columns(entry), rank))


def _exact(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in."""
    import torch

    return torch.promote_types(dtype, torch.float32)
