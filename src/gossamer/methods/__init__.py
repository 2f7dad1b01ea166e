"""Methods: what a node does, what it sends, and what the receiver makes of it, in one file.

The halves are pure functions over tensors. The training itself lies between `prepare` and `finish` and is handed to
the back end, so that it can run many nodes' tasks in parallel or as one batch:

    server, each round:   down = publish(state)
                          at each participant:  task = prepare(own, down); result = train(task)
                                                outbox, own = finish(task, result, own)
                          state = merge(state, inbox)
    graph, each round:    the same, with every node its own receiver: `state` is the node's, `down` comes from itself.

Shapes: D columns of a row, T of them trainable (first), see `gossamer.layout`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gossamer.plugs import Plug

if TYPE_CHECKING:
    from torch import Tensor

    from gossamer.layout import Layout
    from gossamer.learners import Learner
    from gossamer.passages import Step
    from gossamer.topologies import Array

    State = dict[str, Tensor]
    """Named tensors; of the server, of a node, or a message."""


@dataclass(frozen=True)
class Context:
    """What a method knows before the first round."""

    nodes: int
    rounds: int
    layout: Layout
    learner: Learner
    samples: tuple[int, ...]
    """Training items of each node."""
    labels_NC: Array | None = None
    """Training items of each class at each node (or its probabilities, where nodes draw), None where an item has no
    single class; a method that uses them says so in `setup`."""
    start_D: Tensor | None = None
    """The row that all nodes start from, which each can draw from the seed; None where they start apart."""
    seed: int = 0
    """Of the experiment, from which all can draw the same numbers."""
    ranks: tuple[int, ...] = ()
    """Of low-rank changes at each node, where these differ; a node's numbers beyond its own rank are zero."""
    shared_S: Tensor | None = None
    """The frozen weights that have low-rank changes (`Layout.shared`), for a method that merges into them."""


@dataclass(frozen=True)
class View:
    """All a method may know at one node (or at the server, node = -1) in one round."""

    node: int
    round: int
    context: Context
    samples: int
    """Training items of this node; at the server, of the participants together."""
    participants: int
    """Nodes that take part in this round."""

    @property
    def layout(self) -> Layout:
        return self.context.layout

    @property
    def learner(self) -> Learner:
        return self.context.learner


@dataclass(frozen=True)
class Terms:
    """What is added to the gradient of the loss, after clipping, on the trainable columns [T].

    gradient = clip(grad loss) + proximal * (row - anchor) + drift
    """

    proximal: float = 0.0
    anchor: Tensor | None = None
    drift: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """One node's local work: where to start, what to add to the gradient, the optimiser state to go on from.

    `row` [D] is only read. `steps` None means what the learner says. `slots` None means fresh optimiser state.
    """

    row: Tensor
    terms: Terms = Terms()
    slots: Mapping[str, Tensor] | None = None
    steps: int | None = None
    moves_T: Tensor | None = None
    """Which trainable columns local work moves (bool [T]); None: all."""


@dataclass(frozen=True)
class Result:
    """What local work gave. `row` [D] and `slots` are valid until the next task runs: copy what must last."""

    row: Tensor
    slots: Mapping[str, Tensor]
    steps: int
    lr: float
    """Learning rate of the round, the same for all its steps."""
    loss: float
    """Mean training loss over the items seen (NaN without steps)."""
    accuracy: float


@dataclass(frozen=True)
class Outbox:
    """What a node sends: one message for all its receivers, and its weight in a server's mean."""

    common: State
    weight: float = 1.0


@dataclass(frozen=True)
class Inbox:
    """What a receiver heard, aggregated field by field by the experiment's aggregator.

    `fields[name]` is the aggregate of that field of the messages (at a server: of all participants; on a graph: of the
    neighbours and the receiver itself, by the mixing weights). `count` is the number of messages, `weight` their total
    weight (without the receiver's own).
    """

    fields: State
    count: int
    weight: float
    stacked: State = field(default_factory=dict)
    """For a method that `gathers`: the messages themselves, `stacked[name]` [n, ...] in the order of their senders;
    `fields` is then empty."""
    weights_n: tuple[float, ...] = ()
    """For a method that `gathers`: the weight of each message, as their senders gave it."""
    everyone: bool = False
    """Whether this was an all-reduce: every node gets the same fields."""
    staleness: tuple[int, ...] = ()
    """By the clock, of each message: at a server, the merges since its sender took the model it trained on; on a graph,
    the local works that its sender is behind the receiver (negative: ahead)."""


