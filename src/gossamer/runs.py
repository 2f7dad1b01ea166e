"""A run that was recorded: its tables, its models, its pictures."""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.errors import ExperimentError, RunError
from gossamer.experiment import Experiment
from gossamer.record import is_running, read_json, read_table, whole

if TYPE_CHECKING:
    import pyarrow
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from gossamer.federation import Federation


def open_run(folder: str | Path, experiment: Experiment | None = None) -> Run:
    """The run in a folder. Raises RunError where there is none."""
    place = Path(folder)
    if not place.is_dir():
        raise RunError(f"{place} does not exist or is not a folder")
    record = read_json(place / "record.json")
    if record["status"] == "running" and not is_running(place):
        record["status"] = "killed"
    return Run(place, record, experiment)


class Run:
    """The record of one run. Tables are read from its folder when first asked for."""

    def __init__(self, folder: Path, record: dict[str, Any], experiment: Experiment | None = None) -> None:
        self.folder, self.record = folder, record
        self._experiment = experiment

    @cached_property
    def experiment(self) -> Experiment:
        """What was asked. Raises RunError where it held a Python object that is not at hand."""
        if self._experiment is not None:
            return self._experiment
        try:
            return Experiment.load(self.folder / "experiment.toml")
        except ExperimentError as error:
            raise RunError(
                f"{self.folder}: {error}; if that was a Python object, pass the experiment: "
                "open_run(folder, experiment)"
            ) from None

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.record["experiment"]["name"])

    @property
    def seed(self) -> int:
        """The experiment's seed."""
        return int(self.record["experiment"]["seed"])

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.record['status']}, {self.rounds.num_rows} rounds)"

    @cached_property
    def metrics(self) -> pyarrow.Table:
        """One line for each node and round; node -1 is the global model, or without a server the averaged one."""
        return read_table(self.folder, "metrics")

    @cached_property
    def rounds(self) -> pyarrow.Table:
        """One line for each round: learning rate, participants, bytes, consensus distance, seconds by phase."""
        return read_table(self.folder, "rounds")

    @cached_property
    def layers(self) -> pyarrow.Table:
        """One line for each evaluated round and trained tensor, if asked for: variances and distance."""
        return read_table(self.folder, "layers")

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """What happened when: start, warnings, checkpoints, resumes, end."""
        text = (self.folder / "events.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line]

    def curve(self, metric: str, node: int | None = None) -> tuple[list[int], list[float]]:
        """(rounds, values) of a metric: of one node, or (None) of what `summary` reports.

        With a server that is the global model (node -1), else the mean over the nodes' own models.
        """
        if metric not in self.metrics.column_names:
            raise RunError(f"no metric '{metric}'; there are: {', '.join(self.metrics.column_names[2:])}")
        columns = self.metrics.select(["round", "node", metric]).to_pydict()
        wanted = -1 if node is None and not self.own_models else node
        found: dict[int, list[float]] = {}
        for round, who, value in zip(*columns.values(), strict=True):
            if value is not None and (who >= 0 if wanted is None else who == wanted):
                found.setdefault(round, []).append(value)
        return list(found), [sum(v) / len(v) for v in found.values()]

    @property
    def own_models(self) -> bool:
        """Whether every node ends with a model of its own."""
        return bool(self.record["own_models"])

    def summary(self) -> dict[str, Any]:
        """The figures of the last evaluation: accuracy, worst node, merged model, bytes, seconds."""
        names = ["round", "node", "test_accuracy", "validation_accuracy", "attack_success"]
        columns = self.metrics.select([name for name in names if name in self.metrics.column_names]).to_pydict()
        columns.setdefault("attack_success", [None] * len(columns["round"]))  # A run of an earlier version.
        rows = list(zip(*columns.values(), strict=True))
        last = max((row[0] for row in rows if row[2] is not None), default=None)
        final = [row for row in rows if row[0] == last]
        own = [test for _, node, test, _, _ in final if node >= 0 and test is not None]
        merged = next((test for _, node, test, _, _ in final if node == -1), None)
        validation = [v for _, node, _, v, _ in final if node >= 0 and v is not None]
        successes = [s for _, node, _, _, s in final if (node >= 0 or not own) and s is not None]
        rounds = self.rounds.to_pydict()
        distance = [d for d in rounds["consensus_distance"] if d is not None]
        return {
            "test_accuracy": sum(own) / len(own) if own else merged,
            "worst_node": min(own) if own else None,
            "merged_accuracy": merged,
            "validation_accuracy": sum(validation) / len(validation) if validation else None,
            "attack_success": sum(successes) / len(successes) if successes else None,
            "consensus_distance": distance[-1] if distance else None,
            "epsilon": next((e for e in reversed(rounds.get("epsilon", [])) if e is not None), None),
            "bytes": sum(rounds["bytes"]),
            "transfers": sum(count or 0 for count in rounds["transfers"]),
            "simulated_seconds": rounds["simulated_seconds"][-1] if rounds["simulated_seconds"] else None,
            "seconds": math.fsum(
                value for name in rounds if name.startswith("seconds_") for value in rounds[name] if value is not None
            ),
            "rounds": len(rounds["round"]),
        }

    def model(self, node: int | None = None) -> nn.Module:
        """The trained module: the global or averaged one, or that of a node. Raises RunError where there is none."""
        import torch
        from safetensors.torch import load_file

        from gossamer.groundwork import initial_module
        from gossamer.population import as_dtype

        if node is not None:
            return self._node_model(node)
        path = self.folder / "model.safetensors"
        if not path.is_file():
            hint = (
                "every node has its own: model(node=0)"
                if self.record["status"] == "finished"
                else "it has not finished"
            )
            raise RunError(f"{self.folder}: there is no common model; {hint}")
        shape, classes = tuple(self.record["input_shape"]), len(self.record["classes"])
        module = initial_module(self.experiment, shape, classes).to(as_dtype(self.experiment.dtype))
        module.load_state_dict(load_file(path))
        with torch.no_grad():
            return module.eval()

    def _node_model(self, node: int) -> nn.Module:
        from gossamer.checkpoint import latest_checkpoint, restore
        from gossamer.evaluation import model_task
        from gossamer.federation import Federation
        from gossamer.rounds import one_thread

        found = latest_checkpoint(self.folder)
        if found is None:
            raise RunError(f"{self.folder}: no checkpoint was written yet")
        with one_thread():
            federation = Federation(self.experiment)
            if not 0 <= node < federation.nodes:
                raise RunError(f"node {node} does not exist: nodes are 0..{federation.nodes - 1}")
            restore(federation.tensors(), found[1])
            done = found[0].rounds_done
            task = model_task(federation, node, done)
            if task.steps == 0:
                federation.resident.load(task.row)
            else:
                federation.trainer.train(task, node, done)
        return federation.whole.eval()

    def plot(self, metric: str = "test_accuracy") -> Figure:
        """Curves of a metric over rounds, as a matplotlib figure."""
        from gossamer.plots import curves

        return curves({self.name: [self]}, metric)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the HTML report (default: report.html in the run's folder) and return its path."""
        from gossamer.report import write_report

        target = Path(path) if path else self.folder / "report.html"
        write_report({self.name: [self]}, target)
        return target


def write_model(folder: Path, federation: Federation) -> None:
    """model.safetensors: the state dict of the merged model, frozen part included."""
    from safetensors.torch import save_file

    federation.resident.load(federation.merged)
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in federation.whole.state_dict().items():
        # A file holds no tensor twice, nor one inside another: parts of the row and tied weights are copied.
        apart = value.untyped_storage().nbytes() == value.nbytes and value.data_ptr() not in seen
        seen.add(value.data_ptr())
        state[name] = value.detach().contiguous() if apart else value.detach().clone().contiguous()
    with whole(folder / "model.safetensors") as aside:
        save_file(state, aside)
