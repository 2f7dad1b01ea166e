"""Gossamer and GossiPy side by side on the same work: microseconds of one round of one node.

    python -m venv peer
    peer/bin/python -m pip install torch==2.13.0   # the build that Gossamer has
    peer/bin/python -m pip install numpy scipy scikit-learn networkx rich dill matplotlib pandas tqdm
    peer/bin/python -m pip install --no-deps gossipy-dfl==0.0.1
    python benchmarks/gossipy.py --peer peer/bin/python

A linear model 100 -> 1000 (101,000 parameters), ten items a node, one SGD step on all ten each round, synchronous, on
the same random 4-regular graph: every round a node sends its model to its four neighbours, hears theirs, and takes the
mean of the five. Nothing is evaluated or saved in the timed rounds; both keep their records. Prints one JSON object:
means over the timed rounds of a run in a fresh process, and of those the medians of five runs that take turns.

agreement         largest difference between the two programs' models (of numbers up to `magnitude`) after the same work
                  on 20 nodes, which shows that it is the same
microseconds      by the wall clock; programs are held to one core, or to two by Gossamer with two worker processes and
                  GossiPy, which has one process, with one thread and with two
cpu_microseconds  CPU time of the process without its workers: on one core, the wall clock of an idle machine
spread            (largest - smallest) / median of the runs; `load_average` is that of the machine at the start
ratio             GossiPy / Gossamer; bar: 3 on one core, 5 on two (GossiPy's better number of threads). `one_copy` is
                  what the ratio on one core would be if GossiPy copied a model once a round, not for every receiver

GossiPy runs its own simulator, cache, handler (merge, then update) and report. Its node sends to one random peer a
round, and merges and trains at every message; the one here sends to each neighbour in turn, in the four time steps of a
round, and merges what it heard when the next one begins, as GossiPy's All2AllGossipNode does, which is on GitHub but
not in the release. What differs: Gossamer steps and then mixes, GossiPy mixes and then steps, after a first step when
its nodes are made. As in its examples every message holds a deep copy of the handler, made by its cache. GossiPy
imports torchvision, which it needs only to download images: an empty module stands in.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DEGREE, ITEMS, INPUTS, CLASSES, RATE = 4, 10, 100, 1000, 0.1
UNTIMED = 2
"""Rounds at the start that are not timed; neither is the last one, after which Gossamer evaluates and saves."""

Clock = list[list[float]]
"""When each round ended: [wall clock, CPU time of the process], in seconds."""

PEER = """
import json, sys, time, types
sys.modules["torchvision"] = types.ModuleType("torchvision")
import numpy as np
import torch
from gossipy import CACHE, CacheKey, set_seed
from gossipy.core import AntiEntropyProtocol, ConstantDelay, CreateModelMode, StaticP2PNetwork
from gossipy.data import DataDispatcher
from gossipy.data.handler import ClassificationDataHandler
from gossipy.model.handler import TorchModelHandler
from gossipy.model.nn import LogisticRegression
from gossipy.node import GossipNode
from gossipy.simul import GossipSimulator, SimulationReport

told, given = json.loads(sys.argv[1]), np.load("given.npz")
nodes, degree, rounds = told["nodes"], told["degree"], told["rounds"]
torch.set_num_threads(told["threads"])
set_seed(0)

class Neighbour(GossipNode):
    # Times out in every time step (round_len = 1), and is heard by one neighbour in each.
    def __init__(self, **settings):
        super().__init__(**settings)
        self.heard, self.turn = {}, -1

    def timed_out(self, t):
        self.turn = t % degree
        if self.turn == 0 and self.heard:
            self.model_handler([CACHE.pop(key) for key in self.heard.values()], self.data[0])
            self.heard = {}
        return super().timed_out(t)

    def get_peer(self):
        return self.p2p_net.get_peers(self.idx)[self.turn]

    def receive(self, t, msg):
        self.heard[msg.sender] = msg.value[0]

class OneCopy(TorchModelHandler):
    def caching(self, owner):
        key = CacheKey(owner, self.n_updates)
        CACHE.push(key, None if CACHE[key] else self.copy())
        return key

class Clock(SimulationReport):
    def update_timestep(self, t):
        if (t + 1) % degree == 0:
            clock.append([time.perf_counter(), time.process_time()])

