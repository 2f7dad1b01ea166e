"""Attacks on messages: closed forms and slow transcriptions, and what all of them must hold.

H hostile and G honest messages of D numbers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import pytest
import torch
from attack_scenes import forged, scene, tensors, with_memory
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from gossamer.attacks import Attack
from gossamer.attacks.alie import ALIE
from gossamer.attacks.constant import Constant
from gossamer.attacks.delay import Delay
from gossamer.attacks.dissensus import Dissensus
from gossamer.attacks.drift import Drift
from gossamer.attacks.drop import Drop
from gossamer.attacks.free_rider import FreeRider
from gossamer.attacks.gaussian import Gaussian
from gossamer.attacks.ipm import IPM
from gossamer.attacks.malformed import Malformed
from gossamer.attacks.mimic import Mimic
from gossamer.attacks.min_max import MinMax
from gossamer.attacks.min_sum import MinSum
from gossamer.attacks.model_replacement import ModelReplacement
from gossamer.attacks.opt_alie import OptALIE
from gossamer.attacks.opt_ipm import OptIPM
from gossamer.attacks.sign_flip import SignFlip
from gossamer.attacks.uniform import Uniform
from gossamer.attacks.zeros import Zeros
from gossamer.errors import ExperimentError
from gossamer.plugs import discover

FORGING = {kind: cls for kind, cls in discover(Attack).items() if cls.forges}
DIRECTIONS: list[Literal["std", "unit", "sign"]] = ["std", "unit", "sign"]


class TestAll:
    """What every attack on messages must hold."""

    @pytest.mark.parametrize("honest", [9, 1, 0])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("kind", FORGING)
    def test_shape_dtype_and_inputs(self, kind: str, dtype: torch.dtype, honest: int) -> None:
        attack = FORGING[kind]()
        seen = scene(honest, 3, dtype=dtype, base=2.0, receiver=attack.aim == "neighbour")
        if honest == 0:
            seen = dataclasses.replace(seen, base_D=torch.zeros_like(seen.base_D))
        before = {name: value.clone() for name, value in tensors(seen).items()}
        result = attack.forge(with_memory(attack, seen))
        if kind != "drop":
            assert result is not None
            assert result.shape == seen.own_HD.shape
            assert result.dtype == dtype
            assert result.isfinite().all() or kind == "constant"
        for name, value in before.items():
            assert getattr(seen, name).equal(value), f"{name} was changed"

    @pytest.mark.parametrize("kind", [kind for kind, cls in FORGING.items() if cls.knows != "own"])
    def test_without_honest_messages_an_own_one_is_sent(self, kind: str) -> None:
        """The honest one, or (drift, model replacement) what the attack makes of that."""
        seen = scene(0, 2, receiver=True)
        result = forged(FORGING[kind](), seen)
        if kind == "drift":
            torch.testing.assert_close(result, 0.95 * seen.own_HD)
        else:
            assert result.equal(seen.own_HD)

    @pytest.mark.parametrize(
        "attack",
        [
            SignFlip(scale=3.0),
            ALIE(),
            IPM(scale=0.5),
            OptIPM(),
            OptALIE(),
            *[cls(direction=d) for cls in (MinMax, MinSum) for d in DIRECTIONS],
            Mimic(),
            Gaussian(),
            Uniform(),
            FreeRider(sigma=0.1),
            Drift(),
            Drift(toward="random"),
            ModelReplacement(),
            Dissensus(),
        ],
        ids=lambda attack: f"{attack.kind}-{getattr(attack, 'direction', '')}{getattr(attack, 'toward', '')}",
    )
    def test_models_are_changes_moved_by_their_base(self, attack: Attack) -> None:
        """A graph where all began from one model is a server: what is sent is that model and what a server is sent."""
        server = scene(receiver=attack.aim == "neighbour")
        shift_D = torch.linspace(-40, 40, 20, dtype=torch.float64)
        moved = {
            name: value + shift_D for name, value in tensors(server).items() if name not in {"weights_G", "weights_H"}
        }
        graph = dataclasses.replace(server, **moved)
        torch.testing.assert_close(forged(attack, graph), forged(attack, server) + shift_D, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("kind", FORGING)
    def test_the_same_dice_give_the_same_messages(self, kind: str) -> None:
        attack = FORGING[kind]()
        if kind == "drop":
            assert attack.forge(scene()) is None
            return
        torch.testing.assert_close(
            forged(attack, scene(receiver=True)), forged(attack, scene(receiver=True)), rtol=0, atol=0, equal_nan=True
        )


class TestOwnMessages:
    def test_sign_flip(self) -> None:
        seen = scene(base=3.0)
        expected = np.array(
            [b - 10 * (x - b) for x, b in zip(seen.own_HD.numpy(), seen.own_base_HD.numpy(), strict=True)]
        )
        np.testing.assert_allclose(forged(SignFlip(scale=10.0), seen).numpy(), expected)

    def test_free_rider_changes_nothing(self) -> None:
        seen = scene(base=3.0)
        assert forged(FreeRider(), seen).equal(seen.own_base_HD)
        noisy = forged(FreeRider(sigma=0.01), seen) - seen.own_base_HD
        assert 0 < noisy.std() < 0.02
        assert not noisy[0].equal(noisy[1])

    def test_drop_sends_nothing(self) -> None:
        assert Drop().forge(scene()) is None

    @pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
    def test_zeros_loses_that_share(self, share: float) -> None:
        seen = scene(size=20000)
        result = forged(Zeros(share=share), seen)
        lost = result == 0
        assert result[~lost].equal(seen.own_HD[~lost])
        for row in lost.double().mean(1).tolist():
            assert abs(row - share) <= 4 * math.sqrt(share * (1 - share) / 20000)
        assert share == 1 or not lost[0].equal(lost[1])

    def test_gaussian_has_the_moments_asked_for(self) -> None:
        seen = scene(size=40000, base=5.0)
        change = forged(Gaussian(mean=0.5, sigma=2.0), seen) - seen.own_base_HD
        torch.testing.assert_close(change.mean(1), torch.full((2,), 0.5, dtype=torch.float64), rtol=0, atol=0.05)
        torch.testing.assert_close(change.std(1), torch.full((2,), 2.0, dtype=torch.float64), rtol=0, atol=0.05)
        assert abs(float(torch.corrcoef(change)[0, 1])) < 0.03

    def test_uniform_is_a_coalition(self) -> None:
        """Two independent vectors of numbers from [0, 1) have the cosine (1/4) / (1/3) = 3/4."""
        change = forged(Uniform(), scene(size=40000))
        assert change.min() >= 0
        assert change.max() < 1
        assert float(torch.cosine_similarity(change[0], change[1], dim=0)) == pytest.approx(0.75, abs=0.01)

    @pytest.mark.parametrize("value", ["nan", "inf", "-inf", 1e300, 1e12, -7.0, math.nan, -math.inf])
    def test_constant(self, value: float | str) -> None:
        attack = Constant(value=value)  # type: ignore[arg-type]
        assert Constant(**attack.dumped()) == attack
        result = forged(attack, scene(dtype=torch.float32))
        expected = np.float64(value).astype(np.float32) if abs(float(value)) != 1e300 else np.float32(np.inf)
        np.testing.assert_array_equal(result.numpy(), np.full((2, 20), expected))

    @pytest.mark.parametrize("boost", [None, 4.0])
    def test_model_replacement_makes_the_mean_the_attackers(self, boost: float | None) -> None:
        """Where honest changes cancel, the mean of all messages is what hostile nodes made, times boost / (n / f)."""
        seen = scene(honest=9, hostile=3, base=2.0)
        seen = dataclasses.replace(seen, honest_GD=seen.base_D.expand(9, -1))
        result = torch.cat([seen.honest_GD, forged(ModelReplacement(boost=boost), seen)]).mean(0)
        factor = 1.0 if boost is None else boost / 4
        torch.testing.assert_close(result, seen.base_D + factor * (seen.own_HD - seen.own_base_HD).mean(0))

    @pytest.mark.parametrize("rounds", [1, 3])
    def test_delay_replays_a_list(self, rounds: int) -> None:
        attack = Delay(rounds=rounds)
        seen = with_memory(attack, scene())
        made: list[Tensor] = []
        for round in range(8):
            made.append(scene(seed=round).own_HD)
            sent = attack.forge(dataclasses.replace(seen, round=round, own_HD=made[-1]))
            assert sent.equal(made[max(0, round - rounds)])

    def test_delay_counts_each_node_s_own_rounds(self) -> None:
        """A node that sat out two rounds is two messages behind the other."""
        attack = Delay(rounds=2)
        seen = with_memory(attack, scene(hostile=2))
        for round in range(5):
            own_HD = torch.full((2, 20), float(round), dtype=torch.float64)
            if round in (1, 2):
                memory = {name: value[:1].clone() for name, value in seen.memory.items()}
                attack.forge(dataclasses.replace(seen, own_HD=own_HD[:1], memory=memory))
                for name, value in memory.items():
                    seen.memory[name][:1] = value
            else:
                sent = attack.forge(dataclasses.replace(seen, own_HD=own_HD))
        # The first made 0 1 2 3 4 and sends 2; the second made 0 3 4 and sends 0.
        assert sent[:, 0].tolist() == [2.0, 0.0]

    @pytest.mark.parametrize("fault", ["shape", "dtype", "size", "missing"])
    def test_malformed_differs_in_what_it_says(self, fault: Literal["shape", "dtype", "size", "missing"]) -> None:
        message = {"delta": torch.ones(6), "control": torch.ones(2, 3)}
        mangled = Malformed(fault=fault).mangle(dict(message))
        if fault == "missing":
            assert mangled.keys() == {"delta"}
            return
        assert mangled.keys() == message.keys()
        for name, value in mangled.items():
            good = message[name]
            assert (value.dtype != good.dtype) == (fault == "dtype")
            assert (value.shape != good.shape) == (fault != "dtype")
            assert (value.numel() < good.numel()) == (fault == "size")


class TestMimic:
    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10**6), honest=st.integers(2, 15), size=st.integers(1, 40))
    def test_copies_the_message_furthest_along_the_principal_direction(self, seed: int, honest: int, size: int) -> None:
        seen = scene(honest, 3, size, seed)
        centred = (seen.honest_GD - seen.mean).numpy()
        _, s, vt = np.linalg.svd(centred, full_matrices=False)
        along = np.sort(np.abs(centred @ vt[0]))
        assume(len(s) < 2 or s[0] > 1.001 * s[1])
        assume(along[-1] > along[-2] * (1 + 1e-9))
        best = int(np.abs(centred @ vt[0]).argmax())
        result = forged(Mimic(), seen)
        assert all(row.equal(seen.honest_GD[best]) for row in result)

    def test_a_target(self) -> None:
        seen = scene()
        assert forged(Mimic(target=4), seen)[1].equal(seen.honest_GD[4])
        with pytest.raises(ExperimentError, match=r"attack\.target = 9, but 9 honest .*: use 0 to 8"):
            forged(Mimic(target=9), seen)


class TestDissensus:
    def test_agrees_with_the_formula(self) -> None:
        seen = scene(honest=5, hostile=2, receiver=True)
        x_i = seen.receiver_D.numpy()
        pull = sum(w * (x.numpy() - x_i) for w, x in zip(seen.weights_G.tolist(), seen.honest_GD, strict=True))
        expected = x_i - 0.7 * pull / sum(seen.weights_H.tolist())
        for row in forged(Dissensus(epsilon=0.7), seen):
            np.testing.assert_allclose(row.numpy(), expected)

    @pytest.mark.parametrize("epsilon", [0.0, 1.0, 1.5])
    def test_it_undoes_that_share_of_gossip(self, epsilon: float) -> None:
        """x_i + sum_j W_ij (x_j - x_i) over all neighbours = x_i + (1 - epsilon) times the honest part."""
        seen = scene(honest=5, hostile=2, receiver=True)
        x_i = seen.receiver_D
        sent = forged(Dissensus(epsilon=epsilon), seen)
        honest_D = seen.weights_G @ (seen.honest_GD - x_i)
        after_D = x_i + honest_D + seen.weights_H @ (sent - x_i)
        torch.testing.assert_close(after_D, x_i + (1 - epsilon) * honest_D)

    def test_a_server_is_refused(self) -> None:
        with pytest.raises(ExperimentError, match=r"'dissensus' is for graphs: with a server use 'ipm'"):
            forged(Dissensus(), scene())

    def test_it_always_writes_to_one_neighbour(self) -> None:
        with pytest.raises(ValidationError, match="neighbour"):
            Dissensus(aim="all")  # type: ignore[arg-type]


class TestDrift:
    @pytest.mark.parametrize("toward", ["against", "random"])
    def test_the_bias_grows_to_its_limit_in_a_fixed_direction(self, toward: Literal["against", "random"]) -> None:
        attack = Drift(toward=toward, pace=0.25, limit=1.0)
        first = scene(base=1.0)
        kept = with_memory(attack, first).memory
        against_D = -(first.mean - first.base_D)
        for round in range(6):
            seen = dataclasses.replace(scene(base=1.0, seed=round), round=round, memory=kept)
            seen = dataclasses.replace(seen, start_dice=first.start_dice)
            bias_HD = attack.forge(seen) - seen.own_HD
            lengths_H = min(1.0, 0.25 * (round + 1)) * (seen.own_HD - seen.own_base_HD).norm(dim=1)
            torch.testing.assert_close(bias_HD.norm(dim=1), lengths_H)
            unit_HD = bias_HD / bias_HD.norm(dim=1, keepdim=True)
            if round == 0:
                fixed_HD = unit_HD
            torch.testing.assert_close(unit_HD, fixed_HD)
            torch.testing.assert_close(unit_HD[0], unit_HD[1])
        if toward == "against":
            torch.testing.assert_close(fixed_HD[0], against_D / against_D.norm())
