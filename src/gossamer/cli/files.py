"""Commands about experiment files: new, validate, plan."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.output import File, Json, Settings, console, emit, say, table
from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    from gossamer.graphs import GraphFacts
    from gossamer.learners import Learner
    from gossamer.planning import Plan
    from gossamer.topologies import Topology

app = typer.Typer()

FEW = 12
"""Up to this many nodes the neighbours of each are listed, of more only those of the first four; --json has all."""


@app.command(epilog="Example:\n\n  gossamer new my_experiment.toml")
def new(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Where to write it.")] = Path("experiment.toml"),
    json: Json = False,
) -> None:
    """Write an experiment file with every key, its default and what it means. Overwrites nothing."""
    from gossamer.cli.template import template

    text = template(file.stem)
    try:
        with open(file, "x", encoding="utf-8") as sink:
            sink.write(text)
    except FileExistsError:
        raise ExperimentError(f"{file} exists; choose another name, e.g. gossamer new {file.stem}_2.toml") from None
    except OSError as error:
        raise ExperimentError(f"cannot write {file}: {error.strerror}") from None
    if json:
        emit({"file": file})
    else:
        print(f"Wrote {file}. Run it with: gossamer run {file}")


@app.command(epilog="Example:\n\n  gossamer validate examples/first.toml")
def validate(file: File, set_: Settings = None, json: Json = False) -> None:
    """Check an experiment file without loading data or building a model."""
    from gossamer.arms import expand, load_arms, load_sweep

    try:
        arms = load_arms(file, set_ or ())
        grid = expand(arms, load_sweep(file, set_ or ()))
    except ExperimentError as error:
        if json:
            emit({"valid": False, "error": str(error)})
        raise
    if json:
        emit(
            {
                "valid": True,
                "arms": {name: experiment.to_dict() for name, experiment in arms.items()},
                "sweep": list(grid),
            }
        )
        return
    points = f", {len(grid)} points to sweep" if len(grid) > len(arms) else ""
    told = f"{len(arms)} arm{'s' if len(arms) != 1 else ''} ({', '.join(arms)}){points}"
    print(f"{file} is valid: {told}; data was not looked at (gossamer plan does)")


@app.command(epilog="Example:\n\n  gossamer plan examples/first.toml --set nodes=100")
def plan(file: File, set_: Settings = None, json: Json = False) -> None:
    """Say what a run will be before it runs: nodes, graph, who hears whom, parameters, bytes, memory."""
    from gossamer.arms import load_arms
    from gossamer.planning import plan as plan_of

    plans, arms = {}, load_arms(file, set_ or ())
    for arm, experiment in arms.items():
        try:
            plans[arm] = plan_of(experiment)
        except ExperimentError as error:
            raise (ExperimentError(f"arm '{arm}': {error}") if len(arms) > 1 else error) from None
    if json:
        emit({"arms": {arm: {**one.to_dict(), "hears": _hears(one)} for arm, one in plans.items()}})
        return
    out = console()
    for arm, one in plans.items():
        out.print(table(["", arm], _facts(one), numbers=False))
        for warning in one.warnings:
            say(f"warning: {arm}: {warning}")


def _facts(one: Plan) -> list[list[str]]:
    """What a plan says, as lines of (what, value)."""
    from gossamer import units
    from gossamer.arms import in_words
    from gossamer.hostility import planned, rule_in_words
    from gossamer.units import count, size

    experiment, samples, graph = one.experiment, sorted(one.samples), one.graph
    frozen = f" ({count(one.trainable)} trained)" if one.trainable != one.parameters else ""
    rounds = f"{one.rounds}, {one.participants} of {one.nodes} nodes take part in each"
    by_coins = experiment.schedule.sampling == "poisson" and experiment.schedule.participation < 1
    if by_coins:
        expected = experiment.schedule.participation * one.nodes
        rounds = f"{one.rounds}, each node takes part by a coin, about {expected:.3g} of {one.nodes} in each"
    memory = ", ".join(f"{part} {size(value)}" for part, value in one.memory_bytes.items() if part != "total" and value)
    table = experiment.to_dict()
    items = f"{samples[0]} training items each"
    if samples[0] != samples[-1]:
        items = f"{samples[0]} to {samples[-1]} training items (median {samples[len(samples) // 2]})"
    lines = [
        ["data", f"{experiment.data.kind}, split by {experiment.partition.kind}"],
        ["nodes", f"{one.nodes}, with {items}"],
        ["model", f"{experiment.model.kind}, {count(one.parameters)} parameters{frozen}"],
        ["method", in_words("method", table["method"])],
        ["learner", _local_work(experiment.learner)],
        ["aggregator", rule_in_words(table["aggregator"])] if experiment.aggregator.kind != "mean" else [],
        ["hostile", planned(one)],
        ["transforms", ", ".join(in_words("transforms", part) for part in table["transforms"])],
        ["downlink", ", ".join(in_words("downlink", part) for part in table["downlink"])],
        ["privacy", _privacy(one)],
        ["secure sum", _secure_sum(one)],
        ["rounds", rounds if one.participants < one.nodes or by_coins else str(one.rounds)],
    ]
    if experiment.method.world == "alone":
        lines.append(["who hears whom", "nobody"])
    elif graph is None:
        lines.append(["who hears whom", "the server hears the participants, the participants hear the server"])
    else:
        lines += _graph_lines(experiment.topology, graph)
        hears = _hears(one)
        shown = len(hears) if len(hears) <= FEW else 4
        told = [f"{node} hears {', '.join(map(str, others)) or 'nobody'}" for node, others in enumerate(hears[:shown])]
        more = f"\n... and {len(hears) - shown} more (--json has all)" if len(hears) > shown else ""
        when = "" if graph.rounds == 1 else " (round 1)"
        lines.append([f"who hears whom{when}", "\n".join(told) + more])
    lines += [
        ["message", _messages(one)],
        ["a node and round", f"{_each(one, 'up')} up, {_each(one, 'down')} down"],
        ["over time", _over_time(one)],
        ["simulated time", f"{one.seconds[-1]:.4g} s, {_clock(one)}"],
        [
            "sent",
            f"{'at most ' if one.experiment.schedule.looks else ''}{count(sum(one.transfers))} messages, "
            f"{'at most ' if one.at_most else ''}{size(one.bytes_per_round)} a round, {size(one.bytes_total)} in all "
            f"({count(one.bytes_total)} bytes)",
        ],
        ["set-up", size(one.setup_bytes)] if one.setup_bytes else [],
        ["memory", f"about {units.size(one.memory_bytes['total'])} at most: {memory}"],
        ["back end", one.backend],
    ]
    return [line for line in lines if line and line[1]]


def _privacy(one: Plan) -> str:
    """'epsilon 8 at delta 1e-05 for a node, ...' and, line by line, what that means."""
    told = one.privacy
    if told is None:
        return ""
    epsilon = "infinite" if told["epsilon"] is None else f"{told['epsilon']:.4g}"
    lines = [
        f"epsilon {epsilon} at delta {told['delta']:g} for a{'n' if told['unit'] == 'example' else ''} {told['unit']}, "
        f"after {told['rounds']} rounds ({told['accountant']})",
        f"{told['kind']}: norms up to {told['clip']:g}, noise of {told['noise_multiplier']:.4g} times that",
        f"hides {told['hides'] if told['epsilon'] is not None else 'nothing, as there is no noise'}",
    ]
    return "\n".join(lines)


def _secure_sum(one: Plan) -> str:
    told = one.secure_sum
    if told is None:
        return ""
    lost = f", {told['unopened']} of {one.rounds} rounds lose too many to open it" if told["unopened"] else ""
    bits = one.experiment.secure_sum.bits if one.experiment.secure_sum else 0
    return f"of {told['length']:,} integers of {bits} bits; {told['threshold']} nodes open it{lost}"


def _messages(one: Plan) -> str:
    """With a server both ways; on a graph a node's, which goes to each that hears it."""
    if one.experiment.method.world == "server":
        return f"{_message(one, 'up')} up, {_message(one, 'down')} down"
    return f"{_message(one, 'up')} to each that hears it"


