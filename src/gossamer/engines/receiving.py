"""Receiving: what a receiver makes of the messages it hears, by the aggregator of the experiment.

A rule that gives a combination of the messages is, on a graph, a mixing matrix that depends on them: its rows are found
from inner products, many receivers sharing one Gram matrix, and the exchange is a product with it as for any other.

Shapes: N names, K messages heard by one receiver, D numbers of a field.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gossamer.adversary import index
from gossamer.aggregators import Gossiping, GramRule, Remembering, Tolerant, finite, shares
from gossamer.errors import AggregationError, GossamerError, NodeError, node_error
from gossamer.gram import Gram
from gossamer.histories import Direct, Gossiped
from gossamer.population import Fold

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from torch import Tensor

    from gossamer.adversary import Struck
    from gossamer.aggregators import Aggregator
    from gossamer.federation import Federation
    from gossamer.topologies import Array

FLAT = 8
"""One Gram matrix of all names is made where its size is at most this many times that of the neighbourhoods' together:
a large product runs that much faster than as many small ones."""


class Receiving:
    """The receivers of one exchange."""

    def __init__(self, federation: Federation, round: int, struck: Struck) -> None:
        self.federation, self.round, self.struck = federation, round, struck
        self.rule: Aggregator = federation.experiment.aggregator.at(round, federation.experiment.rounds)
        self.hostile_N = federation.placement.is_hostile
        self._grams: dict[str, tuple[Gram, Array]] = {}

    def mean_only(self, receiver: int) -> bool:
        """Whether a receiver (-1: the server) takes plain means: hostile ones do."""
        return receiver >= 0 and bool(self.hostile_N[receiver])

    def rule_for(self, count: int) -> Aggregator:
        """The rule for so many messages: where hostile nodes were silent, with an f that it can still withstand."""
        rule = self.rule
        if self.struck.absent and isinstance(rule, Tolerant) and isinstance(rule.f, int):
            most = max(0, rule.tolerates(rule.points(count)))
            return rule.model_copy(update={"f": most}) if rule.f > most else rule
        return rule

    @cached_property
    def combines(self) -> bool:
        """Whether every result is a combination of the messages as they were sent, found from inner products."""
        rule, plain = self.rule, not self.federation.exact and not self.federation.adversary.per_neighbour
        return plain and (rule.combines if isinstance(rule, Remembering) else isinstance(rule, GramRule))

    def share_products(self, name: str, heard_by: list[Array], total: int) -> None:
        """Multiply all rows of a field at once, if that is cheaper than for each receiver what it hears."""
        if self.federation.histories is not None:
            return
        nodes = np.unique(np.concatenate(heard_by))
        if len(nodes) ** 2 <= FLAT * total:
            rows_ND = self.federation.sent[name].flatten(1)[index(nodes)]
            kept = finite(rows_ND)
            if len(kept) == len(nodes):
                self._grams[name] = (Gram.of(rows_ND), nodes)

    def combination(self, name: str, heard: Array, weights: Array, receiver: int) -> tuple[Array, Array]:
        """(who is used, coefficients): the receiver's result for a field is their combination.

        Raises NodeError where the rule refuses what the receiver hears.
        """
        rows_ND = self.federation.sent[name]
        if self.mean_only(receiver) or rows_ND[0].numel() == 1:
            return heard, weights / weights.sum()
        own = place_of(receiver, heard)
        try:
            if self.federation.histories is not None:
                return heard, self._by_history(heard, weights, receiver, own).numpy()
            shared_gram = self._grams.get(name)
            if shared_gram is not None:
                gram, nodes = shared_gram
                used, part = heard, gram.part(index(np.searchsorted(nodes, heard)))
                dropped = 0
            else:
                stacked_ND = rows_ND[index(heard)].flatten(1)
                kept = finite(stacked_ND)
                dropped = len(heard) - len(kept)
                used, part = heard[kept.numpy()], Gram.of(stacked_ND[kept] if dropped else stacked_ND)
            rule = self.rule_for(len(heard))
            assert isinstance(rule, GramRule)
            f = rule.hostile(len(heard))
            if dropped:
                f, own = rule.less(f, len(heard), dropped), place_of(receiver, used)
            import torch

            weights_N = torch.from_numpy(weights[np.isin(heard, used)])
            return used, rule.weigh(part, weights_N, f, own).numpy()
        except AggregationError as error:
            raise NodeError(receiver, self.round + 1, "aggregate", str(error)) from error

    def _by_history(self, heard: Array, weights: Array, receiver: int, own: int | None) -> Tensor:
        import torch

        history, rule = self.federation.histories, self.rule
        assert isinstance(rule, Remembering)
        if isinstance(history, Gossiped) and isinstance(rule, Gossiping):
            others = heard[heard != receiver]
            trust_N = torch.ones(len(heard), dtype=torch.float64)
            if history.exposes:
                return shares(torch.from_numpy(weights) * (history.exposed_NN[receiver, index(heard)] == 0))
            if len(others):
                trust_N[index((heard != receiver).nonzero()[0])] = rule.trust(history.of(receiver, others), len(others))
            return shares(trust_N)
        assert isinstance(history, Direct)
        return rule.coefficients_of(history.of(heard), torch.from_numpy(weights), own)

    def matrices(self, weights_NN: csr_array, participants: Array) -> dict[str, csr_array]:
        """For each field a mixing matrix: its rows are the combinations that the rule gives each participant."""
        from scipy.sparse import csr_array

        heard_by = [weights_NN.indices[weights_NN.indptr[r] : weights_NN.indptr[r + 1]] for r in participants]
        given_by = [weights_NN.data[weights_NN.indptr[r] : weights_NN.indptr[r + 1]] for r in participants]
        total = sum(len(heard) ** 2 for heard in heard_by)
        found = {}
        for name in self.federation.sent:
            self.share_products(name, heard_by, total)
            rows, columns, values = [], [], []
            for receiver, heard, given in zip(participants.tolist(), heard_by, given_by, strict=True):
                if not len(heard):
                    continue
                used, coefficients = self.combination(name, heard, given, receiver)
                rows.append(np.full(len(used), receiver))
                columns.append(used)
                values.append(coefficients)
            places = (np.concatenate(rows), np.concatenate(columns))
            matrix_NN = csr_array((np.concatenate(values), places), shape=weights_NN.shape)
            matrix_NN.eliminate_zeros()
            matrix_NN.sort_indices()
            found[name] = matrix_NN
            self._grams.pop(name, None)
        return found

    def trust(self, heard: Array, weights: Array, receiver: int) -> Tensor:
        """What a rule with histories gives to each message, at most 1."""
        given_N = self._by_history(heard, weights, receiver, place_of(receiver, heard))
        return given_N / given_N.max()

    def fields(self, heard: Array, weights: list[float], receiver: int | None) -> dict[str, Tensor]:
        """Each field of the messages of `heard`, put through the aggregator; single numbers take the weighted mean.

        `receiver` None: a server, or everybody in an all-reduce. Raises NodeError where the rule fails.
        """
        import torch

        federation, rule = self.federation, self.rule
        given = np.asarray(weights, np.float64)
        weights_N = torch.from_numpy(given)
        who = -1 if receiver is None else receiver
        plain = self.mean_only(who)
        fields = {}
        for name, rows in federation.sent.items():
            letters = None
            if federation.adversary.per_neighbour and receiver is not None:
                letters = federation.adversary.letters(name, federation.sent, self.round, receiver, heard, given)
            if (rule.linear or plain) and letters is None and (receiver is None or name not in federation.exact):
                fold = Fold()
                for node, weight in zip(heard.tolist(), weights, strict=True):
                    fold.add(rows[node], weight)
                fields[name] = fold.mean()
                continue
            mine, mine_N = heard, weights_N
            updates_ND = rows[index(heard)].flatten(1)
            if letters is not None and letters[1] is not None:
                updates_ND[index(letters[0])] = letters[1].to(updates_ND.dtype)
            elif letters is not None:
                mine, mine_N = np.delete(heard, letters[0]), torch.from_numpy(np.delete(given, letters[0]))
                updates_ND = rows[index(mine)].flatten(1)
            own_D = base_D = None
            if receiver is not None:
                own_D = federation.exact.get(name, rows)[receiver].flatten().clone()
                if (place := place_of(receiver, mine)) is not None:
                    updates_ND[place] = own_D
            elif rule.trusts:
                own_D = federation.trusted[name].flatten()
            elif name in federation.population.state and not federation.has_server and not rule.whole:
                # Everybody's models in an all-reduce: what was changed since the mean of those they began from.
                base_D = federation.population.state[name][index(mine)].flatten(1).mean(0)
                updates_ND -= base_D
            merged_D = self.by_rule(updates_ND, mine_N, own_D, who, mine)
            fields[name] = (merged_D if base_D is None else merged_D + base_D).view(rows.shape[1:])
        return fields

    def by_rule(
        self, updates_ND: Tensor, weights_N: Tensor, own_D: Tensor | None, receiver: int, heard: Array
    ) -> Tensor:
        """What the aggregator makes of updates; single numbers take the weighted mean.

        Raises NodeError where it fails or gives something else than one update.
        """
        import torch

        if updates_ND.shape[1] == 1 or self.mean_only(receiver):
            weights_N = weights_N.to(updates_ND.dtype)
            return (weights_N @ updates_ND) / weights_N.sum()
        rule, layout = self.rule_for(len(updates_ND)), self.federation.layout
        try:
            if self.federation.histories is not None and isinstance(rule, Remembering):
                trust_N = self.trust(heard, weights_N.numpy(), receiver)
                merged: object = rule.merge(updates_ND, trust_N, place_of(receiver, heard), layout)
            else:
                merged = rule.aggregate(updates_ND, weights_N, own_D, layout)
        except AggregationError as error:
            raise NodeError(receiver, self.round + 1, "aggregate", str(error)) from error
        except GossamerError:
            raise
        except Exception as error:
            raise node_error(error, receiver, self.round + 1, "aggregate") from error
        if not isinstance(merged, torch.Tensor) or merged.shape != updates_ND.shape[1:]:
            found = f"shape {list(merged.shape)}" if isinstance(merged, torch.Tensor) else f"a {type(merged).__name__}"
            reason = f"{type(rule).__name__}.aggregate returned {found}, expected shape [{updates_ND.shape[1]}]"
            raise NodeError(receiver, self.round + 1, "aggregate", reason)
        return merged


def place_of(receiver: int, heard: Array) -> int | None:
    """The place of a receiver among those it hears, in ascending order; None where its own weight is zero."""
    place = int(np.searchsorted(heard, receiver))
    return place if place < len(heard) and heard[place] == receiver else None
