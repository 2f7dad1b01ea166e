"""Agreement with ByzFL 0.0.11, whose outputs benchmarks/byzfl_golden.py wrote to golden/byzfl.npz.

Where ByzFL computes something else than the rule it names, the test says what, compares with that something, and
compares our rule with a direct transcription of the definition instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import robust_oracles as oracles
import torch

from gossamer.aggregators import Aggregator
from gossamer.aggregators.caf import CAF
from gossamer.aggregators.centered_clipping import CenteredClipping
from gossamer.aggregators.geometric_median import GeometricMedian
from gossamer.aggregators.krum import Krum
from gossamer.aggregators.meamed import MeaMed
from gossamer.aggregators.mean import Mean
from gossamer.aggregators.median import Median
from gossamer.aggregators.monna import MoNNA
from gossamer.aggregators.multi_krum import MultiKrum
from gossamer.aggregators.trimmed_mean import TrimmedMean
from gossamer.attacks import Attack, Scene
from gossamer.attacks.alie import ALIE
from gossamer.attacks.constant import Constant
from gossamer.attacks.ipm import IPM
from gossamer.attacks.mimic import Mimic
from gossamer.attacks.opt_alie import OptALIE
from gossamer.attacks.opt_ipm import OptIPM
from gossamer.attacks.sign_flip import SignFlip
from gossamer.gram import Gram
from gossamer.preaggregators import PreAggregator
from gossamer.preaggregators.arc import ARC
from gossamer.preaggregators.bucketing import Bucketing
from gossamer.preaggregators.clipping import Clipping
from gossamer.preaggregators.nnm import NNM
from gossamer.randomness import generator

Array = np.ndarray[Any, Any]
with np.load(Path(__file__).parent / "golden" / "byzfl.npz") as file:
    GOLDEN: dict[str, Array] = dict(file)
CASES = GOLDEN["cases"].tolist()
WIDE = [case for case in CASES if "_d1_" not in case]
NARROW = [case for case in CASES if "_d1_" in case]

RULES: dict[str, Callable[[int, int], Aggregator]] = {
    "Average": lambda n, f: Mean(),
    "Median": lambda n, f: Median(),
    "TrMean": lambda n, f: TrimmedMean(f=f),
    "Meamed": lambda n, f: MeaMed(f=f),
    "MoNNA": lambda n, f: MoNNA(f=f, pivot=0),
    # ByzFL's Krum takes one neighbour more than Blanchard et al. 2017, n - f - 1: that is the rule for f - 1.
    "Krum": lambda n, f: Krum(f=f - 1),
    "MultiKrum": lambda n, f: MultiKrum(f=f - 1, m=n - f),
    "CenteredClipping": lambda n, f: CenteredClipping(tau=100.0, iterations=1),
    "CenteredClipping_3_steps": lambda n, f: CenteredClipping(tau=1.0, iterations=3),
    # With 5000 Weiszfeld steps instead of ByzFL's 3.
    "GeometricMedian_converged": lambda n, f: GeometricMedian(),
}
STEPS: dict[str, PreAggregator] = {"NNM": NNM(), "Clipping": Clipping(c=2.0), "ARC": ARC()}


def output(case: str, name: str) -> Array:
    """Of a rule or attack on NumPy float64."""
    return GOLDEN[f"{case}/rules"][GOLDEN["rules"].tolist().index(name)]


def given(case: str) -> tuple[Array, int]:
    """The updates in float64, and f."""
    return GOLDEN[f"{case}/rows"].astype(np.float64), int(case.split("_f")[1])


def close(found: Any, expected: Any, tolerance: float = 1e-11) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * float(np.abs(expected).max()))


def test_every_output_is_compared() -> None:
    """Nothing that ByzFL has is passed over."""
    elsewhere = {"MDA", "GeometricMedian", *(f"{name}_seed_{seed}" for name in ("CAF", "SMEA") for seed in range(2))}
    assert set(GOLDEN["rules"].tolist()) == {*RULES, *elsewhere, *ATTACKS, *OPTIMAL, "LabelFlipping"}
    assert set(GOLDEN["tensors"].tolist()) == {*RULES, "MDA", "GeometricMedian"}
    assert set(GOLDEN["points"].tolist()) == set(STEPS)
    assert "byzfl 0.0.11" in GOLDEN["versions"].tolist()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", RULES)
def test_rules_agree(name: str, case: str) -> None:
    rows, f = given(case)
    tolerance = 1e-6 if "Geometric" in name else 1e-11
    close(RULES[name](len(rows), f)(rows), output(case, name), tolerance)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", RULES)
def test_rules_agree_in_float32(name: str, case: str) -> None:
    """Tensors, which ByzFL casts to float32 whatever they were."""
    rows, f = torch.from_numpy(GOLDEN[f"{case}/rows"]), given(case)[1]
    found = RULES[name](len(rows), f)(rows)
    assert found.dtype == torch.float32
    expected = GOLDEN[f"{case}/tensors"][GOLDEN["tensors"].tolist().index(name)]
    close(found.numpy(), expected, 1e-3 if "Geometric" in name else 2e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", STEPS)
def test_pre_aggregators_agree(name: str, case: str) -> None:
    rows, f = given(case)
    matrix = STEPS[name].matrix(Gram.of(torch.from_numpy(rows)), f, None).numpy()
    close(matrix @ rows, GOLDEN[f"{case}/points"][GOLDEN["points"].tolist().index(name)])


@pytest.mark.parametrize("case", CASES)
def test_bucketing_agrees_once_the_updates_are_dealt_alike(case: str) -> None:
    """The updates are put where our dealing takes together those that ByzFL's dice have put side by side."""
    rows = given(case)[0]
    matrix = Bucketing(s=2).matrix(Gram.of(torch.from_numpy(rows)), 1, None).numpy()
    placed = np.empty_like(rows)
    placed[np.concatenate([bucket.nonzero()[0] for bucket in matrix])] = rows[GOLDEN[f"{case}/order"]]
    close(matrix @ placed, GOLDEN[f"{case}/buckets"])


