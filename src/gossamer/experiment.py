"""The typed model of an experiment: what is learned, from what, by whom, how. TOML = Python.

An `Experiment` is frozen and validated; unknown keys fail with the nearest valid key. Choices are tables with a `kind`
(`partition = { kind = "dirichlet", alpha = 0.1 }`), whose fields are those of the plug of that name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gossamer.aggregators import Aggregator
from gossamer.aggregators.mean import Mean
from gossamer.attacks import Attack
from gossamer.attacks.honest import Honest
from gossamer.clocks import Clock
from gossamer.clocks.rounds import Rounds
from gossamer.data import Data, Normalise
from gossamer.data.digits import Digits
from gossamer.errors import ExperimentError
from gossamer.explaining import explain
from gossamer.fitting import check
from gossamer.hostile import Hostile
from gossamer.hostile.nobody import Nobody
from gossamer.learners import Learner
from gossamer.learners.sgd import SGD
from gossamer.methods import Method
from gossamer.methods.fedavg import FedAvg
from gossamer.models import Model
from gossamer.models.mlp import MLP
from gossamer.parametrisations import Parametrisation
from gossamer.parametrisations.identity import Identity
from gossamer.partitions import Partition
from gossamer.partitions.dirichlet import Dirichlet
from gossamer.plugs import Choice
from gossamer.privacy import Privacy
from gossamer.privacy.none import NoPrivacy
from gossamer.schedules import Schedule
from gossamer.schedules.every import Every
from gossamer.topologies import Topology
from gossamer.topologies.server import Server
from gossamer.transforms import Transform

WITHOUT_EFFECT = ("name", "backend", "workers", "checkpoint", "data_folder")
"""Keys of an experiment that change no result: what it is called, where and how fast it runs."""


class Section(BaseModel):
    """Base of the plain tables of an experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Preprocess(Section):
    """What is done to inputs before training; part of the experiment and of its record."""

    normalise: Normalise = Field(
        default="shared",
        description="whose mean and standard deviation: none, fixed (published constants), shared (all nodes' training "
        "items pooled), per_node (each node its own; a merged model uses the pooled ones)",
    )
    crop: int = Field(default=0, ge=0, description="random crop after padding by this many pixels (training only)")
    flip: bool = Field(default=False, description="random horizontal flip (training only)")


class Init(Section):
    """Where the rows start."""

    kind: Literal["default", "kaiming", "xavier", "zeros"] = Field(
        default="default", description="default = each torch module's own; the others set weights of 2+ dimensions"
    )
    shared: bool = Field(default=True, description="all nodes start from one row (else each draws its own)")


class Evaluate(Section):
    """When, at whom and on how much the models are measured."""

    every: int = Field(default=1, ge=0, description="rounds between evaluations; the last is always one; 0: only it")
    nodes: int | Literal["all"] = Field(default="all", description="how many nodes are evaluated (drawn once)")
    items: int | Literal["all"] = Field(default="all", description="how many test items are used (drawn once)")
    before_exchange: bool = Field(
        default=False,
        description="measure the models as local work left them, before the exchange of the round (graphs, in rounds)",
    )
    layers: bool = Field(default=False, description="record the variance and the distance of every tensor (graphs)")
    batch_norm_batches: int = Field(
        default=0,
        ge=0,
        description="re-estimate the BatchNorm statistics of the merged model from this many batches of all nodes' "
        "training items together; 0: they are averaged like everything else",
    )

    @field_validator("nodes", "items")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("must be 0 or more, or 'all'")
        return value


class Checkpoint(Section):
    """When the complete state is written."""

    every: int = Field(default=1, ge=0, description="rounds between checkpoints at the most often; 0: none")
    max_share: float = Field(default=0.05, gt=0, le=1, description="checkpoints take at most this share of the time")


