"""What federated adapters cost: against a bare loop, against a plain peft loop, and in memory.

    python benchmarks/adapters.py time [--save FILE]      # on a quiet machine about 6 minutes
    python benchmarks/adapters.py memory [--save FILE]    # about 4 minutes

Prints one JSON object. Times are medians of five, interleaved, one thread in every process unless said; all loops do
the same steps: 16 nodes, 2 SGD steps each with 8 images, LoRA of rank 8 on queries and values of a vision transformer,
once that of the study `fedpeft` (4 blocks of width 96, 16 patches), once a larger one (6 of width 192, 64 patches).

bare             one peft model, one flat vector of what is trained: copied in, stepped, folded. No records.
peer             the usual loop with the peft library: for each node set_peft_model_state_dict, a new torch.optim.SGD,
                 a DataLoader, get_peft_model_state_dict; then a mean over the dictionaries
gossamer         the engine with recording on; `two cores` is its parallel back end with two workers, against the peer
                 with one and with two threads, whichever is faster
adapters_apart   largest difference of an adapter number between peer and Gossamer after two rounds, in float64
memory           peak PSS of a run with a 22 M parameter ViT (ViT-S/16) with LoRA: 1 node and 64 nodes in one process,
                 and 64 nodes with 1 and 3 workers, in steps of one image and of two; and the data of 64 nodes. What a
                 further worker adds beside activations is what would be left at no image
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import gossamer
from gossamer.federation import Federation
from gossamer.memory import family_pss

REPEATS, ROUNDS, NODES, STEPS, BATCH, LR, RANK = 5, 4, 16, 2, 8, 0.05, 8
LITTLE = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}
LITTLE |= {"image_size": 32, "patch_size": 8}
MIDDLE = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}
MIDDLE |= {"image_size": 32, "patch_size": 4}
SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
SMALL |= {"image_size": 224, "patch_size": 16}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def data(nodes: int) -> gossamer.Dataset:
    """Random images [3, 32, 32] of ten classes, as many for each node as it uses in a round."""
    dice, count = np.random.default_rng(0), nodes * STEPS * BATCH
    images = dice.standard_normal((count, 3, 32, 32), dtype=np.float32)
    labels = np.arange(count) % 10
    return gossamer.Dataset.of(images, labels, images[:10], labels[:10])


def experiment(size: dict[str, int], nodes: int, **changes: Any) -> gossamer.Experiment:
    """LoRA at `nodes` nodes."""
    per = STEPS * BATCH
    settings: dict[str, Any] = {
        "nodes": nodes,
        "rounds": ROUNDS,
        "data": data(nodes),
        "preprocess": {"normalise": "none"},
        "partition": lambda labels, nodes, rng: list(np.arange(per * nodes).reshape(nodes, per)),
        "validation": 0.0,
        "model": {"kind": "hugging_face", "config": {"model_type": "vit", **size, **NO_DROPOUT}},
        "parametrisation": {"kind": "lora", "rank": RANK},
        "learner": {"lr": LR, "batch_size": BATCH, "steps": STEPS},
        "method": {"kind": "fedavg", "weighting": "uniform"},
        "evaluate": {"every": 0, "nodes": 0, "items": 10},
        "checkpoint": {"every": 0},
        "backend": "eager",
    }
    return gossamer.Experiment(**{**settings, **changes})


# ---- loops ---------------------------------------------------------------------------------------------------------


class Loops:
    """The bare loop and the peer's, on the model and the batches of an experiment."""

    def __init__(self, asked: gossamer.Experiment) -> None:
        self.federation = Federation(asked)
        federation = self.federation
        items, seed = federation.items, asked.seed
        self.batches = [
            [
                [
                    (items.inputs[index], items.labels[index])
                    for index in items.round_batches(seed, node, round, asked.learner, None)
                ]
                for node in range(NODES)
            ]
            for round in range(ROUNDS)
        ]
        self.module = federation.resident.module
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        self.start = federation.resident.row.clone()

    def bare(self) -> torch.Tensor:
        """One vector in, steps, one vector folded."""
        optimiser = torch.optim.SGD(self.trained, lr=LR)
        row = self.start.clone()
        self.module.train()
        for round in range(ROUNDS):
            total = torch.zeros_like(row)
            for node in range(NODES):
                self.federation.resident.row.copy_(row)
                for inputs, labels in self.batches[round][node]:
                    optimiser.zero_grad()
                    cross_entropy(self.module(inputs), labels).backward()
                    optimiser.step()
                total.add_(self.federation.resident.row, alpha=1 / NODES)
            row = total
        return row


