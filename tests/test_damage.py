"""Attacks that know the defence: their objective, their line search, and what no fixed factor may beat.

H hostile and G honest messages of D numbers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import pytest
import torch
from attack_scenes import forged, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.aggregators import Aggregator, GramRule, Robust
from gossamer.aggregators.krum import Krum
from gossamer.aggregators.mean import Mean
from gossamer.aggregators.median import Median
from gossamer.aggregators.trimmed_mean import TrimmedMean
from gossamer.attacks import Attack, Scene
from gossamer.attacks.alie import ALIE, unsuspicious
from gossamer.attacks.ipm import IPM
from gossamer.attacks.mimic import Mimic
from gossamer.attacks.opt_alie import OptALIE
from gossamer.attacks.opt_ipm import OptIPM
from gossamer.damage import damage
from gossamer.errors import AggregationError
from gossamer.gram import Gram
from gossamer.layout import Layout
from gossamer.linesearch import maximiser
from gossamer.preaggregators.nnm import NNM


class OwnMean(GramRule):
    """Half way from the receiver's own to the mean of the others: a rule that needs an own update."""

    kind: Literal["own_mean"] = "own_mean"

    def coefficients(self, gram: Gram, weights_N: Tensor, f: int, own: int | None) -> Tensor:
        assert own is not None
        others_N = torch.ones_like(weights_N)
        others_N[own] = 0.0
        half_N = others_N / others_N.sum() / 2
        half_N[own] = 0.5
        return half_N


class Doubled(Krum):
    """Twice what Krum gives."""

    f: int | float = 2

    def combine(
        self, updates_ND: Tensor, weights_N: Tensor, f: int, own: int | None = None, layout: Layout | None = None
    ) -> Tensor:
        return 2 * super().combine(updates_ND, weights_N, f, own, layout)


class Trusting(OwnMean):
    """The same, of a rule that also asks a server for an update it can trust."""

    trusts = True
    graph_only = False


RULES: dict[str, Robust | Mean] = {
    "mean": Mean(),
    "krum": Krum(f=3),
    "nnm+krum": Krum(f=3, before=(NNM(),)),
    "median": Median(),
    "trimmed_mean": TrimmedMean(f=3),
    "nnm+trimmed_mean": TrimmedMean(f=3, before=(NNM(),)),
}


class TestDamage:
    """The objective on the Gram matrix is the distance that the rule itself gives."""

    @staticmethod
    def asked(rule: Aggregator, seen: Scene, row_D: Tensor, hostile: int) -> float:
        updates_ND = torch.cat([seen.honest_GD, row_D.expand(hostile, -1)])
        weights_N = torch.ones(len(updates_ND), dtype=torch.float64)
        return float((rule.aggregate(updates_ND, weights_N) - seen.mean).norm())

    @pytest.mark.parametrize("base", [0.0, 1e4])
    @pytest.mark.parametrize("rule", RULES)
    def test_is_that_of_the_rule(self, rule: str, base: float) -> None:
        seen = scene(12, 3, 50, base=base)
        toward_D = seen.mean - seen.honest_GD.std(0)
        harm = damage(RULES[rule], seen.honest_GD, toward_D, 3)
        for factor in (0.0, 0.2, 1.0, 3.0, 40.0):
            row_D = seen.mean + factor * (toward_D - seen.mean)
            assert harm(factor) == pytest.approx(self.asked(RULES[rule], seen, row_D, 3), rel=1e-6, abs=1e-6)

    def test_a_rule_that_combines_in_its_own_way_is_asked_itself(self) -> None:
        """What `weigh` says is not its result where a class puts another `combine` before it."""
        seen = scene(6, 2, 10)
        row_D = seen.mean + 6.0
        harm = damage(Doubled(), seen.honest_GD, seen.mean + 2.0, 2)
        assert harm(3.0) == pytest.approx(self.asked(Doubled(), seen, row_D, 2))
        assert harm(3.0) != pytest.approx(damage(Krum(f=2), seen.honest_GD, seen.mean + 2.0, 2)(3.0))

    @pytest.mark.parametrize("among", [True, False])
    def test_the_receiver_s_own_is_heard_once(self, among: bool) -> None:
        seen = scene(6, 2, 10)
        own_D = seen.honest_GD[2] if among else seen.own_HD[0]
        toward_D = seen.mean + 1.0
        others = [x for i, x in enumerate(seen.honest_GD) if not (among and i == 2)] + [seen.mean + 5.0] * 2
        expected = (own_D + torch.stack(others).mean(0)) / 2 - seen.mean
        harm = damage(OwnMean(), seen.honest_GD, toward_D, 2, own_D)
        assert harm(5.0) == pytest.approx(float(expected.norm()))

    def test_weights_of_a_neighbourhood_count(self) -> None:
        """The mean's damage is the hostile share of the way; the receiver's own has what the others leave, a fifth."""
        seen = scene(6, 2, 10, receiver=True)
        harm = damage(Mean(), seen.honest_GD, seen.mean + 1.0, 2, seen.receiver_D, seen.weights_G, seen.weights_H)
        share_H = seen.weights_H.sum()
        result_D = seen.weights_G @ seen.honest_GD + 0.2 * seen.receiver_D + share_H * (seen.mean + 7.0)
        assert harm(7.0) == pytest.approx(float((result_D - seen.mean).norm()))

    def test_a_server_s_trusted_update_is_taken_for_the_honest_mean(self) -> None:
        seen = scene(6, 2, 10)
        toward_D = seen.mean + 1.0
        given = damage(OwnMean(), seen.honest_GD, toward_D, 2, seen.mean)
        assert damage(Trusting(), seen.honest_GD, toward_D, 2)(3.0) == pytest.approx(given(3.0))

    def test_too_many_hostile_ones_are_the_rule_s_own_error(self) -> None:
        with pytest.raises(AggregationError, match="krum withstands 2 hostile of 7 updates, not f = 3"):
            forged(OptALIE(), scene(4, 3, defence=Krum(f=3)))


