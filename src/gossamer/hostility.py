"""Hostile nodes in words, for plans and reports: who they are, what they do and know, what the rule withstands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gossamer.aggregators import Robust
from gossamer.arms import in_words
from gossamer.errors import GossamerError
from gossamer.mixing import edges_of
from gossamer.placement import besieged, heard, place

if TYPE_CHECKING:
    from gossamer.experiment import Experiment
    from gossamer.placement import Placement
    from gossamer.planning import Plan
    from gossamer.runs import Run

KNOWS = {
    "own": "what hostile nodes do themselves",
    "neighbourhood": "what reaches hostile nodes over the graph",
    "honest": "every honest message of the round",
    "defence": "every honest message of the round and the rule",
}
"""What each kind of knowledge of an attack is."""
FEW = 8
"""Hostile nodes that are named."""


def rule_in_words(table: Mapping[str, Any]) -> str:
    """An aggregator with the pre-aggregators before it: 'trimmed_mean (f 3) after nnm'."""
    steps = [str(step["kind"]) for step in table.get("before", ())]
    return in_words("aggregator", dict(table)) + (f" after {', '.join(steps)}" if steps else "")


def who(experiment: Experiment, placement: Placement) -> str:
    """'3 of 20 nodes', or '15 identities of one attacker beside 99 nodes, with 99 attack edges'; empty for nobody."""
    count = len(placement.hostile)
    if not count:
        return ""
    if not experiment.hostile.many_names:
        return f"{count} of {placement.nodes} nodes"
    edges = len(placement.attack_edges_E2) // 2
    names = "identity" if count == 1 else "identities"
    text = f"{count} {names} of one attacker beside {len(placement.honest)} nodes"
    return f"{text}, with {edges} attack edges" if edges else text


def named(placement: Placement) -> str:
    """' (3, 7, 9)', the numbers of hostile nodes; of more than eight the first ones."""
    names = placement.hostile.tolist()
    return f" ({', '.join(map(str, names[:FEW]))}{', ...' if len(names) > FEW else ''})"


def attack_in_words(experiment: Experiment) -> str:
    """'ipm (scale 0.1), which knows every honest message of the round'."""
    if experiment.attack.kind == "honest":
        return "which attack nothing"
    return f"{in_words('attack', experiment.attack.dumped())}, which knows {KNOWS[experiment.attack.knows]}"


def planned(plan: Plan) -> str:
    """Who is hostile, the attack, and what the rule withstands, a line each; empty where nobody is hostile."""
    experiment = plan.experiment
    if not plan.hostile:
        return ""
    placement = place(experiment, experiment.nodes or plan.nodes)
    lines = [f"{who(experiment, placement)}{named(placement)}", attack_in_words(experiment)]
    return "\n".join([*lines, withstood(plan, placement)])


def withstood(plan: Plan, placement: Placement) -> str:
    """How many hostile updates the rule withstands: at the server, or at the smallest and the largest neighbourhood of
    the first round, and how many an honest node hears there at most."""
    experiment = plan.experiment
    if experiment.method.world == "server":
        return _withstands(experiment, [plan.participants])
    edges_E2 = edges_of(besieged(experiment.topology, placement), placement.nodes, experiment.seed)
    heard_N, bad_N = (counts_N[placement.honest] for counts_N in heard(edges_E2, placement))
    sizes = sorted({int(heard_N.min()), int(heard_N.max())})
    most = f"at most {int(bad_N.max())}, by node {placement.honest[int(bad_N.argmax())]}" if bad_N.any() else "none"
    return f"{_withstands(experiment, sizes)} (the own one is one of them)\nhostile nodes heard: {most}"


def _withstands(experiment: Experiment, sizes: Sequence[int]) -> str:
    rule = experiment.aggregator
    if not isinstance(rule, Robust):
        return f"{rule.kind} withstands none of {' to '.join(map(str, sizes))} updates"
    if not rule.proven:
        return f"{rule.kind}: no bound is known for what hostile updates can do to it"
    told = " to ".join(f"{max(0, rule.hostile(n))} of {n}" for n in sizes)
    return f"{rule.kind} withstands {told} updates"


def in_runs(arms: Mapping[str, Sequence[Run]]) -> str:
    """A sentence or two on who was hostile in these arms; empty where nobody was."""
    attacks: dict[str, dict[str, None]] = {}
    for runs in arms.values():
        asked = runs[0].record["experiment"]
        if asked.get("hostile", {"kind": "nobody"})["kind"] != "nobody":
            attacks.setdefault(_were(runs), {})[in_words("attack", asked["attack"])] = None
    told = [
        f"{were}, and attacked nothing" if list(names) == ["honest"] else f"{were}; their attacks: {', '.join(names)}"
        for were, names in attacks.items()
    ]
    return " ".join(f"{text}." for text in told)


def _were(runs: Sequence[Run]) -> str:
    """Who was hostile in the runs of an arm; those of one seed by number."""
    try:
        experiment = runs[0].experiment
        placement = place(experiment, experiment.nodes or runs[0].record["nodes"])
    except GossamerError:  # made of Python objects or files that are not at hand
        return f"Hostile: {in_words('hostile', runs[0].record['experiment']['hostile'])}"
    which = named(placement) if len({run.seed for run in runs}) == 1 else ""
    return f"{who(experiment, placement)}{which} {'was' if len(placement.hostile) == 1 else 'were'} hostile"
