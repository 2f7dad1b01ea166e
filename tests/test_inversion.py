"""Gradient inversion: exact where it can be exact, and what the three adversaries see is what is sent."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from command_line import command_line  # noqa: F401 - the fixture `call`
from torch import nn
from torch.nn.functional import cross_entropy

from gossamer.accounting import gaussian_epsilon
from gossamer.audits import drawing
from gossamer.audits.inversion import (
    _batch,
    _changes,
    _first_step,
    _noisy,
    inversion,
    matched,
    noise_of_one,
    psnr,
)
from gossamer.audits.matching import Given, quotients, reconstruct, variation
from gossamer.data import Dataset
from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.federation import Federation

SMALL = {"nodes": 6, "partition": "iid", "backend": "eager"}


def given_of(module, inputs, labels):
    """What an adversary starts from who sees the gradient of a batch."""
    parameters = list(module.parameters())
    gradient = torch.autograd.grad(cross_entropy(module(inputs), labels), parameters)
    low, high = (torch.full((inputs.shape[1], 1, 1), value) for value in (0.0, 1.0))
    return Given(module, parameters, gradient, labels, low, high)


def dense(hidden, classes=10, pixels=64):
    torch.manual_seed(0)
    first = [nn.Flatten(), nn.Linear(pixels, hidden or classes)]
    return nn.Sequential(*first, *([nn.ReLU(), nn.Linear(hidden, classes)] if hidden else []))


def images(count, seed=0, side=8):
    return torch.rand((count, 1, side, side), generator=torch.Generator().manual_seed(seed))


# ---- how close ---------------------------------------------------------------------------------------------------


def test_psnr_of_known_errors():
    original = np.full((1, 4, 4), 0.5)
    assert psnr(original + 0.1, original) == pytest.approx(20.0)
    assert psnr(original - 0.01, original) == pytest.approx(40.0)
    assert psnr(original, original) == 60.0
    one_pixel = original.copy()
    one_pixel[0, 0, 0] += 0.4
    assert psnr(one_pixel, original) == pytest.approx(-10 * math.log10(0.16 / 16))
    rounded = np.rint(np.random.default_rng(0).random((1, 64, 64)) * 255) / 255
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, rounded.shape) / 255
    assert psnr(rounded + noise, rounded) == pytest.approx(58.9, abs=0.1), "bytes"


def test_images_are_matched_to_the_originals_they_fit():
    rng = np.random.default_rng(0)
    originals = rng.random((5, 1, 8, 8))
    order = rng.permutation(5)
    found, each = matched(originals[order] + 0.1, originals)
    np.testing.assert_allclose(found, originals + 0.1)
    np.testing.assert_allclose(each, 20.0)


# ---- from a gradient -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 32])
def test_one_item_is_the_quotient_of_a_dense_layers_gradients(hidden):
    inputs = images(1)
    (found,) = quotients(given_of(dense(hidden), inputs, torch.tensor([3])), (1, 8, 8))
    torch.testing.assert_close(found, inputs[0], rtol=1e-4, atol=1e-5)


def test_items_that_silent_neurons_give_away_come_out_exactly():
    inputs, labels = images(3), torch.tensor([1, 5, 5])
    found, apart = reconstruct(given_of(dense(256), inputs, labels), (1, 8, 8), steps=1, restarts=1, seed=0)
    _, each = matched(found.numpy(), inputs.numpy())
    assert (each > 55).all()
    assert apart < 1e-4


def test_quotients_need_a_dense_first_layer():
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))
    without_bias = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    for module in (convolution, without_bias):
        assert quotients(given_of(module, images(2), torch.tensor([0, 1])), (1, 8, 8)) == []


def test_a_convolution_is_inverted_by_matching():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(512, 10))
    inputs, labels = images(2), torch.tensor([2, 7])
    given = given_of(module, inputs, labels)
    found, apart = reconstruct(given, (1, 8, 8), steps=250, restarts=1, seed=0)
    assert matched(found.numpy(), inputs.numpy())[1].mean() > 20
    assert apart == pytest.approx(float(given.apart(given.gradient_of(found, labels))))
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    again, _ = reconstruct(given, (1, 8, 8), steps=250, restarts=1, seed=0)
    assert torch.equal(found, again)
    nothing = given_of(module, images(2, seed=9), labels)
    other, _ = reconstruct(nothing, (1, 8, 8), steps=250, restarts=1, seed=0)
    assert matched(other.numpy(), inputs.numpy())[1].mean() < 12, "another gradient gives other images"


def test_distance_of_gradients_and_variation():
    given = given_of(dense(0), images(2), torch.tensor([0, 1]))
    doubled, turned = [2 * part for part in given.gradient], [-part for part in given.gradient]
    assert float(given.apart(doubled)) == pytest.approx(0, abs=1e-6)
    assert float(given.apart(turned)) == pytest.approx(2, abs=1e-6)
    slope = torch.arange(4.0).expand(1, 1, 4, 4)
    assert float(variation(slope)) == pytest.approx(1.0)
    assert float(variation(slope.mT)) == pytest.approx(1.0)
    assert float(variation(torch.ones(1, 1, 4, 4))) == 0


# ---- what is seen --------------------------------------------------------------------------------------------------


def test_a_change_is_the_gradient_of_the_batch_and_the_sum_that_of_all():
    experiment = _first_step(Experiment(**SMALL), 4)
    federation = Federation(experiment)
    start, module = federation.resident.row.clone(), federation.resident.module
    batches = [_batch(federation, node) for node in range(6)]
    assert [len(batch) for batch in batches] == [4] * 6
    changes, mean_T = _changes(federation)
    federation.resident.load(start)

    def gradient(items):
        loss = cross_entropy(module(federation.items.inputs[items]), federation.items.labels[items])
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, federation.resident.trained)])

    lr = experiment.learner.lr
    for change, batch in zip(changes, batches, strict=True):
        torch.testing.assert_close(change, -lr * gradient(batch), rtol=1e-4, atol=1e-7)
    weights = torch.tensor(federation.shards.sizes) / sum(federation.shards.sizes)
    expected = sum(weight * gradient(batch) for weight, batch in zip(weights, batches, strict=True))
    torch.testing.assert_close(mean_T, -lr * expected, rtol=1e-4, atol=1e-7)


def test_noise_is_the_least_that_gives_epsilon_and_has_that_size():
    for epsilon, delta in ((8.0, 1e-5), (1.0, 1e-6)):
        assert gaussian_epsilon(noise_of_one(epsilon, delta), 1, delta) == pytest.approx(epsilon, rel=1e-6)
    change_T = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    norm = float(change_T.norm())
    noise_T = _noisy(change_T, 0.6, 2, seed=0) - change_T
    assert float(noise_T.std()) == pytest.approx(0.6 * norm, rel=0.02)
    assert not torch.equal(noise_T, _noisy(change_T, 0.6, 3, seed=0) - change_T)


def test_a_message_gives_images_away_and_a_sum_and_noise_keep_them():
    # Twelve nodes, so that the mean picture explains a sum about as well as anything.
    audit = inversion(Experiment(**{**SMALL, "nodes": 12}), node=3, steps=150, restarts=1)
    message, secure, noise = audit.views
    assert [view.name for view in audit.views] == ["message", "secure sum", "noise"]
    assert message.psnr_B.mean() > 20
    assert message.anybody == 4
    assert noise.psnr_B.mean() < 10
    assert noise.anybody == 0
    assert secure.psnr_B.mean() < message.psnr_B.mean() - 8
    assert secure.psnr_B.mean() < audit.mean_psnr + 3
    for view in audit.views:
        np.testing.assert_allclose(view.psnr_B, psnr(view.images_B, audit.originals_B))
        assert view.images_B.min() >= 0
        assert view.images_B.max() <= 1
    again = inversion(Experiment(**{**SMALL, "nodes": 12}), node=3, steps=150, restarts=1)
    assert all((a.images_B == b.images_B).all() for a, b in zip(audit.views, again.views, strict=True))


def coloured(dtype):
    """Sixty images of three channels, and twenty for the test: bytes, or numbers of -2..3.1."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (80, 3, 6, 6)).astype(np.uint8)
    values = pixels if dtype == np.uint8 else (pixels / 50 - 2).astype(dtype)
    return Dataset.of(values[:60], np.arange(60) % 4, values[60:], np.arange(20) % 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
@pytest.mark.parametrize("normalise", ["none", "shared", "per_node"])
def test_originals_are_the_pixels_of_the_data(dtype, normalise):
    data = coloured(dtype)
    experiment = Experiment(data=data, nodes=3, partition="iid", preprocess={"normalise": normalise}, dtype="float64")
    audit = inversion(experiment, items=2, steps=1, restarts=1)
    raw = data.train.inputs.astype(float)
    pixels = (raw - raw.min()) / (raw.max() - raw.min())
    away = np.abs(pixels[None] - audit.originals_B[:, None]).max(axis=(2, 3, 4))
    assert away.min(axis=1) == pytest.approx(0, abs=1e-6)
    assert (data.train.labels[away.argmin(axis=1)] == audit.labels_B).all()
    assert audit.view("message").psnr_B == pytest.approx(60.0), "a dense layer, and neurons enough"
    drawing.inversion(audit)


def test_references_are_what_guessing_is_worth():
    data = coloured(np.uint8)
    audit = inversion(Experiment(data=data, nodes=3, partition="iid"), items=1, steps=1, restarts=1)
    test = data.test.inputs / 255
    assert audit.mean_psnr == pytest.approx(float(psnr(test.mean(axis=0), audit.originals_B[0])), abs=1e-3)
    # Of uniform pixels: 12 times a variance is 1, and two of them are twice as far apart as one from the mean.
    assert audit.mean_psnr == pytest.approx(10 * math.log10(12), abs=0.7)
    assert audit.other_psnr == pytest.approx(10 * math.log10(6), abs=0.5)


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({}, {"node": 6}, "node = 6: nodes are 0..5"),
        ({}, {"node": -1}, "node = -1: nodes are 0..5"),
        ({}, {"items": 0}, "items = 0: give 1 or more"),
        ({}, {"items": 900}, "items = 900: node 0 holds 216 training items"),
        ({}, {"epsilon": 0.0}, "epsilon = 0: give a number above 0"),
        ({"data": Dataset.of(np.eye(20), np.arange(20) % 2, np.eye(20), np.arange(20) % 2)}, {},
         "data 'own': inversion is of images, but its inputs have shape [20]"),
        ({"data": Dataset.of(np.ones((20, 1, 4, 4)), np.arange(20) % 2, np.ones((2, 1, 4, 4)), np.arange(2))}, {},
         "data 'own': all pixels of all images are 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_inverted_is_named(changes, words, message):
    with pytest.raises(ExperimentError) as caught:
        inversion(Experiment(**{**SMALL, **changes}), **words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_tells_three_views_and_draws(call, tmp_path):
    (tmp_path / "small.toml").write_text('nodes = 5\npartition = "iid"\nbackend = "eager"\n')
    words = ["audit", "inversion", "small.toml", "--steps", "30", "--restarts", "1", "--items", "2", "--node", "1"]
    code, out, err = call(*words, "--save", "pictures/leak.svg", "--seeds", "0,1")
    assert code == 0
    for head in ("from its message", "from the sum of 5 nodes", "from a noisy message", "the mean picture"):
        assert head in out
    assert "[2/2] experiment, seed 1: reconstructing 2 images of node 1" in err
    assert "<svg" in (tmp_path / "pictures" / "leak.svg").read_text()[:600]
    told = json.loads(call(*words, "--json")[1])
    (audit,) = told["audits"]
    assert audit["views"].keys() == {"message", "secure sum", "noise"}
    each = audit["views"]["message"]["psnr_of_each"]
    assert audit["views"]["message"]["psnr"] == pytest.approx(sum(each) / 2)
    assert not (tmp_path / "runs").exists(), "nothing is run"


def test_what_the_command_refuses_is_one_line(call, tmp_path):
    (tmp_path / "small.toml").write_text("nodes = 5\n")
    for words, message in (
        (["--node", "9"], "node = 9"),
        (["--save", "x.gif"], "--save x.gif"),
        (["--arm", "a"], "--arm a"),
    ):
        code, out, err = call("audit", "inversion", "small.toml", *words)
        assert (code, out) == (2, "")
        assert message in err.splitlines()[-1]