def test_byzfl_counts_one_neighbour_more_in_krum() -> None:
    """It changes the choice on some of these inputs; ours is that of the definition, by enumeration, on all."""
    differs = []
    for case in CASES:
        rows, f = given(case)
        neighbours = len(rows) - f - 1
        close(output(case, "Krum"), rows[oracles.krum_scores(rows, f, neighbours).argmin()])
        if len(rows) >= 2 * f + 3:
            ours = Krum(f=f)(rows)
            close(ours, oracles.krum(rows, f))
            differs.append(not np.allclose(ours, output(case, "Krum")))
    assert any(differs)


@pytest.mark.parametrize("case", CASES)
def test_byzfl_stops_the_geometric_median_after_three_steps_from_the_origin(case: str) -> None:
    """So its result depends on where the origin is, and is as far from the minimum as that happens to make it."""
    rows, _ = given(case)
    z = np.zeros(rows.shape[1])
    for _ in range(3):
        weights = 1 / np.linalg.norm(rows - z, axis=1).clip(0.1)
        z = weights @ rows / weights.sum()
    close(output(case, "GeometricMedian"), z)
    ours = GeometricMedian()(rows)

    def total(point: Array) -> float:
        return float(np.linalg.norm(rows - point, axis=1).sum())

    assert total(ours) <= total(z)
    assert total(ours) <= total(oracles.geometric_median(rows, 0)) * (1 + 1e-12)


@pytest.mark.parametrize("case", NARROW)
def test_byzfl_divides_by_the_outlyingness_of_updates_that_caf_has_removed(case: str) -> None:
    """In one dimension its one power step is exact, and this is all that is left between us.

    An update whose weight is zero stays the farthest away, so that all others lose next to nothing in each round; far
    enough away the filter does not end. With one hostile update there is one round, and no difference.
    """
    rows, f = given(case)
    close(output(case, "CAF_seed_0"), output(case, "CAF_seed_1"))
    close(output(case, "CAF_seed_0"), oracles.caf(rows, f, by_removed=True))
    close(CAF(f=f)(rows), oracles.caf(rows, f))
    if f == 1:
        close(CAF(f=f)(rows), output(case, "CAF_seed_0"))


