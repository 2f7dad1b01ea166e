"""What hostile nodes write goes over the wire as it must: once, in its form, and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from federations import small

import gossamer
from gossamer.backends.eager import Eager
from gossamer.engines.local import Local
from gossamer.errors import ExperimentError
from gossamer.federation import Federation
from gossamer.methods import Inbox, Outbox, Result, Task, View
from gossamer.methods.fedavg import FedAvg

VOTES = {"parametrisation": "supermask", "learner": {"lr": 0.5, "momentum": 0.9, "steps": 3, "batch_size": 16}}
NOTHING = {"kind": "zeros", "share": 1.0}
HOSTILE: dict[str, Any] = {"hostile": {"count": 2, "placement": "first"}, "aggregator": "median"}


def played(**changes: Any) -> Federation:
    """A federation after one round."""
    federation = Federation(small(**{**HOSTILE, **changes}))
    engine = Local(federation, Eager(federation))
    engine.exchange(engine.train(0))
    return federation


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_a_forged_message_is_encoded_once(share: float) -> None:
    """The reverse of an honest message has its length, also where decoding scales what was sent up."""
    for chain in ([{"kind": "random_k", "share": share}], [{"kind": "qsgd", "bits": 4}]):
        sent_ND = played(attack="sign_flip", transforms=chain).sent["delta"]
        lengths_N = sent_ND.norm(dim=1)
        assert lengths_N[:2].max() < 3 * lengths_N[2:].max()


def test_a_forged_message_has_the_rank_of_an_honest_one() -> None:
    federation = played(attack="sign_flip", transforms=[{"kind": "power_sgd", "rank": 2}])
    entry = federation.layout.entries[0]
    for node in (0, 5):
        matrix = federation.sent["delta"][node, entry.start : entry.stop].view(entry.shape)
        assert torch.linalg.matrix_rank(matrix) == 2
        assert int((matrix.abs().sum(1) > 0).sum()) > 8, "not only its first rows"


def test_nobody_can_make_a_hostile_node_clip() -> None:
    """Clipping is up to the sender: receivers cannot see whether it was done."""
    federation = played(attack={"kind": "gaussian", "sigma": 100.0}, transforms=[{"kind": "clip", "norm": 1.0}])
    lengths_N = federation.sent["delta"].norm(dim=1)
    assert lengths_N[:2].min() > 100
    assert lengths_N[2:].max() <= 1


class Counting(FedAvg):
    """FedAvg that sends whole numbers as well."""

    kind: Literal["counting"] = "counting"  # type: ignore[assignment]
    source: ClassVar[str] = ""

    def finish(self, task: Task, result: Result, own: Any, view: View) -> tuple[Outbox, Any]:
        outbox, own = super().finish(task, result, own, view)
        return Outbox({**outbox.common, "counts": torch.arange(5)}, outbox.weight), own


@pytest.mark.parametrize("chain", [[], ["int8"], ["zstd"], [{"kind": "clip", "norm": 1.0}]], ids=str)
def test_whole_numbers_stay_whole_numbers(chain: list[Any], tmp_path: Path) -> None:
    experiment = small(**{**HOSTILE, "attack": "sign_flip", "method": Counting(), "transforms": chain, "rounds": 1})
    run = gossamer.run(experiment, tmp_path / "run")
    assert run.rounds.column("rejected").to_pylist() == [0]
    federation = Federation(experiment)
    engine = Local(federation, Eager(federation))
    engine.exchange(engine.train(0))
    assert federation.sent["counts"][5].tolist() == [0, 1, 2, 3, 4]
    assert federation.sent["counts"][0].tolist() == [0, -1, -2, -3, -4]
    assert Inbox({}, 0, 0.0).count == 0


def written_to(receiver: int, name: str, **changes: Any) -> tuple[torch.Tensor, Federation]:
    """What hostile nodes of a ring write to one neighbour in a field, in the first round."""
    federation = Federation(small(topology="ring", **changes))
    Local(federation, Eager(federation)).train(0)
    heard = np.array([receiver - 1, receiver, receiver + 1])
    letters = federation.adversary.letters(name, federation.sent, 0, receiver, heard, np.full(3, 1 / 3))
    assert letters is not None
    assert letters[1] is not None
    return letters[1], federation


def test_what_is_written_to_one_neighbour_is_a_ranking_too() -> None:
    """Millions instead of positions: what neighbours read is an order of the edges, and no more."""
    attack = {"kind": "gaussian", "sigma": 1e6, "aim": "neighbour"}
    hostile = {"count": 2, "placement": "first"}
    letters_HD, federation = written_to(2, "ranks", **VOTES, method="frl_gossip", hostile=hostile, attack=attack)
    for entry in federation.layout.entries:
        positions = letters_HD[0, entry.start : entry.stop].sort().values
        assert positions.equal(torch.arange(len(positions)).to(positions))


def test_letters_go_through_the_transforms() -> None:
    attack = {"kind": "gaussian", "sigma": 3.0, "aim": "neighbour"}
    sparse = {"transforms": [{"kind": "top_k", "share": 0.1}]}
    hostile = {"count": 1, "placement": "first"}
    letters_HD, federation = written_to(1, "row", method="dsgd", hostile=hostile, attack=attack, **sparse)
    assert int((letters_HD != 0).sum()) == -(-federation.layout.size // 10)


def test_bytes_of_forged_messages_are_those_of_their_frames(tmp_path: Path) -> None:
    """A message of zeros compresses to next to nothing."""
    federation = played(attack=NOTHING, transforms=["int8", "zstd"])
    assert federation.sent_bytes[:2].max() < 0.3 * federation.sent_bytes[2:].min()
    run = gossamer.run(small(**HOSTILE, attack=NOTHING, transforms=["int8", "zstd"], rounds=1), tmp_path / "run")
    down = federation.down_bytes * federation.nodes
    assert run.rounds.column("bytes").to_pylist() == [int(federation.sent_bytes.sum()) + down]


@pytest.mark.parametrize("top", [1.0, 0.4])
@pytest.mark.parametrize("fault", ["shape", "dtype", "size", "missing", "blank"])
def test_messages_that_are_no_rankings_are_dropped_and_counted(fault: str, top: float, tmp_path: Path) -> None:
    votes = {**VOTES, "method": {"kind": "frl", "top": top}, "rounds": 2}
    run = gossamer.run(small(**{**HOSTILE, **votes, "attack": {"kind": "malformed", "fault": fault}}), tmp_path / "run")
    assert run.rounds.column("rejected").to_pylist() == [2, 2]


def test_histories_are_counted_whole_whatever_the_transforms() -> None:
    """A sum of changes is no message that a codec could make short."""
    rule = {"kind": "foolsgold", "remember": "updates"}
    ring = {"method": "dsgd", "topology": "ring", "aggregator": rule}
    plan = gossamer.plan(small(**ring, transforms=[{"kind": "top_k", "share": 0.01}]))
    assert plan.message_bytes["up"] > 4 * plan.parameters


def test_codes_that_cannot_be_added_make_an_all_reduce_dear(tmp_path: Path) -> None:
    """Everybody must hear everybody: m(m-1) messages, where whole ones take 2(m-1)."""
    graph = {"method": "dsgd", "topology": {"kind": "ring", "all_to_all": True}, "schedule": {"final": "merge"}}
    whole = gossamer.plan(small(**graph, rounds=2))
    experiment = small(**graph, rounds=2, transforms=["int8"])
    coded, run = gossamer.plan(experiment), gossamer.run(experiment, tmp_path / "run")
    assert whole.transfers[-1] == 2 * 9
    assert coded.transfers[-1] == 10 * 9
    assert coded.bytes_total == run.summary()["bytes"]
    assert coded.seconds == tuple(run.rounds.column("simulated_seconds").to_pylist())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attack": "vulnerable_edges"}, "parametrisation = 'supermask'"),
        (
            {**VOTES, "method": {"kind": "frl", "top": 0.3}, "aggregator": "approval", "attack": "rank_reversal"},
            "let nodes send at least those",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ExperimentError, match=words):
        small(**{**HOSTILE, **changes})


@pytest.mark.parametrize("rule", ["mean", "fltrust"])
def test_edge_control_works_where_nobody_tells_it_what_would_come_of_it(rule: str, tmp_path: Path) -> None:
    votes = {**VOTES, "method": "frl", "rounds": 1, "aggregator": rule, "root": 40 if rule == "fltrust" else 0}
    experiment = small(**{**HOSTILE, **votes, "attack": {"kind": "edge_control", "target": 0.1}})
    assert (Federation(experiment).adversary.trial is None) == (rule == "fltrust")
    assert gossamer.run(experiment, tmp_path / "run").summary()["test_accuracy"] >= 0
