"""A recurrent network over characters."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.errors import ExperimentError
from gossamer.models import Model

if TYPE_CHECKING:
    from torch import Tensor, nn


class CharGRU(Model):
    """Embedding, GRU and a linear layer that guess the next character at every place of a text.

    Tokens and labels are numbers of the same alphabet; logits [B, L, classes].
    """

    source: ClassVar[str] = "Cho et al. 2014; the task and embedding of McMahan et al. 2017, with a GRU for the LSTM"

    kind: Literal["char_gru"] = "char_gru"
    embedding: int = Field(default=8, ge=1, description="numbers that stand for one character")
    hidden: int = Field(default=128, ge=1, description="units of each GRU layer")
    layers: int = Field(default=1, ge=1, description="GRU layers")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        if len(shape) != 1:
            raise ExperimentError(
                f"model.kind = 'char_gru' takes token numbers (length,), found shape {shape}; "
                "choose 'lenet5' or 'fedavg_cnn' for images, 'mlp' or 'softmax_regression' for other inputs"
            )
        embedding, hidden, layers = self.embedding, self.hidden, self.layers

        class CharacterGRU(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding = nn.Embedding(classes, embedding)
                self.gru = nn.GRU(embedding, hidden, layers, batch_first=True)
                self.output = nn.Linear(hidden, classes)

            def forward(self, tokens_BL: Tensor) -> Tensor:
                states_BLH, _ = self.gru(self.embedding(tokens_BL))
                return self.output(states_BLH)  # type: ignore[no-any-return]

        return CharacterGRU()
