"""What a run will be, before it runs: nodes, graph, messages, bytes, memory.

The model is built on torch's meta device where it can be, so that a plan costs no weights.
"""

from __future__ import annotations

import dataclasses
import gc
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gossamer import wire
from gossamer.aggregators import Gossiping
from gossamer.coding import averaged
from gossamer.engines.local import receivers_at_once
from gossamer.errors import ExperimentError, GossamerError
from gossamer.example_gradients import check_examples, check_sharing
from gossamer.experiment import Experiment
from gossamer.graphs import describe
from gossamer.groundwork import (
    chains,
    context_of,
    deal,
    first_messages,
    frozen_bytes,
    initial_module,
    load_dataset,
    setup_bytes,
    travelling,
)
from gossamer.histories import history_bytes
from gossamer.ledger import ledger
from gossamer.lengths import Lengths
from gossamer.memory import proportional_set_size
from gossamer.mixing import edges_of
from gossamer.placement import besieged, defenceless, majority_warning
from gossamer.resident import converted
from gossamer.schedules import ALL
from gossamer.sealing import attendances, seal, unopened_warning
from gossamer.tokens import check_tokens
from gossamer.traffic import traffic
from gossamer.training import evaluation_batch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gossamer.coding import Chain
    from gossamer.graphs import GraphFacts
    from gossamer.layout import Layout
    from gossamer.methods import Context
    from gossamer.operations import Needs
    from gossamer.placement import Placement
    from gossamer.preprocessing import Shards
    from gossamer.sealing import Seal
    from gossamer.topologies import Topology

WORKER_BYTES = 20 * 2**20
"""Private memory of a forked worker beyond its model and activations: its heap, and the pages it touches (measured)."""


_INTERPRETER: dict[str, int] = {}
"""Memory of the interpreter and its libraries for each kind of data, measured once in a process: later plans would
find what earlier ones left."""


@dataclass(frozen=True)
class Plan:
    """What will happen. Bytes are exact for every codec of fixed length; memory is the expected peak PSS in bytes."""

    experiment: Experiment
    nodes: int
    parameters: int
    trainable: int
    rounds: int
    participants: int
    samples: tuple[int, ...]
    message_bytes: dict[str, int]
    """Of the frame of a node's message (up) and of a server's (down); where `fixed` says no, at most."""
    unpacked_bytes: dict[str, int]
    """The same without method's packing and transforms."""
    fixed: dict[str, bool]
    """Whether frames are as long as planned, up and down, or at most as long."""
    bytes_per_round: float
    bytes_total: int
    setup_bytes: int
    told_bytes: int
    """In rounds: of all that a server sends."""
    transfers: tuple[int, ...]
    """Models sent in each round (with a server: down and up)."""
    seconds: tuple[float, ...]
    """Simulated seconds since the start, at the end of each round."""
    needs: Needs | None
    """By the clock: works, merges, staleness, slots."""
    intensities: tuple[float, ...]
    """On a graph, for each round: the share of the topology's links used, infinite for an all-reduce."""
    at_most: bool
    """Whether transfers and bytes are upper bounds: the schedule looks at the models, or a transform at the numbers."""
    memory_bytes: dict[str, int]
    graph: GraphFacts | None
    hostile: tuple[int, ...]
    """Hostile nodes, and under a Sybil attack the attacker's identities, which come after all nodes."""
    backend: str
    warnings: tuple[str, ...]
    privacy: dict[str, Any] | None
    """The guarantee of the run, and what it rests on (`gossamer.ledger`)."""
    secure_sum: dict[str, Any] | None
    """Threshold, integers and losses of secure sums."""

    @property
    def bytes_per_node(self) -> dict[str, float]:
        """What a node that takes part sends (up) and gets (down) in a round, on average over the run."""
        if self.experiment.method.world == "server" and self.needs is None:
            if self.experiment.secure_sum is not None:
                return {way: float(size) for way, size in self.message_bytes.items()}
            taking_part = sum(self.transfers) / 2
            up = self.bytes_total - self.setup_bytes - self.told_bytes
            return {"up": up / taking_part, "down": self.told_bytes / taking_part}
        rounds = (self.bytes_total - self.setup_bytes) / self.rounds / self.participants
        if self.experiment.method.world != "server":
            return {"up": rounds, "down": rounds}
        up, down = self.message_bytes["up"], self.message_bytes["down"]
        return {"up": rounds * up / (up + down), "down": rounds * down / (up + down)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        apart = ("experiment", "graph", "needs")
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in apart}
        values["intensities"] = ["all" if intensity == ALL else intensity for intensity in self.intensities]
        graph = None if self.graph is None else dataclasses.asdict(self.graph)
        needs = None if self.needs is None else dataclasses.asdict(self.needs)
        values["bytes_per_node"] = self.bytes_per_node
        return {**values, "experiment": self.experiment.to_dict(), "graph": graph, "needs": needs}


