"""slmops evaluate, with real models."""

import json
from pathlib import Path

import pytest

from slmops.artifact import description, sign
from slmops.build.checkpoint import open_checkpoint
from slmops.build.divergence import likelihood
from slmops.build.evaluate import Evaluation
from slmops.build.quantize_gguf import quantize_gguf
from slmops.cli.evaluate import as_json
from slmops.registry.layout import Layout
from slmops.registry.release import publish

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "models"
MODELS = [ROOT / "demo" / "model", SHARED / "stories260k"]
ENDINGS = {"context": "Once upon a time", "choices": ["there was a girl.", "a the of it was."], "answer": 0}


@pytest.fixture
def source():
    """A small model in a Hugging Face folder."""
    found = next((folder for folder in MODELS if (folder / "config.json").is_file()), None)
    if found is None:
        pytest.skip(f"no small model here: {' or '.join(map(str, MODELS))}")
    return found


@pytest.fixture
def gguf(source, tmp_path):
    """The model as a GGUF file of few bits."""
    quantize_gguf(open_checkpoint(source), "Q4_0", tmp_path / "small.gguf")
    return tmp_path / "small.gguf"


@pytest.fixture
def task(tmp_path):
    """A file of one item."""
    (tmp_path / "endings.jsonl").write_text(json.dumps(ENDINGS) + "\n")
    return tmp_path / "endings.jsonl"