class Peer:
    """A plain peft loop: `get_peft_model`, and for each node its state dictionary set and got."""

    def __init__(self, loops: Loops, size: dict[str, int], dtype: torch.dtype) -> None:
        import copy

        from peft import LoraConfig, get_peft_model
        from transformers import ViTConfig, ViTForImageClassification

        self.batches = loops.batches
        config = ViTConfig(**size, **NO_DROPOUT, num_labels=10, attn_implementation="sdpa")
        plain = ViTForImageClassification(config)
        ours = {name.removeprefix("model."): p for name, p in loops.module.state_dict().items()}
        plain.load_state_dict(
            {
                name: ours.get(
                    name, ours.get(name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias"))
                )
                for name in plain.state_dict()
            }
        )
        targets = sorted(
            {
                name.rpartition(".lora_A")[0].removeprefix("model.")
                for name in loops.module.state_dict()
                if ".lora_A" in name
            }
        )
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets, modules_to_save=["classifier"])
        self.model = get_peft_model(copy.deepcopy(plain), lora, autocast_adapter_dtype=False).to(dtype)
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                if ".lora_" in name:
                    value.copy_(ours[name.removeprefix("base_model.model.").replace("base_model.model.", "")])
        self.first = {name: value.clone() for name, value in self.state().items()}

    def state(self) -> dict[str, torch.Tensor]:
        """The adapter's state dictionary."""
        from peft import get_peft_model_state_dict

        found: dict[str, torch.Tensor] = get_peft_model_state_dict(self.model)
        return found

    def run(self, rounds: int) -> dict[str, torch.Tensor]:
        """Rounds of federated averaging."""
        from peft import set_peft_model_state_dict
        from torch.utils.data import DataLoader, TensorDataset

        common = {name: value.clone() for name, value in self.first.items()}
        self.model.train()
        for round in range(rounds):
            heard = []
            for node in range(NODES):
                set_peft_model_state_dict(self.model, common)
                optimiser = torch.optim.SGD((p for p in self.model.parameters() if p.requires_grad), lr=LR)
                mine = self.batches[round][node]
                items = TensorDataset(torch.cat([x for x, _ in mine]), torch.cat([y for _, y in mine]))
                for inputs, labels in DataLoader(items, batch_size=BATCH):
                    optimiser.zero_grad()
                    self.model(pixel_values=inputs, labels=labels).loss.backward()
                    optimiser.step()
                heard.append({name: value.clone() for name, value in self.state().items()})
            common = {name: torch.stack([h[name] for h in heard]).mean(0) for name in common}
        return common


def engine_seconds(asked: gossamer.Experiment) -> float:
    """Seconds of a round, recording on: from the end of the first round to the end of the last but one."""
    with tempfile.TemporaryDirectory() as place:
        clock: dict[str, float] = {}
        gossamer.run(
            asked,
            Path(place) / "run",
            lambda event: clock.setdefault(event.kind + str(event.round), time.perf_counter()),
        )
        return (clock[f"round{asked.rounds - 1}"] - clock["round1"]) / (asked.rounds - 2)


def seconds(loop: Callable[[], object]) -> float:
    """Of a round."""
    clock = time.perf_counter()
    loop()
    return (time.perf_counter() - clock) / ROUNDS


def apart(size: dict[str, int]) -> float:
    """The largest difference between the peer's adapter and ours after two rounds in float64."""
    asked = experiment(size, NODES, dtype="float64", rounds=2)
    loops = Loops(asked.replace(rounds=ROUNDS))
    peer = Peer(loops, size, torch.float64).run(2)
    with tempfile.TemporaryDirectory() as place:
        ours = gossamer.run(asked, Path(place) / "run").model().state_dict()
    found = 0.0
    for name, value in peer.items():
        plain = name.removeprefix("base_model.model.")
        plain = plain.replace("lora_A.weight", "lora_A.default.weight").replace(
            "lora_B.weight", "lora_B.default.weight"
        )
        found = max(found, float((value - ours[f"model.{plain}"]).abs().max()))
    return found


