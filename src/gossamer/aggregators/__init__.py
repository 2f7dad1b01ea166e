"""Aggregators: how a receiver turns what it heard into one update.

An aggregator plug is one file. Four bases say how much of the updates a rule has to see:

    Aggregator       `aggregate` over stacked updates; with `linear` a weighted mean, which the engine folds as messages
                     arrive (server) or lifts to one sparse matrix product (graph)
    Robust           rows that are not finite are dropped and count as hostile; then `combine`
    CoordinateRule   every column for itself: `on_columns`, a block of columns at a time
    GramRule         a combination of the updates whose `coefficients` follow from their Gram matrix

A rule is a function of arrays too: `Krum(f=1)(vectors)` takes and returns NumPy arrays or tensors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from gossamer.arrays import as_rows
from gossamer.columns import by_columns
from gossamer.errors import AggregationError
from gossamer.gram import Gram, combined
from gossamer.plugs import Choice, Plug, by_class
from gossamer.preaggregators import PreAggregator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gossamer.arrays import Vectors
    from gossamer.layout import Layout


class Aggregator(Plug):
    """Base of the aggregators: `aggregate` maps updates [N, D] and weights [N] to one update [D]."""

    linear: ClassVar[bool] = False
    """True where the result is sum_i weights_i * updates_i / sum_i weights_i, put through `finish`."""
    trusts: ClassVar[bool] = False
    """Whether it needs an update that the receiver can trust: its own on a graph, at a server that of its root data."""
    whole: ClassVar[bool] = False
    """Whether it works on whole rows, so that neither changes of them nor differences between them would do."""
    graph_only: ClassVar[bool] = False
    """Whether it is for receivers that have an update of their own among those they hear."""
    history: ClassVar[str] = ""
    """What it remembers of each sender: nothing, 'direct' (those it hears), or 'gossiped' (others' as well)."""

    def __call__(self, vectors: Vectors, weights: Sequence[float] | None = None, own: Any = None) -> Any:
        """One update from a stack or list of NumPy arrays or tensors; the same type, dtype and device come out.

        `weights` are one each if left out. `own` is the receiver's own update, which joins the others as the first.
        Raises AggregationError for input that cannot be aggregated.
        """
        import torch

        rows_ND, back = as_rows(vectors)
        own_D = None
        if own is not None:
            own_D = as_rows([own])[0][0].to(rows_ND)
            if own_D.shape != rows_ND.shape[1:]:
                raise AggregationError(f"own has {len(own_D)} numbers, the updates have {rows_ND.shape[1]}")
            rows_ND = torch.cat([own_D[None], rows_ND])
        weights_N = torch.ones(len(rows_ND), dtype=torch.float64, device=rows_ND.device)
        if weights is not None:
            given_N = torch.as_tensor(weights, dtype=torch.float64, device=rows_ND.device)
            if given_N.shape not in {(len(rows_ND),), (len(rows_ND) - (own is not None),)}:
                raise AggregationError(f"there are {len(rows_ND)} updates, but weights of shape {list(given_N.shape)}")
            weights_N[len(weights_N) - len(given_N) :] = given_N
        if not (weights_N >= 0).all() or not 0 < float(weights_N.sum()) < math.inf:
            raise AggregationError("weights must be finite, none negative, and not all zero")
        return back(self.aggregate(rows_ND, weights_N, own_D))

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        """One update [D] from N updates with non-negative weights.

        On a graph the receiver's own row is among the updates (with its own weight) and is also given as `own_D`.
        """
        raise NotImplementedError

    def statistics(self, update_D: Tensor, layout: Layout) -> Tensor | None:
        """What a linear rule wants to know of each message besides its sum: numbers [S]; None: nothing."""
        return None

    def finish(self, mixed_D: Tensor, stats_NS: Tensor, weights_N: Tensor, own: int | None, layout: Layout) -> Tensor:
        """The result of a linear rule from the weighted mean and the statistics of the N messages in it.

        `own` is the place of the receiver's own model among them. Asked only where `statistics` gives numbers.
        """
        return mixed_D

    def at(self, round: int, rounds: int) -> Self:
        """The rule as it is in a round of a run, for those that change over time."""
        return self


class Robust(Aggregator):
    """Base of the rules that withstand hostile updates.

    Updates that hold NaN or infinity are dropped and counted as hostile; if they are more than the rule is to
    withstand, that is an error, not a guess.
    """

    before: tuple[Annotated[PreAggregator, Choice()], ...] = Field(
        default=(), description="pre-aggregators in the order in which updates go through them, such as ['nnm']"
    )

    proven: ClassVar[bool] = True
    """Whether a bound on what so many hostile updates can do to it is known."""

    def tolerates(self, n: int) -> int:
        """The most hostile updates among n that the rule can withstand (below 0: n are too few)."""
        return (n - 1) // 2

    def hostile(self, n: int) -> int:
        """The hostile updates among n that it is to withstand."""
        return self.tolerates(self.points(n))

    def points(self, n: int) -> int:
        """How many points the pre-aggregators make of n updates."""
        for step in self.before:
            n = step.points(n)
        return n

    def aggregate(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        n = len(updates_ND)
        f, kept = self.hostile(n), finite(updates_ND)
        own = None if own_D is None else own_place(own_D, updates_ND)
        if len(kept) < n:
            f = self.less(f, n, n - len(kept))
            own = None if own is None or own not in kept else int((kept == own).nonzero())
            updates_ND, weights_N = updates_ND[kept], weights_N[kept]
        return self.combine(updates_ND, weights_N, f, own, layout)

    def less(self, f: int, n: int, dropped: int) -> int:
        """f without updates that were dropped. Raises AggregationError where it was not so many."""
        if dropped > f:
            raise AggregationError(
                f"{dropped} of {n} updates hold NaN or infinity, but {self.kind} withstands {f} hostile ones"
            )
        return f - dropped

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        """One update [D] from N finite ones, at most f of them hostile; `own` is the place of the receiver's own."""
        raise NotImplementedError

    def at(self, round: int, rounds: int) -> Self:
        steps = tuple(step.at(round, rounds) for step in self.before)
        return self if steps == self.before else self.model_copy(update={"before": steps})

    def prepared(self, gram: Gram, f: int, own: int | None) -> Gram:
        """The points that the pre-aggregators make of the updates."""
        for step in self.before:
            gram = gram.through(step.matrix(gram, f, own))
            own = own if step.points(len(gram)) == len(gram) else None
        return gram


class Tolerant(Robust):
    """Base of the robust rules that must be told how many hostile updates there may be."""

    f: int | float = Field(
        default=0.2,
        ge=0,
        description="hostile updates to withstand: a number (an error where the rule cannot), or a share below 0.5 of "
        "the updates, rounded up, but no more than the rule can",
    )

    @field_validator("f")
    @classmethod
    def _share(cls, value: int | float) -> int | float:
        if isinstance(value, float) and value >= 0.5:
            raise ValueError("give a whole number of updates, or a share below 0.5 of them")
        return value

    def hostile(self, n: int) -> int:
        most = self.tolerates(self.points(n))
        if isinstance(self.f, int):
            if self.f > max(most, 0):
                raise AggregationError(
                    f"{self.kind} withstands {max(most, 0)} hostile of {n} updates, not f = {self.f}; use fewer, or f "
                    "as a share such as 0.2"
                )
            return self.f
        return max(0, min(math.ceil(self.f * n - 1e-9), most))


class CoordinateRule(Robust):
    """Base of the rules that treat every column for itself. They ignore weights."""

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        map_PN = self.prepared(Gram.of(updates_ND), f, own).map_PN if self.before else None
        return by_columns(updates_ND, lambda block_NC: self.on_columns(block_NC, f), map_PN)

    def on_columns(self, block_NC: Tensor, f: int) -> Tensor:
        """[C] from a block of columns, which may be overwritten."""
        raise NotImplementedError


class GramRule(Robust):
    """Base of the rules whose result is a combination of the updates that follows from their Gram matrix."""

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        return combined(updates_ND, self.weigh(Gram.of(updates_ND), weights_N, f, own))

    def weigh(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        """The coefficients [N] of the updates in the result, pre-aggregators included."""
        points = self.prepared(gram, f, own)
        if len(points) != len(gram):
            weights_N, own = weights_N.new_ones(len(points)), None
        return points.to_rows(self.coefficients(points, weights_N.double(), f, own))

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        """[N] in float64: the result is sum_i a_i x_i. `own` is the place of the receiver's own, on a graph."""
        raise NotImplementedError


class Remembering(GramRule):
    """Base of the rules that compare what senders sent over many rounds."""

    proven: ClassVar[bool] = False

    remember: Literal["models", "updates"] = Field(
        default="models",
        description="on a graph: the last model of each sender, or the sum of what its local work changed; at a server "
        "it is always the sum of its changes",
    )

    @field_validator("before")
    @classmethod
    def _as_sent(cls, value: tuple[PreAggregator, ...]) -> tuple[PreAggregator, ...]:
        if value:
            raise ValueError("rules that compare histories take updates as they were sent; leave it out")
        return value

    @property
    def combines(self) -> bool:
        """Whether the result is a combination of the updates by how much each is trusted."""
        return True

    def coefficients_of(self, history: Gram, weights_N: Tensor, own: int | None) -> Tensor:
        """The coefficients [N] of the updates from the histories of their N senders."""
        raise NotImplementedError

    def merge(
        self, updates_ND: Tensor, trust_N: Tensor, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        """One update [D] from updates and how much each is trusted."""
        return combined(updates_ND, shares(trust_N))


class Gossiping(Remembering):
    """Base of those whose receivers tell each other what they know of others."""

    history: ClassVar[str] = "gossiped"
    exposes: ClassVar[bool] = False
    """Whether it asks for `twins`, and distrusts them for good."""

    decay: float = Field(default=0.8, ge=0, description="lambda: how much rather records of near nodes are passed on")
    versions: int = Field(
        default=8, ge=2, description="records kept in memory for each node, of all rounds together; the oldest go"
    )

    def trust(self, history: Gram, heard: int) -> Tensor:
        """Trust [heard], at most 1, in the first of the histories, those of the senders that are heard."""
        raise NotImplementedError

    def twins(self, squares_RU: Tensor, known_RU: Tensor) -> Tensor | None:
        """Of U senders, who is to be distrusted for good [U]: from squared distances between R records and what the
        senders sent in the rounds in which these were made, where `known_RU`; None: the rule does not ask."""
        return None


def shares(trust_N: Tensor) -> Tensor:
    """Scores as weights that sum to 1; equal ones where nobody is trusted."""
    total = trust_N.sum()
    return trust_N / total if float(total) > 0 else trust_N.new_full(trust_N.shape, 1.0 / len(trust_N))


def finite(updates_ND: Tensor) -> Tensor:
    """The places of the updates without NaN or infinity, and whose squares are far from overflowing float64."""
    import torch

    # Products in the updates' own precision are quick and overflow early; only then is it looked at closely.
    if all(float(update_D.dot(update_D)) < 1e30 for update_D in updates_ND):
        return torch.arange(len(updates_ND), device=updates_ND.device)
    squares_N = torch.stack([row_D.double().square().sum() for row_D in updates_ND])
    return (squares_N < 1e300).nonzero().flatten()


def own_place(own_D: Tensor, updates_ND: Tensor) -> int | None:
    """The place of the receiver's own update among all, None where it is not there."""
    return next((i for i, update_D in enumerate(updates_ND) if update_D.equal(own_D)), None)


def __getattr__(name: str) -> type[Plug]:
    """The rules by the names of their classes."""
    return by_class(Aggregator, name)
