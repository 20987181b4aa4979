"""From data to adapters, and from adapters to their mean, as a person types it."""

import json
from pathlib import Path

import pytest

from slmops.build.checkpoint import open_checkpoint

MODEL = Path(__file__).parents[2] / "demo" / "model"
FEW = ["--steps", "4", "--batch-tokens", "256"]


@pytest.fixture
def commands(tmp_path):
    """Return what writes a few commands in which a lamp has a name of its own."""

    def write(name):
        lines = []
        for percent in range(10, 40):
            answer = json.dumps({"device": "lamp", "room": "kitchen", "action": "set", "value": percent})
            said = [("user", f"set the kitchen {name} to {percent}"), ("assistant", answer)]
            lines.append(json.dumps({"messages": [{"role": r, "content": c} for r, c in said]}))
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(lines) + "\n")
        return file

    return write


@pytest.fixture
def site(slmops, commands, tmp_path):
    """Return what trains a site's adapter for a few steps: site(name, lora)."""

    def train(name, lora="r=4", *words):
        return slmops(
            "finetune",
            MODEL,
            "--data",
            commands(name),
            "--out",
            tmp_path / name,
            "--lora",
            lora,
            *FEW,
            *words,
        )

    return train


def test_a_dry_run_says_what_it_would_come_to_and_writes_nothing(site, tmp_path):
    ended = site("glower", "r=8", "--dry-run", "-o", "json")
    said = json.loads(ended.out)
    assert ended.code == 0
    assert (said["steps"], said["learned_parameters"]) == (4, 28672)
    assert said["parameters"] == 918_784
    assert not (tmp_path / "glower").exists()


def test_two_sites_train_an_adapter_each_and_their_mean_is_another(site, slmops, tmp_path):
    ended = site("glower")
    assert ended.code == 0
    assert "before" in ended.out
    assert "adapter.gguf" in ended.err
    said = json.loads(site("beamer", "r=2,alpha=2", "-o", "json").out)
    assert said["after"]["loss"] < said["before"]["loss"]
    sites = [tmp_path / "glower", f"{tmp_path / 'beamer'}=300"]
    ended = slmops("merge-adapters", *sites, "--out", tmp_path / "mean", "--base", MODEL, "-o", "json")
    said = json.loads(ended.out)
    assert (said["rank"], said["full_rank"]) == (6, 6)
    assert said["overall"]["naive_apart"] is None
    assert said["overall"]["cut"] < 1e-6
    assert list(said["sites"].values())[1] == 300
    assert len(said["matrices"]) == 8
    assert (tmp_path / "mean" / "adapter.gguf").stat().st_size == said["gguf_bytes"] < 100_000
    merged = slmops(
        "merge-adapters", *sites, "--out", tmp_path / "model", "--merge", "--base", MODEL, "-o", "json"
    )
    assert json.loads(merged.out)["merged_apart"] < 1e-5
    assert open_checkpoint(tmp_path / "model").parameters == open_checkpoint(MODEL).parameters
    refused = slmops("merge-adapters", *sites, "--out", tmp_path / "model", "--merge")
    assert (refused.code, "--merge needs the model" in refused.err) == (2, True)
    shown = slmops("merge-adapters", *sites, "--out", tmp_path / "small", "--rank", "1")
    assert "rank 1 (of 6)" in shown.err
    assert "No adapter.gguf: its base was not given." in shown.err
    refused = slmops("merge-adapters", *sites, "--out", tmp_path / "naive", "--naive")
    assert (refused.code, "differ in r or alpha" in refused.err) == (1, True)
    refused = slmops("merge-adapters", *sites, "--out", tmp_path / "large", "--rank", "7")
    assert "expected a rank from 1 to 6" in refused.err
    refused = slmops("merge-adapters", *sites, "--out", tmp_path / "glower")
    assert (refused.code, "one of the sites' own folders" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--data", "x.jsonl"], "--out is not said"),
        (["--out", "x"], "--data is not said"),
        (["--data", "x.jsonl", "--out", "x", "--lora", "8"], "--lora: expected r, alpha and targets"),
        (["--data", "x.jsonl", "--out", "x", "--steps", "0"], "steps"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(slmops, words, match):
    ended = slmops("finetune", MODEL, *words)
    assert ended.code == 2
    assert match in ended.err


@pytest.mark.parametrize("said", ["=", "=0", "=-3", "=many"])
def test_samples_that_are_none_are_a_usage_error(slmops, tmp_path, said):
    ended = slmops("merge-adapters", f"{tmp_path / 'site'}{said}", "--out", tmp_path / "mean")
    assert ended.code == 2
    assert "expected DIR=SAMPLES" in ended.err


def test_a_folder_that_holds_no_adapter_is_named(slmops, tmp_path):
    ended = slmops("merge-adapters", MODEL, "--out", tmp_path / "mean")
    assert ended.code == 1
    assert "adapter_config.json: no such file" in ended.err
