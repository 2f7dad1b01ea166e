"""Quantisers: what is on the wire, what holds for all numbers, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from quantised import LAYOUT, blocks, normal, passage, received

from gossamer import wire
from gossamer.bits import unpack
from gossamer.errors import WireError
from gossamer.transforms import NF4, QSGD, Int8, Sign
from gossamer.transforms.blockwise import PIECE, Blockwise, pieces

torch.set_num_threads(1)

CODECS: list[Any] = [
    Int8(),
    Int8(block=7),
    NF4(),
    NF4(block=5),
    Sign(),
    Sign(block=13),
    *(QSGD(bits=bits) for bits in range(1, 9)),
    QSGD(bits=3, bucket=10, norm="euclidean"),
    QSGD(bucket=10**9),
    QSGD(bucket=1),
]


def named(codec: Blockwise) -> str:
    return " ".join(f"{key}={value}" for key, value in codec.dumped().items())


every = pytest.mark.parametrize("codec", CODECS, ids=named)


# Nothing that a message holds makes NumPy or torch warn.
pytestmark = pytest.mark.filterwarnings("error")


# ---- what is on the wire ---------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("n", [2, 3, 64, 511, 513, 4097])
def test_the_outline_is_what_is_sent(codec: Blockwise, n: int) -> None:
    message = {"row": normal(n), "mass": torch.tensor([2.5]), "seen": torch.arange(9), "empty": torch.empty(0)}
    like = {name: torch.empty_like(value, device="meta") for name, value in message.items()}
    sent, said = codec.forward(message, passage()), codec.outline(like, LAYOUT)
    assert {name: (v.dtype, v.shape) for name, v in sent.items()} == {n: (v.dtype, v.shape) for n, v in said.items()}
    assert wire.size(said) == wire.size(sent) == len(wire.encode(sent, 0, 0))
    back = codec.reverse(sent, like, passage())
    assert list(back) == list(message)
    for name in ("mass", "seen", "empty"):
        assert torch.equal(back[name], message[name])


@pytest.mark.parametrize(
    ("codec", "bits"),
    [
        (Int8(), 8 + 32 / 256),
        (Int8(block=64), 8 + 32 / 64),
        (NF4(), 4 + 32 / 64),
        (NF4(block=128), 4 + 32 / 128),
        (Sign(), 1),
        (Sign(block=100), 1 + 32 / 100),
        *((QSGD(bits=bits), bits + 32 / 512) for bits in range(1, 9)),
        (QSGD(bits=2, bucket=128, norm="euclidean"), 2 + 32 / 128),
    ],
)
def test_bits_per_parameter(codec: Blockwise, bits: float) -> None:
    n = 300_001
    assert 8 * wire.size(codec.forward({"row": normal(n)}, passage())) / n == pytest.approx(bits, rel=0.02)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_shape_and_type_come_back_and_the_input_stays(codec: Blockwise, dtype: torch.dtype) -> None:
    row = normal(360).to(dtype).view(20, 18)
    kept = row.clone()
    for given_row in (row, row.T, row[:, ::5]):
        found = received(codec, given_row)
        assert (found.shape, found.dtype) == (given_row.shape, dtype)
        # Strides do not matter, and neither do more digits than float32 has.
        assert torch.equal(found, received(codec, given_row.contiguous().float()).to(dtype))
    assert torch.equal(row, kept)


@given(count=st.integers(1, 400_000), block=st.one_of(st.integers(1, 70), st.integers(1, 500_000)))
@settings(max_examples=60)
def test_pieces_are_all_numbers_once_and_stay_in_their_blocks(count: int, block: int) -> None:
    end = 0
    for piece, rows, of in pieces(count, block):
        length = piece.stop - piece.start
        assert piece.start == end
        assert 0 < length <= PIECE
        assert rows == of.stop - of.start
        assert of.start == piece.start // block
        assert of.stop - 1 == (piece.stop - 1) // block
        # Either whole blocks, or part of one.
        assert rows == 1 or length == rows * block
        end = piece.stop
    assert end == count


# ---- bounds and invariances ------------------------------------------------------------------------------------------

TIMES_LARGEST = {"int8": 0.5 / 127, "nf4": 0.152, "sign": 1.0}
hard = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=40)


@given(values=hard)
@settings(max_examples=150)
@pytest.mark.parametrize("codec", [Int8(block=8), NF4(block=8), Sign(block=8), QSGD(bits=4, bucket=8)], ids=named)
def test_errors_are_bounded_for_all_float32(codec: Blockwise, values: list[float]) -> None:
    """From the smallest denormal number to the largest there is, as a share of the largest magnitude of a block."""
    row = torch.tensor(values).clamp(-4e37, 4e37)
    share = TIMES_LARGEST.get(codec.kind, 2 / 15)
    for part, found in zip(blocks(codec, row), blocks(codec, received(codec, row)), strict=True):
        largest = float(part.double().abs().max())
        error = float((found.double() - part.double()).abs().max())
        denormal = 127 * 2**-149
        assert error <= share * largest * (1 + 1e-4) + denormal / 2
        # Nothing grows.
        assert float(found.double().abs().max()) <= largest * (1 + 2**-20) + denormal


@given(values=hard, power=st.integers(-60, 60))
@pytest.mark.parametrize("codec", [Int8(block=8), NF4(block=8), Sign(block=8), QSGD(bits=4, bucket=8)], ids=named)
def test_units_do_not_matter(codec: Blockwise, values: list[float], power: int) -> None:
    row = torch.tensor(values)
    row = torch.where((row.abs() > 1e18) | (row.abs() < 1e-18), torch.sign(row), row)
    assert torch.equal(received(codec, row * 2.0**power), received(codec, row) * 2.0**power)


def test_int8_and_sign_turn_round_with_their_input() -> None:
    row = normal(1000)
    for codec in (Int8(), Sign()):
        assert torch.equal(received(codec, -row), -received(codec, row))


def test_what_nf4_and_sign_make_stays() -> None:
    row = normal(1000)
    assert torch.equal(received(NF4(), received(NF4(), row)), received(NF4(), row))
    torch.testing.assert_close(received(Sign(), received(Sign(), row)), received(Sign(), row), rtol=1e-6, atol=0)


@every
def test_zeros_stay_zeros(codec: Blockwise) -> None:
    assert torch.equal(received(codec, torch.zeros(1000)), torch.zeros(1000))


def test_zeros_have_the_code_of_zero() -> None:
    message = {"row": torch.zeros(100)}
    assert Int8().forward(message, passage())["row.codes"].tolist() == [0] * 100
    assert NF4().forward(message, passage())["row.codes"].tolist() == [0x77] * 50
    # QSGD has no level at zero: one of the two beside it.
    codes = unpack(QSGD(bits=4).forward(message, passage())["row.codes"], 4, 100)
    assert set(codes.tolist()) == {7, 8}


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_euclidean_norm_is_not_less_than_its_numbers(bits: int) -> None:
    """Of one number in a bucket it is exactly that number, which is then at the end of the levels."""
    for x in (normal(200) * 10.0 ** torch.arange(-40, 40).repeat(3)[:200]).clamp(-1e38, 1e38).tolist():
        sent = QSGD(bits=bits, norm="euclidean").forward({"row": torch.tensor([0.0, x])}, passage())
        assert sent["row.scales"].tolist() == [abs(x)]
        assert received(QSGD(bits=bits, norm="euclidean"), torch.tensor([0.0, x])).tolist()[1] == pytest.approx(x)


def test_large_blocks_are_as_one() -> None:
    """Blocks of more than 2^16 numbers are worked on in parts, with one scale."""
    row = normal(3 * PIECE + 11)
    row[-1] = 100.0
    halves = 2 * PIECE + 3
    for codec in (Int8(block=halves), NF4(block=halves), QSGD(bucket=halves), QSGD(bucket=halves, norm="euclidean")):
        scales = codec.forward({"row": row}, passage())["row.scales"]
        p = 2 if getattr(codec, "norm", "max") == "euclidean" else math.inf
        lengths = torch.stack([part.norm(p) for part in blocks(codec, row)]) / (127 if codec.kind == "int8" else 1)
        torch.testing.assert_close(scales, lengths)


# ---- bad numbers, impossible codes, bad settings ---------------------------------------------------------------------


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_block_that_is_not_finite_is_received_as_such(codec: Blockwise, bad: float) -> None:
    row = normal(1500)
    clean = row.clone()
    row[0], clean[0] = bad, 0.0
    found, block = received(codec, row), codec.shared(1500)
    assert not bool(found[:block].isfinite().all())
    assert torch.equal(found[block:], received(codec, clean)[block:])


def test_numbers_beyond_float32_do_not_crash() -> None:
    row = torch.tensor([1e300, -1e300, 1.0, 0.0], dtype=torch.float64)
    for codec in (Int8(), NF4(), Sign(), QSGD()):
        assert not bool(received(codec, row).isfinite().all())


@every
def test_codes_that_no_sender_makes_are_refused(codec: Blockwise) -> None:
    row = normal(37)
    like = {"row": torch.empty_like(row, device="meta")}

    def refused(text: str, **parts: torch.Tensor) -> None:
        sent = codec.forward({"row": row}, passage())
        with pytest.raises(WireError, match=text) as caught:
            codec.reverse({**sent, **{f"row.{name}": value for name, value in parts.items()}}, like, passage())
        assert "\n" not in str(caught.value)

    sent = codec.forward({"row": row}, passage())
    scales, codes = sent["row.scales"].clone(), sent["row.codes"].clone()
    scales[-1] = -1.5
    refused("row.scales: -1.5 is negative", scales=scales)
    if codec.kind == "int8":
        codes[5] = -128
        refused("-128 is no code", codes=codes)
    elif 37 * codec.width % 8:
        codes[-1] |= 128
        refused("bits are set after the last of 37 codes", codes=codes)


@every
def test_scales_that_are_not_finite_are_left_to_the_receiver(codec: Blockwise) -> None:
    """It finds NaN in what it gets; the message itself is no nonsense."""
    row = normal(37)
    sent = codec.forward({"row": row}, passage())
    sent["row.scales"] = torch.full_like(sent["row.scales"], math.nan)
    assert bool(codec.reverse(sent, {"row": row}, passage())["row"].isnan().all())


@pytest.mark.parametrize(
    ("codec", "fields"),
    [
        (QSGD, {"bits": 0}),
        (QSGD, {"bits": 9}),
        (QSGD, {"bucket": 0}),
        (QSGD, {"norm": "l1"}),
        (Int8, {"block": 0}),
        (NF4, {"block": 0}),
        (Sign, {"block": 0}),
    ],
)
def test_settings_out_of_range(codec: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        codec(**fields)


def test_what_they_say_of_themselves() -> None:
    for codec in CODECS:
        assert (codec.needs, codec.leaves, codec.fixed) == ("numbers", "codes", True)
        assert codec.unbiased == (codec.kind == "qsgd")
        assert not codec.linear
        assert not codec.masks
        assert codec.memory({"row": normal(9)}, LAYOUT) == {}
