"""Model cards: what a model is, what it was trained on and how, what it promises, as the README.md of its folder.

All of it is read from the record of the run; nothing is claimed that was not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from gossamer import units
from gossamer.arms import in_words
from gossamer.bases import with_base
from gossamer.models.hugging_face import CLASSES, Task
from gossamer.wrapping import library

if TYPE_CHECKING:
    from gossamer.runs import Run

MANY = 20
"""Names of classes that are listed, at most."""
NORMALISED = {
    "none": "to lie between 0 and 1",
    "fixed": "by published constants",
    "shared": "by mean and deviation of all training items",
    "per_node": "by each node with mean and deviation of its own training items",
}
TAGS = {"server": ["federated-learning"], "graph": ["decentralized-learning"]}


@dataclass(frozen=True)
class Subject:
    """What a card is about."""

    form: Literal["adapter", "merged", "base"]
    task: Task | None
    """What the model is for; None: for nothing yet."""
    parameters: int
    """Of the whole model."""
    node: int | None = None
    """Whose model it is; None: the common one."""
    base_beside: bool = False
    """Whether the base of an adapter lies in the folder base/ beside it."""


def model_card(run: Run, subject: Subject) -> str:
    """The card of a model of a run: front matter in YAML, then Markdown."""
    sections = {
        "How to load it": _code(run, subject),
        "Data": _listed(_data(run)),
        "Training": _listed(_training(run, subject)),
        "Privacy": _privacy(run),
        "Results": _listed(_results(run, subject.node)),
        "Limits": _limits(run, subject),
        "Versions": ", ".join(f"{name} {number}" for name, number in _versions(run, subject).items()),
    }
    told = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"{_front(run, subject)}\n\n# {run.name}\n\n{_lede(run, subject)}\n\n{told}\n"


def measured(run: Run, node: int | None = None) -> dict[str, Any]:
    """The last measurements of a node's model, or (None) of the common one; empty where there are none."""
    rows = [row for row in run.metrics.to_pylist() if row["test_loss"] is not None]
    alone = run.record["nodes"] == 1 and all(row["node"] != -1 for row in rows)
    whose = node if node is not None else 0 if alone else -1
    return max((row for row in rows if row["node"] == whose), key=lambda row: row["round"], default={})


def base_name(run: Run) -> str:
    """What the base is called: its name on the hub, or that of its folder; '' for a model that was fresh."""
    base = str(getattr(with_base(run.experiment.model), "base", ""))
    folder = Path(base).expanduser()
    return folder.resolve().name if base and folder.is_dir() else base


# ---- the parts of a card -------------------------------------------------------------------------------------------