clock = []
inputs, labels = torch.from_numpy(given["inputs"]), torch.from_numpy(given["labels"])
items = ClassificationDataHandler(inputs, labels, test_size=0)
dispatcher = DataDispatcher(items, n=nodes, eval_on_user=False, auto_assign=False)
dispatcher.set_assignments(np.arange(len(inputs)).reshape(nodes, -1).tolist(), None)
model = LogisticRegression(inputs.shape[1], told["classes"])
torch.nn.utils.vector_to_parameters(torch.zeros(model.get_size()), model.parameters())
adjacency = np.zeros((nodes, nodes))
adjacency[tuple(given["edges"].T)] = 1
handler = (OneCopy if told["one_copy"] else TorchModelHandler)(
    net=model,
    optimizer=torch.optim.SGD,
    optimizer_params={"lr": told["rate"]},
    criterion=torch.nn.CrossEntropyLoss(),
    local_epochs=1,
    batch_size=len(inputs) // nodes,
    create_model_mode=CreateModelMode.MERGE_UPDATE,
)
network = StaticP2PNetwork(nodes, adjacency)
population = Neighbour.generate(dispatcher, p2p_net=network, model_proto=handler, round_len=1, sync=True)
simulator = GossipSimulator(population, dispatcher, degree, AntiEntropyProtocol.PUSH, delay=ConstantDelay(0))
report = Clock()
simulator.add_receiver(report)
simulator.init_nodes(seed=42)
simulator.start(n_rounds=rounds)
handlers = [node.model_handler for node in population.values()]
assert report._sent_messages == rounds * nodes * degree and report._failed_messages == 0
assert all(len(node.heard) == degree for node in population.values())
assert all(handler.n_updates == rounds for handler in handlers)  # The first of them when the nodes were made.
if told["rows"]:
    rows = [torch.nn.utils.parameters_to_vector(handler.model.parameters()).detach() for handler in handlers]
    np.save(told["rows"], torch.stack(rows).numpy())
with open("clock.json", "w") as file:
    json.dump(clock, file)
"""


def fresh(command: list[str], told: dict[str, Any], threads: int, cores: list[int], folder: str = ".") -> str:
    """What a process of its own prints, held to these cores."""
    os.sched_setaffinity(0, cores)
    there = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [*command, json.dumps(told)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=there, cwd=folder).stdout


def data(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten random items for each node, inputs [10 N, 100] and labels [10 N] of 1000 classes."""
    dice = np.random.default_rng(0)
    inputs = dice.standard_normal((ITEMS * nodes, INPUTS), dtype=np.float32)
    return inputs, dice.integers(CLASSES, size=ITEMS * nodes)


def experiment(nodes: int, rounds: int, **how: Any) -> Any:
    """D-SGD on a random 4-regular graph, from zeros."""
    import gossamer

    inputs, labels = data(nodes)
    return gossamer.Experiment(
        nodes=nodes,
        rounds=rounds,
        data=gossamer.Dataset.of(inputs, labels, inputs[:10], labels[:10], classes=tuple(map(str, range(CLASSES)))),
        preprocess={"normalise": "none"},
        partition=list(np.arange(ITEMS * nodes).reshape(nodes, ITEMS)),
        validation=0.0,
        model={"kind": "softmax_regression"},
        init={"kind": "zeros"},
        learner={"kind": "sgd", "lr": RATE, "batch_size": ITEMS, "steps": 1},
        method="dsgd",
        topology={"kind": "random_regular", "degree": DEGREE},
        evaluate={"every": 0, "nodes": 0, "items": 10},
        checkpoint={"every": 0},
        **how,
    )


def edges(nodes: int) -> np.ndarray:
    """The graph that Gossamer draws: (sender, receiver) [4 N, 2]."""
    from gossamer.mixing import edges_of

    return edges_of((asked := experiment(nodes, 1)).topology, nodes, asked.seed)


def play(place: Path, nodes: int, rounds: int, **how: Any) -> tuple[Clock, Any]:
    """When each round of Gossamer ended, and the run."""
    import gossamer

    clock: Clock = []

    def listen(event: gossamer.Event) -> None:
        if event.kind == "round":
            clock.append([time.perf_counter(), time.process_time()])

    return clock, gossamer.run(experiment(nodes, rounds, **how), place / "run", listen)


def per_node(clock: Clock, nodes: int) -> list[float]:
    """Microseconds of one round of one node: wall clock, CPU time of the process."""
    began, ended, rounds = clock[UNTIMED - 1], clock[-2], len(clock) - 1 - UNTIMED
    return [1e6 * (end - begin) / rounds / nodes for begin, end in zip(began, ended, strict=True)]


def gossamer_time(nodes: int, rounds: int, cores: list[int]) -> list[float]:
    """`per_node` of a run of Gossamer in a fresh process: eager on one core, two workers on two."""
    how = {"backend": "eager"} if len(cores) == 1 else {"backend": "parallel", "workers": len(cores)}
    told = {"nodes": nodes, "rounds": rounds, **how}
    return list(json.loads(fresh([sys.executable, __file__, "--alone"], told, 1, cores)))


