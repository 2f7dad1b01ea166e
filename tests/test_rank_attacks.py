"""Attacks on rankings: closed forms, exhaustion over all rankings of few edges, and what all of them must hold.

H hostile and G honest rankings of P edges, of which `count` are kept.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from attack_scenes import scene
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rank_votes import Array, after, changed, kept, ranks, vote, voters

import gossamer.aggregators as rules
from gossamer.attacks import Attack
from gossamer.attacks.edge_control import EdgeControl
from gossamer.attacks.opt_vulnerable_edges import OptVulnerableEdges, taken
from gossamer.attacks.rank_reversal import RankReversal
from gossamer.attacks.vulnerable_edges import Contest, VulnerableEdges, contested
from gossamer.errors import AggregationError

ATTACKS: dict[str, Attack] = {
    "reversal": RankReversal(),
    "most": VulnerableEdges(),
    "all": VulnerableEdges(swaps="all"),
    "own": VulnerableEdges(sees="own"),
    "near": VulnerableEdges(reach=0.2),
    "control": EdgeControl(target=0.3),
    "best": OptVulnerableEdges(),
}
LAYERS = ((0, 30, 15), (30, 37, 2), (37, 47, 9), (47, 50, 3), (50, 51, 1))
"""Of several sizes; of the last two all edges are kept."""


def layered(seed: int, count: int = 9) -> Array:
    return np.concatenate([voters(count, stop - start, 0.3, seed) for start, stop, _ in LAYERS], 1)


class TestAll:
    @pytest.mark.parametrize("name", ATTACKS)
    def test_what_is_sent_are_rankings_of_each_layer(self, name: str) -> None:
        forged = ATTACKS[name].forge(vote(layered(0), 3, 0, kept=LAYERS, accuracy_if=lambda rows: 0.5))
        assert forged is not None
        for start, stop, _ in LAYERS:
            for row in forged[:, start:stop]:
                assert row.sort().values.tolist() == list(range(stop - start))

    @pytest.mark.parametrize("name", ATTACKS)
    def test_layers_are_attacked_each_for_itself(self, name: str) -> None:
        if name in {"control", "best"}:
            return  # One strength for all layers.
        rows = layered(1)
        whole = after(ATTACKS[name], vote(rows, 3, 0, kept=LAYERS))
        for start, stop, count in LAYERS:
            alone = after(ATTACKS[name], vote(rows[:, start:stop], 3, count))
            assert np.array_equal(whole[:, start:stop], alone)

    @pytest.mark.parametrize("name", ATTACKS)
    def test_other_messages_keep_their_numbers(self, name: str) -> None:
        """Parameters, say, of which nobody knows layers: the row in another order, half of it as if it were kept."""
        seen = scene(9, 3, 20, seed=4)
        forged = ATTACKS[name].forge(seen)
        assert forged is not None
        torch.testing.assert_close(forged.sort(1).values, seen.own_HD.sort(1).values, rtol=0, atol=0)
        torch.testing.assert_close(
            forged, ATTACKS[name].forge(dataclasses.replace(seen, kept=((0, 20, 10),))), rtol=0, atol=0
        )

    @pytest.mark.parametrize("name", ATTACKS)
    def test_numbers_of_edges_do_not_matter(self, name: str) -> None:
        """Edges renumbered before are edges renumbered after, where no votes tie."""
        rows = np.random.default_rng(2).standard_normal((9, 24))
        order = np.random.default_rng(3).permutation(24)
        share = lambda forged: float((forged.mean(0) > 0.5).double().mean())  # noqa: E731
        plain = after(ATTACKS[name], vote(rows, 3, 10, accuracy_if=share))
        assert np.array_equal(after(ATTACKS[name], vote(rows[:, order], 3, 10, accuracy_if=share)), plain[:, order])


class TestReversal:
    def test_one_voter_sends_the_opposite_of_its_own(self) -> None:
        own = voters(1, 11, 0.5)
        rows = np.concatenate([own, voters(3, 11, 0.5, 1)])
        assert np.array_equal(after(RankReversal(), vote(rows, 1, 5))[0], 10 - own[0])

    def test_they_vote_among_themselves(self) -> None:
        rows = voters(8, 40, 0.3)
        sent = after(RankReversal(), vote(rows, 5, 20))[:5]
        assert (sent == sent[0]).all()
        assert np.array_equal(39 - sent[0], ranks(rows[:5].mean(0)))

    @pytest.mark.parametrize("hostile", range(11))
    def test_a_common_order_is_turned_over_exactly_above_one_half(self, hostile: int) -> None:
        """10 voters who agree; with 5 of them hostile all edges tie."""
        rows = np.tile(voters(1, 30, 1.0), (10, 1))
        total = after(RankReversal(), vote(rows, hostile, 15)).sum(0) if hostile else rows.sum(0)
        if hostile == 5:
            assert (total == total[0]).all()
        else:
            assert np.array_equal(ranks(total), rows[0] if hostile < 5 else 29 - rows[0])


def exhausted(total_P: Array, added: float, count: int) -> int:
    """The most edges that any common ranking takes out of what is kept; every ranking is tried."""
    every = np.array(list(itertools.permutations(range(len(total_P)))), float)
    before = kept(total_P, count)
    return max(int((before & ~kept(total_P + added * ranking, count)).sum()) for ranking in every)


class TestVulnerableEdges:
    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 5), st.integers(1, 4), st.data())
    def test_no_common_ranking_takes_more(self, seed: int, edges: int, honest: int, hostile: int, data: st.DataObject):
        """With ties and all; and the votes that are sent take as many as was reckoned."""
        count = data.draw(st.integers(0, edges))
        rows = ranks(np.random.default_rng(seed).standard_normal((honest + hostile, edges)))
        seen = vote(rows, hostile, count)
        most = contested(seen)[0].most()
        assert most == exhausted(rows[hostile:].sum(0), hostile, count)
        total = after(VulnerableEdges(), seen).sum(0)
        assert (kept(rows[hostile:].sum(0), count) & ~kept(total, count)).sum() == most

    @pytest.mark.parametrize("seed", range(4))
    def test_nor_for_six_edges(self, seed: int) -> None:
        rows = ranks(np.random.default_rng(seed).standard_normal((3 + seed % 2, 6)))
        assert contested(vote(rows, 2, 3))[0].most() == exhausted(rows[2:].sum(0), 2, 3)

    def test_different_rankings_take_at_most_one_edge_more(self) -> None:
        """Of 4 edges, over all pairs of rankings: what is lost by sending the same, in few cases."""
        every = np.array(list(itertools.permutations(range(4))), float)
        sums = np.unique((every[:, None] + every).reshape(-1, 4), axis=0)
        gaps = []
        for seed in range(60):
            dice = np.random.default_rng(seed)
            total, count = ranks(dice.standard_normal((1 + seed % 5, 4))).sum(0), int(dice.integers(1, 4))
            before = kept(total, count)
            best = max(int((before & ~kept(total + added, count)).sum()) for added in sums)
            gaps.append(best - Contest(torch.from_numpy(total), 2.0 * torch.arange(4).double(), count).most())
        assert set(gaps) <= {0, 1}
        assert np.mean(gaps) < 0.1

    def test_as_many_or_fewer_swaps_are_granted_and_no_more(self) -> None:
        rows = voters(25, 200, 0.2)
        contest = contested(vote(rows, 5, 120))[0]
        most, before = contest.most(), kept(rows[5:].sum(0), 120)
        assert 0 < most < contest.limit
        for swaps in range(contest.limit + 1):
            ranking = np.empty(200)
            ranking[contest.swapped(swaps).numpy()] = np.arange(200)
            lost = int((before & ~kept(rows[5:].sum(0) + 5 * ranking, 120)).sum())
            assert (lost == swaps) == (swaps <= most)

    def test_where_edges_go(self) -> None:
        """Ten edges in honest order, six kept, two exchanged."""
        contest = Contest(torch.arange(10.0), torch.arange(10.0), 6)
        assert contest.swapped(2).tolist() == [5, 4, 0, 1, 6, 7, 8, 9, 3, 2]
        assert contest.swapped(0).tolist() == list(range(10))
        assert contest.all_swapped().tolist() == [4, 5, 6, 7, 8, 9, 0, 1, 2, 3]
        near = dataclasses.replace(contest, reach=0.5)
        assert near.window == (2, 4, 7)
        assert near.limit == 2
        assert near.swapped(1).tolist() == [0, 1, 4, 2, 5, 6, 3, 7, 8, 9]
        assert near.all_swapped().tolist() == [0, 1, 4, 5, 6, 2, 3, 7, 8, 9]

    def test_what_it_knows_of_honest_votes(self) -> None:
        """From its own it reckons with as many voters as there are: the same where those are copies."""
        rows = voters(12, 60, 0.3)
        rows[:6] = rows[6:]
        attacks = [VulnerableEdges(sees="all"), VulnerableEdges(sees="own")]
        assert np.array_equal(*[after(attack, vote(rows, 6, 30)) for attack in attacks])
        rows[:6] = voters(6, 60, 0.3, 9)
        assert not np.array_equal(*[after(attack, vote(rows, 6, 30)) for attack in attacks])

    def test_for_one_neighbour_votes_have_its_weights(self) -> None:
        """What is reckoned happens in the mean that this neighbour takes, its own ranking included."""
        rows = voters(7, 50, 0.3)
        weights = torch.tensor([0.1, 0.2, 0.05, 0.15], dtype=torch.float64), torch.tensor([0.25, 0.1]).double()
        seen = vote(rows[:6], 2, 25, receiver_D=torch.from_numpy(rows[6]), weights_G=weights[0], weights_H=weights[1])
        all_weights = np.array([0.25, 0.1, 0.1, 0.2, 0.05, 0.15, 0.15])
        honest = all_weights[2:] @ rows[2:]
        result = all_weights @ np.concatenate([after(VulnerableEdges(), seen), rows[6:]])
        most = contested(seen)[0].most()
        assert 0 < most == (kept(honest, 25) & ~kept(result, 25)).sum()

    @pytest.mark.parametrize("hostile", [2, 5, 10])
    def test_borda_loses_more_than_by_reversal(self, hostile: int) -> None:
        rows = voters(25, 400, 0.1)
        lost = {name: changed(rules.Mean(), rows, hostile, 200, ATTACKS[name]) for name in ("reversal", "most", "all")}
        assert lost["most"] >= 3 * lost["reversal"]
        assert lost["most"] >= 0.9 * lost["all"]

    def test_settings_out_of_range(self) -> None:
        for settings_ in ({"reach": 0}, {"reach": 1.1}, {"swaps": "none"}, {"sees": "nobody"}):
            with pytest.raises(ValidationError):
                VulnerableEdges(**settings_)


class TestEdgeControl:
    def steered(self, target: float, evaluations: int = 6, lowest: float = 0.2) -> tuple[float, int]:
        """The accuracy that comes out, and how often it was asked for, where it falls with the edges that are lost from
        0.9 to `lowest`."""
        rows, asked = voters(25, 2000, 0.1), []
        seen = vote(rows, 5, 1000)
        most = contested(seen)[0].most()
        before = kept(seen.honest_GD.sum(0).numpy(), 1000)

        def accuracy(forged: torch.Tensor) -> float:
            total = forged.sum(0) + seen.honest_GD.sum(0)
            lost = int((before & ~kept(total.numpy(), 1000)).sum())
            asked.append(0.9 - (0.9 - lowest) * lost / most)
            return asked[-1]

        forged = EdgeControl(target=target, evaluations=evaluations).forge(
            dataclasses.replace(seen, accuracy_if=accuracy)
        )
        return accuracy(forged), len(asked) - 1

    @pytest.mark.parametrize("target", [0.3, 0.5, 0.77])
    def test_the_target_is_met_to_the_resolution_of_bisection(self, target: float) -> None:
        for evaluations in (2, 4, 6, 9):
            found, asked = self.steered(target, evaluations)
            assert abs(found - target) <= 0.7 / 2 ** (evaluations - 2)
            assert asked == evaluations

    def test_beyond_what_votes_can_do_the_nearest_end(self) -> None:
        assert self.steered(0.1) == (pytest.approx(0.2), 2)
        assert self.steered(0.95)[0] >= 0.85
        rows = voters(25, 100, 0.1)
        seen = vote(rows, 5, 50, accuracy_if=lambda forged: 0.8)
        assert EdgeControl(target=0.9).forge(seen).equal(seen.own_HD)

    def test_what_was_tried_is_kept_where_accuracy_jumps(self) -> None:
        """Not monotone: of all measured the nearest."""
        rows = voters(25, 400, 0.1)
        answers = iter([0.9, 0.1, 0.52, 0.2, 0.8, 0.3])
        told: list[torch.Tensor] = []

        def accuracy(forged: torch.Tensor) -> float:
            told.append(forged)
            return next(answers)

        forged = EdgeControl(target=0.5).forge(vote(rows, 5, 200, accuracy_if=accuracy))
        assert forged.equal(told[2])

    def test_with_nobody_to_ask_it_is_the_full_attack(self) -> None:
        seen = vote(layered(3), 3, 0, kept=LAYERS)
        assert EdgeControl().forge(seen).equal(VulnerableEdges().forge(seen))


class TestOptimalVulnerableEdges:
    RULES = (
        rules.Mean(),
        rules.Median(),
        rules.MarginCap(),
        rules.MultiKrum(f=5),
        rules.TrimmedMean(f=5, before=("nnm",)),  # type: ignore[arg-type]
        rules.NNA(f=5),
    )

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
    def test_no_rule_loses_less_than_by_what_it_is_made_of(self, rule: rules.Aggregator) -> None:
        seen = vote(voters(25, 300, 0.2), 5, 150, rule)
        best = taken(seen, OptVulnerableEdges().forge(seen))
        assert best >= taken(seen, VulnerableEdges().forge(seen))
        assert best >= taken(seen, seen.own_HD)

    def test_rules_that_look_for_odd_voters_lose_much_more(self) -> None:
        seen = vote(voters(25, 400, 0.1), 10, 200, rules.MultiKrum(f=10))
        assert taken(seen, OptVulnerableEdges().forge(seen)) > 5 * taken(seen, VulnerableEdges().forge(seen))

    def test_losses_are_counted_layer_by_layer(self) -> None:
        rows, rule = layered(4), rules.MarginCap()
        seen = vote(rows, 3, 0, rule, kept=LAYERS)
        forged = VulnerableEdges().forge(seen)
        result = [rule(np.concatenate([forged, rows[3:]])[:, start:stop]) for start, stop, _ in LAYERS]
        expected = [
            kept(rows[3:, start:stop].mean(0), count) & ~kept(part, count)
            for part, (start, stop, count) in zip(result, LAYERS, strict=True)
        ]
        assert taken(seen, forged) == sum(int(lost.sum()) for lost in expected) > 0

    def test_too_many_for_the_rule(self) -> None:
        with pytest.raises(AggregationError, match="krum withstands 4"):
            OptVulnerableEdges().forge(vote(voters(12, 30, 0.2), 6, 15, rules.Krum(f=6)))
