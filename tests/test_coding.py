"""Chains in runs: bytes as planned, memories, gossip on copies, forged messages on the wire."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from federations import small

import gossamer
from gossamer.errors import ExperimentError
from gossamer.federation import Federation
from gossamer.randomness import generator

RING = {"method": "dsgd", "topology": "ring"}
VOTES = {"method": "frl", "parametrisation": "supermask"}
CODECS: list[Any] = [
    "cast",
    {"kind": "qsgd", "bits": 4},
    "int8",
    "nf4",
    "sign",
    {"kind": "top_k", "share": 0.1},
    {"kind": "random_k", "share": 0.1},
    {"kind": "power_sgd", "rank": 2},
    {"kind": "clip", "norm": 1.0},
]
CHAINS = [[codec] for codec in CODECS] + [
    ["error_feedback", {"kind": "top_k", "share": 0.05}, "cast"],
    [{"kind": "top_k", "share": 0.1}, {"kind": "qsgd", "bits": 2}],
    [{"kind": "clip", "norm": 1.0}, "error_feedback", "sign"],
]


@pytest.mark.parametrize("transforms", CHAINS, ids=str)
@pytest.mark.parametrize("world", [{}, RING], ids=["server", "ring"])
def test_a_plan_says_exactly_what_a_run_sends(tmp_path: Path, world: dict[str, Any], transforms: list[Any]) -> None:
    experiment = small(**world, transforms=transforms, rounds=3)
    plan, run = gossamer.plan(experiment), gossamer.run(experiment, tmp_path / "run")
    assert not plan.at_most
    assert plan.bytes_total == run.summary()["bytes"]
    assert plan.message_bytes["up"] < plan.unpacked_bytes["up"] or transforms[0]["kind"] == "clip"


@pytest.mark.parametrize("world", [{}, RING], ids=["server", "ring"])
def test_an_entropy_coder_stays_below_what_was_planned(tmp_path: Path, world: dict[str, Any]) -> None:
    experiment = small(**world, transforms=["cast", "zstd"], rounds=3)
    plan, run = gossamer.plan(experiment), gossamer.run(experiment, tmp_path / "run")
    assert plan.at_most
    assert not plan.fixed["up"]
    assert 0.5 * plan.bytes_total < run.summary()["bytes"] < plan.bytes_total


def test_the_way_down_is_coded_and_counted_too(tmp_path: Path) -> None:
    plain = small(rounds=3)
    for downlink, fixed in ((["int8"], True), (["cast", "zstd"], False)):
        experiment = plain.replace(downlink=downlink)
        plan, run = gossamer.plan(experiment), gossamer.run(experiment, tmp_path / "-".join(downlink))
        assert plan.fixed == {"up": True, "down": fixed}
        assert plan.message_bytes["down"] < 0.6 * plan.message_bytes["up"]
        sent = run.summary()["bytes"]
        assert sent == plan.bytes_total if fixed else sent < plan.bytes_total
    exact = gossamer.run(plain, tmp_path / "exact").model().state_dict()
    coded = gossamer.run(plain.replace(downlink=["int8"]), tmp_path / "again").model().state_dict()
    for name, value in exact.items():
        assert 0 < (coded[name] - value).abs().max() < 0.05, (
            "nodes begin from a rounded model, the server keeps its own"
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"transforms": ["error_feedback", {"kind": "top_k", "share": 0.05}], "schedule": {"participation": 0.5}},
        {"transforms": [{"kind": "qsgd", "bits": 2}], "downlink": [{"kind": "qsgd", "bits": 6}]},
        {"transforms": [{"kind": "power_sgd", "rank": 1}]},
        {**RING, "transforms": [{"kind": "choco", "step": 0.4}, {"kind": "random_k", "share": 0.2, "rescale": False}]},
        {"transforms": ["int8", "zstd"]},
    ],
    ids=str,
)
def test_the_same_bits_on_any_number_of_workers_and_after_a_restart(tmp_path: Path, changes: dict[str, Any]) -> None:
    experiment = small(**changes, rounds=4, checkpoint={"every": 1, "max_share": 1.0})
    whole = gossamer.run(experiment.replace(backend="eager"), tmp_path / "eager")
    many = gossamer.run(experiment.replace(backend="parallel", workers=2), tmp_path / "parallel")

    def stop(event: gossamer.Event) -> None:
        if event.kind == "round" and event.round == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gossamer.run(experiment.replace(backend="eager"), tmp_path / "cut", listener=stop)
    again = gossamer.resume(tmp_path / "cut")
    for other in (many, again):
        for name, value in whole.model().state_dict().items():
            assert torch.equal(other.model().state_dict()[name], value)
        assert other.rounds.column("bytes").to_pylist() == whole.rounds.column("bytes").to_pylist()


def consensus(transforms: list[Any], rounds: int, nodes: int = 8) -> tuple[list[float], float]:
    """Distances to agreement over rounds of gossip alone, from random models, and how far the mean has moved."""
    experiment = small(
        nodes=nodes,
        **RING,
        rounds=rounds,
        learner={"steps": 0, "lr": 0.1},
        init={"shared": False},
        transforms=transforms,
        dtype="float64",
        evaluate={"every": 0, "nodes": 0, "items": 1},
    )
    from gossamer.backends.eager import Eager
    from gossamer.engines.local import Local

    federation = Federation(experiment)
    rows_ND, engine = federation.population.state["row"], Local(federation, Eager(federation))
    first_D = rows_ND.mean(0).clone()
    distances = []
    for round in range(rounds):
        engine.exchange(engine.train(round))
        distances.append(float((rows_ND - rows_ND.mean(0)).square().sum()))
    return distances, float((rows_ND.mean(0) - first_D).norm() / first_D.norm())


def test_plain_compression_stalls_or_diverges_and_gossip_on_copies_agrees() -> None:
    """Unbiased sparse messages (a tenth of the coordinates, ten times as large) blow models up; the largest tenth as
    models shrinks them towards zero and moves their mean; CHOCO with the same messages reaches the mean of the start
    (Koloskova et al. 2019, Theorem 2, and their figure 2)."""
    expanding, lost = consensus([{"kind": "random_k", "share": 0.1}], 40)
    assert max(expanding) > 10 * expanding[0], "diverges"
    assert lost > 0.9, "and nothing is left of the mean"
    plain, moved = consensus([{"kind": "top_k", "share": 0.1}], 120)
    assert moved > 0.5, "agree on something else than the mean"
    copies, kept = consensus([{"kind": "choco", "step": 0.2}, {"kind": "top_k", "share": 0.1}], 120)
    assert kept < 1e-12, "the mean of the nodes never moves"
    assert copies[-1] < 0.01 * copies[0], "linear convergence"
    assert all(after < before for before, after in itertools.pairwise(copies[10:]))
    assert plain[0] > 0


def test_learning_through_a_tenth_of_the_coordinates_needs_copies(tmp_path: Path) -> None:
    """D-SGD on a ring: plain compression learns nothing or breaks down, CHOCO is nearly as good as whole messages."""
    base = small(nodes=8, rounds=100, **RING, evaluate={"every": 100})
    largest, random = {"kind": "top_k", "share": 0.1}, {"kind": "random_k", "share": 0.1}

    def accuracy(name: str, chain: list[Any]) -> float:
        return gossamer.run(base.replace(transforms=chain), tmp_path / name).summary()["test_accuracy"]

    whole, copies = accuracy("whole", []), accuracy("choco", [{"kind": "choco", "step": 0.5}, largest])
    assert copies > whole - 0.05
    assert accuracy("largest", [largest]) < copies - 0.1
    assert accuracy("random", [random]) < 0.5


def test_gossip_on_copies_that_are_exact_is_plain_gossip() -> None:
    """With messages that lose nothing and step 1: x + (W x - x) = W x."""
    exact, _ = consensus([{"kind": "choco", "step": 1.0}], 6)
    plain, _ = consensus([], 6)
    assert exact == pytest.approx(plain, rel=1e-9)


def test_error_feedback_makes_up_for_what_was_not_sent(tmp_path: Path) -> None:
    """A hundredth of the coordinates in each message: with feedback nearly as good as all of them."""
    base = small(nodes=8, rounds=40, learner={"lr": 0.1, "epochs": 1, "batch_size": 16})
    sparse = {"kind": "top_k", "share": 0.01}
    found = {
        name: gossamer.run(base.replace(transforms=chain), tmp_path / name).summary()["test_accuracy"]
        for name, chain in {"all": [], "without": [sparse], "with": ["error_feedback", sparse]}.items()
    }
    assert found["with"] > found["without"] + 0.03
    assert found["with"] > found["all"] - 0.05


def test_messages_of_rounds_without_an_exchange_are_not_sent() -> None:
    """What is remembered of a sender changes with what was sent, not with what was made."""
    experiment = small(
        **RING,
        rounds=4,
        schedule={"kind": "every", "k": 2},
        transforms=["error_feedback", {"kind": "top_k", "share": 0.1}],
    )
    from gossamer.backends.eager import Eager
    from gossamer.engines.local import Local

    federation = Federation(experiment)
    engine = Local(federation, Eager(federation))
    lost = federation.up.memory["0.row"]
    engine.exchange(engine.train(0))
    assert not lost.any()
    engine.exchange(engine.train(1))
    assert lost.any(1).all()


def test_what_is_forged_goes_over_the_wire_like_everything_else() -> None:
    """Through a top-k transform a hostile node can write no more than k coordinates."""
    experiment = small(
        nodes=6,
        hostile={"count": 2},
        attack={"kind": "gaussian", "sigma": 3.0},
        aggregator="median",
        transforms=[{"kind": "top_k", "share": 0.1}],
    )
    from gossamer.backends.eager import Eager
    from gossamer.engines.local import Local

    federation = Federation(experiment)
    engine = Local(federation, Eager(federation))
    engine.exchange(engine.train(0))
    nonzero_N = (federation.sent["delta"] != 0).sum(1)
    assert set(nonzero_N.tolist()) == {-(-federation.layout.size // 10)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transforms": ["zstd", "cast"]}, "transforms.1.kind = 'cast'"),
        ({"transforms": ["int8", "top_k"]}, "works on whole messages"),
        ({"transforms": ["top_k", "error_feedback"]}, "transforms.1.kind = 'error_feedback'"),
        ({"transforms": ["sign", "qsgd"]}, "works on floating-point numbers"),
        ({"transforms": ["error_feedback", {"kind": "random_k", "share": 0.1}]}, "rescale"),
        ({"transforms": ["choco", "top_k"]}, "use 'error_feedback'"),
        ({**RING, "downlink": ["int8"]}, "no server that sends"),
        ({"downlink": ["top_k"]}, "a server sends its whole model"),
        ({**RING, "transforms": ["choco"], "aggregator": "median"}, "aggregator.kind = 'median'"),
        ({**RING, "transforms": ["choco", "choco"]}, "once is enough"),
        ({**RING, "transforms": ["choco"], "topology": "random_matching"}, "fixed graph"),
        ({**RING, "transforms": ["choco"], "schedule": {"participation": 0.5}}, "all nodes"),
        (
            {
                "method": "dsgd",
                "topology": {"kind": "ring", "all_to_all": True},
                "transforms": ["choco"],
                "schedule": {"final": "merge"},
            },
            "no all-reduce",
        ),
        ({**RING, "transforms": ["choco"], "hostile": {"count": 1}, "attack": "zeros"}, "forged messages"),
        ({"method": "fedasync", "clock": "events", "transforms": ["zstd"]}, "by the clock"),
        ({**VOTES, "init": {"kind": "kaiming"}}, "draws weights and scores"),
        ({**VOTES, "aggregator": {"kind": "approval", "k": 0.3}}, "aggregator.k = 0.3"),
        ({**VOTES, "transforms": ["cast"]}, "a code of its own"),
        ({**VOTES, "parametrisation": "identity"}, "parametrisation = 'supermask'"),
        ({**VOTES, "method": {"kind": "frl", "coder": "optimal", "top": 0.5}}, "coder = 'packed'"),
        ({"transforms": [{"kind": "top_k", "count": 0}]}, "count"),
        ({"transforms": [{"kind": "top_k", "share": 0.0}]}, "share"),
        ({"transforms": [{"kind": "qsgd", "bits": 9}]}, "bits"),
        ({"transforms": [{"kind": "qsgd", "bits": 0}]}, "bits"),
        ({"transforms": [{"kind": "power_sgd", "rank": 0}]}, "rank"),
        ({"transforms": [{"kind": "zstd", "level": 40}]}, "level"),
        ({"transforms": [{"kind": "clip", "norm": -1.0}]}, "norm"),
    ],
    ids=str,
)
def test_chains_that_cannot_be_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ExperimentError, match=words.replace("(", r"\(")):
        small(**changes)


def test_the_dice_of_a_step_are_its_own() -> None:
    """Two equal steps in a chain draw different numbers, and so do two senders and two rounds."""
    draws = {
        tuple(generator(0, f"transform {place}", node, round).integers(0, 2**62, 2).tolist())
        for place in range(2)
        for node in range(3)
        for round in range(3)
    }
    assert len(draws) == 18


def test_what_is_remembered_is_in_the_plan() -> None:
    """Error feedback keeps a message for each node, copies of models as well; both are float32 here."""
    for world, chain in (({}, ["error_feedback", "sign"]), (RING, ["choco", "sign"])):
        with_memory, without = small(**world, transforms=chain), small(**world, transforms=chain[1:])
        plans = [gossamer.plan(experiment) for experiment in (with_memory, without)]
        more = plans[0].memory_bytes["population"] - plans[1].memory_bytes["population"]
        assert more == plans[0].nodes * plans[0].parameters * 4
        assert more == sum(rows.nbytes for rows in Federation(with_memory).up.memory.values())


OWN = '''
from typing import Literal
from gossamer.transforms import Transform

class Own(Transform):
    """A transform with a mistake."""
    kind: Literal["own"] = "own"

    def outline(self, like, layout):
        return {OUTLINE}

    def forward(self, message, passage):
        return {FORWARD}
'''


@pytest.mark.parametrize(
    ("outline", "forward", "words"),
    [
        (
            "{k: v[:1] for k, v in like.items()}",
            "message",
            r"transform 0 \(Own\): what forward makes is not what outline",
        ),
        ("dict(like)", "1 / 0", r"transform 0 \(Own\): forward failed: ZeroDivisionError"),
        ("like['nothing']", "message", r"transform 0 \(Own\): outline failed: KeyError"),
    ],
)
def test_mistakes_in_a_transform_of_ones_own_are_named(outline: str, forward: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / f"own_{abs(hash(outline + forward))}.py"
    file.write_text(OWN.replace("{OUTLINE}", outline).replace("{FORWARD}", forward), encoding="utf-8")
    with pytest.raises(ExperimentError, match=words):
        Federation(small(transforms=[{"file": str(file)}]))