def _message(one: Plan, way: str) -> str:
    """'51.4 kB', or what is left of it: '6.4 kB (12 % of 51.4 kB)'."""
    from gossamer.units import size

    now, before = one.message_bytes[way], one.unpacked_bytes[way]
    text = ("" if one.fixed[way] else "at most ") + size(now)
    return text if now == before else f"{text} ({100 * now / before:.3g} % of {size(before)})"


def _each(one: Plan, way: str) -> str:
    from gossamer.units import size

    return ("" if one.fixed[way] and not one.experiment.schedule.looks else "at most ") + size(
        round(one.bytes_per_node[way])
    )


def _graph_lines(topology: Topology, graph: GraphFacts) -> list[list[str]]:
    """The lines about the graph and its mixing matrices; of a graph over time, about all rounds that were looked at."""
    links = "one-way edges" if graph.directed else "links"
    low, high = graph.degree_min, graph.degree_max
    parts = [
        f"{topology.kind}: {round(graph.edges, 2):.12g} {links}{' a round' if graph.rounds > 1 else ''}",
        f"degree {low}" if low == high else f"degree {low}–{high}",
        ("connected" if graph.components == 1 else f"{graph.components} components")
        + (f" over {graph.rounds} rounds" if graph.rounds > 1 else ""),
    ]
    weights = topology.weights if topology.own_weight is None else f"own weight {topology.own_weight:g}"
    facts = [weights, f"{graph.stochasticity} stochastic"]
    gap = graph.spectral_gap_note
    if graph.spectral_gap is not None:
        gap = f"{graph.spectral_gap:.4g}" + (f" ({graph.spectral_gap_note})" if graph.spectral_gap_note else "")
    if graph.contraction is not None:
        kept = f"each round keeps {max(0.0, round(graph.contraction, 12)):.4g} of the squared distance to consensus"
        kept += f" ({graph.contraction_note})" if graph.contraction_note else ""
        facts.append(kept + (f" and moves the mean by {graph.drift:.2g} of it" if graph.drift else ""))
    if graph.exact_after is not None:
        facts.append(f"the exact mean after {graph.exact_after} round{'s' if graph.exact_after > 1 else ''}")
    return [["graph", ", ".join(parts)], ["mixing", ", ".join([*facts, f"spectral gap {gap}"])]]