def test_byzfl_ends_the_search_for_a_direction_after_one_step() -> None:
    """From a random start, so its CAF and SMEA depend on the dice; ours is that of the definition, without dice."""
    moved = {"CAF": 0, "SMEA": 0}
    for case in WIDE:
        rows, f = given(case)
        close(CAF(f=f)(rows), oracles.caf(rows, f), 1e-8)
        for name in moved:
            moved[name] += not np.allclose(output(case, f"{name}_seed_0"), output(case, f"{name}_seed_1"))
    assert moved["CAF"] > len(WIDE) // 2
    assert moved["SMEA"] > 0


@pytest.mark.parametrize("case", CASES)
def test_the_oracle_of_mda_agrees(case: str) -> None:
    rows, f = given(case)
    close(oracles.mda(rows, f), output(case, "MDA"))


@pytest.mark.parametrize("case", NARROW)
def test_the_oracle_of_smea_agrees_where_one_power_step_is_exact(case: str) -> None:
    rows, f = given(case)
    close(oracles.smea(rows, f), output(case, "SMEA_seed_0"))


ATTACKS: dict[str, Attack] = {
    # ByzFL's sign flipping sends the honest mean turned round, which is IPM at scale 1; see below.
    "SignFlipping": IPM(scale=1.0),
    "InnerProductManipulation": IPM(scale=2.0),
    # ByzFL adds 1.5 standard deviations; ours subtracts, as the paper does.
    "ALittleIsEnough": ALIE(z=-1.5),
    "Mimic": Mimic(target=1),
    "Inf": Constant(value=np.inf),
}
OPTIMAL = {"Optimal_InnerProductManipulation": OptIPM(), "Optimal_ALittleIsEnough": OptALIE()}


def scene(honest_GD: Array, hostile: int, defence: Aggregator) -> Scene:
    """A round at a server, where the hostile nodes' own changes are the honest mean."""
    honest = torch.from_numpy(honest_GD)
    zeros_D = torch.zeros_like(honest[0])
    return Scene(
        round=0,
        rounds=1,
        hostile_H=np.arange(hostile),
        own_HD=honest.mean(0).expand(hostile, -1),
        own_base_HD=zeros_D.expand(hostile, -1),
        honest_GD=honest,
        base_D=zeros_D,
        defence=defence,
        dice=lambda node: generator(0, "attack", node),
        start_dice=lambda node: generator(0, "attack_start", node),
    )


def sent(attack: Attack, honest_GD: Array, f: int, defence: Aggregator | None = None) -> Array:
    """The one message that all hostile nodes send."""
    message_HD = attack.forge(scene(honest_GD, f, Mean() if defence is None else defence))
    assert message_HD is not None
    assert message_HD.shape == (f, honest_GD.shape[1])
    assert (message_HD == message_HD[0]).all()
    return message_HD[0].numpy()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_agree(name: str, case: str) -> None:
    rows, f = given(case)
    found = sent(ATTACKS[name], rows[: len(rows) - f], f)
    if name == "Inf":
        assert np.array_equal(found, output(case, name))
    else:
        close(found, output(case, name))


@pytest.mark.parametrize("case", CASES)
def test_sign_flipping_agrees_where_the_attackers_own_is_the_honest_mean(case: str) -> None:
    rows, f = given(case)
    close(sent(SignFlip(), rows[: len(rows) - f], f), output(case, "SignFlipping"))


@pytest.mark.parametrize("case", CASES)
def test_label_flipping_is_no_attack_on_messages(case: str) -> None:
    """ByzFL hands it gradients on flipped labels and takes their mean; here nodes train on flipped labels."""
    rows, f = given(case)
    close(output(case, "LabelFlipping"), Mean()(rows[: len(rows) - f]))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", OPTIMAL)
def test_optimal_attacks_do_as_much_harm_as_byzfls(name: str, case: str) -> None:
    """Against a trimmed mean behind NNM. ByzFL's search may stop at a worse place, so only the harm is compared.

    The rule is odd, so that ALIE upwards, as ByzFL has it, is ALIE downwards on the updates turned round.
    """
    rows, f = given(case)
    honest = rows[: len(rows) - f]
    defence = TrimmedMean(f=f, before=(NNM(f=f),))

    def harm(message: Array) -> float:
        return float(np.linalg.norm(defence(np.vstack([honest, *[message] * f])) - honest.mean(0)))

    sign = -1.0 if "ALittle" in name else 1.0
    assert harm(sign * sent(OPTIMAL[name], sign * honest, f, defence)) >= 0.98 * harm(output(case, name))
