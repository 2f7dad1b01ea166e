"""Privacy mechanisms: what one node can change is bounded, and the noise is what the account says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import assert_same, small
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transform_table import LAYOUT

import gossamer
from gossamer.backends.eager import Eager
from gossamer.bounding import BELOW, Bound
from gossamer.coding import Chain
from gossamer.engines.local import Local as Rounds
from gossamer.errors import ExperimentError, Interrupted
from gossamer.federation import Federation
from gossamer.plugs import discover
from gossamer.privacy import Mechanism, Place, Privacy
from gossamer.privacy.central import Central
from gossamer.privacy.correlated import Correlated, hidden_by
from gossamer.privacy.local import Local
from gossamer.randomness import generator
from gossamer.transforms import QSGD, Int8, TopK

UNIFORM = {"kind": "fedavg", "weighting": "uniform"}
SERVER: dict[str, Any] = {"method": UNIFORM, "preprocess": {"normalise": "none"}}
GRAPH: dict[str, Any] = {"method": "dsgd", "topology": "ring", "preprocess": {"normalise": "none"}}
WORLDS: dict[str, dict[str, Any]] = {
    "central": SERVER | {"privacy": {"kind": "central", "noise_multiplier": 0.5}},
    "central, drawn by coins, bound by quantile": SERVER
    | {
        "privacy": {"kind": "central", "noise_multiplier": 0.05, "quantile": 0.5, "clip": 0.1},
        "schedule": {"participation": 0.5, "sampling": "poisson"},
    },
    "local": SERVER | {"privacy": {"kind": "local", "noise_multiplier": 0.05}},
    "local, graph": GRAPH | {"privacy": {"kind": "local", "noise_multiplier": 0.05}},
    "correlated": GRAPH | {"privacy": {"kind": "correlated", "noise_multiplier": 0.05}},
    "distributed": SERVER | {"privacy": {"kind": "distributed", "noise_multiplier": 0.5}, "secure_sum": {}},
    "per example": SERVER | {"privacy": {"kind": "per_example", "noise_multiplier": 1.0}},
    "per example, graph": GRAPH | {"privacy": {"kind": "per_example", "noise_multiplier": 1.0}},
    "secure sum that loses nodes": {"secure_sum": {"dropout": 0.2, "threshold": 6}},
}


def place(node: int = 0, nodes: int = 1, neighbours: tuple[int, ...] = (), round: int = 0) -> Place:
    def dice(purpose: str, who: int) -> np.random.Generator:
        return generator(5, purpose, who, round)

    return Place(node, nodes, lambda: np.array(neighbours, np.int64), dice)


def test_every_mechanism_is_played_here() -> None:
    assert {table["privacy"]["kind"] for table in WORLDS.values() if "privacy" in table} == {
        kind for kind, plug in discover(Privacy).items() if issubclass(plug, Mechanism)
    }


@pytest.mark.parametrize("world", WORLDS)
def test_plan_is_run_and_workers_change_nothing(world: str, tmp_path: Path) -> None:
    """Bytes to the last, the account to the last digit, and the same bits on two workers."""
    experiment = small(**WORLDS[world])
    plan = gossamer.plan(experiment)
    eager = gossamer.run(experiment, tmp_path / "eager")
    parallel = gossamer.run(experiment.replace(backend="parallel", workers=2), tmp_path / "parallel")
    assert_same(eager, parallel)
    summary = eager.summary()
    assert summary["bytes"] == plan.bytes_total
    assert summary["epsilon"] == (plan.privacy["epsilon"] if plan.privacy else None)
    assert eager.record["privacy"] == plan.privacy


@pytest.mark.parametrize("world", ["central, drawn by coins, bound by quantile", "distributed", "correlated"])
def test_stopped_and_resumed_is_as_if_never_stopped(world: str, tmp_path: Path) -> None:
    experiment = small(**WORLDS[world], checkpoint={"max_share": 1.0})
    whole = gossamer.run(experiment, tmp_path / "whole")

    def stop(event: gossamer.Event) -> None:
        if event.kind == "round" and event.round == 2:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        gossamer.run(experiment, tmp_path / "stopped", stop)
    assert_same(whole, gossamer.resume(tmp_path / "stopped"))


# ---- the bound -----------------------------------------------------------------------------------------------------

CODECS = {"none": [], "int8": [Int8()], "top_k": [TopK(share=0.3)], "qsgd": [QSGD(bits=1)]}


@pytest.mark.parametrize("codec", CODECS)
@given(seed=st.integers(0, 2**32), size=st.integers(-30, 30), level=st.floats(1e-6, 1e6))
@settings(max_examples=60, deadline=None)
def test_what_arrives_is_no_longer_than_the_bound(codec: str, seed: int, size: int, level: float) -> None:
    """Also where a transform on the way makes messages longer, and whatever the sender wrote."""
    rng = np.random.default_rng(seed)
    numbers = rng.standard_cauchy(440).clip(-1e6, 1e6) * 10.0**size
    message = {"row": torch.from_numpy(numbers).float()}
    bound = Bound(torch.tensor([level], dtype=torch.float64))
    chain = Chain([bound, *CODECS[codec]], message, LAYOUT, 0, "transform")
    _, received = chain.travel(message, 0, 0)
    forged = chain.decode(chain.encode(message, 0, 0), 0, 0)
    for one in (received, forged):
        assert float(one["row"].double().norm()) <= level * (1 + 1e-12)


@pytest.mark.parametrize(
    ("transforms", "method"),
    [([], "fedavg"), (["int8"], "fedavg"), ([], "fedadam"), (["error_feedback", "top_k"], "fedavg")],
)
def test_one_node_moves_what_the_server_takes_by_the_bound(transforms: list[str], method: str) -> None:
    """Whatever a node holds: without noise, what is merged moves by 2 C / n at most where it is exchanged."""
    taken = []
    for garbage in (False, True):
        experiment = small(
            **SERVER | {"method": {"kind": method, "weighting": "uniform"}},
            transforms=transforms,
            privacy={"kind": "central", "clip": 0.02, "noise_multiplier": 0.0},
        )
        federation = Federation(experiment)
        if garbage:
            mine = torch.from_numpy(federation.shards.items_of(0))
            federation.items.inputs[mine] = 1e3 * torch.randn(federation.items.inputs[mine].shape)
            federation.items.labels[mine] = 7
        engine = Rounds(federation, Eager(federation))
        result = engine.train(0)
        fields = {name: fold.mean() for name, fold in engine._folds.items()}
        taken.append(federation.guard.answered(fields, len(result.outcomes), 0)["delta"].double())
    moved = float((taken[1] - taken[0]).norm())
    assert 1e-4 < moved <= 2 * 0.02 / 10 * (1 + 1e-5)


def test_who_came_does_not_show_in_the_server_s_state() -> None:
    """SCAFFOLD scales by the number of messages: where that is to be hidden, by the number expected."""
    experiment = small(
        method="scaffold",
        nodes=30,
        schedule={"participation": 0.2, "sampling": "poisson"},
        privacy={"kind": "central", "clip": 1.0, "noise_multiplier": 1.0},
        preprocess={"normalise": "none"},
    )
    federation = Federation(experiment)
    engine, ratios, counts = Rounds(federation, Eager(federation)), [], []
    for round in range(5):
        before = {name: rows[0].clone() for name, rows in federation.population.state.items()}
        result = engine.train(round)
        engine.exchange(result)
        after = federation.population.state
        ratios.append(float((after["control"][0] - before["control"]).std() / (after["row"][0] - before["row"]).std()))
        counts.append(len(result.participants))
    assert max(counts) >= 2 * min(counts)
    assert max(ratios) < 1.3 * min(ratios)


def test_a_message_says_whether_it_was_short_and_nothing_else() -> None:
    bound = Bound(torch.tensor([1.0], dtype=torch.float64))
    chain = Chain([bound], {"row": torch.zeros(3), BELOW: torch.zeros(1)}, LAYOUT, 0, "transform")
    for length, said in ((0.5, 0.5), (1.5, -0.5)):
        message = {"row": torch.tensor([length, 0.0, 0.0]), BELOW: torch.zeros(1)}
        assert float(chain.travel(message, 0, 0)[1][BELOW]) == said
    lying = {"row": torch.zeros(3), BELOW: torch.tensor([1e6])}
    assert float(chain.decode(lying, 0, 0)[BELOW]) == 0.5


# ---- the noise -----------------------------------------------------------------------------------------------------


def assert_normal(draws: np.ndarray[Any, Any], std: float) -> None:
    """10^5 draws are normal with mean 0 and this standard deviation (p > 1e-4, for a fixed seed)."""
    assert len(draws) >= 100_000
    assert stats.kstest(draws / std, "norm").pvalue > 1e-4
    below = stats.chi2(len(draws)).cdf(float(np.square(draws / std).sum()))
    assert 1e-4 < below < 1 - 1e-4


def test_the_server_adds_what_the_account_says() -> None:
    """Noise on the mean: z C / n."""
    zeros = {"delta": torch.zeros(120_000), "control": torch.zeros(40)}
    noisy = Central(noise_multiplier=1.7, clip=0.3).answer(zeros, 50.0, 0.3, 1.7, np.random.default_rng(0))
    assert_normal(noisy["delta"].double().numpy(), 1.7 * 0.3 / 50)
    assert float(noisy["control"].std()) == pytest.approx(1.7 * 0.3 / 50, rel=0.5)


def test_in_a_run_noise_lands_on_the_model(tmp_path: Path) -> None:
    """The server's model with noise is that without, plus noise of z C eta / n: after one round from the same start."""
    wide = {
        "model": {"kind": "mlp", "hidden": [1400]},
        "rounds": 1,
        "validation": 0.0,
        "learner": {"lr": 0.1, "steps": 1},
    }
    models = [
        Federation(small(**SERVER, **wide, privacy={"kind": "central", "clip": 0.4, "noise_multiplier": z}))
        for z in (0.0, 2.0)
    ]
    for federation in models:
        engine = Rounds(federation, Eager(federation))
        engine.exchange(engine.train(0))
    rows = [federation.population.state["row"][0].double() for federation in models]
    assert_normal((rows[1] - rows[0]).numpy(), 2.0 * 0.4 / 10)


