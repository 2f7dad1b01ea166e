"""What a run spends of its privacy budget: how much noise that takes, epsilon after each round, and when to stop."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.accounting import Spending, noise_for
from gossamer.errors import ExperimentError
from gossamer.mixing import edges_of
from gossamer.privacy import Mechanism, Setting
from gossamer.sealing import attendances, cohort_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gossamer.accounting import Accountant, Release
    from gossamer.experiment import Experiment


@dataclass(frozen=True)
class Ledger:
    """The account of one experiment, known before it begins: nothing in it depends on what is in the data."""

    mechanism: Mechanism
    setting: Setting
    noise: float
    """The noise multiplier z."""
    rounds: int
    """Rounds that the budget pays for."""
    asked: int
    """Rounds of the experiment."""
    besides: tuple[str, ...]
    """What else is taken for granted in this experiment."""
    warnings: tuple[str, ...]

    def epsilon(self, rounds: int) -> float:
        """What the unit that spends most has spent after so many rounds."""
        return _spent(self.mechanism, self.noise, rounds, self.setting)

    def about(self) -> dict[str, Any]:
        """The guarantee with all that it rests on, as plain values for the record and the report."""
        mechanism, setting = self.mechanism, self.setting
        last = list(mechanism.releases(self.noise, self.rounds, setting))
        spent = self.epsilon(self.rounds)
        return {
            "kind": mechanism.kind,
            "unit": mechanism.unit,
            "epsilon": spent if math.isfinite(spent) else None,
            "delta": mechanism.delta,
            "budget": mechanism.epsilon,
            "noise_multiplier": self.noise,
            "clip": mechanism.clip,
            "accountant": mechanism.accountant,
            "adjacency": mechanism.adjacency,
            "rounds": self.rounds,
            "asked": self.asked,
            "releases": [
                {"noise": one.noise, "times": one.times, "rate": one.rate, "sampling": one.sampling} for one in last
            ],
            "hides": mechanism.hides(setting),
            "assumes": [*mechanism.assumes(setting), *self.besides, *ALWAYS],
        }


ALWAYS = (
    "the run's dice, and so its seed, are kept secret and used for this run only (they are those of a simulation, so "
    "that runs repeat)",
    "how many items a node has, and so how long it works, is public",
    "settings were chosen without looking at these data",
    "numbers are real: what floating-point rounding gives away is not counted",
    "the record's losses, accuracies, histograms and other measurements stay with whoever made the run",
    "a node's own model, where it has one, stays with the node",
)


def ledger(experiment: Experiment, items: Sequence[int], length: int) -> Ledger | None:
    """The account of an experiment whose nodes have so many training items and send so many numbers; None without
    privacy. Raises ExperimentError where the budget cannot be kept."""
    mechanism = experiment.privacy
    if not isinstance(mechanism, Mechanism):
        return None
    setting, asked = setting_of(experiment, items, length), experiment.rounds
    if mechanism.noise_multiplier is None:
        assert mechanism.epsilon is not None, "one of the two is given"
        noise, rounds = _noise(mechanism, asked, setting), asked
    else:
        noise = mechanism.noise_multiplier
        rounds = asked if mechanism.epsilon is None else _affordable(mechanism, noise, asked, setting)
    mechanism.require(noise, setting)
    if rounds < asked and experiment.schedule.final != "none":
        raise ExperimentError(
            f"privacy.epsilon = {mechanism.epsilon:g} is spent after {rounds} of {asked} rounds, but the run is to end "
            f"with schedule.final = '{experiment.schedule.final}'; set rounds = {rounds}"
        )
    besides = tuple(_besides(experiment))
    return Ledger(
        mechanism, setting, noise, rounds, asked, besides, tuple(_warnings(experiment, setting, noise, rounds))
    )


def setting_of(experiment: Experiment, items: Sequence[int], length: int) -> Setting:
    """What accounting has to know of an experiment."""
    schedule, nodes, secure = experiment.schedule, len(items), experiment.secure_sum
    drawn = schedule.sampling == "poisson"
    share = schedule.participation if drawn else schedule.size(nodes) / nodes
    everybody = share == 1
    # Found when first asked for: who takes part in each round, [rounds, N].
    taking: list[Any] = []

    def times(rounds: int) -> Any:
        if everybody:
            return np.full(nodes, rounds)
        if not taking:
            taking.append(np.zeros((experiment.rounds, nodes), bool))
            for round in range(experiment.rounds):
                taking[0][round, cohort_of(experiment, nodes, round)] = True
        return taking[0][:rounds].sum(axis=0)

    return Setting(
        nodes=nodes,
        items=tuple(int(count) for count in items),
        participation=share,
        sampling="none" if everybody else schedule.sampling,
        times=times,
        steps_N=np.array([experiment.learner.steps_for(count) for count in items]),
        batch_size=experiment.learner.batch_size,
        links=functools.partial(edges_of, experiment.topology, nodes, experiment.seed),
        length=length,
        levels=float(2 ** (secure.bits - 1) - 1) if secure is not None else 0.0,
        threshold=min((one.threshold for one in attendances(experiment, nodes) if one.opens), default=0),
    )


def _spent(mechanism: Mechanism, noise: float, rounds: int, setting: Setting) -> float:
    releases = list(mechanism.releases(noise, rounds, setting)) if rounds else []
    return max((_alone(replace(one, times=1), one.times, mechanism) for one in releases), default=0.0)


def _alone(release: Release, times: int, mechanism: Mechanism) -> float:
    return _spending(release, mechanism.delta, mechanism.accountant).after(times)


@functools.lru_cache(maxsize=256)
def _spending(release: Release, delta: float, accountant: Accountant) -> Spending:
    return Spending([release], delta, accountant)


def _noise(mechanism: Mechanism, rounds: int, setting: Setting) -> float:
    """The noise multiplier at which all rounds together spend the budget: that of the unit that needs most."""
    assert mechanism.epsilon is not None
    kinds = len(list(mechanism.releases(1.0, rounds, setting)))
    return max(
        noise_for(
            mechanism.epsilon,
            lambda noise, which=which: [list(mechanism.releases(noise, rounds, setting))[which]],  # type: ignore[misc]
            mechanism.delta,
            mechanism.accountant,
        )
        for which in range(kinds)
    )


def _affordable(mechanism: Mechanism, noise: float, asked: int, setting: Setting) -> int:
    """The most rounds whose epsilon is within the budget. Raises ExperimentError where it is none."""
    assert mechanism.epsilon is not None
    low, high = 0, asked
    while low < high:
        middle = (low + high + 1) // 2
        if _spent(mechanism, noise, middle, setting) <= mechanism.epsilon:
            low = middle
        else:
            high = middle - 1
    if low == 0:
        first = _spent(mechanism, noise, 1, setting)
        raise ExperimentError(
            f"privacy.epsilon = {mechanism.epsilon:g}: with noise_multiplier = {noise:g} the first round alone spends "
            f"{first:.3g}; use more noise, a larger budget, or leave noise_multiplier out to have it solved"
        )
    return low


def _besides(experiment: Experiment) -> list[str]:
    """What inputs give away before there is any noise."""
    whose = {"shared": "all nodes' items", "per_node": "a node's items"}.get(experiment.preprocess.normalise)
    return [f"mean and standard deviation of {whose} are public"] if whose else []


def _warnings(experiment: Experiment, setting: Setting, noise: float, rounds: int) -> list[str]:
    mechanism, found = experiment.privacy, []
    assert isinstance(mechanism, Mechanism)
    units = setting.nodes if mechanism.unit == "node" else min(setting.items)
    if mechanism.delta >= 1 / units:
        whole = f"{units} {mechanism.unit}s" if mechanism.unit == "node" else f"a node with {units} examples"
        found.append(
            f"privacy.delta = {mechanism.delta:g} is not below 1 / {units}: for {whole} publishing one of them whole "
            "would be within it"
        )
    if noise == 0:
        found.append("privacy.noise_multiplier = 0: there is no noise, and epsilon is infinite")
    found += [
        f"preprocess.normalise = '{experiment.preprocess.normalise}': {text}, which the guarantee does not cover; use "
        "'fixed' or 'none'"
        for text in _besides(experiment)
    ]
    if rounds < experiment.rounds:
        found.append(
            f"privacy.epsilon = {mechanism.epsilon:g} pays for {rounds} of {experiment.rounds} rounds: the run stops "
            "there"
        )
    return found
