"""Adapted models as folders of other libraries: loaded by these alone, in a process of their own, they are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import command_line, write  # noqa: F401 - the fixture `call`
from safetensors.torch import load_file
from taken_home import (  # noqa: F401 - the fixture `home`
    BASE,
    BERT,
    CASES,
    FOLDERS,
    MODELS,
    OF_NODE,
    SIZES,
    Home,
    asked,
    logits,
    shape,
    taken_home,
)

import gossamer
from gossamer import units
from gossamer.bases import base_folder
from gossamer.errors import RunError
from gossamer.experiment import Experiment
from gossamer.groundwork import initial_module
from gossamer.taking_home import take_home

pytest.importorskip("peft")


@pytest.mark.parametrize(("name", "form"), FOLDERS)
def test_other_libraries_get_the_same_outputs_from_the_same_texts_and_pictures(home, name, form):
    expected, run = home.expected[name], home.runs[name]
    inputs, found = (home.found[f"{name}/{form}/{part}"] for part in ("inputs", "logits"))
    if inputs.is_floating_point():
        torch.testing.assert_close(inputs, expected["inputs"].float(), rtol=0, atol=2e-6)
    else:
        assert torch.equal(inputs, expected["inputs"])
    counts = inputs != 0 if found.dim() == 3 else slice(None)  # What follows a text nobody asks for.
    near = 1e-6 if form == "adapter" else 3e-6
    torch.testing.assert_close(found[counts], expected["logits"][counts], rtol=near, atol=near)
    fresh = logits(initial_module(run.experiment, *shape(run)).eval(), expected["inputs"])
    assert not torch.allclose(fresh[counts], found[counts], atol=1e-2), "it has learned something"


@pytest.mark.parametrize("name", ["lora", "story"])
def test_merged_weights_are_the_base_and_the_product_of_the_factors(home, name):
    run = home.runs[name]
    module = initial_module(run.experiment, *shape(run))
    trained, merged = run.model().state_dict(), loaded(home.root / "taken" / name / "merged")
    factors = run.experiment.parametrisation.layout(module).factors
    assert any(pair.transposed for pair in factors) == (name == "story")
    for pair in factors:
        a_rn, b_mr, weight = (trained[key].double().numpy() for key in (pair.a.name, pair.b.name, pair.base))
        change_mn = pair.scale * b_mr @ a_rn
        whole = weight + (change_mn.T if pair.transposed else change_mn)
        assert np.abs(change_mn).max() > 1e-3
        key = pair.base.removeprefix("model.").replace(".base_layer", "")
        np.testing.assert_array_max_ulp(merged[key].numpy(), whole.astype(np.float32), maxulp=1)
    ours = {key.removeprefix("model.").replace(".base_layer", ""): value for key, value in trained.items()}
    changed = {pair.base.removeprefix("model.").replace(".base_layer", "") for pair in factors}
    assert all(torch.equal(value, ours[key]) for key, value in merged.items() if key not in changed)
    assert merged.keys() == {key for key in ours if "lora_" not in key}


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder of the transformers library, under the names that they have in its model."""
    import transformers

    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    return getattr(transformers, architecture).from_pretrained(folder).state_dict()


def test_an_adapter_names_its_base_or_brings_it(home):
    taken = home.root / "taken"
    for name, (_, forms) in CASES.items():
        if "adapter" in forms:
            table = json.loads((taken / name / "adapter" / "adapter_config.json").read_text())
            beside = (taken / name / "adapter" / "base").is_dir()
            assert beside == (name != "on a base")
            assert table["base_model_name_or_path"] == ("base" if beside else str(base_folder("base.toml")))
    lora = json.loads((taken / "lora" / "adapter" / "adapter_config.json").read_text())
    assert lora["target_modules"] == ["q_proj", "v_proj"]
    assert (lora["r"], lora["lora_alpha"], lora["modules_to_save"]) == (8, 16, ["classifier"])
    untouched = initial_module(CASES["full"][0], *shape(home.runs["full"])).model.state_dict()
    base = loaded(taken / "lora" / "adapter" / "base")
    assert all(torch.equal(value, untouched[name]) for name, value in base.items())


def test_names_of_the_classes_come_along(home):
    config = json.loads((home.root / "taken" / "bias" / "merged" / "config.json").read_text())
    assert config["id2label"] == {"0": "7", "1": "8", "2": "9"}
    assert config["label2id"] == {"7": 0, "8": 1, "9": 2}
    assert "LABEL" not in (home.root / "taken" / "reviews" / "merged" / "config.json").read_text()


# ---- model cards ---------------------------------------------------------------------------------------------------


