"""Pre-training: a base is made once, whole or not at all, and is what its run ended with."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from command_line import command_line, write  # noqa: F401 - the fixture `call`
from safetensors.torch import load_file

import gossamer
from gossamer.bases import base_folder
from gossamer.errors import ExperimentError, Interrupted, RunError
from gossamer.experiment import Experiment
from gossamer.groundwork import initial_module, load_dataset
from gossamer.pretraining import is_trained, pretrain, run_folder, untrained
from gossamer.record import Lock
from gossamer.tokenising import encoded, fingerprint, load

pytest.importorskip("transformers")
VIT = "{ model_type = 'vit', patch_size = 4, hidden_size = 16, intermediate_size = 16, num_hidden_layers = 1 }"
BASE = f"""
name = "small-base"
nodes = 1
rounds = 3
method = "centralised"
backend = "eager"
data = {{ kind = "digits", only = ["0", "1", "2"], per_class = 20 }}
partition = "iid"
learner = {{ kind = "adamw", lr = 0.01, batch_size = 8, steps = 2 }}

[model]
kind = "hugging_face"
config = {VIT.replace(" }", ", num_attention_heads = 2 }")}
"""
TEXTS = " ".join(
    f"the {animal} {verb} a {thing}." for animal in ("cat", "dog") for verb in ("ate", "saw") for thing in "xyz"
)
LANGUAGE = """
name = "words"
nodes = 1
rounds = 1
method = "centralised"
backend = "eager"
data = { kind = "plain_text", train = "words.txt", test = "words.txt", length = 8, vocabulary = 280 }
partition = "iid"
learner = { kind = "sgd", lr = 0.1, steps = 1 }

