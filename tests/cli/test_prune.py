"""A smaller model out of a larger one, as a person types it."""

import json
from pathlib import Path

import pytest

from slmops.build.checkpoint import open_checkpoint

MODEL = Path(__file__).parents[2] / "demo" / "model"
GOLDEN = MODEL / "golden.jsonl"


def test_a_model_is_cut_and_the_table_says_what_it_cost(slmops, tmp_path):
    texts = ["--vocabulary", GOLDEN, "--calibration", GOLDEN]
    ended = slmops("prune", MODEL, "--layers", "1", *texts, "--out", tmp_path / "cut")
    assert ended.code == 0
    said = {line.split("  ")[0].strip(): line.split()[-1] for line in ended.out.splitlines()}
    assert said["layers"] == "1"
    assert said["tokens of --vocabulary kept"] == "100.00%"
    cut = open_checkpoint(tmp_path / "cut")
    assert said["weights"] == f"{cut.parameters:,}"
    assert "weighed on golden.jsonl" in ended.err
    assert max(map(len, ended.out.splitlines())) <= 80
    ledger = json.loads((cut.folder / "ledger.json").read_text())
    assert [stage["digest"] for stage in ledger["stages"]] == [open_checkpoint(MODEL).digest, cut.digest]
    again = slmops("prune", MODEL, "--layers", "1", "--out", tmp_path / "cut")
    assert (again.code, "holds a model already" in again.err) == (2, True)


def test_a_dry_run_weighs_and_writes_nothing(slmops, tmp_path):
    words = ["--params", "70%", "--calibration", GOLDEN, "--dry-run", "-o", "json"]
    said = json.loads(slmops("prune", MODEL, *words, "--out", tmp_path / "cut").out)
    assert said["after"]["parameters"] <= 0.7 * said["before"]["parameters"]
    assert said["out"] is None
    assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--layers", "1"], "give --out, or --dry-run"),
        (["--dry-run"], "what to cut is not said"),
        (["--params", "101%", "--dry-run"], "--params: expected fewer than"),
        (["--axes", "depth", "--params", "60%", "--dry-run"], "--axes: expected some of"),
        (["--mask", "4:2", "--dry-run"], "--mask: expected N:M"),
        (["--params", "60%", "--vocabulary-size", "300", "--dry-run"], "nothing says which"),
        (["--layers", "1", "--calibration", "nowhere.txt", "--dry-run"], "nowhere.txt: no such file"),
        (["--vocabulary", "nowhere.txt", "--dry-run"], "nowhere.txt: no such file"),
        (["--layers", "1", "--out", str(MODEL), "--force"], "is the teacher itself"),
        (["--layers", "1", "--out", str(GOLDEN), "--force"], "is a file"),
    ],
)
def test_what_cannot_be_meant_is_said_before_any_work(slmops, words, match):
    ended = slmops("prune", MODEL, *words)
    assert (ended.code, ended.out) == (2, "")
    assert match in ended.err.replace("\n", " ")


def test_what_is_no_model_with_weights_is_refused(slmops, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    refused = slmops("prune", tmp_path, "--layers", "1", "--dry-run")
    assert (refused.code, "holds a LoRA adapter" in refused.err) == (1, True)
    refused = slmops("prune", tmp_path / "a.gguf", "--layers", "1", "--dry-run")
    assert (refused.code, "error SLM-MODEL" in refused.err) == (1, True)
