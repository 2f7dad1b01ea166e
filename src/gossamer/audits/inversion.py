"""Gradient inversion: the images that a node held, reconstructed from the message that it sends.

The worst case for the node: one step of plain SGD on a few images in the first round, so that what it changed is their
gradient, and an adversary who knows the model, the labels and how inputs are normalised. Three adversaries differ in
what they see:

    message      what the node sends
    secure sum   the mean of what all nodes send, as a server that sums in secret sees it
    noise        what the node sends under local differential privacy

B images [B, F, H, W] in 0..1; T trained numbers of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.audits.matching import Given, reconstruct
from gossamer.errors import ExperimentError
from gossamer.groundwork import load_dataset
from gossamer.normalisation import moments, pooled_moments
from gossamer.randomness import generator
from gossamer.rounds import one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.data import Dataset
    from gossamer.experiment import Experiment
    from gossamer.federation import Federation
    from gossamer.normalisation import Moments

Array = np.ndarray[Any, Any]

PERFECT = 60.0
"""dB: a peak signal-to-noise ratio above this counts as this; rounding to bytes alone leaves 59."""
SEEN = 20.0
"""dB from which on an image counts as reconstructed."""
DRAWS = 100
"""How often other images are drawn, for what guessing is worth."""
VIEWS = ("message", "secure sum", "noise")


@dataclass(frozen=True)
class View:
    """What one adversary reconstructed."""

    name: str
    images_B: Array
    """Each in the place of the original that it is taken for."""
    psnr_B: Array
    """dB, against the originals."""
    apart: float
    """How far the gradient of the images is from what was seen: 1 - cosine."""
    anybody: int
    """How many of the images are one of those that are in what was seen, whoever held it: 20 dB or more."""


@dataclass(frozen=True)
class InversionAudit:
    """What three adversaries make of what they see of one node."""

    experiment: Experiment
    """What was asked."""
    node: int
    nodes: int
    originals_B: Array
    labels_B: Array
    views: tuple[View, ...]
    mean_psnr: float
    """dB that the mean of all test images has against the originals: what is known without seeing anything."""
    other_psnr: float
    """dB that as many test images have, drawn at random."""
    epsilon: float
    """Of the third view, for one message."""
    noise_multiplier: float
    """Of the third view: standard deviation of the noise over the norm of what is sent."""

    def view(self, name: str) -> View:
        """One of the views by its name."""
        return next(view for view in self.views if view.name == name)


@dataclass(frozen=True)
class _Pixels:
    """How inputs of a model become pixels in 0..1: of the range of the raw inputs, normalised."""

    low: float
    high: float
    of: Moments

    def inputs(self, pixels: float) -> Tensor:
        """[F, 1, 1]: the input that a pixel becomes, of each channel."""
        import torch

        raw = self.low + pixels * (self.high - self.low)
        return torch.from_numpy((raw - self.of.mean_F) / self.of.std_F)[:, None, None]

    def images(self, inputs_B: Tensor) -> Array:
        """Inputs as images in 0..1, float64."""
        raw = inputs_B.double().numpy() * self.of.std_F[:, None, None] + self.of.mean_F[:, None, None]
        return np.clip((raw - self.low) / (self.high - self.low), 0.0, 1.0)


def inversion(
    experiment: Experiment,
    node: int = 0,
    items: int = 4,
    *,
    steps: int = 1000,
    restarts: int = 2,
    epsilon: float = 8.0,
    delta: float = 1e-5,
) -> InversionAudit:
    """Reconstruct the images on which a node takes its first step, from three views of what it sends.

    The data, their split, the model and its start are those of the experiment, the local work is one step of plain SGD
    on so many items, and what is sent is the change, whatever else the experiment does to it. The noise of the third
    view is the least for (epsilon, delta) in one message, which is clipped at its own norm: nothing is cut away.
    Attacks begin `restarts` times at random and take `steps` steps each. Raises ExperimentError where the data are no
    images, there is no such node, or it holds fewer items.
    """
    from gossamer.federation import Federation

    dataset = load_dataset(experiment)
    if dataset.train.inputs.ndim != 4:
        shape = list(dataset.train.inputs.shape[1:])
        raise ExperimentError(f"data '{dataset.name}': inversion is of images, but its inputs have shape {shape}")
    if items < 1:
        raise ExperimentError(f"items = {items}: give 1 or more")
    with one_thread():
        federation = Federation(_first_step(experiment, items))
        held = federation.shards.train
        if not 0 <= node < len(held):
            raise ExperimentError(f"node = {node}: nodes are 0..{len(held) - 1}")
        if items > len(held[node]):
            raise ExperimentError(f"items = {items}: node {node} holds {len(held[node])} training items")
        pixels = _Pixels(*_range(dataset), _moments(federation, dataset, node))
        start_T = federation.resident.row[: federation.layout.trainable].clone()
        batches = [_batch(federation, one) for one in range(len(held))]
        changes, mean_T = _changes(federation)
        noise = noise_of_one(epsilon, delta)
        seen = (changes[node], mean_T, _noisy(changes[node], noise, node, experiment.seed))
        everything = pixels.images(federation.items.inputs[np.concatenate(batches)])
        originals_B = pixels.images(federation.items.inputs[batches[node]])
        views = []
        for name, change_T in zip(VIEWS, seen, strict=True):
            given = _given(federation, start_T, change_T, batches[node], pixels)
            inputs_B, apart = reconstruct(given, originals_B.shape[1:], steps, restarts, experiment.seed)
            images_B, psnr_B = matched(pixels.images(inputs_B), originals_B)
            there = everything if name == "secure sum" else originals_B
            anybody = int(np.count_nonzero(psnr(images_B[:, None], there[None]).max(1) >= SEEN))
            views.append(View(name, images_B, psnr_B, max(0.0, apart), anybody))
    return InversionAudit(
        experiment,
        node,
        len(held),
        originals_B,
        federation.shards.labels[batches[node]],
        tuple(views),
        *_guessing(pixels.images(federation.items.test_inputs), originals_B, experiment.seed),
        epsilon,
        noise,
    )


# ---- what is sent --------------------------------------------------------------------------------------------------


def _first_step(experiment: Experiment, items: int) -> Experiment:
    """The first step of FedAvg on the experiment's data and model, with nothing done to messages."""
    kept = ("name", "seed", "nodes", "dtype", "data_folder", "data", "partition", "validation", "model", "init")
    preprocess = experiment.preprocess.model_copy(update={"crop": 0, "flip": False})
    learner = {"kind": "sgd", "lr": experiment.learner.lr, "batch_size": items, "steps": 1}
    return type(experiment)(
        **{name: getattr(experiment, name) for name in kept}, preprocess=preprocess, learner=learner, rounds=1
    )


