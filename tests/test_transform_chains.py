"""Transforms one after the other: which may follow which, what comes through, and what a sender remembers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transform_table import CASES, LINES, Link, flat, message, same, signature

from gossamer import wire
from gossamer.errors import ExperimentError
from gossamer.passages import check_steps
from gossamer.transforms import (
    NF4,
    QSGD,
    Cast,
    Choco,
    Clip,
    ErrorFeedback,
    RandomK,
    Sign,
    TopK,
    Transform,
    Zstd,
    numbers,
)

ORDER = ["whole", "numbers", "codes", "bytes"]
FIRST = {step.kind: step for step, _ in reversed(CASES)}
"""One setting of each kind."""


def allowed(kinds: tuple[str, ...]) -> bool:
    """By the table: no step needs more than is left."""
    left = 0
    for kind in kinds:
        if ORDER.index(LINES[kind].needs) < left:
            return False
        left = max(left, ORDER.index(LINES[kind].leaves))
    return True


@pytest.mark.parametrize("length", [1, 2, 3])
def test_which_may_follow_which(length: int) -> None:
    """All chains of so many kinds; one that cannot be is refused by the name of the step that finds too little."""
    for kinds in itertools.product(LINES, repeat=length):
        steps = [(f"transforms[{n}] ({kind})", FIRST[kind]) for n, kind in enumerate(kinds)]
        if allowed(kinds):
            check_steps(steps, "the method")
            continue
        least = next(n for n in range(length) if not allowed(kinds[: n + 1]))
        with pytest.raises(ExperimentError) as refusal:
            check_steps(steps, "the method")
        assert str(refusal.value).startswith(f"transforms[{least}] ({kinds[least]})")
        assert "\n" not in str(refusal.value)


def test_nothing_follows_a_step_of_unknown_length() -> None:
    """Its receiver could not know the lengths of what it is to make."""
    for step, _ in CASES:
        assert step.fixed or step.leaves == "bytes"
        assert step.needs != "bytes"


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (
            [QSGD(), TopK()],
            "top_k: it works on whole messages, but qsgd leaves only codes; change their order",
        ),
        (
            [TopK(), Choco()],
            "choco: it works on whole messages, but top_k leaves only numbers; change their order",
        ),
        (
            [Zstd(), Cast()],
            "cast: it works on floating-point numbers, but zstd leaves only bytes; change their order",
        ),
        (
            [Zstd(), Zstd()],
            "zstd: it works on all but bytes, but zstd leaves only bytes; change their order",
        ),
        ([TopK(), Sign(), NF4()], "nf4: it works on floating-point numbers, but sign leaves only codes"),
    ],
)
def test_refusals(steps: list[Transform], text: str) -> None:
    with pytest.raises(ExperimentError) as refusal:
        check_steps([(step.kind, step) for step in steps], "the method")
    assert text in str(refusal.value)


def test_a_form_of_the_method_itself_comes_first() -> None:
    with pytest.raises(ExperimentError, match="top_k: it works on whole messages, but the method leaves only codes"):
        check_steps([("the method", QSGD()), ("top_k", TopK())], "the method")


CHAINS = [
    chain
    for length in (2, 3)
    for chain in itertools.product(CASES, repeat=length)
    if allowed(tuple(step.kind for step, _ in chain))
]


@given(
    chain=st.sampled_from(CHAINS),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=150, deadline=None)
def test_chains_round_trip(chain: tuple[tuple[Transform, float], ...], seed: int, dtype: torch.dtype) -> None:
    """Losses add up, and what works on the parts of another step may lose as much of each of them."""
    steps = [step for step, _ in chain]
    check_steps([(step.kind, step) for step in steps], "the method")
    given = message(seed, dtype)
    link = Link(steps, given, seed=seed)
    sent, received = link.send(given)
    if all(step.fixed for step in steps):
        assert signature(sent) == signature(link.likes[-1])
    assert len(wire.encode(sent, 0, 0)) <= wire.size(link.likes[-1])
    assert signature(received) == signature(given)
    bound = 3 * (math.prod(1 + loss for _, loss in chain) - 1) + 1e-6
    for name, value in given.items():
        if numbers(value):
            assert float((received[name] - value).double().norm()) <= bound * float(value.double().norm()), name
        else:
            assert same({name: received[name]}, {name: value})


@pytest.mark.parametrize("steps", [[ErrorFeedback()], [Choco()], [ErrorFeedback(), Zstd()], [Choco(), Zstd()]])
def test_without_losses_memory_changes_nothing(steps: list[Transform]) -> None:
    link = Link(steps, message(dtype=torch.float64))
    for round in range(4):
        given = message(round, torch.float64)
        np.testing.assert_allclose(flat(link.send(given, round)[1]), flat(given), atol=1e-14)


COMPRESSIONS = [
    [TopK(share=0.1)],
    [RandomK(share=0.2, rescale=False)],
    [Sign()],
    [TopK(share=0.3), QSGD(bits=2), Zstd()],
    [Clip(norm=5.0), NF4()],
]


@pytest.mark.parametrize("steps", COMPRESSIONS, ids=lambda steps: "+".join(step.kind for step in steps))
def test_error_feedback_sends_everything_in_the_end(steps: list[Transform]) -> None:
    """sum of received = sum of sent - e, with the e that is remembered: the sums of Karimireddy et al. 2019, (3)."""
    link = Link([ErrorFeedback(), *steps], message(dtype=torch.float64))
    sent, received = 0.0, 0.0
    for round in range(12):
        given = message(round, torch.float64)
        heard = link.send(given, round)[1]
        sent, received = sent + flat(given), received + flat(heard)
        np.testing.assert_allclose(received, sent - flat(link.memories[0]), atol=1e-9)
    assert np.abs(flat(link.memories[0])).max() > 0.1


@pytest.mark.parametrize("steps", COMPRESSIONS, ids=lambda steps: "+".join(step.kind for step in steps))
def test_the_next_message_carries_what_was_lost(steps: list[Transform]) -> None:
    """The second message through a chain with feedback is that through a chain without, of what it lacks."""
    first, second = message(1, torch.float64), message(2, torch.float64)
    link, plain = Link([ErrorFeedback(), *steps], first), Link([*steps], first)
    plain.passages = lambda round: [*link.passages(round)[1:]]  # type: ignore[method-assign]
    lost = flat(first) - flat(link.send(first, 0)[1])
    np.testing.assert_allclose(flat(link.memories[0]), lost, atol=1e-12)
    wanted = {k: v + link.memories[0][k] if numbers(v) else v for k, v in second.items()}
    assert same(plain.send(wanted, 1)[1], link.send(second, 1)[1])


@pytest.mark.parametrize("steps", COMPRESSIONS, ids=lambda steps: "+".join(step.kind for step in steps))
def test_choco_adds_up_differences(steps: list[Transform]) -> None:
    """c <- c + decoded(encoded(x - c)), and what is received is c."""
    link = Link([Choco(), *steps], message(dtype=torch.float64))
    plain = Link([*steps], message(dtype=torch.float64))
    plain.passages = lambda round: [*link.passages(round)[1:]]  # type: ignore[method-assign]
    copy = np.zeros_like(flat(message()))
    for round in range(6):
        given = message(round, torch.float64)
        lacking = {k: v - link.memories[0][k] if numbers(v) else v for k, v in given.items()}
        copy = copy + flat(plain.send(lacking, round)[1])
        received = link.send(given, round)[1]
        np.testing.assert_allclose(flat(received), copy, atol=1e-9)
        np.testing.assert_allclose(flat(link.memories[0]), copy, atol=1e-9)


def test_choco_arrives_at_a_model_that_stands_still() -> None:
    """With the k largest of what lacks n coordinates take ceil(n / k) messages, none of them twice."""
    still = {"row": torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    link = Link([Choco(), TopK(count=30)], still)
    far = [float((link.send(still, round)[1]["row"] - still["row"]).norm()) for round in range(4)]
    assert far == sorted(far, reverse=True)
    assert far[2] > 0.01
    assert far[3] == 0


def consensus(steps: list[Transform], gamma: float) -> tuple[float, float]:
    """(distance to consensus, distance of the mean to where it began) after 150 rounds of gossip on a ring of 8:

    x_i <- x_i + gamma sum_j W_ij (received_j - received_i).
    """
    N, D = 8, 40
    rng = np.random.default_rng(0)
    rows_ND = rng.standard_normal((N, D))
    mean = rows_ND.mean(0)
    mixing_NN = sum(np.roll(np.eye(N), shift, 1) for shift in (-1, 0, 1)) / 3
    links = [Link(steps, {"row": torch.zeros(D, dtype=torch.float64)}, seed=node) for node in range(N)]
    for round in range(150):
        heard = [link.send({"row": torch.from_numpy(row)}, round)[1] for link, row in zip(links, rows_ND, strict=True)]
        heard_ND = np.stack([part["row"].numpy() for part in heard])
        rows_ND = rows_ND + gamma * (mixing_NN @ heard_ND - heard_ND)
    return float(np.linalg.norm(rows_ND - rows_ND.mean(0))), float(np.linalg.norm(rows_ND.mean(0) - mean))


@pytest.mark.parametrize(("step", "gamma"), [(TopK(share=0.2), 0.3), (Sign(), 0.3), (QSGD(bits=2), 0.5)])
def test_choco_agrees_where_plain_compression_does_not(step: Transform, gamma: float) -> None:
    apart, moved = consensus([Choco(), step], gamma)
    assert apart < 0.02
    assert moved < 1e-9
    assert consensus([step], gamma)[0] > 0.5