def plan(experiment: Experiment) -> Plan:
    """The plan of an experiment. Loads the data, builds no weights. Raises ExperimentError for what cannot run."""
    import torch

    from gossamer.population import as_dtype

    _warm_up()
    shards, placement = deal(experiment, load_dataset(experiment))
    gc.collect()
    base = _INTERPRETER.setdefault(experiment.data.kind, max(0, proportional_set_size() - _data_bytes(shards)))
    module, layout = _on_meta(experiment, shards)
    parameters = dict(module.named_parameters())
    nodes = len(shards.train)
    row_D = torch.empty(layout.size, dtype=as_dtype(experiment.dtype), device="meta")
    shared_S = None
    if experiment.method.merges_into_base:
        shared_S = row_D.new_empty(sum(math.prod(entry.shape) for entry in layout.shared))
    context = context_of(experiment, shards, layout, row_D, shared_S)
    message, heard = first_messages(experiment, context, row_D)
    up, down = chains(experiment, layout, message, heard)
    account = ledger(experiment, shards.sizes, sum(value.numel() for value in up.sent.values()))
    sealed = seal(experiment, up.sent, shards.sizes, account.noise if account else 0.0)
    on_wire = up.sent if sealed is None else sealed.outline()
    up_bytes, down_bytes = wire.size(travelling(experiment, on_wire, message)), wire.size(down.sent)
    rounds = account.rounds if account else experiment.rounds
    graph_of_all = besieged(experiment.topology, placement)
    frozen = setup_bytes(experiment, module, context) * nodes
    steps = [experiment.learner.steps_for(size) for size in shards.sizes]
    length = sealed.length if sealed else 0
    lengths = Lengths(experiment, context, up, down, up_bytes, down_bytes)
    sent = traffic(experiment, nodes, steps, up_bytes, down_bytes, graph_of_all, rounds, length, lengths)
    graph = None
    if experiment.method.world == "graph":
        # At the share that the schedule uses, where it uses one only.
        shares = {share for share in _intensities(experiment) if 0 < share <= 1}
        share = shares.pop() if len(shares) == 1 else 1.0
        graph = describe(graph_of_all, nodes, experiment.seed, share)
    processes = _processes(experiment)
    return Plan(
        experiment=experiment,
        nodes=nodes,
        parameters=layout.size + sum(parameters[name].numel() for name in layout.frozen),
        trainable=layout.trainable,
        rounds=rounds,
        participants=sent.participants,
        samples=tuple(shards.sizes),
        message_bytes={"up": up_bytes, "down": down_bytes},
        unpacked_bytes={"up": wire.size(travelling(experiment, message, message)), "down": wire.size(heard)},
        fixed={"up": up.fixed, "down": down.fixed},
        bytes_per_round=sum(sent.bytes) / len(sent.bytes),
        bytes_total=sum(sent.bytes) + frozen,
        setup_bytes=frozen,
        transfers=sent.transfers,
        told_bytes=sent.told,
        seconds=sent.seconds,
        needs=sent.needs,
        intensities=_intensities(experiment)[:rounds],
        at_most=experiment.schedule.looks or not up.fixed or not down.fixed,
        memory_bytes=_memory(experiment, shards, module, context, row_D, up, base, processes, sent.needs, graph_of_all),
        graph=graph,
        backend=experiment.backend,
        hostile=tuple(placement.hostile.tolist()),
        warnings=(
            *_warnings(experiment, shards, graph, placement),
            *(account.warnings if account else ()),
            *unopened_warning(experiment, nodes),
        ),
        privacy=account.about() if account else None,
        secure_sum=_secrecy(experiment, sealed, nodes),
    )