@pytest.fixture
def registered(source, gguf, home, tmp_path):
    """A registry with stories:1.0.0 for profiles small and large."""
    key = home / "keys" / "release"
    sign.make_key(key, "test")
    folders = {}
    for profile in ("small", "large"):
        folders[profile] = folder = tmp_path / profile
        folder.mkdir()
        (folder / "model.gguf").write_bytes(gguf.read_bytes())
        (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
        said = description.Description(
            name="stories", version="1.0.0", profile=profile, arch="x86_64", format="gguf", type="Q4_0",
            model="model.gguf", architecture="llama", parameters=1, context=128, threads=1, micro_batch=8,
            memory_bytes=1, tokenizer="tokenizer.json", special_tokens={"bos_token": "<s>"}, add_bos=True,
        )  # fmt: skip
        (folder / "artifact.json").write_bytes(description.render(said))
    publish(Layout(home / "registry"), folders, created="2026-01-01T00:00:00Z", key=key)


def test_an_artifact_is_measured_against_another_for_machines(slmops, source, gguf, task, tmp_path):
    quantize_gguf(open_checkpoint(source), "F16", tmp_path / "source.gguf")

    ended = slmops(
        "evaluate",
        gguf,
        "--against",
        tmp_path / "source.gguf",
        "--tokens",
        "64",
        "--task",
        task,
        "-o",
        "json",
    )

    said = json.loads(ended.out)
    assert ended.code == 0
    assert (said["artifact"]["name"], said["against"]["name"]) == ("small.gguf", "source.gguf")
    assert said["measured"]["tokens"] == 64
    assert 0 < said["measured"]["kl_mean"] < 1
    (found,) = said["tasks"]
    assert (found["task"], found["items"], found["chance"], found["way"]) == (
        "endings.jsonl",
        1,
        0.5,
        "by byte",
    )
    assert found["lost"] + found["won"] <= 1
    assert said["speed"]["decode_per_second"] > 0
    assert said["note"] is None


def test_an_artifact_is_measured_for_people(slmops, gguf, task, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little girl. " * 10)

    ended = slmops("evaluate", gguf, "--texts", text, "--tokens", "64", "--task", task, "--no-speed")

    said = [line.strip() for line in ended.out.splitlines()]
    assert ended.code == 0
    assert any(line.startswith("bits per byte") for line in said)
    assert any(line.startswith("endings.jsonl: 1 endings, chance 50.0%, by byte") for line in said)
    assert not any("tokens/s" in line for line in said)


@pytest.mark.usefixtures("registered")
def test_an_artifact_of_the_registry_is_measured_and_nothing_is_left_behind(slmops, home, task):
    ended = slmops("evaluate", "stories:1.0.0/small", "--task", task, "--no-speed", "-o", "json")

    assert ended.code == 0
    assert json.loads(ended.out)["artifact"]["name"] == "stories:1.0.0 (Q4_0)"
    assert list((home / "registry").glob(".evaluate-*")) == []


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("profile", ["", "/huge"])
def test_of_several_artifacts_one_must_be_said(slmops, profile):
    ended = slmops("evaluate", f"stories:1.0.0{profile}")

    assert (ended.code, ended.out) == (1, "")
    assert "has artifacts for" in ended.err
    assert "stories:1.0.0/" in ended.err


def test_a_bad_line_of_a_task_is_named_before_anything_is_opened(slmops, tmp_path):
    (tmp_path / "bad.jsonl").write_text(json.dumps(ENDINGS) + "\n{\n")

    ended = slmops("evaluate", "./nowhere", "--task", tmp_path / "bad.jsonl")

    assert (ended.code, ended.out) == (2, "")
    assert "bad.jsonl, line 2: not JSON" in ended.err


def test_where_nothing_is_to_be_measured_that_is_said(slmops, source):
    for words in (["./nowhere", "--no-speed"], [source]):
        ended = slmops("evaluate", *words)

        assert (ended.code, ended.out) == (2, "")
        assert "nothing to measure" in ended.err


def test_a_classifier_is_measured_against_another_for_machines(slmops, labelling):
    words = ("--against", labelling.source, "--task", labelling.task, "-o", "json")
    ended = slmops("evaluate", labelling.artifact, *words)

    said = json.loads(ended.out)
    assert ended.code == 0
    assert (said["artifact"]["name"], said["against"]["name"]) == ("intents:1.0.0 (INT8-dynamic)", "bert")
    assert (said["measured"]["texts"], said["note"]) == (40, None)
    (found,) = said["tasks"]
    assert (found["items"], found["chance"], found["way"]) == (40, 0.25, "likeliest label")
    assert found["interval"][0] <= found["accuracy"] <= found["interval"][1]
    assert found["lost"] + found["won"] <= 40
    assert (said["speed"]["texts"], said["speed"]["threads"]) == (32, 1)


def test_a_classifier_is_measured_for_people(slmops, labelling):
    ended = slmops("evaluate", labelling.artifact, "--against", labelling.artifact, "--texts", labelling.task)

    said = [line.strip() for line in ended.out.splitlines()]
    assert ended.code == 0
    for row in (
        "size",
        "KL, mean (nats)",
        "same label",
        "task.jsonl: 40 texts, chance 25.0%, likeliest label",
        "flips",
        "ms per text (32 texts of 7 tokens, one at a time)",
        "measured on",
    ):
        assert any(line.startswith(row) for line in said), row


def test_a_classifier_without_texts_or_labels_is_refused_with_a_remedy(slmops, labelling, tmp_path):
    (tmp_path / "bare.csv").write_text("text\nw1 w2\n")
    for words, remedy in (([], "--texts FILE"), (["--task", tmp_path / "bare.csv"], "go with --texts")):
        ended = slmops("evaluate", labelling.artifact, *words)
        assert (ended.code, ended.out) == (2, "")
        assert remedy in ended.err


@pytest.mark.journey
def test_models_of_different_words_are_compared_by_bits_per_byte(slmops, tmp_path):
    models = [SHARED / "stories260k", SHARED / "tinystories-656k"]
    if not all(folder.is_dir() for folder in models):
        pytest.skip(f"no trained models at {SHARED}")
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little girl. She liked to play in the park. " * 10)

    ended = slmops("evaluate", models[0], "--against", models[1], "--texts", text, "-o", "json")

    said = json.loads(ended.out)
    assert said["measured"] is None
    assert "vocabularies differ" in said["note"]
    assert all(0.3 < said[side]["bits_per_byte"] < 3 for side in ("artifact", "against"))


def test_what_has_no_spread_is_still_json():
    one = likelihood([2.0], 3)
    found = Evaluation("fox", 1, None, None, None, one, None, [], [], None, None)
    said = json.loads(json.dumps(as_json(found), allow_nan=False))["artifact"]
    assert (said["tokens"], said["perplexity_interval"]) == (1, [None, None])