class SecureSum(Section):
    """The server sees the sum of the messages only: integers under masks that cancel, see docs/secure-sums.md."""

    threshold: int | float = Field(
        default=0.667,
        gt=0,
        description="nodes that must be left to open a sum: a number, or a share of the participants, rounded up; "
        "fewer that join the server learn nothing",
    )
    bits: int = Field(
        default=16, ge=2, le=31, description="of the integer that a number becomes; all sums are modulo 2^32"
    )
    range: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="largest magnitude of a number, larger ones are cut off; where privacy clips it is that norm",
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="chance that a participant is lost in a round, at any step of the protocol"
    )
    masked: bool = Field(
        default=True, description="play the protocol; false: add the same integers without masks, for the same sums"
    )

    @field_validator("threshold")
    @classmethod
    def _most(cls, value: int | float) -> int | float:
        if isinstance(value, float) and not 0.5 < value <= 1:
            raise ValueError("give a share above 0.5 and at most 1, or a whole number of nodes, above half of them")
        return value

    def needed(self, participants: int) -> int:
        """Nodes that must be left of so many participants: never fewer than two, and always more than half."""
        asked = self.threshold if isinstance(self.threshold, int) else math.ceil(self.threshold * participants - 1e-9)
        return max(2, participants // 2 + 1, asked)


class Experiment(Section):
    """One experiment. Everything has a default: `Experiment()` is FedAvg on handwritten digits."""

    name: str = Field(default="experiment", description="names the run folder")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of all the dice of the run")
    nodes: int | None = Field(default=20, ge=1, description="number of nodes; omit it with natural groups to take all")
    rounds: int = Field(default=20, ge=1, description="rounds of local work and exchange")
    dtype: Literal["float32", "float64"] = Field(default="float32", description="numbers of models and inputs")
    data_folder: str = Field(default="", description="where data sets lie; default: the setting GOSSAMER_DATA")
    data: Annotated[Data, Choice()] = Digits()
    preprocess: Preprocess = Preprocess()
    partition: Annotated[Partition, Choice()] = Dirichlet()
    validation: float = Field(
        default=0.1, ge=0, lt=1, description="fraction of each node's items kept for its own validation"
    )
    model: Annotated[Model, Choice()] = MLP()
    init: Init = Init()
    parametrisation: Annotated[Parametrisation, Choice()] = Identity()
    learner: Annotated[Learner, Choice()] = SGD()
    method: Annotated[Method, Choice()] = FedAvg()
    topology: Annotated[Topology, Choice()] = Server()
    schedule: Annotated[Schedule, Choice()] = Every()
    clock: Annotated[Clock, Choice()] = Rounds()
    aggregator: Annotated[Aggregator, Choice()] = Mean()
    transforms: tuple[Annotated[Transform, Choice()], ...] = Field(
        default=(), description="what is done to messages of nodes, in the order of sending"
    )
    downlink: tuple[Annotated[Transform, Choice()], ...] = Field(
        default=(), description="what is done to a server's model on its way to the nodes; kinds as for transforms"
    )
    hostile: Annotated[Hostile, Choice()] = Nobody()
    attack: Annotated[Attack, Choice()] = Honest()
    root: int = Field(
        default=0,
        ge=0,
        description="training items that the server holds itself, for rules that compare updates with its own",
    )
    privacy: Annotated[Privacy, Choice()] = Field(
        default=NoPrivacy(), description="differential privacy: whom it hides, and where noise is added"
    )
    secure_sum: SecureSum | None = Field(
        default=None, description="with a server: messages are summed in secret; {} takes the defaults"
    )
    evaluate: Evaluate = Evaluate()
    checkpoint: Checkpoint = Checkpoint()
    backend: Literal["auto", "eager", "parallel", "vmap"] = Field(
        default="auto", description="where local work runs; auto measures and picks eager or parallel"
    )
    workers: int | None = Field(
        default=None, ge=1, description="processes of the parallel back end; default: all cores"
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ExperimentError(explain(error, Experiment)) from None

    @field_validator("name")
    @classmethod
    def _file_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError("use letters, digits, '.', '_' and '-' only, and begin with a letter or digit")
        return value

    @field_validator("transforms", "downlink", mode="before")
    @classmethod
    def _list_of_transforms(cls, value: Any) -> Any:
        if isinstance(value, (str, dict)):
            raise ValueError("give a list, in the order of sending, e.g. [{ kind = 'cast' }]")
        return value

    @field_validator("secure_sum", mode="before")
    @classmethod
    def _table(cls, value: Any) -> Any:
        if isinstance(value, (str, bool, int, float)):
            raise ValueError("give a table, such as {} for the defaults, or leave it out")
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, table: Any) -> Any:
        return with_default_kinds(table) if isinstance(table, dict) else table

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        check(self)
        return self

    # ---- files -------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The experiment as plain tables, every field written out; `from_dict` gives an equal experiment."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Experiment:
        """An experiment from plain tables. Raises ExperimentError that names field, value and what is allowed."""
        if "nodes" not in table and _wants_all_groups(table):
            table = {**table, "nodes": None}
        return cls(**table)

    def to_toml(self) -> str:
        """The experiment as TOML; `from_toml` gives an equal experiment."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> Experiment:
        """An experiment from TOML text. Raises ExperimentError."""
        return cls.from_dict(parse_toml(text))

    @classmethod
    def load(cls, path: str | Path) -> Experiment:
        """An experiment from a TOML file with a single arm. Raises ExperimentError."""
        return cls.from_toml(read_text(path))

    def replace(self, **changes: Any) -> Experiment:
        """A copy with some fields changed, validated again."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**values, **changes})

    def digest(self) -> str:
        """A hash of all that determines the result (not of the name, where or how fast it runs)."""
        table = self.to_dict()
        for key in WITHOUT_EFFECT:
            table.pop(key, None)
        base = table["model"].get("base", "")
        if base.endswith(".toml"):
            # It is another experiment that is named, and the result hangs on what is in it.
            table["model"]["base"] = Experiment.load(base).digest()
        return hashlib.blake2b(json.dumps(table, sort_keys=True).encode(), digest_size=16).hexdigest()


def with_default_kinds(table: dict[str, Any]) -> dict[str, Any]:
    """The table with the default `kind` filled in where a choice is given by its fields alone (`{ lr = 0.05 }`)."""
    filled = dict(table)
    for key, value in table.items():
        field = Experiment.model_fields.get(key)
        default = getattr(field.default, "kind", None) if field else None
        if default in ("nobody", "none"):
            continue  # A table says who is hostile, or what is hidden, if it says anything.
        if default and isinstance(value, dict) and not value.keys() & {"kind", "file"}:
            filled[key] = {"kind": default, **value}
    return filled


def _wants_all_groups(table: dict[str, Any]) -> bool:
    partition = table.get("partition")
    kind = partition.get("kind") if isinstance(partition, dict) else partition
    return kind == "natural"


def read_text(path: str | Path) -> str:
    """The text of an experiment file. Raises ExperimentError where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExperimentError(f"cannot read the experiment file '{path}': {reason}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """TOML text as tables. Raises ExperimentError with the line where it is malformed."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"the file is not valid TOML: {error}") from None
