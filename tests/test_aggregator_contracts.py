"""What every rule promises of its inputs and outputs, by the lines of `aggregator_table`, in both directions: a
property that a rule is not said to have, it must lack.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from aggregator_table import (
    KINDS,
    LINES,
    STEPS,
    D,
    F,
    Line,
    N,
    apply,
    close,
    every,
    lines,
    updates,
)

import gossamer.aggregators as rules
from gossamer.aggregators import Aggregator
from gossamer.errors import AggregationError
from gossamer.gram import Gram
from gossamer.plugs import discover
from gossamer.preaggregators import PreAggregator


def test_there_is_a_line_for_every_rule() -> None:
    """A rule or pre-aggregator that is added, or taken away, needs its line added or taken away."""
    assert set(LINES) == set(discover(Aggregator))
    assert set(STEPS) == set(discover(PreAggregator))


@pytest.mark.parametrize("line", lines("identical"))
def test_copies_of_one_update_give_that_update(line: Line) -> None:
    one = updates(3, n=1)[0]
    close(apply(line, np.tile(one, (N, 1))), one)
    # Far from the origin too, where differences drown in rounding.
    close(apply(line, np.tile(1e6 + one, (N, 1)).astype(np.float32)), 1e6 + one, 1e-5)


@pytest.mark.parametrize("line", lines("order"))
def test_the_order_of_updates_does_not_matter(line: Line) -> None:
    rows = updates(1)
    weights = np.random.default_rng(2).uniform(0.5, 2, N)
    order = np.random.default_rng(4).permutation(N)
    if line.own:
        order = np.concatenate([[0], 1 + np.random.default_rng(4).permutation(N - 1)])
    close(apply(line, rows[order], weights=weights[order]), apply(line, rows, weights=weights))


@pytest.mark.parametrize("line", lines("shift"))
@pytest.mark.parametrize("seed", range(3))
def test_shifted_updates_give_a_shifted_result(line: Line, seed: int) -> None:
    rows, shift = updates(seed), 5 * np.random.default_rng(seed).standard_normal(D)
    close(apply(line, rows + shift), apply(line, rows) + shift, 1e-7)


@pytest.mark.parametrize("line", lines("shift"))
@pytest.mark.parametrize("offset", [30.0, 3e3, 3e5])
def test_float32_models_that_agree_in_most_digits(line: Line, offset: float) -> None:
    """As models on a graph do: choices are made by their differences, which squares of the whole would drown."""
    rows = (offset + updates(2)).astype(np.float32)
    expected = apply(line, rows.astype(np.float64) - offset) + offset
    np.testing.assert_allclose(apply(line, rows), expected, rtol=3e-7)


@pytest.mark.parametrize("line", lines("scale"))
@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e6])
def test_multiplied_updates_give_a_multiplied_result(line: Line, factor: float) -> None:
    rows = updates(5)
    close(apply(line, factor * rows), factor * apply(line, rows), 1e-7)


@pytest.mark.parametrize("line", lines("rotation"))
@pytest.mark.parametrize("seed", range(3))
def test_rotated_updates_give_a_rotated_result(line: Line, seed: int) -> None:
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D))).Q
    rows = updates(seed)
    close(apply(line, rows @ rotation), apply(line, rows) @ rotation, 1e-7)


@pytest.mark.parametrize("word", ["shift", "scale", "rotation", "identical"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_table_denies_is_not_so(kind: str, word: str) -> None:
    """An example for each property that a rule lacks: else the line is too modest."""
    line, differs = LINES[kind], []
    if word in line.holds.split():
        return
    for seed in range(10):
        rows = updates(seed)
        if word == "shift":
            shift = 5 * np.random.default_rng(seed).standard_normal(D)
            pair = apply(line, rows + shift), apply(line, rows) + shift
        elif word == "scale":
            pair = apply(line, 7 * rows), 7 * apply(line, rows)
        elif word == "rotation":
            rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D))).Q
            pair = apply(line, rows @ rotation), apply(line, rows) @ rotation
        else:
            pair = apply(line, np.tile(3 * rows[0], (N, 1))), 3 * rows[0]
        differs.append(not np.allclose(*pair, rtol=1e-6))
    assert any(differs)


@pytest.mark.parametrize("line", [p for p in lines("mean") if "-" not in str(p.id)])
def test_nobody_hostile_gives_the_mean(line: Line) -> None:
    rows = updates(6)
    close(apply(line, rows, f=0), rows.mean(0))


@pytest.mark.parametrize("kind", KINDS)
def test_who_looks_at_weights(kind: str) -> None:
    line, rows = LINES[kind], updates(7)
    weights = np.ones(N)
    weights[4] = 3.0
    plain, weighted = apply(line, rows), apply(line, rows, weights=weights)
    assert np.allclose(plain, weighted, rtol=1e-12) == ("weights" not in line.holds.split())
    # What is equal is a share: only ratios of weights count.
    close(apply(line, rows, weights=5 * weights), weighted)


@pytest.mark.parametrize("name", ["Mean", "GeometricMedian"])
def test_a_whole_weight_stands_for_copies(name: str) -> None:
    rows = updates(8, n=5)
    weights = [1, 2, 1, 3, 1]
    close(getattr(rules, name)()(rows, weights=weights), getattr(rules, name)()(rows.repeat(weights, 0)))


@pytest.mark.parametrize("step", STEPS)
def test_points_are_combinations_that_keep_what_they_should(step: str) -> None:
    """Averages have coefficients of at least zero that sum to one; clipped updates no more than one."""
    rows = torch.from_numpy(updates(9))
    matrix = STEPS[step].make(F).matrix(Gram.of(rows), F, None)
    assert matrix.dtype == torch.float64
    assert (matrix >= 0).all()
    if "shift" in STEPS[step].holds:
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64))
    else:
        assert (matrix.sum(1) <= 1 + 1e-12).all()


@pytest.mark.parametrize("line", every())
def test_inputs_are_only_read(line: Line) -> None:
    for rows in (updates(1), updates(1, dtype=np.float32), torch.from_numpy(updates(1))):
        before = np.asarray(rows).copy()
        weights = np.ones(N)
        apply(line, rows, weights=weights)
        assert np.array_equal(np.asarray(rows), before)
        assert (weights == 1).all()


@pytest.mark.parametrize("line", every())
def test_the_same_input_gives_the_same_result_to_the_bit(line: Line) -> None:
    """From the same rule, another one, and whatever the global generators are."""
    rows, rule = updates(1), line.make(F)
    first = apply(Line(lambda f: rule, "", own=line.own), rows)
    torch.manual_seed(5)
    np.random.seed(5)
    apply(Line(lambda f: rule, "", own=line.own), updates(2))
    for again in (rule, line.make(F)):
        assert np.array_equal(apply(Line(lambda f, again=again: again, "", own=line.own), rows), first)


@pytest.mark.parametrize("line", every())
def test_what_comes_out_is_of_the_kind_that_went_in(line: Line) -> None:
    plain = apply(line, updates(1))
    assert type(plain) is np.ndarray
    assert plain.dtype == np.float64
    for dtype, tolerance in ((np.float32, 1e-5), (np.float16, 1e-2)):
        found = apply(line, updates(1).astype(dtype))
        assert found.dtype == dtype
        if dtype == np.float32:
            close(found, plain, tolerance)
        assert isinstance(apply(line, list(updates(1).astype(dtype))), np.ndarray)
    for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        rows = torch.from_numpy(updates(1)).to(kind)
        found = apply(line, rows)
        assert (type(found), found.dtype, found.device, found.shape) == (torch.Tensor, kind, rows.device, (D,))
        assert torch.equal(apply(line, list(rows)), found)
    # A gradient's graph is not followed; the shape of a layer stays.
    shaped = torch.from_numpy(updates(1)).reshape(N, 3, 4).requires_grad_()
    assert not apply(line, shaped).requires_grad
    close(apply(line, shaped).reshape(-1).numpy(), plain)
    whole = np.round(10 * updates(1)).astype(np.int64)
    assert apply(line, whole).dtype == np.float64


@pytest.mark.parametrize("line", every())
def test_strided_views_are_as_good(line: Line) -> None:
    rows = updates(1)
    wide = np.zeros((2 * N, 3 * D))
    wide[::2, ::3] = rows
    close(apply(line, wide[::2, ::3]), apply(line, rows), 1e-12)
    close(apply(line, torch.from_numpy(wide)[::2, ::3]), apply(line, rows), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_in_one_line(kind: str) -> None:
    line, rows = LINES[kind], updates(1)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ([], {}, "there are no updates"),
        (rows[:0], {}, "there are no updates"),
        ([rows[0], rows[1][:3]], {}, "updates have different shapes"),
        (rows + 1j, {}, "must be real numbers"),
        (rows, {"weights": -np.ones(N)}, "weights must be"),
        (rows, {"weights": np.zeros(N)}, "weights must be"),
        (rows, {"weights": np.full(N, np.nan)}, "weights must be"),
        (rows, {"weights": np.full(N, np.inf)}, "weights must be"),
        (rows, {"weights": np.ones(N - 3)}, "weights of shape"),
        (rows, {"own": np.ones(D + 1)}, f"own has {D + 1} numbers"),
        (rows, {"own": []}, "own has 0 numbers"),
    ]
    for vectors, how, message in cases:
        with pytest.raises(AggregationError, match=message) as caught:
            line.make(0)(vectors, **how)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if line.own and kind != "monna"])
def test_a_rule_that_needs_the_own_update_says_so(kind: str) -> None:
    with pytest.raises(AggregationError, match=f"{kind} needs"):
        LINES[kind].make(F)(updates(1))


@pytest.mark.parametrize("kind", [kind for kind, line in LINES.items() if not line.least])
def test_one_update_alone(kind: str) -> None:
    """Rules that are told no f take it; those that keep the length give it back."""
    line, one = LINES[kind], updates(1, n=1)
    out = line.make(0)([*one[:0], one[0]], own=one[0]) if line.own else line.make(0)(one)
    if "identical" in line.holds.split():
        close(out, one[0])
