"""Twin filter: who sends what somebody else sent in the same round is one of an attacker's many names."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gossamer.aggregators import Gossiping

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.gram import Gram


class TwinFilter(Gossiping):
    """Mean of the neighbours that have no twin, by the mixing weights.

    As under SybilWall each node sends along, to each neighbour, one record of somebody it knows. Its receiver compares
    it with what its own neighbours sent in the round in which the record was made, which it remembers: two models of
    the same round that are nearer to each other than `threshold` times what is usual at this receiver come from one
    attacker, and both names are distrusted from then on. Models of different rounds are never compared, so honest nodes
    that learn alike are not taken for twins, and nobody loses weight for resembling others.

    Used on arrays, without a network, updates with a twin among them are left out.

        >>> import numpy as np
        >>> from gossamer.aggregators import TwinFilter
        >>> TwinFilter()(np.array([[9.0, 9.0], [9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        array([0.33333333, 0.33333333])
    """

    source: ClassVar[str] = "ours; the gossip of records is that of Werthenbach and Pouwelse 2023"

    exposes: ClassVar[bool] = True

    kind: Literal["twin_filter"] = "twin_filter"
    threshold: float = Field(
        default=0.2, gt=0, lt=1, description="distance below which two are twins, as a share of the usual distance"
    )

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        return self.coefficients_of(gram, weights_N, own)

    def coefficients_of(self, history: Gram, weights_N: Tensor, own: int | None) -> Tensor:
        import torch

        others_NN = ~torch.eye(len(history), dtype=torch.bool, device=weights_N.device)
        kept_N = ~self.twins(history.squares, others_NN)
        if own is not None:
            kept_N[own] = True
        given_N = weights_N * kept_N if float((weights_N * kept_N).sum()) > 0 else weights_N
        return given_N / given_N.sum()

    def twins(self, squares_RU: Tensor, known_RU: Tensor) -> Tensor:
        """Of U senders, who has a twin [U]: from squared distances to R records, where these are known.

        A record is usually as far from the senders as from half of them.
        """
        import torch

        apart_RU = squares_RU.sqrt().where(known_RU, torch.full_like(squares_RU, torch.nan))
        usual_R1 = apart_RU.nanmedian(1, keepdim=True).values
        return ((apart_RU < self.threshold * usual_R1) & known_RU).any(0)