[model]
kind = "hugging_face"
task = "causal_lm"
config = { model_type = "gpt2", n_embd = 8, n_layer = 1, n_head = 2, n_positions = 8 }
"""
ADAPT = """
name = "adapt"
nodes = 2
rounds = 1
backend = "eager"
data = { kind = "digits", only = ["7", "8", "9"], per_class = 20 }
partition = "iid"
model = { kind = "hugging_face", base = "base.toml", new_head = true }
learner = { kind = "sgd", lr = 0.1, steps = 1 }
"""


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch):
    """An empty shelf for bases, and an empty folder to be in."""
    monkeypatch.setenv("GOSSAMER_BASES", str(tmp_path / "bases"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bases"


def interrupt(after):
    def stop(event):
        if event.kind == "round" and event.round == after:
            os.kill(os.getpid(), signal.SIGINT)

    return stop


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_base_is_what_its_run_ended_with_in_the_form_of_the_library(call, shelf):
    from transformers import AutoModelForImageClassification

    code, out, err = call("pretrain", write(BASE, "base.toml"), "--json")
    assert code == 0
    assert "round 3/3" in err
    told, folder = json.loads(out), base_folder("base.toml")
    assert told["base"] == str(folder)
    assert told["model"] == {"kind": "hugging_face", "base": "base.toml"}
    assert {path.name for path in shelf.iterdir()} == {folder.name, f"{folder.name}.run"}, "and nothing beside them"
    run = gossamer.open_run(run_folder("base.toml"))
    assert told["test_accuracy"] == run.summary()["test_accuracy"]
    loaded = AutoModelForImageClassification.from_pretrained(folder)
    assert loaded.config.id2label == {0: "0", 1: "1", 2: "2"}
    ours = run.model().model.state_dict()
    assert ours.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, ours[name]) for name, value in loaded.state_dict().items())
    assert "one node that held all the data" in (folder / "README.md").read_text(encoding="utf-8")

    adapt = Experiment.from_toml(ADAPT)
    adapted = initial_module(adapt, (1, 8, 8), 3).model.state_dict()
    same = {name for name, value in adapted.items() if torch.equal(value, ours[name])}
    assert same == {name for name in ours if not name.startswith("classifier")}, "all but the new head"


def test_a_second_call_does_nothing_and_again_gives_the_same(call):
    write(BASE, "base.toml")
    first = call("pretrain", "base.toml")
    folder = base_folder("base.toml")
    before, stamps = contents(folder), {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, out, err = call("pretrain", "base.toml")
    assert code == 0
    assert out == first[1]
    assert 'model = { kind = "hugging_face", base = "base.toml" }' in out
    assert "trained before" in err
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    code, _, err = call("pretrain", "base.toml", "--again")
    assert code == 0
    assert "round 3/3" in err
    assert all(path.stat().st_mtime_ns != stamp for path, stamp in stamps.items())
    assert contents(folder) == before


def test_what_determines_the_result_determines_the_folder():
    folder = base_folder(write(BASE, "base.toml"))
    same = {BASE.replace("eager", "vmap"), BASE + "\n"}
    other = {BASE.replace("rounds = 3", "rounds = 3\nseed = 1"), BASE.replace("0.01", "0.02"), BASE.replace("20", "21")}
    assert {base_folder(write(text, "other.toml")) for text in same} == {folder}
    assert len({folder, *(base_folder(write(text, "other.toml")) for text in other)}) == 4
    digest = Experiment.from_toml(ADAPT).digest()
    write(BASE.replace("rounds = 3", "rounds = 4"), "base.toml")
    assert Experiment.from_toml(ADAPT).digest() != digest, "what is adapted from it is another experiment too"


def test_what_was_interrupted_goes_on_to_the_same_bits(call, shelf, monkeypatch):
    write(BASE, "base.toml")
    with pytest.raises(Interrupted, match=r"base.toml: stopped, and saved; go on with: gossamer pretrain base.toml"):
        pretrain("base.toml", interrupt(after=1))
    assert not base_folder("base.toml").exists()
    assert not is_trained("base.toml")
    assert "has not been trained yet; run: gossamer pretrain base.toml" in call("run", write(ADAPT, "adapt.toml"))[2]
    code, _, err = call("pretrain", "base.toml")
    assert code == 0
    assert "from round 1" in err
    resumed = contents(base_folder("base.toml"))
    monkeypatch.setenv("GOSSAMER_BASES", str(shelf.with_name("others")))
    assert resumed["model.safetensors"] == contents(pretrain("base.toml"))["model.safetensors"]


def test_only_what_is_missing_is_made():
    folder = pretrain(write(BASE, "base.toml"))
    before, place = contents(folder), run_folder("base.toml")
    record = (place / "record.json").stat().st_mtime_ns
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert contents(pretrain("base.toml")) == before, "the run had finished, its base had not been written"
    assert (place / "record.json").stat().st_mtime_ns == record
    for path in (folder / "config.json", place / "record.json"):
        path.unlink()
    assert contents(pretrain("base.toml")) == before, "the run was killed before its first record"


def test_a_base_in_the_making_is_left_alone():
    place = run_folder(write(BASE, "base.toml"))
    with pytest.raises(Interrupted):
        pretrain("base.toml", interrupt(after=1))
    with Lock(place):
        for again in (False, True):
            with pytest.raises(RunError, match="another process is running this"):
                pretrain("base.toml", again=again)
    assert (place / "record.json").is_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "hugging_face"', 'kind = "mlp"', "model.kind = 'mlp' makes no base"),
        (
            '[model]\nkind = "hugging_face"',
            'parametrisation = "bias"\n[model]\nkind = "hugging_face"\nbits = 4',
            "model.bits: weights in few bits are no base",
        ),
        (
            'kind = "hugging_face"',
            'kind = "hugging_face"\nbits = 4',
            "weights in so few bits cannot be trained",
        ),
        ('method = "centralised"', 'method = "local"', "ends with no model for all"),
    ],
)
def test_an_experiment_that_makes_no_base_is_refused_before_it_is_run(call, shelf, old, new, message):
    text = BASE.replace("nodes = 1", "nodes = 2").replace(old, new)
    if "mlp" in new:
        text = text.partition("config =")[0]
    code, _, err = call("pretrain", write(text, "base.toml"))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not shelf.exists()


def test_a_language_model_comes_with_its_tokenizer():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write(TEXTS, "words.txt")
    folder = pretrain(write(LANGUAGE, "base.toml"))
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    texts = ["the cat saw the dog.", "x", ""]
    found = theirs(texts, padding="max_length", max_length=8, truncation=True)
    assert found["input_ids"] == encoded(ours, texts, 8).tolist()
    assert theirs.decode(found["input_ids"][0], skip_special_tokens=True) == texts[0]
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == ours.get_vocab_size()
    write("of other words entirely, quite a few of them there are", "others.txt")
    data = 'data = { kind = "plain_text", train = "others.txt", test = "others.txt", length = 8 }'
    adapt = Experiment.from_toml(
        f'{data}\nmodel = {{ kind = "hugging_face", base = "base.toml" }}\nparametrisation = "lora"'
    )
    assert fingerprint(load(load_dataset(adapt).tokenizer)) == fingerprint(ours), "which those that adapt it take over"


def test_of_a_masked_autoencoder_the_encoder_is_kept():
    from transformers import AutoModel

    sizes = "decoder_hidden_size = 8, decoder_num_hidden_layers = 1, decoder_num_attention_heads = 2, "
    config = VIT.replace("model_type = 'vit',", sizes).replace(" }", ", num_attention_heads = 2 }")
    text = f'{BASE.partition("[model]")[0]}\n[model]\nkind = "masked_autoencoder"\nconfig = {config}\n'
    folder = pretrain(write(text, "base.toml"))
    run = gossamer.open_run(run_folder("base.toml"))
    encoder, loaded = run.model().base().state_dict(), AutoModel.from_pretrained(folder, add_pooling_layer=False)
    assert all(torch.equal(value, encoder[name]) for name, value in loaded.state_dict().items())
    adapted = initial_module(Experiment.from_toml(ADAPT), (1, 8, 8), 3).state_dict()
    assert all(torch.equal(value, adapted[f"model.vit.{name}"]) for name, value in encoder.items())


def test_bases_of_bases_come_first_and_each_once(call):
    more = 'base = "base.toml"\nconfig = {}'
    write(BASE, "base.toml")
    write(
        BASE.partition("[model]")[0] + f'parametrisation = "lora"\n[model]\nkind = "hugging_face"\n{more}', "more.toml"
    )
    further = Experiment.from_toml(ADAPT.replace("base.toml", "more.toml"))
    assert untrained([further, Experiment.from_toml(ADAPT), further]) == ["base.toml", "more.toml"]
    code, _, err = call("pretrain", "more.toml")
    assert code == 0
    assert err.index("base: finished") < err.index("more: finished")
    assert untrained([further, Experiment.from_toml(ADAPT)]) == []
    weights = load_file(base_folder("more.toml") / "model.safetensors")
    assert weights.keys() == load_file(base_folder("base.toml") / "model.safetensors").keys(), (
        "what was adapted is merged"
    )
    run, images_BCHW = gossamer.open_run(run_folder("more.toml")), torch.randn(3, 1, 8, 8)
    whole = initial_module(further.replace(model={"kind": "hugging_face", "base": "more.toml"}), (1, 8, 8), 3)
    with torch.no_grad():
        torch.testing.assert_close(whole.eval()(images_BCHW), run.model()(images_BCHW), rtol=1e-5, atol=1e-5)


def test_a_study_trains_the_bases_of_its_arms_first(call):
    write(BASE, "base.toml")
    folder = Path("studies/small")
    folder.mkdir(parents=True)
    body = ADAPT.replace('name = "adapt"', 'title = "Small"\nseeds = [0, 1]').replace("rounds = 1", "rounds = 2")
    write(f'{body}\n[arms.full]\n[arms.bias]\nparametrisation = "bias"\n', folder / "study.toml")
    code, _, err = call("study", "run", "small")
    assert code == 0
    lines = err.splitlines()
    assert [line for line in lines if "base: finished" in line] == ["[1/1] base: finished"]
    assert lines.index("[1/1] base: finished") < next(i for i, line in enumerate(lines) if "full s0" in line)
    assert is_trained("base.toml")
    assert "base: " not in call("study", "run", "small")[2]


def test_a_base_can_be_made_by_any_method_with_one_model():
    text = (
        BASE.replace('"centralised"', '"fedavg"').replace("nodes = 1", "nodes = 2").replace("rounds = 3", "rounds = 1")
    )
    folder = pretrain(write(text, "base.toml"))
    assert "trained by 2 nodes" in (folder / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ExperimentError, match="cannot read the experiment file 'nowhere"):
        pretrain("nowhere.toml")