def _batch(federation: Federation, node: int) -> Array:
    """The items of a node's first step."""
    experiment = federation.experiment
    return federation.items.round_batches(experiment.seed, node, 0, experiment.learner, None)[0].numpy()


def _changes(federation: Federation) -> tuple[list[Tensor], Tensor]:
    """What each node's first step changed [T], and the mean of all, each with its weight, as the server takes it."""
    import torch

    trained, everybody = slice(0, federation.layout.trainable), np.arange(federation.nodes)
    sent = [federation.local_work(node, 0, everybody) for node in range(federation.nodes)]
    changes = [message["delta"][trained].clone() for _, message in sent]
    weights = torch.tensor([outcome.weight for outcome, _ in sent], dtype=torch.float64)
    mean_T = torch.stack(changes).double().T @ (weights / weights.sum())
    return changes, mean_T.to(changes[0].dtype)


def _noisy(change_T: Tensor, noise: float, node: int, seed: int) -> Tensor:
    """A change as local differential privacy lets it out."""
    from gossamer.privacy import Place
    from gossamer.privacy.local import Local

    mechanism = Local(clip=float(change_T.double().norm()) or 1.0, noise_multiplier=noise)
    place = Place(node, node + 1, lambda: np.empty(0, np.int64), lambda purpose, who: generator(seed, purpose, who, 0))
    return mechanism.changed(change_T, noise, place)