def test_a_node_goes_on_from_what_it_told() -> None:
    change = torch.from_numpy(np.random.default_rng(1).normal(0, 3, 130_000))
    known = Local(noise_multiplier=2.0, clip=0.5).changed(change, 2.0, place())
    short = change * (0.5 / change.norm())
    assert_normal((known - short).numpy(), 1.0)


def test_a_graph_hears_nothing_but_noisy_changes() -> None:
    """All that is sent in the first round is the start, plus a change of norm C, plus noise."""
    federation = Federation(small(**GRAPH, privacy={"kind": "local", "clip": 1e-3, "noise_multiplier": 0.0}))
    start = federation.population.state["row"].clone()
    Rounds(federation, Eager(federation)).train(0)
    moved_N = (federation.sent["row"] - start).double().norm(dim=1)
    assert moved_N.max() <= 1e-3 * (1 + 1e-3)
    assert moved_N.min() > 0.99e-3


# ---- noise that cancels between neighbours -------------------------------------------------------------------------


def changes(nodes: int, links: dict[int, tuple[int, ...]], length: int, ratio: float, round: int = 0) -> torch.Tensor:
    mechanism = Correlated(noise_multiplier=1.0, clip=1.0, pair_ratio=ratio)
    zero = torch.zeros(length, dtype=torch.float64)
    return torch.stack([mechanism.changed(zero, 1.0, place(i, nodes, links[i], round)) for i in range(nodes)])