def _secrecy(experiment: Experiment, sealed: Seal | None, nodes: int) -> dict[str, Any] | None:
    if sealed is None:
        return None
    attended = attendances(experiment, nodes)
    return {
        "threshold": attended[0].threshold,
        "length": sealed.length,
        "scale": sealed.scale,
        "unopened": sum(not one.opens for one in attended),
    }


def _on_meta(experiment: Experiment, shards: Shards) -> tuple[nn.Module, Layout]:
    """The module without weights, and its layout; checks that it takes the inputs and fits the labels.

    A module that cannot be built or run without weights is checked with them.
    """
    import torch

    from gossamer.population import as_dtype
    from gossamer.training import check_batches, check_logits

    shape, classes = tuple(int(n) for n in shards.inputs.shape[1:]), len(shards.classes)
    dtype, kind = as_dtype(experiment.dtype), torch.from_numpy(shards.inputs[:0]).dtype
    device = "meta"
    try:
        with torch.device("meta"), torch.no_grad():
            module = initial_module(experiment, shape, classes).to("meta")
            layout = experiment.parametrisation.layout(module)
            converted(module, layout, dtype)
            logits = module.eval()(torch.empty((2, *shape), dtype=kind))
    except Exception:  # noqa: BLE001 - tried again with weights, which says what is wrong
        device = "cpu"
    if device == "cpu":
        module = initial_module(experiment, shape, classes)
        layout = experiment.parametrisation.layout(module)
        converted(module, layout, dtype)
        try:
            with torch.no_grad():
                logits = module.eval()(torch.zeros((2, *shape), dtype=kind))
        except GossamerError:
            raise
        except Exception as error:
            raise ExperimentError(
                f"model: it cannot take inputs of shape {shape}: {type(error).__name__}: {error}".replace("\n", " ")
            ) from error
    if not hasattr(module, "loss"):
        check_logits(logits, (2, *shards.test_labels.shape[1:]), classes)
    check_tokens(module, shards, experiment)
    check_batches(module, experiment.learner, shards.sizes, shards.draw_NC is not None)
    if experiment.privacy.guards == "gradients":
        check_examples(module)
        check_sharing(experiment.partition.kind, shards)
    return module, layout


def _intensities(experiment: Experiment) -> tuple[float, ...]:
    if experiment.method.world != "graph":
        return ()
    schedule, rounds = experiment.schedule, experiment.rounds
    found = [schedule.intensity(round, rounds) for round in range(rounds)]
    if schedule.final != "none":
        found[-1] = ALL if schedule.final == "merge" else float(schedule.final_rounds)
    return tuple(found)


def _processes(experiment: Experiment) -> int:
    from gossamer.backends.parallel import cores

    if experiment.backend in ("eager", "vmap"):
        return 0
    count = experiment.workers or cores()
    return 0 if count == 1 and experiment.backend == "auto" else count