def card(home: Home, name: str, form: str) -> Any:
    from huggingface_hub import ModelCard

    return ModelCard.load(home.root / "taken" / name / form / "README.md")


@pytest.mark.parametrize(("name", "form"), FOLDERS)
def test_a_card_says_what_was_recorded(home, name, form):
    run, found = home.runs[name], card(home, name, form)
    record, node = run.record, OF_NODE.get(name)
    rows = [row for row in run.metrics.to_pylist() if row["node"] == (-1 if node is None else node)]
    results = {result.metric_type: result.metric_value for result in found.data.eval_results}
    assert results == {"accuracy": rows[-1]["test_accuracy"], "loss": rows[-1]["test_loss"]}
    assert found.data.library_name == ("peft" if form == "adapter" else "transformers")
    assert found.data.tags[:2] == ["gossamer", "decentralized-learning" if name == "ring" else "federated-learning"]
    for text in (f"{record['trainable']:,} numbers trained", "3 nodes", "1 rounds", "3 steps of 8 items"):
        assert text in found.text
    if run.experiment.data.kind == "digits":
        assert f"% of {home.runs['full'].record['trainable']:,}" in found.text
    up = units.size(record["message_bytes"]["up"])
    if name == "ranks":
        rounds = run.rounds.to_pydict()
        mean = (sum(rounds["bytes"]) - record["setup_bytes"]) / sum(rounds["transfers"])
        assert mean < record["message_bytes"]["up"]
        assert f"of the largest rank sends {up} (on average a message, either way, is {units.size(mean)})" in found.text
    else:
        assert f"in a round a node sends {up}" in found.text
    assert f"{sum(record['samples'])} training items" in found.text
    assert str(home.root) not in found.content, "of this machine nobody is told"
    compile(found.text.partition("```python\n")[2].partition("```")[0], "card", "exec")


def test_a_language_model_ends_its_texts_with_the_token_of_its_tokenizer(home):
    """The defaults of its type are of another vocabulary."""
    folder = home.root / "taken" / "story" / "merged"
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    numbers = {token["content"]: token["id"] for token in tokens}
    for file in ("config.json", "generation_config.json"):
        told = json.loads((folder / file).read_text())
        assert told["eos_token_id"] == numbers["<eos>"]
        assert told["bos_token_id"] == numbers["<bos>"]
        assert told["pad_token_id"] == numbers["<pad>"]


def test_a_card_says_what_is_promised_and_what_is_not(home):
    private, plain = card(home, "private", "adapter").text, card(home, "lora", "adapter").text
    told = home.runs["private"].record["privacy"]
    assert f"epsilon {told['epsilon']:.4g} at delta 0.001, for one node (add or remove)" in private
    assert all(f"- {text}" in private for text in told["assumes"])
    assert "None: training was not differentially private." in plain
    assert "Nothing keeps it from giving away" in plain
    assert "Nothing keeps it from giving away" not in private
    assert "own model of node 1" in card(home, "ring", "merged").text
    based = card(home, "on a base", "adapter")
    assert based.data.base_model == base_folder("base.toml").name
    assert "gossamer pretrain base.toml" in based.text
    assert card(home, "lora", "adapter").data.base_model is None


# ---- what cannot be taken home -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("full", "adapter", "parametrisation.kind = 'identity' trains weights of the model itself; use --as merged"),
        ("bias", "adapter", "parametrisation.kind = 'bias' trains weights of the model itself; use --as merged"),
        ("merging", "adapter", "method.kind = 'fedex_lora' changes the base itself"),
        ("prompts", "merged", "method = 'prompt_tuning': prompts are no part of the weights; use --as adapter"),
    ],
)
def test_what_the_library_has_no_form_for_is_refused(home, name, form, message):
    with pytest.raises(RunError, match=f"--as {form}: .*{message}"):
        take_home(home.runs[name], form)
    left = {path.name for path in home.runs[name].folder.iterdir()}
    assert not {part for part in left if form in part}, "and nothing is left behind"


@pytest.mark.parametrize("kind", ["bottleneck", "deep_prompt"])
def test_what_no_library_has_a_form_for_stays_with_gossamer(home, kind, monkeypatch):
    run = gossamer.run(asked(parametrisation=kind), home.root / "runs" / kind)
    for form in ("adapter", "merged"):
        with pytest.raises(
            RunError, match=rf"cannot be taken to other libraries: it adds 'model.*gossamer export .*{kind}"
        ):
            take_home(run, form)