def times(size: dict[str, int]) -> dict[str, Any]:
    """The three loops, interleaved."""
    asked = experiment(size, NODES, rounds=ROUNDS + 2)
    loops = Loops(asked)
    peer = Peer(loops, size, torch.float32)
    found: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        torch.set_num_threads(1)
        found.setdefault("bare", []).append(seconds(loops.bare))
        found.setdefault("gossamer", []).append(engine_seconds(asked))
        found.setdefault("peer", []).append(seconds(lambda: peer.run(ROUNDS)))
        found.setdefault("gossamer, two workers", []).append(
            engine_seconds(asked.replace(backend="parallel", workers=2))
        )
        torch.set_num_threads(2)
        found.setdefault("peer, two threads", []).append(seconds(lambda: peer.run(ROUNDS)))
        torch.set_num_threads(1)
    middle = {name: statistics.median(values) for name, values in found.items()}
    return {
        "seconds": middle,
        "gossamer / bare": middle["gossamer"] / middle["bare"],
        "peer / gossamer": middle["peer"] / middle["gossamer"],
        "peer / gossamer, two cores": min(middle["peer"], middle["peer, two threads"])
        / middle["gossamer, two workers"],
        "adapters_apart": apart(size),
    }


# ---- memory --------------------------------------------------------------------------------------------------------


def peak(nodes: int, workers: int, batch: int = 2) -> int:
    """Peak PSS of a run, all its processes together."""
    code = [sys.executable, __file__, "run", str(nodes), str(workers), str(batch)]
    running, most = subprocess.Popen(code, stdout=subprocess.DEVNULL), 0
    while running.poll() is None:
        most = max(most, family_pss(running.pid))
        time.sleep(0.05)
    if running.returncode:
        raise SystemExit(f"a run of {nodes} nodes with {workers} workers failed")
    return most


def memory() -> dict[str, Any]:
    """Of one node, of 64, and of more workers."""
    one, many = peak(1, 0), peak(64, 0)
    items = data(64)
    further = {batch: (peak(64, 3, batch) - peak(64, 1, batch)) / 2 for batch in (1, 2)}
    size = sum(a.nbytes for a in (items.train.inputs, items.train.labels, items.test.inputs, items.test.labels))
    return {
        "one node": one,
        "64 nodes": many,
        "data of 64 nodes": size,
        "64 nodes / (one node + data)": many / (one + size),
        "each further worker, one image": further[1],
        "each further worker, two images": further[2],
        "each further worker, beside activations": 2 * further[1] - further[2],
        "base": 4 * 21_665_664,
    }


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "memory", "run"))
    parser.add_argument("numbers", nargs="*", type=int, help="run: nodes, workers (0: none), images")
    parser.add_argument("--save", type=Path, help="add the result to this file, under its name")
    asked = parser.parse_args()
    if asked.what == "run":
        nodes, workers, batch = asked.numbers
        backend = {"backend": "parallel", "workers": workers} if workers else {"backend": "eager"}
        with tempfile.TemporaryDirectory() as place:
            learner = {"lr": LR, "batch_size": batch, "steps": 1}
            gossamer.run(experiment(SMALL, nodes, rounds=2, learner=learner, **backend), Path(place) / "run")
        return
    sizes = {"4 blocks of 96": LITTLE, "6 blocks of 192": MIDDLE}
    found = {name: times(size) for name, size in sizes.items()} if asked.what == "time" else memory()
    from importlib.metadata import version

    found["versions"] = {name: version(name) for name in ("torch", "transformers", "peft")}
    found["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print(json.dumps(found, indent=1))
    if asked.save:
        saved = json.loads(asked.save.read_text()) if asked.save.exists() else {}
        asked.save.write_text(json.dumps({**saved, asked.what: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
