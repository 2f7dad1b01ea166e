"""What can go wrong, as classes a person or a script can tell apart.

Every message names the field or the file and says what to do. `exit_code` is what the command line returns.
"""

from __future__ import annotations

import traceback


class GossamerError(Exception):
    """Base of every error Gossamer raises on purpose; its text is one line a user can act on."""

    exit_code = 1


class ExperimentError(GossamerError):
    """The experiment asks for something that cannot be: names the field, the value and what is allowed."""

    exit_code = 2


class AggregationError(GossamerError):
    """Updates cannot be aggregated: none, ragged, not finite, or too few for the hostile ones among them."""

    exit_code = 3


class DataError(GossamerError):
    """A data file is missing, truncated, damaged or not what its format promises."""

    exit_code = 2


class RunError(GossamerError):
    """A run folder cannot be read or resumed as asked."""

    exit_code = 2


class CheckpointError(RunError):
    """A checkpoint is damaged: its checksum, its frame or its tensors are not what was written."""


class WireError(GossamerError):
    """A frame received is not a valid message."""


class ProtocolError(GossamerError):
    """A step of a secure sum cannot be taken: too few are left, or somebody said what does not belong there."""

    exit_code = 3


class NodeError(GossamerError):
    """Something failed at one node (-1: with the server's or the merged model).

    Carries the node, the round (counted from 1, as in the tables), the stage, and the original traceback as text.
    """

    exit_code = 3

    def __init__(self, node: int, round: int, stage: str, reason: str, traceback: str = "") -> None:
        where = "the common model" if node < 0 else f"node {node}"
        super().__init__(f"{where}, round {round}, stage {stage}: {reason}")
        self.node, self.round, self.stage, self.reason, self.traceback = node, round, stage, reason, traceback

    def __reduce__(self) -> tuple[type[NodeError], tuple[int, int, str, str, str]]:
        return type(self), (self.node, self.round, self.stage, self.reason, self.traceback)


def node_error(error: Exception, node: int, round: int, stage: str) -> NodeError:
    """A node's exception with its own traceback."""
    return NodeError(node, round, stage, f"{type(error).__name__}: {error}", traceback.format_exc())


class Interrupted(GossamerError):
    """The run was stopped by the user; its folder is complete up to the last round and can be resumed."""

    exit_code = 130
