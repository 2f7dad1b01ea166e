"""ARC: adaptive robust clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.preaggregators import PreAggregator
from gossamer.preaggregators.clipping import lengths, shrunk

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class ARC(PreAggregator):
    """Adaptive robust clipping: the floor(2 (f/n) (n - f)) longest updates are shortened to the next longest.

    On a graph lengths are those of the differences to the own update. f = 0 changes nothing.

        >>> import torch
        >>> from gossamer.gram import Gram
        >>> from gossamer.preaggregators.arc import ARC
        >>> ARC().matrix(Gram.of(torch.tensor([[1.0], [2.0], [-8.0]])), f=1, own=None).diagonal()
        tensor([1.0000, 1.0000, 0.2500], dtype=torch.float64)
    """

    source: ClassVar[str] = "Allouah, Guerraoui, Gupta, Jellouli, Rizk and Stephan 2024 (arXiv 2405.14432)"

    kind: Literal["arc"] = "arc"
    f: int | None = Field(default=None, ge=0, description="hostile updates; default: as many as the rule withstands")

    def matrix(self, gram: Gram, f: int, own: int | None) -> Tensor:
        import torch

        n = len(gram)
        f = min(f if self.f is None else self.f, n)
        lengths_N = lengths(gram, own)
        longest = lengths_N.sort().values[n - 2 * f * (n - f) // n - 1]
        return shrunk(torch.where(lengths_N > longest, longest / lengths_N, 1.0), own)
