"""The payload of a frame: the safetensors library agrees, and nothing else is accepted."""

from __future__ import annotations

import sys
import tracemalloc

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from wire_frames import (
    DATA,
    DTYPES,
    GOOD,
    MALFORMED,
    Message,
    as_json,
    entry,
    filled,
    messages,
    payload,
    same,
    sealed,
    verdicts,
)

from gossamer import wire
from gossamer.errors import WireError


@given(message=messages)
@settings(max_examples=200)
def test_payload_is_what_safetensors_writes(message: Message) -> None:
    """In order of type and name, with its JSON; and each reads the other's."""
    written = safetensors.torch.save({name: tensor.contiguous() for name, tensor in message.items()})
    frame = wire.encode(message, 3, 7)
    assert frame[32:-16] == written
    assert same(wire.decode(sealed(written))[0], message)
    assert same(safetensors.torch.load(frame[32:-16]), message)


def test_every_type_comes_in_the_order_of_the_library() -> None:
    message = {f"{letter}{i}": filled((3,), dtype, i) for letter in "ba" for i, dtype in enumerate(DTYPES)}
    written = safetensors.torch.save(message)
    assert wire.encode(message, 0, 0)[32:-16] == written
    assert same(wire.decode(sealed(written))[0], message)


@pytest.mark.parametrize("name", ["", 'a"b\\c/d', "\0\x1f\x7f\n\t\r\b\f", "é\u2028\ufeff", "\U0001f642", "x" * 1024])
def test_names_are_escaped_as_the_library_does(name: str) -> None:
    message = {name: torch.ones(2), "other": torch.ones(())}
    frame = wire.encode(message, 0, 0)
    assert frame[32:-16] == safetensors.torch.save(message)
    assert same(wire.decode(frame)[0], message)
    ascii_only = as_json({name: entry(offsets=[0, 8]), "other": entry(shape=[], offsets=[8, 12])})
    assert same(wire.decode(sealed(payload(ascii_only, torch.ones(3).numpy().tobytes())))[0], message)


def test_json_may_be_spaced_and_in_any_order() -> None:
    text = '{ "b" :\n{"shape": [ 1 ], "data_offsets":[8, 12 ] ,"dtype":"F32" }\t,\r"a":{"dtype":"F64","shape":[],'
    text += '"data_offsets":[0,8]} , "c":{"dtype":"I8","shape":[0],"data_offsets":[8,8]} }'
    data = torch.tensor([2.5], dtype=torch.float64).numpy().tobytes() + torch.tensor([1.5]).numpy().tobytes()
    message, *_ = wire.decode(sealed(payload(text, data)))
    expected = {"b": torch.tensor([1.5]), "a": torch.tensor(2.5, dtype=torch.float64)}
    assert same(message, expected | {"c": torch.empty(0, dtype=torch.int8)})


def test_what_the_malformed_ones_begin_from_is_valid() -> None:
    message, *_ = wire.decode(sealed(payload(GOOD, DATA)))
    assert same(message, {"row": torch.zeros(2)})


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_payload_under_a_valid_digest_is_refused(case: str) -> None:
    """By both readers in the same words, however it arrives."""
    malformed, why = MALFORMED[case]
    frame = sealed(malformed)
    decoded, streamed = verdicts(frame, [32, 8, 1, max(1, len(frame) // 2)])
    assert decoded == streamed
    with pytest.raises(WireError, match=why):
        wire.decode(frame)


def test_depth_is_bounded_without_the_interpreters_help() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        for case in MALFORMED:
            if "brackets" in case or "braces" in case or "nested" in case:
                with pytest.raises(WireError):
                    wire.decode(sealed(MALFORMED[case][0]))
    finally:
        sys.setrecursionlimit(limit)


def test_malformed_header_takes_little_memory_to_refuse() -> None:
    for case, (malformed, _) in MALFORMED.items():
        frame = sealed(malformed)
        tracemalloc.start()
        with pytest.raises(WireError):
            wire.decode(frame)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * len(frame) + 2**18, case


def test_many_tensors_fit_and_too_many_are_refused_by_the_writer() -> None:
    many = {f"{i:04}": torch.tensor(i) for i in range(5000)}
    assert same(wire.decode(wire.encode(many, 0, 0))[0], many)
    empty = torch.empty(0, device="meta")
    with pytest.raises(WireError, match=r"20000 tensors need a header of .* at most 1048576"):
        wire.size({f"{i:05}": empty for i in range(20_000)})


@pytest.mark.parametrize(
    ("name", "tensor", "why"),
    [
        ("row", torch.zeros(2, dtype=torch.complex64), "'row' is torch.complex64; a frame holds only"),
        ("row", torch.zeros([1] * 9), "9 dimensions, more than 8"),
        ("r" * 1025, torch.zeros(2), "longer than 1024"),
        ("\ud800", torch.zeros(2), "not Unicode"),
        ("__metadata__", torch.zeros(2), "tensors only"),
        ("row", torch.zeros(0, 2**62), "larger than any memory"),
    ],
)
def test_writer_refuses_what_the_reader_would(name: str, tensor: torch.Tensor, why: str) -> None:
    for write in (wire.size, wire.schema_of, lambda message: wire.encode(message, 0, 0)):
        with pytest.raises(WireError, match=why):
            write({name: tensor})


def test_eight_dimensions_are_allowed() -> None:
    message = {"row": filled((1, 2, 1, 2, 1, 2, 1, 2), torch.float32, 0, backwards=True)}
    assert same(wire.decode(wire.encode(message, 0, 0))[0], message)


def test_views_and_parameters_are_written_as_they_look() -> None:
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    of_conjugate = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    message = {"every other": parameter[:, ::2], "expanded": torch.ones(1).expand(4), "negated": of_conjugate}
    message |= {"one": torch.arange(4.0)[2::4], "transposed": torch.arange(6).reshape(2, 3).T}
    back, *_ = wire.decode(wire.encode(message, 0, 0))
    assert back["every other"].tolist() == [[0, 2], [3, 5]]
    assert not back["every other"].requires_grad
    assert back["expanded"].tolist() == [1] * 4
    assert back["negated"].tolist() == [-2, 4]
    assert back["one"].tolist() == [2]
    assert back["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
