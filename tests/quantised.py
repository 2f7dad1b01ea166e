"""A row through a quantiser and back, as the tests of quantisers need it."""

from __future__ import annotations

import numpy as np
import torch

from gossamer import wire
from gossamer.layout import Layout
from gossamer.passages import Passage
from gossamer.randomness import generator
from gossamer.transforms.blockwise import Blockwise

LAYOUT = Layout(())


def passage(step: int = 0) -> Passage:
    return Passage(LAYOUT, lambda: generator(3, "codec", 1, 2, step))


def nobody() -> np.random.Generator:
    raise AssertionError("the receiver draws nothing")


def received(codec: Blockwise, row: torch.Tensor, step: int = 0) -> torch.Tensor:
    """The row after both ends, through a frame, with the receiver knowing only the outline."""
    like = {"row": torch.empty_like(row, device="meta")}
    sent = codec.forward({"row": row}, passage(step))
    back = wire.decode(wire.encode(sent, 1, 2))[0]
    return codec.reverse(back, like, Passage(LAYOUT, nobody))["row"]


def normal(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def blocks(codec: Blockwise, row: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.split(row, codec.shared(len(row))))
