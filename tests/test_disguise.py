"""A little is enough, min-max and min-sum: how far a message can go and still lie among the honest ones.

G honest messages of D numbers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import pytest
import torch
from attack_scenes import forged, scene
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.attacks import Attack, Scene
from gossamer.attacks.alie import ALIE, unsuspicious
from gossamer.attacks.min_max import MinMax
from gossamer.attacks.min_sum import MinSum

DIRECTIONS: list[Literal["std", "unit", "sign"]] = ["std", "unit", "sign"]


class TestHiding:
    """Min-max and min-sum: the furthest point that keeps the constraint."""

    @settings(max_examples=60, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        honest=st.integers(2, 12),
        size=st.integers(1, 30),
        direction=st.sampled_from(DIRECTIONS),
        scale=st.sampled_from([1e-4, 1.0, 1e4]),
    )
    def test_the_constraint_is_tight(
        self, seed: int, honest: int, size: int, direction: Literal["std", "unit", "sign"], scale: float
    ) -> None:
        seen = scene(honest, 1, size, seed)
        seen = dataclasses.replace(seen, honest_GD=scale * seen.honest_GD, base_D=scale * seen.base_D)
        squares_GG = torch.cdist(seen.honest_GD, seen.honest_GD).square()
        assume(float(squares_GG.max()) > 0)
        for attack, limit, reached in [
            (MinMax(direction=direction), squares_GG.max(), lambda d: d.max()),
            (MinSum(direction=direction), squares_GG.sum(1).max(), lambda d: d.sum()),
        ]:
            row_D = forged(attack, seen)[0]
            assert float(reached((seen.honest_GD - row_D).square().sum(1))) == pytest.approx(float(limit), rel=1e-6)
            # On the ray from the mean, away from it.
            away_D, toward_D = row_D - seen.mean, self.direction(direction, seen)
            assert float(torch.cosine_similarity(away_D, toward_D, dim=0)) == pytest.approx(1.0, abs=1e-9)

    @staticmethod
    def direction(kind: str, seen: Scene) -> Tensor:
        change_D = seen.mean - seen.base_D
        return {"std": -seen.honest_GD.std(0), "unit": -change_D, "sign": -change_D.sign()}[kind]

    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_agrees_with_bisection(self, direction: Literal["std", "unit", "sign"]) -> None:
        seen = scene(11, 2, 30, seed=4)
        toward_D = self.direction(direction, seen)
        limit = max(float((a - b).norm()) for a in seen.honest_GD for b in seen.honest_GD)
        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            furthest = max(float((seen.mean + middle * toward_D - x).norm()) for x in seen.honest_GD)
            low, high = (middle, high) if furthest <= limit else (low, middle)
        torch.testing.assert_close(forged(MinMax(direction=direction), seen)[0], seen.mean + low * toward_D)

    def test_large_models_that_hardly_differ(self) -> None:
        """Float32 models of norm 4000 that differ by 1e-3 a coordinate: exact as far as float32 is."""
        rng = np.random.default_rng(3)
        centre = 40 * rng.standard_normal(10000)
        rows = torch.from_numpy(centre + 1e-3 * rng.standard_normal((8, 10000))).float()
        seen = dataclasses.replace(scene(8, 1, 10000, dtype=torch.float32), honest_GD=rows, base_D=rows[0] - 1e-3)
        row_D = forged(MinMax(), seen)[0].double()
        limit = torch.pdist(rows.double()).max()
        assert float((rows.double() - row_D).norm(dim=1).max()) == pytest.approx(float(limit), rel=1e-2)

    @pytest.mark.parametrize("attack", [MinMax(), MinSum(), MinMax(direction="unit"), MinSum(direction="sign")])
    def test_identical_honest_messages_leave_no_room(self, attack: Attack) -> None:
        seen = scene()
        seen = dataclasses.replace(seen, honest_GD=seen.own_HD[:1].expand(9, -1))
        torch.testing.assert_close(forged(attack, seen)[0], seen.own_HD[0])


class TestALittleIsEnough:
    @pytest.mark.parametrize(("n", "f", "z"), [(15, 3, 0.21042839), (50, 12, 0.33603814), (16, 1, -0.08365173)])
    def test_z_of_the_formula(self, n: int, f: int, z: float) -> None:
        """0.2104 is the value of the Flag Aggregator's experiments; all from scipy.stats.norm.ppf of the fraction."""
        from scipy.stats import norm

        s = n // 2 + 1 - f
        assert unsuspicious(n, f) == pytest.approx(norm.ppf((n - f - s) / (n - f)), abs=1e-12)
        assert unsuspicious(n, f) == pytest.approx(z, abs=1e-7)

    @settings(max_examples=100, deadline=None)
    @given(honest=st.integers(1, 40), hostile=st.integers(1, 40))
    def test_z_exists_for_every_number_of_nodes(self, honest: int, hostile: int) -> None:
        assert math.isfinite(unsuspicious(honest + hostile, hostile))

    def test_agrees_with_a_loop_over_coordinates(self) -> None:
        seen = scene(honest=12, hostile=3)
        z = unsuspicious(15, 3)
        columns = seen.honest_GD.numpy().T
        expected = [column.mean() - z * math.sqrt(((column - column.mean()) ** 2).sum() / 11) for column in columns]
        for row in forged(ALIE(), seen):
            np.testing.assert_allclose(row.numpy(), expected)
        np.testing.assert_allclose(forged(ALIE(z=1.5), seen)[0].numpy(), columns.mean(1) - 1.5 * columns.std(1, ddof=1))