def gossipy_run(peer: Path, nodes: int, rounds: int, threads: int, cores: list[int], **how: Any) -> Clock:
    """When each round of GossiPy ended, in a fresh process."""
    inputs, labels = data(nodes)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/given.npz", inputs=inputs, labels=labels, edges=edges(nodes))
        told = {"nodes": nodes, "rounds": rounds, "threads": threads, "degree": DEGREE, "classes": CLASSES}
        told |= {"rate": RATE, "one_copy": False, "rows": ""} | how
        # From a folder of its own: beside this file, `import gossipy` would find this file.
        fresh([str(peer), "-E", "-c", PEER], told, threads, cores, folder)
        return list(json.loads((Path(folder) / "clock.json").read_text()))


def agreement(peer: Path, cores: list[int], nodes: int = 20, rounds: int = 5) -> dict[str, float]:
    """GossiPy's models after its first step and `rounds` - 1 rounds, mixed once more, against Gossamer's."""
    from torch.nn.utils import parameters_to_vector

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        gossipy_run(peer, nodes, rounds, 1, cores, rows=str(place / "rows.npy"))
        theirs_ND = np.load(place / "rows.npy")
        _, run = play(place, nodes, rounds, backend="eager")
        ours_ND = np.stack([parameters_to_vector(run.model(k).parameters()).detach().numpy() for k in range(nodes)])
    mixed_ND = theirs_ND.copy()
    for sender, receiver in edges(nodes):
        mixed_ND[receiver] += theirs_ND[sender]
    worst = float(np.abs(mixed_ND / (DEGREE + 1) - ours_ND).max())
    return {"agreement": worst, "magnitude": float(np.abs(ours_ND).max())}


def side_by_side(peer: Path, nodes: int, rounds: int, repeats: int, cores: list[int]) -> dict[str, Any]:
    """Medians of runs that take turns."""
    one, both = cores[:1], cores[:2]

    def theirs(threads: int, cores: list[int], **how: Any) -> list[float]:
        return per_node(gossipy_run(peer, nodes, rounds, threads, cores, **how), nodes)

    arms = {
        "gossamer": lambda: gossamer_time(nodes, rounds, one),
        "gossipy": lambda: theirs(1, one),
        "gossamer_two_workers": lambda: gossamer_time(nodes, rounds, both),
        "gossipy_two_cores": lambda: theirs(1, both),
        "gossipy_two_threads": lambda: theirs(2, both),
        "gossipy_one_copy": lambda: theirs(1, one, one_copy=True),
    }
    runs: dict[str, list[list[float]]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, measure in arms.items():
            runs[name].append(measure())
    wall, cpu, spread = {}, {}, {}
    for name, pairs in runs.items():
        times, spent = zip(*pairs, strict=True)
        wall[name], cpu[name] = statistics.median(times), statistics.median(spent)
        spread[name] = (max(times) - min(times)) / wall[name]
    best = min(wall["gossipy_two_cores"], wall["gossipy_two_threads"])
    ratio = {
        "one_core": wall["gossipy"] / wall["gossamer"],
        "one_core_cpu": cpu["gossipy"] / cpu["gossamer"],
        "both_cores": best / wall["gossamer_two_workers"],
        "one_copy": wall["gossipy_one_copy"] / wall["gossamer"],
    }
    found = {"microseconds": wall, "cpu_microseconds": cpu, "spread": spread, "ratio": ratio}
    return {what: {name: round(value, 2) for name, value in values.items()} for what, values in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the Python of an environment with GossiPy")
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--node-rounds", type=int, default=5000, help="rounds of one node in a run, start-up included")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each")
    parser.add_argument("--alone", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(per_node(play(Path(folder), **asked.alone)[0], asked.alone["nodes"])))
        return
    cores = sorted(os.sched_getaffinity(0))
    if asked.peer is None or len(cores) < 2:
        parser.error("--peer PATH/bin/python is needed" if asked.peer is None else "two cores are needed")
    peer = asked.peer.absolute()  # Not resolved: the link itself tells Python which environment it is in.
    result: dict[str, Any] = {"load_average": os.getloadavg()[0]} | agreement(peer, cores[:1])
    for nodes in asked.nodes:
        rounds = UNTIMED + 1 + max(5, asked.node_rounds // nodes)
        result[f"{nodes}_nodes"] = side_by_side(peer, nodes, rounds, asked.repeats, cores)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
