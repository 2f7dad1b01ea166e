"""Checkpoints: whole, checked, and the one before serves when the last is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossamer.checkpoint import KEPT, Progress, latest_checkpoint, read_checkpoint, restore, write_checkpoint
from gossamer.errors import CheckpointError, RunError


def saved(folder: Path, rounds: int = 3) -> list[Path]:
    (folder / "checkpoints").mkdir(exist_ok=True)
    return [
        write_checkpoint(folder, Progress(r, r, "d", "eager", (r,), (0,)), {"state.row": torch.full((2, 3), float(r))})
        for r in range(1, rounds + 1)
    ]


def test_round_trip_and_only_the_last_two_are_kept(tmp_path: Path) -> None:
    paths = saved(tmp_path, 5)
    assert [p.exists() for p in paths] == [False] * (5 - KEPT) + [True] * KEPT
    progress, tensors = read_checkpoint(paths[-1])
    assert progress == Progress(5, 5, "d", "eager", (5,), (0,))
    assert torch.equal(tensors["state.row"], torch.full((2, 3), 5.0))


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int) -> None:
    path = saved(tmp_path_factory.mktemp("c"), 1)[0]
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_the_one_before_serves_and_it_says_so(tmp_path: Path) -> None:
    paths = saved(tmp_path)
    paths[-1].write_bytes(paths[-1].read_bytes()[:-1])
    found = latest_checkpoint(tmp_path)
    assert found is not None
    progress, _, warnings = found
    assert progress.rounds_done == 2
    assert "round-000003" in warnings[0]
    assert "damaged" in warnings[0]
    paths[-2].write_bytes(b"")
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        latest_checkpoint(tmp_path)


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None


def test_other_shapes_are_refused() -> None:
    with pytest.raises(RunError, match="does not fit"):
        restore({"state.row": torch.zeros(2)}, {"state.row": torch.zeros(3)})