def _memory(
    experiment: Experiment,
    shards: Shards,
    module: nn.Module,
    context: Context,
    row_D: Tensor,
    up: Chain,
    base: int,
    processes: int,
    needs: Needs | None,
    topology: Topology,
) -> dict[str, int]:
    """Expected peak, by part."""
    method, nodes, layout = experiment.method, context.nodes, context.layout
    state, own = method.init(context, row_D)
    receivers = 1 if method.world == "server" else nodes
    # As messages lie with their receivers, whole numbers as float64.
    size = {name: value.numel() * value.element_size() for name, value in averaged(up.outlines[0]).items()}
    population = receivers * _nbytes(state) + nodes * _nbytes(own) + row_D.numel() * row_D.element_size()
    population += nodes * up.memory_bytes()
    folds = method.world == "server" and experiment.aggregator.linear and not method.gathers
    if needs is not None:
        population += needs.snapshots * _nbytes(state) + needs.mail * sum(size.values())
    elif folds:
        population += (2 + 16 * processes) * sum(size.values())
    else:
        population += nodes * sum(size.values()) * (2 if up.steps and method.world == "graph" else 1)
        if method.world == "graph":
            edges = len(edges_of(topology, nodes, experiment.seed))
            population += receivers_at_once(nodes, edges + nodes) * sum(size.values())
    slots = experiment.learner.fresh(row_D[: layout.trainable])
    model = 2 * row_D.numel() * row_D.element_size() + _nbytes(slots)
    model += 2 * sum(size.values())
    batch = experiment.learner.batch_size
    trained, _ = _activations(module, shards, batch)
    logits = math.prod(shards.labels.shape[1:]) * len(shards.classes)
    _, measured = _activations(module, shards, evaluation_batch(tuple(shards.inputs.shape[1:]), logits))
    work = max(3 * trained, 4 * measured)
    parts = {
        "interpreter": base,
        "data": _data_bytes(shards),
        "frozen part": frozen_bytes(module, layout),
        "population": population,
        "histories": history_bytes(experiment, nodes, max(size.values(), default=0)),
        "models and activations": (processes + 1) * model + max(1, processes) * work,
        "workers": processes * WORKER_BYTES,
    }
    return {**parts, "total": sum(parts.values())}


def _warm_up() -> None:
    """Load what the run will load lazily (autograd, the Parquet writer), so that it is measured as interpreter."""
    import pyarrow
    import pyarrow.parquet
    import torch

    one = torch.ones(1, 1, 8, 8, requires_grad=True)
    torch.nn.functional.conv2d(one, torch.ones(1, 1, 3, 3)).sum().backward()  # type: ignore[no-untyped-call]
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"x": [1.0]}), sink)
    pyarrow.parquet.read_table(pyarrow.BufferReader(sink.getvalue()))


def _data_bytes(shards: Shards) -> int:
    arrays = [shards.inputs, shards.labels, shards.test_inputs, shards.test_labels, *shards.train, *shards.validation]
    return sum(array.nbytes for array in arrays)


def _nbytes(tensors: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _activations(module: nn.Module, shards: Shards, batch: int) -> tuple[int, int]:
    """Bytes of the outputs of all leaf modules together, and of the largest, from one batch on the meta device."""
    import torch

    sizes: list[int] = [0]

    def count(leaf: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel() * output.element_size())

    leaves = [m for m in module.modules() if not any(m.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    device = next(module.parameters()).device
    count_items = batch if device.type == "meta" else 2
    kind = torch.from_numpy(shards.inputs[:0]).dtype
    try:
        with torch.no_grad():
            module(torch.zeros((count_items, *shards.inputs.shape[1:]), dtype=kind, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(sizes) * batch // count_items, max(sizes) * batch // count_items


def _warnings(experiment: Experiment, shards: Shards, graph: GraphFacts | None, placement: Placement) -> list[str]:
    found = []
    if graph is not None and len(placement.hostile):
        edges_E2 = edges_of(besieged(experiment.topology, placement), placement.nodes, experiment.seed)
        told = (majority_warning(edges_E2, placement), defenceless(experiment.aggregator, edges_E2, placement))
        found += [text for text in told if text]
    if graph is not None and graph.warning:
        found.append(graph.warning)
    if graph is not None and (caveat := experiment.topology.caveat(graph.nodes)):
        found.append(caveat)
    rule = experiment.aggregator
    if isinstance(rule, Gossiping) and experiment.method.world == "graph" and rule.versions < experiment.rounds:
        found.append(
            f"aggregator.versions = {rule.versions}: of {experiment.rounds} rounds' records the oldest are forgotten "
            "when memory for so many is full; with versions = rounds none ever is"
        )
    without = sum(len(part) == 0 for part in shards.validation)
    if experiment.validation > 0 and without:
        found.append(f"{without} nodes have too few items for a validation part of their own")
    if experiment.preprocess.normalise == "none":
        found.append("inputs are not normalised (preprocess.normalise = 'none')")
    return found