SCALED = '''
from typing import Literal
from gossamer.layout import Layout
from gossamer.parametrisations import Parametrisation


class Doubled(Parametrisation):
    """Logits are doubled."""

    kind: Literal["doubled"] = "doubled"

    def applied(self, module):
        module.register_forward_hook(lambda module, inputs, logits: 2 * logits)
        return module

    def layout(self, module):
        return Layout.of(module)
'''


def test_a_folder_that_gives_other_outputs_is_not_kept(home):
    write(SCALED, home.root / "doubled.py")
    part = {"kind": "doubled", "file": str(home.root / "doubled.py")}
    run = gossamer.run(asked(parametrisation=part), home.root / "runs" / "doubled")
    with pytest.raises(RunError, match=r"loaded again, outputs are off by 0\.5 of the largest one"):
        take_home(run, "merged")
    assert not (run.folder / "merged").exists()


def test_bad_lines_of_the_command(call, home, tmp_path):
    small = Experiment(
        nodes=2, rounds=1, partition="iid", backend="eager", learner={"steps": 1}, evaluate={"items": 20}
    )
    other = gossamer.run(small, tmp_path / "mlp")
    code, _, err = call("export", other.folder, "--as", "merged")
    assert code == 2
    assert "--as merged: model.kind = 'mlp' is no model of the transformers library" in err
    lora = home.runs["lora"].folder
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for words, message in (
        (["--to", tmp_path / "full"], "exists and is not empty; name another folder with --to"),
        (["--node", "1"], "--node 1: with method.kind = 'fedavg' all nodes have one model; leave it out"),
    ):
        code, _, err = call("export", lora, "--as", "adapter", *words)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
    alone = gossamer.run(asked(method="local"), tmp_path / "alone")
    assert (
        "there is no common model, every node has its own; name one with --node"
        in call("export", alone.folder, "--as", "merged")[2]
    )
    assert "node 7 does not exist: nodes are 0..2" in call("export", alone.folder, "--as", "merged", "--node", "7")[2]
    record = json.loads((alone.folder / "record.json").read_text())
    (alone.folder / "record.json").write_text(json.dumps({**record, "status": "interrupted"}))
    assert "has not finished (interrupted); go on: gossamer resume" in call("export", alone.folder, "--as", "merged")[2]


def test_the_command_writes_beside_the_run_unless_told_otherwise(call, home, tmp_path):
    run = home.runs["ranks"]
    code, out, _ = call("export", run.folder, "--as", "merged", "--json")
    assert code == 0
    assert {Path(path).name for path in json.loads(out)["files"]} == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    assert {Path(path).parent for path in json.loads(out)["files"]} == {run.folder.resolve() / "merged"}
    call("export", run.folder, "--as", "adapter", "--to", tmp_path / "mine", "--node", "1")
    weights = load_file(tmp_path / "mine" / "adapter_model.safetensors")
    trained = run.model(1).state_dict()
    name = next(name for name in weights if "lora_A" in name)
    ours = trained[name.removeprefix("base_model.").replace("lora_A.weight", "lora_A.default.weight")]
    assert torch.equal(weights[name], ours)


@pytest.mark.slow
def test_an_adapter_of_a_base_in_few_bits_and_of_one_in_bfloat16(home, monkeypatch):
    monkeypatch.chdir(home.root)
    monkeypatch.setenv("GOSSAMER_BASES", str(home.root / "bases"))
    for more in ({"bits": 4}, {"precision": "bfloat16"}):
        run = gossamer.run(asked(model={**BASE, **more}), home.root / "runs" / next(iter(more)))
        folder = take_home(run, "adapter")
        assert not (folder / "base").exists()
        weights, trained = load_file(folder / "adapter_model.safetensors"), run.model().state_dict()
        head = weights["base_model.model.classifier.weight"]
        assert torch.equal(head, trained["model.classifier.weight"])
        if "bits" in more:
            with pytest.raises(RunError, match=r"model\.bits = 4: changes cannot be added exactly"):
                take_home(run, "merged")
        else:
            take_home(run, "merged")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["ln_tuning", "loha", "vera", "hira", "prefix_tuning", "p_tuning", "prompt_tuning", "trainable_tokens"]
)
def test_methods_of_the_peft_library_come_back(home, method, monkeypatch):
    monkeypatch.chdir(home.root)
    part = {"kind": "peft", "method": method, "settings": {"token_indices": [4, 5]} if "tokens" in method else {}}
    config = {**BERT, **SIZES, "model_type": "llama", "num_key_value_heads": 2}
    model = {**MODELS["story"], "config": config}
    run = gossamer.run(asked("story", part, model=model), home.root / "runs" / method)
    assert (take_home(run, "adapter") / "adapter_config.json").is_file(), "its outputs were compared"