def _front(run: Run, subject: Subject) -> str:
    hub, asked = library("huggingface_hub"), run.record["experiment"]
    found, task = measured(run, subject.node), (subject.task or "").replace("_", "-")
    pipeline = "text-generation" if subject.task == "causal_lm" else task
    results = [
        hub.EvalResult(
            task_type=pipeline,
            dataset_type=asked["data"]["kind"],
            dataset_name=asked["data"]["kind"],
            metric_type=metric,
            metric_name=f"test {metric}",
            metric_value=found[f"test_{metric}"],
        )
        for metric in ("accuracy", "loss")
        if pipeline and found.get(f"test_{metric}") is not None
    ]
    kind = [asked["parametrisation"]["kind"]] if subject.form == "adapter" else []
    data = hub.ModelCardData(
        library_name="peft" if subject.form == "adapter" else "transformers",
        base_model=base_name(run) or None,
        pipeline_tag=pipeline or None,
        tags=["gossamer", *TAGS.get(run.record["world"], []), *kind],
        metrics=[result.metric_type for result in results] or None,
        eval_results=results or None,
        model_name=run.name if results else None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _lede(run: Run, subject: Subject) -> str:
    base, classes, nodes = base_name(run), run.record["classes"], run.record["nodes"]
    what = {"adapter": "An adapter", "merged": "A model", "base": "A pre-trained model"}[subject.form]
    of = "" if not base else f" for `{base}`" if subject.form == "adapter" else f" made from `{base}`"
    who = f"{nodes} nodes" if nodes > 1 else "one node that held all the data"
    text = f"{what}{of}, trained by {who} with Gossamer."
    if subject.task == "causal_lm":
        text += f" It predicts the next of {units.count(len(classes))} tokens."
    elif subject.task is not None:
        text += f" It tells {len(classes)} classes apart, in this order: {_few(classes)}."
    return text + ("" if subject.node is None else f" It is the own model of node {subject.node}.")


def _code(run: Run, subject: Subject) -> str:
    """Python that loads the model where nothing but the libraries is at hand."""
    auto = "AutoModel" if subject.task is None else CLASSES[subject.task]
    inputs = "AutoImageProcessor" if len(run.record["input_shape"]) == 3 else "AutoTokenizer"
    lines = [f"from transformers import {auto}, {inputs}", "", 'folder = "."  # where this file lies']
    if subject.form == "adapter":
        classes = f", num_labels={len(run.record['classes'])}, ignore_mismatched_sizes=True"
        base = 'f"{folder}/base"' if subject.base_beside else f'"{base_name(run)}"  # {_origin(run)}'
        more = "" if subject.task == "causal_lm" else classes
        lines = ["from peft import PeftModel", *lines, f"base_folder = {base}"]
        lines += [f"base = {auto}.from_pretrained(base_folder{more})"]
        lines += ["model = PeftModel.from_pretrained(base, folder).eval()"]
    else:
        lines.append(f"model = {auto}.from_pretrained(folder).eval()")
    lines.append(f"inputs_of = {inputs}.from_pretrained(folder)")
    return "\n".join(["```python", *lines, "```"])


def _origin(run: Run) -> str:
    """Where the base is from, as a comment."""
    base = str(getattr(run.experiment.model, "base", ""))
    if base.endswith(".toml"):
        return f"the folder that `gossamer pretrain {Path(base).name}` tells"
    return "the folder of the base" if Path(base).expanduser().is_dir() else "on the hub"


def _data(run: Run) -> list[str]:
    record, asked = run.record, run.record["experiment"]
    samples, held = record["samples"], record["validation_samples"]
    shape = " x ".join(map(str, record["input_shape"]))
    lines = [f"`{in_words('data', asked['data'])}`; licence: {record['licence'] or 'not known'}"]
    counted = f"{units.count(sum(samples))} training items"
    if record["nodes"] > 1:
        counted += f" at {record['nodes']} nodes, {_range(samples)} each, split by {_in_full(asked['partition'])}"
    lines.append(f"{counted}; {units.count(sum(held))} more were kept aside for validation")
    if len(record["input_shape"]) == 3:
        how = NORMALISED[asked["preprocess"]["normalise"]]
        lines.append(f"images of {shape} (channels, height, width), normalised {how}, see preprocessor_config.json")
    else:
        lines.append(f"texts of {shape} tokens, cut or padded at their end")
    return lines


def _training(run: Run, subject: Subject) -> list[str]:
    record, asked, learner = run.record, run.record["experiment"], run.experiment.learner
    rounds, world = run.rounds.to_pydict(), record["world"]
    steps = _range([learner.steps_for(count) for count in record["samples"]])
    taking_part, sent = fmean(rounds["participants"]), sum(rounds["bytes"])
    some = (
        f", {taking_part:.3g} of {record['nodes']} nodes taking part in each" if taking_part < record["nodes"] else ""
    )
    trained, whole = units.count(record["trainable"]), units.count(subject.parameters)
    share = f"{100 * record['trainable'] / subject.parameters:.3g} %"
    lines = [
        f"method {_in_full(asked['method'])}" + (f", graph {_in_full(asked['topology'])}" if world == "graph" else ""),
        f"{len(rounds['round'])} rounds{some}; local work: {steps} steps of {learner.batch_size} items",
        f"learner {_in_full(asked['learner'])}",
        f"parametrisation {_in_full(asked['parametrisation'])}: {trained} numbers trained, {share} of {whole}",
    ]
    if sent:
        up, down = (units.size(record["message_bytes"][way]) for way in ("up", "down"))
        mean = (sent - record["setup_bytes"]) / sum(rounds["transfers"])
        if run.experiment.method.merges_into_base:
            # What was added to the base travels besides the server's message.
            down = f"{units.size(2 * mean - record['message_bytes']['up'])} on average"
        told = f"sends {up} and hears {down}" if world == "server" else f"sends {up} to each neighbour"
        if run.experiment.parametrisation.ranks(record["nodes"]):
            told = f"of the largest rank sends {up}" + (" to each neighbour" if world == "graph" else "")
            told += f" (on average a message{', either way,' if world == 'server' else ''} is {units.size(mean)})"
        once = units.size(record["setup_bytes"] / record["nodes"])
        lines.append(f"in a round a node {told}, before the first one it gets {once}; all in all: {units.size(sent)}")
    if record["hostile"]:
        attack, rule = (_in_full(asked[choice]) for choice in ("attack", "aggregator"))
        lines.append(f"{len(record['hostile'])} of the nodes were hostile: attack {attack}, rule {rule}")
    return lines


def _privacy(run: Run) -> str:
    told = run.record.get("privacy")
    if not told:
        return "None: training was not differentially private."
    spent = "infinite (no noise)" if told["epsilon"] is None else f"{told['epsilon']:.4g}"
    lines = [
        f"epsilon {spent} at delta {told['delta']:g}, for one {told['unit']} ({told['adjacency'].replace('_', ' ')}), "
        f"by the accountant {told['accountant']}",
        f"mechanism `{told['kind']}`: clipped to {told['clip']:g}, noise multiplier {told['noise_multiplier']:.4g}",
        f"hides {told['hides']}" if told["epsilon"] is not None else "hides nothing",
    ]
    return f"{_listed(lines)}\n\nIt assumes that\n\n{_listed(told['assumes'])}"


def _results(run: Run, node: int | None) -> list[str]:
    found, lines = measured(run, node), []
    names = {"test_accuracy": "accuracy", "test_balanced_accuracy": "balanced accuracy", "test_loss": "loss"}
    told = [f"{label} {found[name]:.4g}" for name, label in names.items() if found.get(name) is not None]
    items = run.experiment.evaluate.items
    drawn = "" if items == "all" else f" ({units.count(items)} of them at most)"
    if told:
        lines.append(f"this model on the test items{drawn}: {', '.join(told)}")
    last = max(run.metrics["round"].to_pylist(), default=0)
    of_nodes = [row for row in run.metrics.to_pylist() if row["round"] == last and row["node"] >= 0]
    for name, what in (("validation_accuracy", "their own validation items"), ("test_accuracy", "the test items")):
        values = [row[name] for row in of_nodes if row[name] is not None]
        if len(values) > 1:
            spread = f"mean {fmean(values):.4g}, lowest {min(values):.4g}, highest {max(values):.4g}"
            lines.append(f"accuracy of the nodes' models on {what}: {spread}")
    return lines or ["not measured"]


def _limits(run: Run, subject: Subject) -> str:
    record, asked = run.record, run.record["experiment"]
    kind = asked["data"]["kind"]
    lines = [f"It was trained and measured on `{kind}` alone; how it does on anything else was not measured."]
    if subject.task in ("image_classification", "text_classification"):
        lines.append("It gives one of its classes for every input, also for one that belongs to none of them.")
    if not record.get("privacy") or record["privacy"]["epsilon"] is None:
        lines.append("Nothing keeps it from giving away what was in the training items.")
    if asked["hostile"]["kind"] == "nobody" and record["nodes"] > 1:
        lines.append("All nodes were honest; what hostile ones could have made of it was not tried.")
    bits, precision = (asked["model"].get(name) for name in ("bits", "precision"))
    if subject.form == "adapter" and bits:
        lines.append(f"It was trained on the base in {bits} bits; on the base as it is, outputs differ a little.")
    elif precision == "bfloat16":
        lines.append("It was trained with the base's matrices in bfloat16; in float32, outputs differ a little.")
    return " ".join(lines)


def _versions(run: Run, subject: Subject) -> dict[str, str]:
    libraries = ("transformers", "peft") if subject.form == "adapter" else ("transformers",)
    return {**run.record["versions"], **{name: library(name).__version__ for name in libraries}}


def _in_full(table: Mapping[str, Any]) -> str:
    """A choice of an experiment with all its settings that are not nothing."""
    told = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in table.items()
        if name != "kind" and value not in (0, "", [], {})
    ]
    return f"`{table['kind']}`" + (f" ({', '.join(told)})" if told else "")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:MANY]) + (f", ... ({len(names)} in all)" if len(names) > MANY else "")


def _range(counts: Sequence[int]) -> str:
    low, high = units.count(min(counts)), units.count(max(counts))
    return low if low == high else f"{low} to {high}"


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
