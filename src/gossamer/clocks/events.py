"""Asynchronous operation: nobody waits for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from gossamer.clocks import Clock, Seconds
from gossamer.errors import ExperimentError

if TYPE_CHECKING:
    from gossamer.schedules import Schedule
    from gossamer.topologies import Topology


class Events(Clock):
    """Every node works at its own speed, messages travel, and what has come is merged when the node gets to it.

    On a graph a node's cycle is: work, send, rest, merge, and again. Work number k (from 0) is followed by an exchange
    over the links that the topology and the schedule have in round k; works beyond the experiment's rounds use the last
    round's intensity. What a work has changed is added to the node's model as it is by then, so that a merge which came
    meanwhile is not lost. A receiver keeps one message of each sender, the newest. A node whose uplink is still busy
    with its last messages waits before it sends again.

    push: a node sends to those that hear it. pull: before it merges it asks those that it hears, and waits until each
    answer has come or would have come; an answer is the model as it is when the request arrives; a request costs
    latency and no bytes. push_pull: a node sends to one neighbour drawn at random, which answers; both become the mean
    of the two at the moment when the answer arrives (atomic: of the two models as they are then); the node waits for
    it. With merge = 'arrival' a node does not wait for answers but trains meanwhile, as in AD-PSGD, and waits only
    before it would ask again.

    Merging weights: with `uniform` weights or an `own_weight` they are those of a mean of what is merged and the node's
    own model. With `metropolis` each message has its weight W_ij in the graph over which it was sent, and the rest is
    the node's own; messages over different graphs are scaled down where less than 1 / (messages + 1) would be left.

    A node that is down neither works nor hears nor answers, and messages that are not quite sent when it goes down are
    lost. A work that it would not finish is begun anew, with the same number, when it is back.

    With a server: it hands its model to `concurrency` nodes; whenever a message arrives (or would have arrived, or its
    node went down) the model goes to another node, drawn from those that are up and free. A round is over when as many
    messages as there are such places have come. On a graph, a round is over when as many works as there are nodes are.
    """

    source: ClassVar[str] = (
        "Ormandi et al. 2013 (gossip learning); Lian et al. 2018 (AD-PSGD); Xie et al. 2019 (FedAsync); "
        "Nguyen et al. 2022 (FedBuff)"
    )

    kind: Literal["events"] = "events"
    protocol: Literal["push", "pull", "push_pull"] = Field(
        default="push", description="who starts an exchange: the sender, the receiver, or one node with one partner"
    )
    merge: Literal["cycle", "arrival", "full"] = Field(
        default="cycle",
        description="when a node merges what has come: cycle (once between two works), arrival (at once, also while it "
        "works) or full (when as many different nodes have been heard as it has neighbours; push only)",
    )
    order: Literal["merge_update", "update_merge"] = Field(
        default="merge_update",
        description="with merge = 'cycle': merge before the next work, or after the work and before sending",
    )
    concurrency: int | None = Field(
        default=None, ge=1, description="with a server: how many nodes work at a time; default: all"
    )
    up_seconds: Seconds = Field(
        default=0.0, description="mean seconds that a node stays up (exponential; all are up at first); 0: always"
    )
    down_seconds: Seconds = Field(default=0.0, description="mean seconds that a node stays down (exponential)")
    trace: str = Field(
        default="",
        description="or a text file of who comes and goes: seconds, node, up or down in each line, in order of time; a "
        "node is up until its first line says down, and down until its first line says up",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Events:
        if self.step_seconds == 0 and self.idle[1] == 0:
            raise ExperimentError(
                "clock.step_seconds = 0 with clock.idle = [0, 0]: time would stand still; give one of them"
            )
        if self.order == "update_merge" and self.merge != "cycle":
            raise ExperimentError(
                f"clock.order = 'update_merge' says when a cycle merges; use merge = 'cycle', not '{self.merge}'"
            )
        if self.merge == "full" and self.protocol != "push":
            raise ExperimentError(
                f"clock.merge = 'full' counts messages that are pushed, but clock.protocol = '{self.protocol}'; "
                "use merge = 'cycle', which waits for all answers, or 'arrival'"
            )
        if bool(self.up_seconds) != bool(self.down_seconds):
            raise ExperimentError(
                f"clock.up_seconds = {self.up_seconds:g} and clock.down_seconds = {self.down_seconds:g}: "
                "give both for nodes that come and go, or neither"
            )
        if self.trace and self.up_seconds:
            raise ExperimentError("clock.trace: give either a trace or up_seconds and down_seconds, not both")
        return self

    def check(self, world: str, topology: Topology, schedule: Schedule, rounds: int) -> None:
        from gossamer.schedules import ALL

        if world == "alone":
            raise ExperimentError("clock.kind = 'events' is for nodes that exchange models; use clock.kind = 'rounds'")
        if schedule.participation < 1:
            raise ExperimentError(
                f"schedule.participation = {schedule.participation:g}: without rounds nobody sits one out; use "
                + ("clock.concurrency" if world == "server" else "participation = 1, or clock.kind = 'rounds'")
            )
        if world == "server":
            defaults = {name: type(self).model_fields[name].default for name in ("protocol", "merge", "order")}
            for name, default in defaults.items():
                if getattr(self, name) != default:
                    raise ExperimentError(
                        f"clock.{name} = '{getattr(self, name)}' is for graphs, but topology.kind = '{topology.kind}' "
                        f"has a server; use {name} = '{default}'"
                    )
            return
        if self.concurrency is not None:
            raise ExperimentError(
                f"clock.concurrency = {self.concurrency} is for a server; on a graph all nodes work: leave it out"
            )
        if schedule.looks:
            raise ExperimentError(
                f"schedule.kind = '{schedule.kind}' looks at all models at one time; use clock.kind = 'rounds'"
            )
        if schedule.final != "none":
            raise ExperimentError(
                f"schedule.final = '{schedule.final}': without rounds there is no last one that all end together; use "
                "final = 'none', or clock.kind = 'rounds'"
            )
        if any(schedule.intensity(round, rounds) == ALL for round in range(rounds)):
            raise ExperimentError(
                f"schedule.kind = '{schedule.kind}' asks for an all-reduce, for which all must wait; use a share of "
                "the links up to 1, or clock.kind = 'rounds'"
            )
        if topology.weights == "out_degree" and topology.own_weight is None:
            raise ExperimentError(
                "topology.weights = 'out_degree': push-sum needs every message to be merged; use weights = 'uniform', "
                "or clock.kind = 'rounds'"
            )
        if topology.one_way and self.protocol == "push_pull":
            raise ExperimentError(
                f"clock.protocol = 'push_pull' needs neighbours that hear each other, but topology '{topology.kind}' "
                "is directed; use protocol = 'push' or 'pull'"
            )
