"""Clipping: never longer than the norm, whatever the numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transform_table import LAYOUT, same

from gossamer.passages import Passage
from gossamer.transforms import Clip

PASSAGE = Passage(LAYOUT, lambda: pytest.fail("clipping draws nothing"))
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def square(message: dict[str, torch.Tensor]) -> Fraction:
    """Squared norm, exactly."""
    return sum((Fraction(number) ** 2 for value in message.values() for number in value.double().tolist()), Fraction(0))


@given(
    one=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=8),
    other=st.lists(st.floats(-10, 10), min_size=2, max_size=30),
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    norm=st.one_of(st.floats(1e-3, 1e3), st.floats(5e-324, 1.7e308)),
)
@example(one=[1.7e308, 1.7e308], other=[0.0, 0.0], dtypes=(torch.float64, torch.float32), norm=1.0)
@example(one=[5e-324] * 5, other=[0.0, 0.0], dtypes=(torch.float64, torch.float32), norm=5e-324)
@example(one=[1e-44] * 8, other=[1e-45] * 30, dtypes=(torch.float32, torch.float32), norm=9e-45)
@example(one=[1e250, 1.0], other=[0.0, 0.0], dtypes=(torch.float64, torch.float32), norm=1e-65)
@example(one=[60000.0] * 8, other=[1.0] * 30, dtypes=(torch.float16, torch.bfloat16), norm=1e-7)
@settings(max_examples=400, deadline=None)
def test_never_longer(
    one: list[float], other: list[float], dtypes: tuple[torch.dtype, torch.dtype], norm: float
) -> None:
    message = {"one": torch.tensor(one, dtype=dtypes[0]), "other": torch.tensor(other, dtype=dtypes[1])}
    clipped = Clip(norm=norm).forward(message, PASSAGE)
    if not all(bool(value.isfinite().all()) for value in message.values()):
        assert same(clipped, message)
        return
    # Up to the last digit of float64, in which the norm is compared.
    bound = Fraction(norm) ** 2 * (1 + Fraction(2) ** -48)
    assert square(clipped) <= bound
    if square(message) <= Fraction(norm) ** 2 * (1 - Fraction(2) ** -48):
        assert same(clipped, message)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 5e-7)])
def test_shortened_to_the_norm_in_the_same_direction(dtype: torch.dtype, tolerance: float) -> None:
    """All fields by one factor, as if they were one vector; integers and single numbers are none of it."""
    torch.manual_seed(0)
    message = {
        "row": torch.randn(200_000, dtype=dtype),
        "control": torch.randn(7, 3, dtype=dtype),
        "mass": torch.tensor(1e9, dtype=dtype),
        "steps": torch.tensor([10**9, 7]),
    }
    length = math.sqrt(float(message["row"].double().square().sum() + message["control"].double().square().sum()))
    clipped = Clip(norm=2.5).forward(message, PASSAGE)
    for name in ("row", "control"):
        torch.testing.assert_close(clipped[name], message[name] * (2.5 / length), rtol=tolerance, atol=1e-12)
    assert clipped["mass"] is message["mass"]
    assert clipped["steps"] is message["steps"]


def test_twice_is_once_but_for_rounding() -> None:
    step = Clip(norm=0.3)
    once = step.forward({"row": torch.randn(1000, generator=torch.Generator().manual_seed(1))}, PASSAGE)
    assert same(step.forward(once, PASSAGE), once)


def test_shorter_messages_and_zeros_are_left_as_they_are() -> None:
    for row in (torch.tensor([0.3, -0.4]), torch.zeros(9)):
        assert Clip().forward({"row": row}, PASSAGE)["row"] is row
    assert Clip().forward({}, PASSAGE) == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_goes_on_to_be_refused(bad: float) -> None:
    message = {"row": torch.tensor([5.0, bad, 1.0]), "control": torch.ones(4)}
    assert same(Clip().forward(message, PASSAGE), message)


@pytest.mark.parametrize("norm", [0, -1, math.inf, math.nan])
def test_norms_that_cannot_be(norm: float) -> None:
    with pytest.raises(ValidationError, match="norm"):
        Clip(norm=norm)
