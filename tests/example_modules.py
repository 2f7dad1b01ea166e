"""Modules of all sorts, for tests of gradients of single examples, and what these are, item by item."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gossamer.example_gradients import ExampleGradients
from gossamer.layout import Layout
from gossamer.models.char_gru import CharGRU
from gossamer.models.lenet5 import LeNet5
from gossamer.models.mlp import MLP
from gossamer.models.resnet8 import ResNet8
from gossamer.models.softmax_regression import SoftmaxRegression
from gossamer.resident import Resident

TOKENS = 7


class Line(nn.Module):
    """A weight of its own, in no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 12) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


class Twice(nn.Module):
    """One layer used twice, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.out, self.unused = nn.Linear(12, 12), nn.Linear(12, 5), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.again(torch.tanh(self.again(x.flatten(1))))))


class Tied(nn.Module):
    """The embedding's weight is that of the last layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(TOKENS, 6), nn.Linear(6, TOKENS)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.embedding(tokens)))


class Behind(nn.Module):
    """A weight of a layer used behind the layer's back."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.bias = nn.Embedding(TOKENS, 6), nn.Linear(6, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.bias(self.embedding(tokens)) @ self.embedding.weight.T


class Choosy(nn.Module):
    """What it does depends on what the numbers are: of all examples, where it sees all."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.out(x.flatten(1))
        return out * 2 if bool((out > 100).all()) else out


class Centred(nn.Module):
    """Examples are compared with the mean of all: by how much, only in training or always, seen by autograd or not."""

    def __init__(self, share: float = 0.5, always: bool = True, seen: bool = True) -> None:
        super().__init__()
        self.out, self.share, self.always, self.seen = nn.Linear(12, 5), share, always, seen

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(0, keepdim=True) if self.seen else x.mean(0, keepdim=True).detach()
        return self.out((x - self.share * mean if self.always or self.training else x).flatten(1))


def recurrent(layer: type[nn.RNNBase], **changes: Any) -> nn.Module:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(TOKENS, 4)
            self.layer = layer(4, 6, batch_first=True, **changes)
            self.out = nn.Linear(12 if self.layer.bidirectional else 6, TOKENS)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(self.layer(self.embedding(tokens))[0])

    return Recurrent()


def vector(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *layers)


# What a module is, the shape of its inputs (None: sequences of tokens), and the route that is found for it.
MODULES: dict[str, tuple[Any, tuple[int, ...] | None, str]] = {
    "softmax_regression": (lambda: SoftmaxRegression().build((3, 4), 5), (3, 4), "opacus"),
    "mlp": (lambda: MLP(hidden=[8]).build((3, 4), 5), (3, 4), "opacus"),
    "lenet5": (lambda: LeNet5().build((1, 28, 28), 5), (1, 28, 28), "opacus"),
    "resnet8": (lambda: ResNet8(width=4, groups=2).build((3, 8, 8), 5), (3, 8, 8), "opacus"),
    "char_gru": (lambda: CharGRU(hidden=8).build((6,), TOKENS), None, "vmap"),
    "two ways through a GRU": (lambda: recurrent(nn.GRU, num_layers=2, bidirectional=True), None, "vmap"),
    "LSTM": (lambda: recurrent(nn.LSTM), None, "vmap"),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 7)), None, "opacus"),
    "padding": (lambda: nn.Sequential(nn.Embedding(9, 4, padding_idx=8), nn.Linear(4, TOKENS)), None, "vmap"),
    "in place": (lambda: vector(nn.Linear(12, 8), nn.ReLU(inplace=True), nn.Linear(8, 5)), (3, 4), "opacus"),
    "no bias, part frozen": (
        lambda: vector(nn.Linear(12, 8).requires_grad_(False), nn.Linear(8, 6, bias=False), nn.Tanh(), nn.Linear(6, 5)),
        (3, 4),
        "opacus",
    ),
    "layers of one axis": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 2, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(20, 5)),
        (3, 4),
        "vmap",
    ),
    "groups and strides": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, dilation=2), nn.InstanceNorm2d(4, affine=True),
            nn.Flatten(), nn.Linear(36, 5),
        ),
        (2, 8, 8),
        "opacus",
    ),
    "attention": (
        lambda: nn.Sequential(
            nn.Embedding(TOKENS, 8), nn.TransformerEncoderLayer(8, 2, 8, 0.0, batch_first=True), nn.Linear(8, TOKENS)
        ),
        None,
        "vmap",
    ),
    "own weight": (Line, (3, 4), "vmap"),
    "layer used twice": (Twice, (3, 4), "opacus"),
    "tied weights": (Tied, None, "opacus"),
    "weight used behind its layer": (Behind, None, "vmap"),
    "data decide": (Choosy, (3, 4), "loop"),
    "examples mixed": (Centred, (3, 4), "vmap"),
    "examples mixed a little": (lambda: Centred(share=1e-5), (3, 4), "vmap"),
    "examples mixed unseen by autograd": (lambda: Centred(seen=False), (3, 4), "vmap"),
    "examples mixed in training": (lambda: Centred(always=False), (3, 4), "vmap"),
    "examples mixed in training, unseen": (lambda: Centred(always=False, seen=False), (3, 4), "vmap"),
}  # fmt: skip


def made(
    module: nn.Module,
    shape: tuple[int, ...] | None,
    dtype: torch.dtype = torch.float64,
    clip: float = 1.0,
    **changes: Any,
) -> tuple[ExampleGradients, Tensor, Tensor]:
    """Gradients of a module, and seven random items."""
    torch.manual_seed(1)
    if shape is None:
        inputs, labels = torch.randint(0, TOKENS, (7, 6)), torch.randint(0, TOKENS, (7, 6))
    else:
        inputs, labels = torch.randn(7, *shape, dtype=dtype), torch.randint(0, 5, (7,))
    resident = Resident(module, Layout.of(module), dtype)
    examples = ExampleGradients(resident, changes.pop("smoothing", 0.0), clip, inputs, labels)
    resident.module.train()
    return examples, inputs, labels


def build(name: str) -> tuple[nn.Module, tuple[int, ...] | None, str]:
    torch.manual_seed(0)
    make, shape, route = MODULES[name]
    return make(), shape, route


def transcribed(module: nn.Module, inputs: Tensor, labels: Tensor, clip: float, smoothing: float = 0.0) -> Tensor:
    """sum_i g_i min(1, C / ||g_i||), item by item, as one says it."""
    trained = [p for p in module.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in trained), dtype=torch.float64)
    for i in range(len(inputs)):
        loss = cross_entropy(module(inputs[i : i + 1]).flatten(0, -2), labels[i].flatten(), label_smoothing=smoothing)
        found = torch.autograd.grad(loss, trained, allow_unused=True)
        flat = [torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(found, trained, strict=True)]
        gradient = torch.cat([part.double() for part in flat])
        total += gradient * min(1.0, clip / float(gradient.norm()))
    return total