class TestOptimal:
    """No fixed factor does more harm than the one that is found."""

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_at_least_as_damaging_as_any_fixed_factor(self, rule: str, seed: int) -> None:
        seen = scene(12, 3, 60, seed, defence=RULES[rule])
        for best, fixed in [
            (OptIPM(), [IPM(scale=s) for s in np.geomspace(0.011, 99, 80)]),
            (OptALIE(), [ALIE(z=z) for z in [unsuspicious(15, 3), *np.geomspace(0.011, 99, 80)]]),
        ]:
            found = TestDamage.asked(RULES[rule], seen, forged(best, seen)[0], 3)
            others = [TestDamage.asked(RULES[rule], seen, forged(attack, seen)[0], 3) for attack in fixed]
            # Between the places of the grid a rule that jumps may hide some more.
            assert found >= 0.98 * max(others)

    @pytest.mark.parametrize("attack", [OptIPM(most=7.0), OptALIE(most=7.0)], ids=["ipm", "alie"])
    def test_against_the_mean_the_largest_factor_is_best(self, attack: OptIPM | OptALIE) -> None:
        seen = scene(defence=Mean())
        row_D = forged(attack, seen)[0]
        expected = -7.0 * seen.change if attack.kind == "opt_ipm" else seen.mean - 7.0 * seen.honest_GD.std(0)
        torch.testing.assert_close(row_D, expected)

    def test_krum_is_fooled_into_choosing_the_forged_message(self) -> None:
        """Krum returns an honest message or the forged one; the attack pays off just where it is the latter."""
        seen = scene(12, 3, 60, defence=Krum(f=3))
        row_D = forged(OptALIE(), seen)[0]
        updates = torch.cat([seen.honest_GD, row_D.expand(3, -1)])
        assert Krum(f=3)(updates).equal(row_D)

    def test_it_looks_from_where_the_neighbour_stands(self) -> None:
        """With the receiver's own among what is heard, the most damaging factor is another than without."""
        seen = scene(7, 2, 40, receiver=True, defence=Krum(f=2))
        alone = dataclasses.replace(seen, receiver_D=None, weights_G=None, weights_H=None)
        far = dataclasses.replace(seen, receiver_D=seen.receiver_D + 100.0)
        assert not forged(OptALIE(), far).equal(forged(OptALIE(), alone))

    @pytest.mark.parametrize("attack", [OptIPM(), OptALIE(), Mimic()], ids=lambda a: a.kind)
    def test_training_that_diverged_is_no_error_of_the_attack(self, attack: Attack) -> None:
        seen = scene()
        broken = seen.honest_GD.clone()
        broken[0, 0] = math.nan
        assert forged(attack, dataclasses.replace(seen, honest_GD=broken)).shape == (2, 20)


class TestLineSearch:
    @settings(max_examples=60, deadline=None)
    @given(edge=st.floats(0.02, 90.0), plateau=st.floats(0.0, 0.5))
    def test_finds_the_edge_of_a_cliff(self, edge: float, plateau: float) -> None:
        """x up to the edge, a share of it beyond: what a rule does that drops updates too far out."""
        grid = np.geomspace(0.01, 100, 24).tolist()
        x = maximiser(lambda x: x if x <= edge else plateau * edge, grid, 16)
        assert 0.99 * edge <= x <= edge

    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10**6), refinements=st.integers(0, 12))
    def test_never_worse_than_the_grid_and_no_more_questions_than_allowed(self, seed: int, refinements: int) -> None:
        rng = np.random.default_rng(seed)
        phases, asked = rng.uniform(0, 6, 4), []

        def value(x: float) -> float:
            asked.append(x)
            return float(sum(math.sin((k + 1) * x + p) for k, p in enumerate(phases)))

        grid = np.linspace(0.1, 5, 12).tolist()
        x = maximiser(value, grid, refinements)
        assert len(asked) == 12 + (refinements if refinements >= 2 else 0)
        assert 0.1 <= x <= 5
        assert value(x) >= max(value(g) for g in grid)

    def test_ties_go_to_the_smallest_and_nan_to_nobody(self) -> None:
        assert maximiser(lambda x: 1.0, [1.0, 2.0, 3.0], 8) == 1.0
        assert maximiser(lambda x: math.nan if x > 1.5 else x, [1.0, 2.0, 3.0], 12) == pytest.approx(1.5, abs=0.02)
        assert maximiser(lambda x: math.nan, [1.0, 2.0], 4) == 1.0