def noise_of_one(epsilon: float, delta: float) -> float:
    """The least noise multiplier that gives (epsilon, delta) to one message. Raises ExperimentError."""
    from scipy.optimize import brentq

    from gossamer.accounting import gaussian_epsilon

    if not 0 < epsilon < math.inf:
        raise ExperimentError(f"epsilon = {epsilon:g}: give a number above 0, such as 8")
    return float(brentq(lambda z: gaussian_epsilon(z, 1, delta) - epsilon, 0.01, 1e6, xtol=1e-9))


def _given(federation: Federation, start_T: Tensor, change_T: Tensor, batch: Array, pixels: _Pixels) -> Given:
    """What the adversary starts from: the change of one step of SGD is the gradient times -lr."""
    resident, lr = federation.resident, federation.experiment.learner.lr
    resident.row[: len(start_T)] = start_T
    module = resident.module.train()
    gradient = [
        part.view_as(parameter)
        for part, parameter in zip(resident.split(-change_T / lr), resident.trained, strict=True)
    ]
    low, high = (pixels.inputs(pixel).to(change_T.dtype) for pixel in (0.0, 1.0))
    return Given(module, resident.trained, gradient, federation.items.labels[batch], low, high)


# ---- pictures and how close they are -------------------------------------------------------------------------------


def _range(dataset: Dataset) -> tuple[float, float]:
    """The range of raw inputs: 0..1 for bytes, which are taken as fractions of 255, else from the smallest to the
    largest. Raises ExperimentError where all are the same."""
    raw = dataset.train.inputs
    if raw.dtype == np.uint8:
        return 0.0, 1.0
    low, high = float(raw.min()), float(raw.max())
    if low == high:
        raise ExperimentError(f"data '{dataset.name}': all pixels of all images are {low:g}")
    return low, high


def _moments(federation: Federation, dataset: Dataset, node: int) -> Moments:
    """Mean and standard deviation by which a node's inputs are normalised."""
    shards, normalise = federation.shards, federation.experiment.preprocess.normalise
    if shards.node_affine is not None:
        return moments(dataset.train.inputs, shards.train[node])
    return pooled_moments(dataset, normalise, shards.train, shards.draw_NC)


def psnr(images: Array, originals: Array) -> Array:
    """Peak signal-to-noise ratio of images in 0..1, over the last three dimensions: -10 log10 of the mean squared
    error, in dB, 60 at the most."""
    error: Array = np.square(images - originals).mean(axis=(-3, -2, -1))
    return -10 * np.log10(np.maximum(error, 10 ** (-PERFECT / 10)))


def matched(images_B: Array, originals_B: Array) -> tuple[Array, Array]:
    """The images in the order of the originals that they fit best, one each, and the PSNR of each pair."""
    from scipy.optimize import linear_sum_assignment

    pairs_BB = psnr(images_B[:, None], originals_B[None])
    taken, places = linear_sum_assignment(-pairs_BB)
    order_B = taken[np.argsort(places)]
    return images_B[order_B], pairs_BB[order_B, np.arange(len(originals_B))]


def _guessing(test: Array, originals_B: Array, seed: int) -> tuple[float, float]:
    """The mean PSNR of the mean test image, and of as many test images drawn at random, matched like an attack's."""
    mean = float(psnr(test.mean(axis=0), originals_B).mean())
    rng, count = generator(seed, "other images"), len(originals_B)
    drawn = [test[rng.choice(len(test), size=count, replace=len(test) < count)] for _ in range(DRAWS)]
    return mean, float(np.mean([matched(images, originals_B)[1].mean() for images in drawn]))
