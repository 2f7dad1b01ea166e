"""Adapted models of all sorts, taken home, and what a process that knows nothing of Gossamer makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import write
from safetensors.torch import load_file, save_file

import gossamer
from gossamer.evaluation import at_node
from gossamer.experiment import Experiment
from gossamer.federation import Federation
from gossamer.groundwork import load_dataset
from gossamer.taking_home import take_home
from gossamer.tokenising import encoded, load

VIT = {"model_type": "vit", "patch_size": 4, "num_attention_heads": 2, "initializer_range": 0.2}
BERT = {"model_type": "bert", "num_attention_heads": 2, "max_position_embeddings": 32, "initializer_range": 0.2}
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "initializer_range": 0.2}
WORDS = ["the", "cat", "dog", "ate", "saw", "red", "blue", "sun"]
DATA: dict[str, dict[str, Any]] = {
    "digits": {"kind": "digits", "only": ["7", "8", "9"], "per_class": 20},
    "reviews": {"kind": "text", "train": "train.csv", "test": "test.csv", "length": 10, "vocabulary": 280},
    "story": {"kind": "plain_text", "train": "story.txt", "test": "story.txt", "length": 8, "vocabulary": 280},
}
MODELS: dict[str, dict[str, Any]] = {
    "digits": {"kind": "hugging_face", "config": {**VIT, **SIZES}},
    "reviews": {"kind": "hugging_face", "config": {**BERT, **SIZES, "vocab_size": 280}},
    "story": {"kind": "hugging_face", "task": "causal_lm", "config": GPT2},
}
BASE = {"kind": "hugging_face", "base": "base.toml", "new_head": True}
PRIVATE = {"kind": "central", "epsilon": 8.0, "delta": 1e-3, "clip": 0.5}
UNIFORM = {"kind": "fedavg", "weighting": "uniform"}


def asked(data: str = "digits", parametrisation: Any = "lora", **more: Any) -> Experiment:
    """An experiment of one round after which a model is not what it was."""
    table = {
        "name": "small",
        "nodes": 3,
        "rounds": 1,
        "backend": "eager",
        "data": DATA[data],
        "partition": "iid",
        "model": MODELS[data],
        "parametrisation": parametrisation,
        "learner": {"kind": "adamw", "lr": 0.05, "batch_size": 8, "steps": 3},
    }
    return Experiment.from_dict({**table, **more})


CASES: dict[str, tuple[Experiment, tuple[str, ...]]] = {
    "full": (asked(parametrisation="identity"), ("merged",)),
    "bias": (asked(parametrisation="bias"), ("merged",)),
    "head": (asked(parametrisation={"kind": "head", "cache": False}), ("merged",)),
    "lora": (asked(), ("adapter", "merged")),
    "on a base": (asked(model=BASE, preprocess={"normalise": "per_node"}), ("adapter", "merged")),
    "private": (asked(privacy=PRIVATE, method=UNIFORM), ("adapter",)),
    "dora": (asked(parametrisation={"kind": "lora", "dora": True, "rank_stabilised": True}), ("adapter", "merged")),
    "ranks": (asked(parametrisation={"kind": "lora", "rank": [2, 4]}, method="flexlora"), ("adapter", "merged")),
    "merging": (asked(method="fedex_lora"), ("merged",)),
    "ring": (asked(method="dsgd", topology="ring", preprocess={"normalise": "per_node"}), ("adapter", "merged")),
    "ia3": (asked(parametrisation={"kind": "peft", "method": "ia3"}), ("adapter", "merged")),
    "reviews": (asked("reviews"), ("adapter", "merged")),
    "prompts": (asked("reviews", {"kind": "peft", "method": "prompt_tuning"}), ("adapter",)),
    "story": (asked("story", {"kind": "lora", "targets": ["c_attn", "c_proj"], "rank": 2}), ("adapter", "merged")),
    "story in float64": (asked("story", {"kind": "lora", "rank": 2}, dtype="float64"), ("merged",)),
}
OF_NODE = {"ring": 1}
FOLDERS = [(name, form) for name, (_, forms) in CASES.items() for form in forms]

ELSEWHERE = """
import json, sys
from pathlib import Path
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file

