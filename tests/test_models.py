"""Models: parameter counts by closed form, agreement with their formulas written out, refusal of unsuitable shapes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gossamer.errors import ExperimentError
from gossamer.layout import Layout
from gossamer.models import Model
from gossamer.models.char_gru import CharGRU
from gossamer.models.fedavg_cnn import FedAvgCNN
from gossamer.models.lenet5 import LeNet5
from gossamer.models.mlp import MLP
from gossamer.models.resnet8 import ResNet8
from gossamer.models.softmax_regression import SoftmaxRegression

Shape = tuple[int, ...]

CASES: list[tuple[Model, Shape]] = [
    (SoftmaxRegression(), (7,)),
    (SoftmaxRegression(), (3, 5, 4)),
    (MLP(hidden=(9, 6)), (1, 8, 8)),
    (LeNet5(), (1, 28, 28)),
    (LeNet5(), (3, 32, 32)),
    (FedAvgCNN(), (1, 28, 28)),
    (FedAvgCNN(), (3, 9, 14)),
    (ResNet8(), (3, 32, 32)),
    (ResNet8(width=6, groups=3), (1, 8, 11)),
    (CharGRU(), (20,)),
    (CharGRU(embedding=3, hidden=5, layers=2), (4,)),
]
IDS = [f"{model.kind}-{'x'.join(map(str, shape))}" for model, shape in CASES]


def built(model: Model, shape: Shape, classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return model.build(shape, classes).double()


def inputs(model: Model, shape: Shape, items: int = 3, classes: int = 10) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    if model.kind == "char_gru":
        return torch.randint(classes, (items, *shape), generator=draw)
    return torch.randn(items, *shape, generator=draw, dtype=torch.float64)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def dense(before: int, after: int) -> int:
    return before * after + after


@pytest.mark.parametrize(("model", "shape"), CASES, ids=IDS)
@pytest.mark.parametrize("classes", [2, 10])
def test_logits_have_one_number_for_each_class(model: Model, shape: Shape, classes: int) -> None:
    logits = built(model, shape, classes)(inputs(model, shape, classes=classes))
    expected = (3, *shape, classes) if model.kind == "char_gru" else (3, classes)
    assert logits.shape == expected


@pytest.mark.parametrize(("model", "shape"), CASES, ids=IDS)
def test_an_item_does_not_see_the_rest_of_its_batch(model: Model, shape: Shape) -> None:
    module, batch = built(model, shape), inputs(model, shape)
    alone = torch.cat([module(batch[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(module(batch), alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("model", "shape"), CASES, ids=IDS)
def test_all_of_a_row_is_trainable_and_gets_a_gradient(model: Model, shape: Shape) -> None:
    module = built(model, shape)
    layout = Layout.of(module)
    assert layout.trainable == layout.size == count(module)
    module(inputs(model, shape)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize(("model", "shape"), CASES, ids=IDS)
def test_shapes_can_be_checked_without_memory(model: Model, shape: Shape) -> None:
    module = model.build(shape, 10).to("meta")
    dtype = torch.int64 if model.kind == "char_gru" else torch.float32
    assert module(torch.empty(2, *shape, dtype=dtype, device="meta")).shape[-1] == 10


def test_published_parameter_counts() -> None:
    assert count(LeNet5().build((1, 28, 28), 10)) == 61_706
    assert count(FedAvgCNN().build((1, 28, 28), 10)) == 1_663_370  # McMahan et al. 2017, Section 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [10, 62])
def test_parameter_counts_of_convolutional_networks(channels: int, classes: int) -> None:
    lenet = 25 * channels * 6 + 6 + 25 * 6 * 16 + 16 + dense(400, 120) + dense(120, 84) + dense(84, classes)
    for side in (28, 32):
        assert count(LeNet5().build((channels, side, side), classes)) == lenet
    convolutions = 25 * channels * 32 + 32 + 25 * 32 * 64 + 64
    assert count(FedAvgCNN().build((channels, 32, 24), classes)) == (
        convolutions + dense(64 * 8 * 6, 512) + dense(512, classes)
    )


@pytest.mark.parametrize("shape", [(7,), (3, 5, 4)])
def test_parameter_count_of_softmax_regression(shape: Shape) -> None:
    assert count(SoftmaxRegression().build(shape, 10)) == dense(math.prod(shape), 10)


@pytest.mark.parametrize("width", [8, 16])
def test_parameter_count_of_resnet8(width: int) -> None:
    w = width
    stem = 9 * 3 * w + 2 * w
    first = 2 * 9 * w * w + 4 * w

    def widening(before: int) -> int:
        after = 2 * before
        return 9 * before * after + 9 * after * after + 4 * after + before * after + 2 * after

    expected = stem + first + widening(w) + widening(2 * w) + dense(4 * w, 10)
    assert count(ResNet8(width=width).build((3, 32, 32), 10)) == expected


@pytest.mark.parametrize(("embedding", "hidden", "layers"), [(8, 128, 1), (3, 5, 3)])
def test_parameter_count_of_the_gru(embedding: int, hidden: int, layers: int) -> None:
    gates = sum(3 * (hidden * (embedding if k == 0 else hidden) + hidden * hidden + 2 * hidden) for k in range(layers))
    module = CharGRU(embedding=embedding, hidden=hidden, layers=layers).build((20,), 80)
    assert count(module) == 80 * embedding + gates + dense(hidden, 80)


def test_softmax_regression_is_one_matrix_product() -> None:
    model, shape = SoftmaxRegression(), (3, 5, 4)
    module, batch = built(model, shape), inputs(model, shape)
    weight, bias = module.parameters()
    torch.testing.assert_close(module(batch), batch.reshape(3, -1) @ weight.T + bias)


def test_lenet_on_28x28_is_lenet_on_the_image_with_a_black_border() -> None:
    small, large = built(LeNet5(), (1, 28, 28)), built(LeNet5(), (1, 32, 32))
    large.load_state_dict(small.state_dict())
    images = inputs(LeNet5(), (1, 28, 28))
    torch.testing.assert_close(small(images), large(F.pad(images, (2, 2, 2, 2))))


def test_convolutional_networks_follow_their_layer_lists() -> None:
    for model, shape, padding in ((LeNet5(), (1, 28, 28), (2, 0)), (FedAvgCNN(), (1, 28, 28), (2, 2))):
        module, images = built(model, shape), inputs(model, shape)
        weights = list(module.parameters())
        x = F.max_pool2d(F.conv2d(images, weights[0], weights[1], padding=padding[0]).relu(), 2)
        x = F.max_pool2d(F.conv2d(x, weights[2], weights[3], padding=padding[1]).relu(), 2).flatten(1)
        for k in range(4, len(weights), 2):
            x = x @ weights[k].T + weights[k + 1]
            x = x.relu() if k + 2 < len(weights) else x
        torch.testing.assert_close(module(images), x)


def test_resnet8_follows_its_formula() -> None:
    model = ResNet8(width=4, groups=2)
    module, images = built(model, (3, 32, 32)), inputs(model, (3, 32, 32))
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype))
    weights = iter(module.parameters())

    def convolve(x: Tensor, stride: int = 1) -> Tensor:
        kernel = next(weights)
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        grouped = x.reshape(len(x), 2, -1)
        normal = (grouped - grouped.mean(-1, keepdim=True)) / (
            grouped.var(-1, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        return normal.reshape(x.shape) * next(weights)[:, None, None] + next(weights)[:, None, None]

    x = convolve(images).relu()
    for stride in (1, 2, 2):
        body = convolve(convolve(x, stride).relu())
        x = (body + (x if stride == 1 else convolve(x, stride))).relu()
    assert x.shape == (3, 16, 8, 8)
    logits = x.mean((2, 3)) @ next(weights).T + next(weights)
    torch.testing.assert_close(module(images), logits)


def test_the_gru_follows_its_formula() -> None:
    model = CharGRU(embedding=3, hidden=5)
    module, tokens_BL = built(model, (6,)), inputs(model, (6,))
    embedding, w_input, w_state, b_input, b_state, w_output, b_output = module.parameters()
    state = torch.zeros(3, 5, dtype=torch.float64)
    logits = []
    for t in range(6):
        r_in, z_in, n_in = (embedding[tokens_BL[:, t]] @ w_input.T + b_input).chunk(3, dim=1)
        r_old, z_old, n_old = (state @ w_state.T + b_state).chunk(3, dim=1)
        keep = torch.sigmoid(z_in + z_old)
        new = torch.tanh(n_in + torch.sigmoid(r_in + r_old) * n_old)
        state = (1 - keep) * new + keep * state
        logits.append(state @ w_output.T + b_output)
    torch.testing.assert_close(module(tokens_BL), torch.stack(logits, dim=1))


def test_the_gru_does_not_look_ahead() -> None:
    model = CharGRU(layers=2)
    module, tokens_BL = built(model, (9,)), inputs(model, (9,))
    changed_BL = tokens_BL.clone()
    changed_BL[:, 5] = (changed_BL[:, 5] + 1) % 10
    before, after = module(tokens_BL), module(changed_BL)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=0)
    assert (before[:, 5:] != after[:, 5:]).any()


@pytest.mark.parametrize(
    ("model", "shape", "instead"),
    [
        (SoftmaxRegression(), (), "model.file"),
        (LeNet5(), (1, 8, 8), "mlp"),
        (LeNet5(), (1, 28, 32), "fedavg_cnn"),
        (LeNet5(), (28, 28), "mlp"),
        (FedAvgCNN(), (64,), "softmax_regression"),
        (FedAvgCNN(), (1, 3, 28), "mlp"),
        (ResNet8(), (14,), "mlp"),
        (ResNet8(), (3, 32, 7), "mlp"),
        (CharGRU(), (1, 28, 28), "lenet5"),
    ],
)
def test_unsuitable_shapes_are_refused(model: Model, shape: Shape, instead: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        model.build(shape, 10)
    text = str(caught.value)
    assert f"model.kind = '{model.kind}'" in text
    assert str(shape) in text
    assert f"'{instead}'" in text or instead in text
    assert "\n" not in text


def test_groups_must_divide_the_width() -> None:
    with pytest.raises(ExperimentError, match=r"model\.groups = 5 does not divide model\.width = 16; use groups = 4"):
        ResNet8(groups=5).build((3, 32, 32), 10)


@pytest.mark.parametrize("values", [{"width": 0}, {"groups": 0}])
def test_resnet8_refuses_sizes_below_one(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        ResNet8(**values)
