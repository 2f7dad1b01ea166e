"""The one module of a process, bound to one flat row.

Shapes: D columns of a row, T of them trainable (first).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from gossamer.layout import Layout


class Resident:
    """A module bound to one flat row: `row` [D] is the storage of its parameters and buffers.

    Frozen parameters stay in the module, once per process, and are never written. Integer buffers are copied in and
    out, since a floating row cannot be their storage. Buffers that are not persistent belong to no row: they start
    every task as they were in the fresh module.
    """

    def __init__(self, module: nn.Module, layout: Layout, dtype: torch.dtype) -> None:
        import torch

        self.module = converted(module, layout, dtype)
        self.layout = layout
        self.row = torch.zeros(layout.size, dtype=dtype)
        self.trained: list[nn.Parameter] = []
        """The trainable parameters, in the order of the row; `parts` are the same numbers, flat."""
        self.parts: list[Tensor] = []
        self._kept: list[tuple[nn.Module, str, Tensor]] = []
        self._passing: list[tuple[nn.Module, str, Tensor]] = []
        parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
        for name in parameters.keys() & set(layout.frozen):  # The head alone comes without the frozen part.
            parameters[name].requires_grad_(False)
        for entry, view in layout.views(self.row):
            if entry.trainable:
                parameter = parameters[entry.name]
                view.copy_(parameter.data)
                parameter.data = view
                self.trained.append(parameter)
                self.parts.append(self.row[entry.start : entry.stop])
                continue
            buffer = buffers.pop(entry.name)
            view.copy_(buffer)
            if not torch.equal(view.to(buffer.dtype), buffer) or not bool(view.isfinite().all()):
                raise ExperimentError(
                    f"model: buffer '{entry.name}' holds numbers that {dtype} cannot average (infinite, or too large "
                    "integers); register it with persistent=False if it is no state"
                )
            self._kept.append((*_owner(module, entry.name), view))
        for name, buffer in buffers.items():
            self._passing.append((*_owner(module, name), buffer.clone()))
        self._bind()

    def share(self, shared_S: Tensor) -> None:
        """Make the frozen weights that have low-rank changes views of one vector, so that whoever writes it writes
        them, in every process."""
        parameters = dict(self.module.named_parameters())
        for entry in self.layout.shared:
            weight = parameters[entry.name]
            weight.data = shared_S[entry.start : entry.stop].view(weight.shape)

    def shared(self, dtype: torch.dtype) -> Tensor:
        """A copy [S] of the frozen weights that have low-rank changes.

        Raises ExperimentError where there are none, or sums with them would be rounded to a code or half precision.
        """
        import torch

        parameters = dict(self.module.named_parameters())
        if tied := next((entry.name for entry in self.layout.shared if entry.name not in parameters), None):
            raise ExperimentError(
                f"parametrisation.targets: '{tied}' is another layer's weight too (tied embeddings), and cannot be "
                "merged into; leave it out, or use method = 'flexlora'"
            )
        found = [parameters[entry.name].detach() for entry in self.layout.shared]
        if not found:
            raise ExperimentError(
                "method: it merges low-rank changes into the weights of the model, of which there are none; use "
                "parametrisation = 'lora' with train = 'both'"
            )
        if coarse := next((weight.dtype for weight in found if weight.dtype != dtype), None):
            raise ExperimentError(
                f"method: it merges into weights of the base, which are {coarse} here: not exact; use a base without "
                "model.bits and model.precision, or method = 'flexlora'"
            )
        return torch.cat([weight.reshape(-1) for weight in found])

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradient of a loss for each part of the row, flat; zeros where the loss does not depend on it."""
        # backward() and not autograd.grad(), which does not enter reentrant checkpoints; without a gradient to add to,
        # it hands over its own tensors instead of copying them.
        for parameter in self.trained:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        found = [parameter.grad for parameter in self.trained]
        for parameter in self.trained:
            parameter.grad = None
        return [
            part.new_zeros(len(part)) if grad is None else grad.reshape(-1)
            for grad, part in zip(found, self.parts, strict=True)
        ]

    def split(self, vector_T: Tensor) -> tuple[Tensor, ...]:
        """Views of a vector over the trainable columns, one for each part of the row."""
        import torch

        return torch.split(vector_T, [len(part) for part in self.parts])

    def _bind(self) -> None:
        """Make every buffer what the row holds, or for a passing one what it was at first."""
        for owner, leaf, view in self._kept:
            buffer = owner._buffers[leaf]
            if buffer is not None and buffer.is_floating_point():
                owner._buffers[leaf] = view
            elif buffer is not None:
                buffer.copy_(view.round())
        for owner, leaf, first in self._passing:
            owner._buffers[leaf] = first.clone()

    def load(self, row_D: Tensor) -> None:
        """Make the module the model of this row."""
        self.row.copy_(row_D)
        if self._kept or self._passing:
            self._bind()

    def store_buffers(self) -> None:
        """Bring buffers that are not stored in the row (integers, or replaced by `self.buffer = ...`) back into it."""
        for owner, leaf, view in self._kept:
            buffer = owner._buffers[leaf]
            if buffer is not None and buffer is not view:
                view.copy_(buffer)


def converted(module: nn.Module, layout: Layout, dtype: torch.dtype) -> nn.Module:
    """The module with its numbers in `dtype`, in place; frozen ones in half precision or a code stay as they are."""
    import torch

    frozen, half = set(layout.frozen), (torch.bfloat16, torch.float16)
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and not (name in frozen and parameter.dtype in half):
            parameter.data = parameter.data.to(dtype)
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() and buffer.dtype not in half:
            owner, leaf = _owner(module, name)
            owner._buffers[leaf] = buffer.to(dtype)
    return module


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that holds a buffer, and the buffer's name in it."""
    owner, _, leaf = name.rpartition(".")
    return module.get_submodule(owner), leaf