def _clock(one: Plan) -> str:
    """'in rounds, all wait for the slowest' or what happens by the clock."""
    needs = one.needs
    if needs is None:
        return "in rounds, where all wait for the slowest"
    return (
        f"by the clock: {needs.works} works, {needs.merges} merges, of models that lag {needs.staleness_mean:.2g} "
        f"works behind on average, {needs.staleness_max} at most"
    )


BARS = " ▁▂▃▄▅▆▇█"
"""Nothing, then an eighth to all of the links."""


def _over_time(one: Plan) -> str:
    """The intensity of communication over the rounds, drawn; empty where the whole topology is used throughout."""
    found, sent = one.intensities, one.transfers
    # What the budget leaves out is not sent.
    shown = [0.0 if count == 0 else intensity for intensity, count in zip(found, sent, strict=True)] if found else []
    if not shown or all(intensity == 1 for intensity in shown):
        return ""
    width = min(len(shown), 60)
    columns = [shown[i * len(shown) // width : (i + 1) * len(shown) // width] for i in range(width)]
    drawn = ""
    for column in columns:
        top = max(column)
        drawn += "A" if top == math.inf else BARS[math.ceil(min(1.0, top) * 8)]
    merges = [round + 1 for round, intensity in enumerate(shown) if intensity == math.inf]
    shares = sorted({intensity for intensity in shown if 0 < intensity <= 1})
    told = [f"{sum(intensity > 0 for intensity in shown)} of {len(shown)} rounds with an exchange"]
    if shares:
        told.append(f"share of links {shares[0]:.3g}" + (f" to {shares[-1]:.3g}" if len(shares) > 1 else ""))
    if merges:
        several = f"s {merges[0]} to {merges[-1]} ({len(merges)})" if len(merges) > 1 else f" {merges[0]}"
        told.append(f"A: all-reduce in round{several}")
    if one.experiment.schedule.final == "gossip":
        told.append(f"{one.experiment.schedule.final_rounds} exchanges at the end")
    return f"|{drawn}|\n{', '.join(told)}"


def _local_work(learner: Learner) -> str:
    """'sgd, lr 0.1, batches of 32, 1 epoch a round'."""
    count, what = (learner.steps, "step") if learner.steps is not None else (learner.epochs, "epoch")
    count = 1 if count is None else count
    work = f"{count} {what}{'' if count == 1 else 's'} a round"
    return f"{learner.kind}, lr {learner.lr:g}, batches of {learner.batch_size}, {work}"


def _hears(one: Plan) -> list[list[int]]:
    """Whom each node hears in the first round; empty with a server or without a graph."""
    from gossamer.mixing import edges_of

    if one.graph is None:
        return []
    hears: list[list[int]] = [[] for _ in range(one.nodes)]
    share = one.intensities[0] if one.intensities and 0 < one.intensities[0] <= 1 else 1.0
    for sender, receiver in edges_of(one.experiment.topology, one.nodes, one.experiment.seed, 0, share).tolist():
        hears[receiver].append(sender)
    return hears