AUTO = {"digits": "ImageClassification", "reviews": "SequenceClassification", "story": "CausalLM"}
found = {}
for place in sorted(Path(sys.argv[1]).iterdir()):
    told = json.loads((place / "told.json").read_text())
    auto = getattr(transformers, "AutoModelFor" + AUTO[told["data"]])
    given = load_file(place / "given.safetensors")
    for form in told["forms"]:
        folder = place / form
        if form == "adapter":
            named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
            more = {} if told["data"] == "story" else {"num_labels": told["classes"], "ignore_mismatched_sizes": True}
            base = auto.from_pretrained(folder / "base" if named == "base" else named, **more)
            model = PeftModel.from_pretrained(base, folder)
        else:
            model = auto.from_pretrained(folder)
        if told["data"] == "digits":
            processor = transformers.AutoImageProcessor.from_pretrained(folder)
            images = list(given["raw"].numpy())
            inputs = processor(images, return_tensors="pt", input_data_format="channels_first")
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            length = {"padding": "max_length", "max_length": told["length"], "truncation": True}
            inputs = dict(tokenizer(told["texts"], return_tensors="pt", **length))
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            logits = model.eval()(**inputs).logits
        found[f"{place.name}/{form}/inputs"] = next(iter(inputs.values())).contiguous()
        found[f"{place.name}/{form}/logits"] = logits.contiguous()
save_file(found, sys.argv[2])
assert "gossamer" not in sys.modules
"""


@dataclass
class Home:
    """What was taken home, and what other libraries make of it."""

    root: Path
    runs: dict[str, gossamer.Run]
    expected: dict[str, dict[str, torch.Tensor]]
    found: dict[str, torch.Tensor]


def write_data() -> None:
    dice = np.random.default_rng(0)
    for file, items in (("train.csv", 40), ("test.csv", 12)):
        lines = [f"{' '.join(dice.choice(WORDS, 4))} {'good,1' if i % 2 else 'bad,0'}" for i in range(items)]
        write("\n".join(["text,label", *lines]), file)
    write(" ".join(dice.choice(WORDS, 300)), "story.txt")


TEXTS = ["the cat dog good", "bad", "ate the zebra"]


def given(run: gossamer.Run, data: str, node: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs as other people have them (of texts nothing), and as the run's model gets them."""
    if data != "digits":
        tokenizer = load(load_dataset(run.experiment).tokenizer)
        return torch.zeros(1), torch.from_numpy(encoded(tokenizer, TEXTS, DATA[data]["length"]))
    federation = Federation(run.experiment)
    inputs = torch.from_numpy(federation.shards.test_inputs[:4])
    raw = torch.from_numpy(load_dataset(run.experiment).test.inputs[:4])
    return raw, inputs if node is None else at_node(federation, inputs, node)


def shape(run: gossamer.Run) -> tuple[tuple[int, ...], int]:
    return tuple(run.record["input_shape"]), len(run.record["classes"])


def logits(module: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module(inputs).float()


@pytest.fixture(scope="module", name="home")
def taken_home(tmp_path_factory) -> Iterator[Home]:
    """All cases: run, written, and loaded by one process that knows nothing of Gossamer."""
    root = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("GOSSAMER_BASES", str(root / "bases"))
        write_data()
        base = asked(parametrisation="identity").replace(data={**DATA["digits"], "only": ["1", "2", "3", "4"]})
        write(base.to_toml(), "base.toml")
        gossamer.pretrain("base.toml")
        runs, expected = {}, {}
        for name, (experiment, forms) in CASES.items():
            data = next(key for key, table in DATA.items() if table["kind"] == experiment.data.kind)
            run = runs[name] = gossamer.run(experiment, root / "runs" / name)
            node, place = OF_NODE.get(name), root / "taken" / name
            for form in forms:
                assert take_home(run, form, place / form, node) == place / form
            raw, inputs = given(run, data, node)
            save_file({"raw": raw}, place / "given.safetensors")
            told = {"data": data, "forms": forms, "classes": len(run.record["classes"]), "texts": TEXTS}
            (place / "told.json").write_text(json.dumps({**told, "length": inputs.shape[1]}))
            expected[name] = {"inputs": inputs, "logits": logits(run.model(node), inputs)}
        command = [sys.executable, "-P", "-c", ELSEWHERE, str(root / "taken"), str(root / "found.safetensors")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        yield Home(root, runs, expected, load_file(root / "found.safetensors"))