RING = {i: ((i - 1) % 5, (i + 1) % 5) for i in range(5)}


def test_what_pairs_share_cancels_in_the_mean() -> None:
    own, both = changes(5, RING, 1000, 0.0), changes(5, RING, 1000, 7.0)
    assert torch.allclose(own.mean(0), both.mean(0), atol=1e-13)
    assert float((both - own).std()) == pytest.approx(7.0 * np.sqrt(2), rel=0.05)


def test_the_covariance_is_that_of_the_account() -> None:
    laplacian = 2 * np.eye(5) - np.roll(np.eye(5), 1, 0) - np.roll(np.eye(5), -1, 0)
    found = np.cov(changes(5, RING, 200_000, 2.0).numpy())
    assert np.abs(found - (np.eye(5) + 4 * laplacian)).max() < 0.15


def edges(links: dict[int, tuple[int, ...]]) -> tuple[tuple[int, int], ...]:
    return tuple((i, j) for i, others in links.items() for j in others)


COMPLETE = {i: tuple(j for j in range(6) if j != i) for i in range(6)}


def test_hidden_by_the_noise_of_all() -> None:
    """Without pairs by one's own noise; with much of it on a complete graph by that of all, or all but the one who
    looks; on a line an end whose only neighbour looks has its own only."""
    assert hidden_by(edges(RING), 5, 0.0, False) == pytest.approx(1.0)
    assert hidden_by(edges(COMPLETE), 6, 1e4, False) == pytest.approx(np.sqrt(6), rel=1e-6)
    assert hidden_by(edges(COMPLETE), 6, 1e4, True) == pytest.approx(np.sqrt(5), rel=1e-6)
    for ratio in (1e6, 1e8, 1e12):
        assert hidden_by(edges(COMPLETE), 6, ratio, False) <= np.sqrt(6) * (1 + 1e-9)
    assert hidden_by(((0, 1), (1, 0), (1, 2), (2, 1)), 3, 1e4, True) == pytest.approx(1.0)
    grown = [hidden_by(edges(RING), 5, ratio, True) for ratio in (0.0, 0.5, 1.0, 4.0, 50.0)]
    assert grown == sorted(grown)