class Method(Plug):
    """Base of the methods. Override `prepare`, `finish` and `merge`; the rest has sensible defaults."""

    world: ClassVar[Literal["server", "graph", "alone"]] = "server"
    """Who hears whom: a server, neighbours on a graph, or nobody."""
    pools_data: ClassVar[bool] = False
    """Whether all data is brought to one place first (the centralised reference)."""
    personal: ClassVar[bool] = False
    """Whether each node ends with a model of its own although there is a server."""

    asynchronous: ClassVar[bool] = False
    """Whether it can run by the clock, where models change while others train (`gossamer.clocks.events`)."""

    @property
    def adopts(self) -> bool:
        """Whether all that `merge` does after gossip is to take the aggregate for the new state, so that the engine may
        mix straight into the states."""
        return False

    @property
    def buffered(self) -> int:
        """By the clock, at a server: how many messages make a merge."""
        return 1

    requires: ClassVar[Literal["row", "column", "doubly"]] = "row"
    """What the mixing weights must be: rows that sum to 1, columns, or both."""
    one_model: ClassVar[bool] = True
    """Whether the server's row is a whole model, to be measured and taken home."""

    gathers: ClassVar[bool] = False
    """Whether `merge` takes the messages themselves instead of their aggregate (at a server)."""
    merges_into_base: ClassVar[bool] = False
    """Whether `merge` changes frozen weights: its state then has 'shared' [S] (`Layout.shared`), which the models of
    all nodes are made of."""

    def init(self, context: Context, row_D: Tensor) -> tuple[State, State]:
        """(receiver state, node state) at the start, from the initial row.

        At a server the receiver state is the server's; on a graph or alone it is each node's. The node state is what a
        node keeps for itself; the engine holds it as one array for each name, with the node first.
        """
        return {"row": row_D.clone()}, {}

    def setup(self, context: Context) -> State:
        """On a graph: what each node tells all others before the first round; its bytes count as set-up."""
        return {}

    def packing(self, down: bool) -> tuple[Step, ...]:
        """What is done to messages of a form of their own (a ranking in few bits) before any transform: to those that
        nodes send, or (`down`) to those of a server."""
        return ()

    def publish(self, state: State, view: View) -> State:
        """The message to the nodes: what the receiver's state says to those who train."""
        return {"row": state["row"]}

    def besides(self, context: Context, heard: Sequence[int]) -> int:
        """How many numbers a server sends besides its messages about what it added to the shared part after it heard
        these nodes: to each node once, in the next round that it takes part in."""
        return 0

    def prepare(self, own: State, down: State, view: View) -> Task:
        """At one node: the local work to do."""
        return Task(down["row"])

    def finish(self, task: Task, result: Result, own: State, view: View) -> tuple[Outbox, State]:
        """At one node: what to send, and what to keep (only the entries of the node state that change)."""
        raise NotImplementedError

    def merge(self, state: State, inbox: Inbox, view: View) -> State:
        """At one receiver: its new state from what it heard (only the entries that change)."""
        raise NotImplementedError

    def apply(self, state: State, started: State, message: State, untouched: bool) -> State:
        """By the clock, at a node of a graph: the state after local work that began from `started`.

        What local work changed is added to the state as it is now, so that no merge that came meanwhile is lost; a
        state still `untouched` becomes exactly what the work gave.
        """
        if untouched:
            return dict(message)
        return {name: state[name] + (value - started[name]) for name, value in message.items()}

    def discount(self, staleness: int) -> float:
        """By the clock, at a server: the factor of a message that is this stale."""
        return 1.0

    def model(self, own: State, down: State, view: View) -> Task:
        """At one node: the task whose resulting row is the node's model when evaluated (no steps: the row as is)."""
        return Task(down["row"], steps=0)

    def check(self, settings: Any) -> None:
        """Raise ExperimentError where the method cannot work with the rest of the experiment (`Experiment`)."""
