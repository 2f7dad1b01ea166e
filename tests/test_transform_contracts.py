"""What every transform promises, by the lines of `transform_table`, in both directions: a claim that a transform does
not make, it must not keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transform_table import (
    CASES,
    LAYOUT,
    LINES,
    STEPS,
    Link,
    Message,
    flat,
    message,
    outline_of,
    same,
    signature,
)

from gossamer import wire
from gossamer.errors import WireError
from gossamer.passages import Passage
from gossamer.plugs import discover
from gossamer.randomness import generator
from gossamer.transforms import Transform, numbers

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LOSSY = [param for param, (_, loss) in zip(STEPS, CASES, strict=True) if loss > 1e-6]
shapes = st.lists(st.integers(0, 9), max_size=3)
messages = st.dictionaries(
    st.text("abc_", min_size=1, max_size=4),
    st.tuples(st.one_of(shapes, st.just([440])), st.sampled_from([*DTYPES, torch.int64, torch.uint8, torch.bool])),
    max_size=4,
).map(lambda fields: {name: torch.randn(shape).mul(3).to(dtype) for name, (shape, dtype) in fields.items()})


def passage(step: Transform, like: Message, seed: int = 0) -> Passage:
    return Passage(LAYOUT, lambda: generator(seed, "step"), step.memory(like, LAYOUT))


def test_there_is_a_line_for_every_transform() -> None:
    """A transform that is added, or taken away, needs its line added or taken away."""
    assert set(LINES) == set(discover(Transform))


@pytest.mark.parametrize("kind", LINES)
def test_what_it_needs_and_leaves(kind: str) -> None:
    plug = discover(Transform)[kind]
    assert (plug.needs, plug.leaves) == (LINES[kind].needs, LINES[kind].leaves)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("step", STEPS)
def test_outlines_tell_what_travels(step: Transform, dtype: torch.dtype) -> None:
    given = message(1, dtype)
    outline = step.outline(outline_of(given), LAYOUT)
    assert all(value.is_meta for value in outline.values())
    assert signature(step.outline(given, LAYOUT)) == signature(outline)
    sent = step.forward(given, passage(step, given))
    if step.fixed:
        assert signature(sent) == signature(outline)
        assert len(wire.encode(sent, 3, 7)) == wire.size(outline)
    else:
        assert {k: v.dtype for k, v in sent.items()} == {k: v.dtype for k, v in outline.items()}
        assert all(sent[k].dim() == 1 and len(sent[k]) <= len(outline[k]) for k in sent)
        assert len(wire.encode(sent, 3, 7)) <= wire.size(outline)


@pytest.mark.parametrize("step", STEPS)
@given(given=messages)
@settings(max_examples=10)
def test_any_message_comes_back_in_its_shape(step: Transform, given: Message) -> None:
    link = Link([step], given)
    sent, received = link.send(given)
    assert signature(received) == signature(given)
    if step.fixed:
        assert signature(sent) == signature(link.likes[-1])
    for name, value in given.items():
        if not numbers(value):
            assert same({name: received[name]}, {name: value})
            assert not step.fixed or same({name: sent[name]}, {name: value})


@pytest.mark.parametrize(("step", "loss"), [pytest.param(*case, id=p.id) for case, p in zip(CASES, STEPS, strict=True)])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_what_is_lost_is_bounded(step: Transform, loss: float, dtype: torch.dtype) -> None:
    """Within rounding, of every field by itself."""
    for seed in range(3):
        given = message(seed, dtype)
        received = Link([step], given, seed=seed).send(given)[1]
        for name in filter(lambda name: numbers(given[name]), given):
            missing = float((given[name] - received[name]).norm() / given[name].norm())
            assert missing <= loss + 4 * torch.finfo(dtype).eps, name


@pytest.mark.parametrize("step", STEPS)
def test_neither_end_changes_what_it_is_given_and_both_are_deterministic(step: Transform) -> None:
    given, like = message(2), outline_of(message(2))
    before = {name: value.clone() for name, value in given.items()}
    sent = step.forward(given, passage(step, given))
    assert same(given, before)
    assert same(sent, step.forward(given, passage(step, given)))
    # The wire keeps no order of fields.
    shuffled = dict(sorted(sent.items(), key=lambda item: item[0][::-1]))
    received = step.reverse(shuffled, like, passage(step, given))
    assert same(shuffled, step.forward(given, passage(step, given)))
    assert same(received, step.reverse(sent, like, passage(step, given)))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_that_are_none_do_no_harm(step: Transform, dtype: torch.dtype) -> None:
    """They may come back as anything, in their shape; and what a sender remembers is as good as before."""
    limits = torch.finfo(dtype)
    odd = torch.tensor([math.nan, math.inf, -math.inf, limits.max, limits.min, limits.tiny / 4, -0.0], dtype=dtype)
    good = message(3, dtype)
    for fill in (odd.repeat(63)[:440], torch.full((440,), math.nan, dtype=dtype), torch.zeros(440, dtype=dtype)):
        bad = {**good, "row": fill, "drift": fill[:428], "pair": fill[:2]}
        link = Link([step], good)
        assert signature(link.send(bad)[1]) == signature(bad)
        if step.kind not in ("error_feedback", "choco"):
            assert all(bool(value.isfinite().all()) for value in link.memories[0].values())


def average(step: Transform, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """[C]: mean errors of every coordinate, of their sum and of the product with the message; what chance allows.

    That is five standard errors and, for coordinates that are rounded up or drawn once in a long while, the second term
    of Bernstein's inequality for the same probability.
    """
    given = message(4, torch.float64)
    truth = flat(given)
    errors = np.array([flat(Link([step], given, seed=draw).send(given)[1]) - truth for draw in range(draws)])
    rare = 25 / 6 * np.ptp(errors, axis=0).max() / draws
    errors = np.column_stack([errors, errors.sum(1), errors @ truth])
    return np.abs(errors.mean(0)), 5 * errors.std(0) / math.sqrt(draws) + rare


def linear(step: Transform, seed: int) -> bool:
    """decoded(a x + b y) = a decoded(x) + b decoded(y) for the same dice."""
    x, y = message(seed, torch.float64), message(seed + 100, torch.float64)
    both = {k: 0.7 * x[k] - 3 * y[k] if numbers(x[k]) else x[k] for k in x}
    parts = [flat(Link([step], x, seed=seed).send(part)[1]) for part in (x, y, both)]
    return np.allclose(0.7 * parts[0] - 3 * parts[1], parts[2], rtol=1e-9, atol=1e-9)


def masks(step: Transform, seed: int) -> bool:
    """decoded(sum of encoded) = sum of decoded, each sender with dice of its own unless they are common."""
    common = getattr(step, "common", False)
    senders = [message(seed + number, torch.float64) for number in range(3)]
    links = [Link([step], sender, seed=0 if common else number) for number, sender in enumerate(senders)]
    sent, received = zip(*(link.send(sender) for link, sender in zip(links, senders, strict=True)), strict=True)
    if any(signature(part) != signature(sent[0]) for part in sent):
        return False
    added = {k: sum((part[k] for part in sent[1:]), sent[0][k]) for k in sent[0]}
    try:
        total = step.reverse(added, links[0].likes[0], links[0].passages(0)[0])
    except WireError:
        return False
    return np.allclose(flat(total), sum(map(flat, received)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("step", [param for param in LOSSY if param.values[0].unbiased])
def test_right_on_average(step: Transform) -> None:
    error, allowed = average(step, 600)
    assert (error <= allowed + 1e-6).all()


@pytest.mark.parametrize("claim", [linear, masks])
@pytest.mark.parametrize("step", STEPS)
def test_claims_are_kept(step: Transform, claim: Callable[[Transform, int], bool]) -> None:
    if getattr(step, claim.__name__):
        assert all(claim(step, seed) for seed in range(3))


@pytest.mark.parametrize("step", LOSSY)
def test_what_is_not_claimed_is_not_so(step: Transform) -> None:
    for claim in (linear, masks):
        assert getattr(step, claim.__name__) or not all(claim(step, seed) for seed in range(3)), claim.__name__
    error, allowed = average(step, 60)
    assert step.unbiased or not (error <= allowed + 1e-6).all()


@pytest.mark.parametrize("step", STEPS)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_anything_of_the_right_shapes_is_received_or_refused(step: Transform, data: st.DataObject, seed: int) -> None:
    given = message(5)
    like, rng = outline_of(given), np.random.default_rng(seed)
    garbage: Message = {}
    for name, value in step.outline(like, LAYOUT).items():
        length = value.numel() * value.element_size()
        if not step.fixed:
            length = data.draw(st.integers(0, length))
        # Small bytes are often small codes, and pass more of the checks.
        noise = torch.empty(length, dtype=torch.uint8)
        noise.numpy()[:] = rng.integers(0, 256 if seed % 3 else 2, length)
        whole = noise.view(value.dtype) if value.dtype != torch.bool else noise > 127
        garbage[name] = whole.view(value.shape) if step.fixed else whole
    try:
        received = step.reverse(garbage, like, passage(step, given))
    except WireError:
        return
    assert signature(received) == signature(like)