def test_a_tighter_account_would_be_wrong() -> None:
    """The best test of whether node 0 moved by 1, given all messages, has the power of a shift by 1 under the noise of
    `hidden_by`: the likelihood ratio of a joint Gaussian, estimated from draws."""
    ratio, factor = 3.0, hidden_by(edges(RING), 5, 3.0, False)
    covariance = np.cov(changes(5, RING, 400_000, ratio).numpy())
    shift = np.eye(5)[0]
    assert np.sqrt(shift @ np.linalg.inv(covariance) @ shift) == pytest.approx(1 / factor, rel=0.02)


# ---- the bound that follows a quantile -----------------------------------------------------------------------------


def test_the_bound_finds_the_quantile() -> None:
    """Norms of 1 to 100: the bound goes to the 30th from above and from below."""
    mechanism = Central(noise_multiplier=0.0, quantile=0.3)
    norms = np.arange(1, 101, dtype=float)
    for start in (0.01, 1e4):
        level = start
        for _ in range(300):
            below = float(np.where(norms <= level, 0.5, -0.5).sum())
            level = mechanism.next_level(level, below, 100.0, 0.0, np.random.default_rng(0))
        assert 25 < level < 35


def test_the_count_has_its_part_of_the_budget() -> None:
    """1 / z^2 = 1 / z_updates^2 + 1 / (2 sigma_b)^2 (Andrew et al. 2021, Theorem 1)."""
    mechanism = Central(noise_multiplier=1.0, quantile=0.5, quantile_noise=3.0)
    spread = mechanism.spread(1.0, 100.0)
    assert spread > 1.0
    assert spread**-2 + (2 * 3.0) ** -2 == pytest.approx(1.0)
    with pytest.raises(ExperimentError, match=r"quantile_noise = 3: .* use more than 5"):
        mechanism.spread(10.0, 100.0)


def test_in_a_run_the_bound_moves_and_is_recorded(tmp_path: Path) -> None:
    run = gossamer.run(
        small(**SERVER, privacy={"kind": "central", "clip": 100.0, "noise_multiplier": 0.01, "quantile": 0.5}),
        tmp_path / "r",
    )
    levels = run.rounds["clip"].to_pylist()
    assert levels[0] < 100
    assert levels == sorted(levels, reverse=True)


# ---- who takes part ------------------------------------------------------------------------------------------------


def test_coins_draw_what_they_should() -> None:
    from gossamer.schedules.every import Every

    schedule = Every(participation=0.3, sampling="poisson")
    counts = [len(schedule.participants(50, r, generator(0, "participants", round=r))) for r in range(4000)]
    assert np.mean(counts) == pytest.approx(15, abs=0.2)
    assert np.var(counts) == pytest.approx(10.5, rel=0.1)
    assert len(Every(participation=1.0, sampling="poisson").participants(7, 0, generator(0, "p"))) == 7


def test_a_round_without_anybody_is_answered_all_the_same(tmp_path: Path) -> None:
    """With noise alone, or the others would know that it was empty; without privacy the model stays."""
    empty = SERVER | {"schedule": {"participation": 0.001, "sampling": "poisson"}, "nodes": 5, "rounds": 2}
    still = gossamer.run(small(**empty), tmp_path / "still")
    assert still.summary()["bytes"] == 0
    noisy = gossamer.run(small(**empty, privacy={"kind": "central", "noise_multiplier": 1.0}), tmp_path / "noisy")
    moved = noisy.model().state_dict()
    assert all(not torch.equal(value, moved[name]) for name, value in still.model().state_dict().items())
