"""What receivers remember and tell each other, against a transcription with plain dictionaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from federations import small

from gossamer.aggregators import FoolsGold, SybilWall, TwinFilter
from gossamer.histories import Direct, Gossiped
from gossamer.placement import Placement
from gossamer.randomness import generator

N, D = 7, 30
RING_E2 = np.array([(i, (i + s) % N) for i in range(N) for s in (-1, 1)])
EVERYBODY = np.arange(N)
HONEST = Placement(N, EVERYBODY[:0], -1, RING_E2[:0])


def sent(round: int, names: int = N) -> dict[str, torch.Tensor]:
    return {"row": torch.from_numpy(generator(1, "sent", round=round).standard_normal((names, D)).astype(np.float32))}


def gossiped(**settings: Any) -> Gossiped:
    rule = {"kind": "sybilwall", **settings}
    experiment = small(nodes=N, method="dsgd", topology="ring", aggregator=rule)
    return Gossiped(experiment, N, {"row": torch.zeros(D)})


class Slowly:
    """Section 2a of the paper with dictionaries: record = (round, distance, who told it, numbers)."""

    def __init__(self, seed: int, decay: float) -> None:
        self.seed, self.decay = seed, decay
        self.known: list[dict[int, tuple[int, int, int, np.ndarray]]] = [{} for _ in range(N)]

    def play(self, rows: np.ndarray, round: int) -> None:
        told = []
        for sender in range(N):
            rng = generator(self.seed, "gossip", sender, round)
            for receiver in sorted(int(r) for s, r in RING_E2 if s == sender):
                mine = self.known[sender]
                eligible = [j for j in sorted(mine) if j not in (sender, receiver) and mine[j][2] != receiver]
                if eligible:
                    odds = np.array([np.exp(-self.decay * (mine[j][1] - 1)) for j in eligible])
                    j = int(rng.choice(eligible, p=odds / odds.sum()))
                    made, distance, _, numbers = mine[j]
                    told.append((receiver, j, (made, distance + 1, sender, numbers)))
        for receiver, j, record in told:
            old = self.known[receiver].get(j)
            if old is None or (record[0] > old[0] and old[1] > 1):
                self.known[receiver][j] = record
        for sender, receiver in RING_E2.tolist():
            self.known[receiver][sender] = (round, 1, sender, rows[sender])


@pytest.mark.parametrize("decay", [0.0, 0.8, 5.0])
def test_gossip_is_the_papers(decay):
    history, slow = gossiped(decay=decay, versions=50), Slowly(0, decay)
    for round in range(12):
        rows = sent(round)
        history.note(rows, None, EVERYBODY, round)
        history.exchange(RING_E2, round, HONEST, False)
        slow.play(rows["row"].numpy(), round)
        for node in range(N):
            assert {j for j in range(N) if history.slot_NN[node, j] >= 0} == slow.known[node].keys()
            for j, (made, distance, source, numbers) in slow.known[node].items():
                assert (history.version_NN[node, j], history.distance_NN[node, j]) == (made, distance)
                assert history.source_NN[node, j] == source
                np.testing.assert_array_equal(history.pool_PD[history.slot_NN[node, j]], numbers)
            others = np.sort(RING_E2[RING_E2[:, 1] == node, 0])
            rest = [j for j in sorted(slow.known[node]) if j not in others and j != node]
            records = np.stack([slow.known[node][j][3] for j in [*others.tolist(), *rest]]).astype(float)
            np.testing.assert_allclose(history.of(node, others).products, records @ records.T, rtol=1e-4, atol=1e-4)


def test_news_of_everybody_gets_round_and_nobody_hears_of_itself():
    history = gossiped(versions=30)
    for round in range(25):
        history.note(sent(round), None, EVERYBODY, round)
        history.exchange(RING_E2, round, HONEST, False)
    known = history.slot_NN.numpy() >= 0
    assert known[~np.eye(N, dtype=bool)].all()
    assert not known[np.eye(N, dtype=bool)].any()
    apart = np.minimum((EVERYBODY[:, None] - EVERYBODY) % N, (EVERYBODY - EVERYBODY[:, None]) % N)
    assert (history.distance_NN.numpy() >= apart)[known].all()


def test_a_full_pool_forgets_the_oldest_and_nothing_else():
    history = gossiped(versions=2)
    for round in range(20):
        history.note(sent(round), None, EVERYBODY, round)
        history.exchange(RING_E2, round, HONEST, False)
        slots = history.slot_NN.numpy()
        held = slots[slots >= 0]
        assert (history.of_P.numpy()[held] >= 0).all()
        for node in range(N):
            for j in range(N):
                if slots[node, j] >= 0:
                    assert history.of_P[slots[node, j]] == j
                    assert history.made_P[slots[node, j]] == history.version_NN[node, j]
                    expected = sent(int(history.version_NN[node, j]))["row"][j]
                    assert torch.equal(history.pool_PD[slots[node, j]], expected)
        used = torch.from_numpy((history.of_P.numpy() >= 0).nonzero()[0])
        rows = history.pool_PD[used].double()
        torch.testing.assert_close(history.kernel_PP[used[:, None], used], rows @ rows.T, rtol=1e-4, atol=1e-4)


def test_sums_of_updates_add_up():
    history = gossiped(remember="updates")
    for round in range(4):
        history.note(sent(round), sent(round + 100)["row"], EVERYBODY, round)
    expected = sum(sent(t)["row"] - sent(t + 100)["row"] for t in range(4))
    torch.testing.assert_close(history.sums_ND, expected)


def test_hostile_nodes_gossip_nothing_or_frame():
    """Node 0 is hostile: with `frames` its neighbours hold a stranger's record that is another neighbour's model."""
    placement = Placement(N, np.array([0]), -1, RING_E2[:0])
    near_E2 = np.array([(i, (i + s) % N) for i in range(N) for s in (-2, -1, 1, 2)])
    for frames in (False, True):
        history = gossiped(versions=20)
        for round in range(3):
            history.note(sent(round), None, EVERYBODY, round)
            history.exchange(near_E2, round, placement, frames)
        told = [(i, j) for i in range(N) for j in range(N) if history.source_NN[i, j] == 0 and j != 0]
        assert bool(told) == frames
        for receiver, name in told:
            made = int(history.version_NN[receiver, name])
            slot = int(history.slot_NN[receiver, name])
            victim = int(history.of_P[slot])
            assert victim != name
            assert {(victim, receiver), (victim, 0)} <= {(s, r) for s, r in near_E2.tolist()}
            assert torch.equal(history.pool_PD[slot], sent(made)["row"][history.of_P[slot]])


class TestTwins:
    def edges(self) -> np.ndarray:
        return np.array([(i, j) for i in range(N) for j in range(N) if i != j and abs(i - j) <= 2])

    def play(self, twins: tuple[int, int] | None, rounds: int = 8) -> Gossiped:
        experiment = small(nodes=N, method="dsgd", topology="ring", aggregator="twin_filter")
        history = Gossiped(experiment, N, {"row": torch.zeros(D)})
        for round in range(rounds):
            rows = sent(round)
            if twins:
                rows["row"][twins[1]] = rows["row"][twins[0]]
            history.note(rows, None, EVERYBODY, round)
            history.exchange(self.edges(), round, HONEST, False)
        return history

    def test_nobody_is_exposed_without_twins(self):
        assert self.play(None).exposed_NN.sum() == 0

    def test_twins_are_exposed_at_once_by_who_hears_both_and_later_by_who_hears_one(self):
        first = self.play((2, 4), rounds=1).exposed_NN.numpy()
        assert set(zip(*(place.tolist() for place in first.nonzero()), strict=True)) == {(3, 2), (3, 4)}
        later = self.play((0, 6), rounds=30).exposed_NN.numpy()
        assert later[1, 0] == 1
        assert later[5, 6] == 1
        assert set(later.nonzero()[1].tolist()) == {0, 6}

    def test_only_models_of_the_same_round_are_compared(self):
        """Node 6 sends what node 0 sent a round before: near in numbers, but no twin."""
        experiment = small(nodes=N, method="dsgd", topology="ring", aggregator="twin_filter")
        history = Gossiped(experiment, N, {"row": torch.zeros(D)})
        for round in range(1, 9):
            rows = sent(round)
            rows["row"][6] = sent(round - 1)["row"][0]
            history.note(rows, None, EVERYBODY, round)
            history.exchange(self.edges(), round, HONEST, False)
        assert history.exposed_NN.sum() == 0


class TestRules:
    def rows(self) -> np.ndarray:
        return np.vstack([np.eye(6)[:4], np.eye(6)[3]])

    def test_sybilwall_silences_copies(self):
        np.testing.assert_allclose(SybilWall()(self.rows()), np.r_[np.full(3, 1 / 3), 0, 0, 0], atol=1e-12)

    @pytest.mark.parametrize("merging", ["mean", "median", "weighted_median", "krum_filter"])
    def test_identical_models_stay_what_they_are_whatever_the_scores(self, merging):
        rows = np.ones((5, 8)) * 3.0
        np.testing.assert_allclose(SybilWall(merging=merging)(rows, own=rows[0]), rows[0], rtol=1e-12)

    @pytest.mark.parametrize("merging", ["mean", "median", "weighted_median", "krum_filter"])
    def test_order_does_not_matter_and_the_own_model_is_trusted(self, merging):
        rows = generator(0, "rows").standard_normal((6, 9))
        own, rule = generator(1, "own").standard_normal(9), SybilWall(merging=merging)
        np.testing.assert_allclose(rule(rows, own=own), rule(rows[::-1], own=own), rtol=1e-9)
        copies = np.vstack([rows[0]] * 5)
        if merging == "mean":
            np.testing.assert_allclose(rule(copies, own=own), (own + copies.sum(0)) / 6)
            np.testing.assert_allclose(rule(np.vstack([copies, rows[1:4]]), own=own), (own + rows[1:4].sum(0)) / 4)

    def test_records_of_others_only_lower_scores_and_take_no_weight(self):
        """The defect of the reference code: the weights of passed-on records must not be missing from the mean."""
        experiment = small(nodes=N, method="dsgd", topology="ring", aggregator="sybilwall")
        rule = experiment.aggregator
        assert isinstance(rule, SybilWall)
        history = Gossiped(experiment, N, {"row": torch.zeros(D)})
        rows = {"row": torch.eye(N, D)}
        for round in range(6):
            history.note(rows, None, EVERYBODY, round)
            history.exchange(RING_E2, round, HONEST, False)
        assert rule.trust(history.of(0, np.array([1, 6])), 2).tolist() == [1.0, 1.0]

    def test_a_twin_filter_on_arrays_leaves_twins_out(self):
        rows = np.vstack([generator(0, "rows").standard_normal((4, 20)), np.full((2, 20), 5.0)])
        np.testing.assert_allclose(TwinFilter()(rows), rows[:4].mean(0))
        np.testing.assert_allclose(TwinFilter()(rows[:5]), rows[:5].mean(0))
        np.testing.assert_allclose(TwinFilter()(rows[:1]), rows[0])

    def test_foolsgold_at_a_server_adds_up_what_was_sent(self):
        experiment = small(nodes=3, aggregator=FoolsGold())
        history = Direct(experiment, 3, {"delta": torch.zeros(4)})
        for _ in range(2):
            history.note({"delta": torch.eye(3, 4)}, None, np.array([0, 2]), 0)
        assert torch.equal(history.rows_ND, torch.eye(3, 4) * torch.tensor([[2.0], [0.0], [2.0]]))
