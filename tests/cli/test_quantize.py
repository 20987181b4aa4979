import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = [ROOT / "demo" / "model", ROOT.parent / "shared" / "models" / "stories260k"]
WORDS = ["--profile", "local", "--name", "stories", "--version", "1.0.0"]


@pytest.fixture
def model():
    """A small model in a Hugging Face folder."""
    found = next((folder for folder in MODELS if (folder / "config.json").is_file()), None)
    if found is None:
        pytest.skip(f"no small model here: {' or '.join(map(str, MODELS))}")
    return found


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"--profile": "moon"}, "moon"),
        ({"--profile": "local:exe"}, "exe"),
        ({"--name": "Big Stories"}, "Big Stories"),
        ({"--version": "1:0"}, "1:0"),
    ],
)
def test_what_no_release_can_be_is_refused_before_the_model_is_looked_for(slmops, changes, word):
    words = dict(zip(WORDS[::2], WORDS[1::2], strict=True)) | changes

    ended = slmops("quantize", "no/where", *(word for pair in words.items() for word in pair))

    assert (ended.code, ended.out) == (2, "")
    assert word in ended.err


def test_a_model_that_is_not_there_is_refused_and_nothing_is_made(slmops, home):
    ended = slmops("quantize", "./nowhere", *WORDS)

    assert (ended.code, ended.out) == (1, "")
    assert "there is no model './nowhere'" in ended.err
    assert not home.exists()


@pytest.mark.usefixtures("released")
def test_a_version_that_is_there_is_refused(slmops):
    ended = slmops("quantize", "no/where", "--profile", "local", "--name", "parrot", "--version", "1.0.0")

    assert ended.code == 2
    assert "parrot:1.0.0 is in the registry already" in ended.err
    assert "--version" in ended.err


@pytest.mark.usefixtures("released")
def test_what_has_no_scales_to_reuse_is_said_before_anything_is_built(slmops, labelling):
    words = ("quantize", labelling.source, *WORDS, "--dry-run", "--delta-base")

    told = slmops(*words, "parrot:1.0.0")
    assert told.code == 0
    assert "parrot:1.0.0 is no base for a small delta: a text classifier is rounded as a whole" in told.err
    assert "no release parrot:9" in slmops(*words, "parrot:9").err


def test_a_profile_named_twice_is_refused_before_anything_is_built(slmops, model):
    ended = slmops("quantize", model, *WORDS, "--profile", "local:gguf:Q4_K_M", "--dry-run")

    assert ended.code == 2
    assert "local" in ended.err


def test_a_profile_by_name_and_by_path_is_one_profile(slmops, model):
    path = str(ROOT / "device_profiles" / "local.yaml")
    ended = slmops("quantize", model, *WORDS, "--profile", path, "--dry-run")

    assert ended.code == 2
    assert "profile local is there twice" in ended.err


@pytest.mark.parametrize("option", ["--calibration", "--evaluation"])
def test_a_text_that_is_not_there_is_said_before_anything_is_built(slmops, model, option):
    ended = slmops("quantize", model, *WORDS, option, "no/where.txt", "--dry-run")

    assert ended.code == 2
    assert "no/where.txt: no such file" in ended.err


def test_a_folder_without_a_tokenizer_is_refused_before_anything_is_built(slmops, model, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    ended = slmops("quantize", tmp_path, *WORDS, "--dry-run")

    assert ended.code == 1
    assert "has no tokenizer.json" in ended.err


@pytest.mark.parametrize(
    ("left_out", "option"),
    [("model", "MODEL"), ("--profile", "--profile"), ("--name", "--name"), ("--version", "--version")],
)
def test_what_is_not_said_is_asked_for_by_its_option(slmops, left_out, option):
    words = {"model": "no/where", **dict(zip(WORDS[::2], WORDS[1::2], strict=True))}
    del words[left_out]

    ended = slmops("quantize", *(word for pair in words.items() for word in pair if word != "model"))

    assert (ended.code, ended.out) == (2, "")
    assert "is not said" in ended.err
    assert f"Give {option}, or say it in a --recipe" in ended.err


@pytest.mark.parametrize(
    "words",
    [
        ("--tokens", "5"),
        ("--quality", "excellent"),
        ("--jobs", "0"),
        ("--memory", "lots"),
        ("--max-fallback", "3"),
    ],
)
def test_a_value_that_is_none_is_named_with_its_option(slmops, words):
    ended = slmops("quantize", "no/where", *WORDS, *words)

    assert (ended.code, ended.out) == (2, "")
    assert words[1] in ended.err
    assert f"Correct {words[0]}" in ended.err


def test_a_dry_run_shows_every_candidate_and_makes_nothing(slmops, home, model):
    wishes = ["--profile", "intel-n100", "--profile", "x86-64-v3:onnx:INT8"]
    words = ["quantize", model, *wishes, "--name", "a", "--version", "1", "--dry-run"]

    shown, said = slmops(*words), slmops(*words, "-o", "json")

    assert (shown.code, said.code) == (0, 0)
    rows = json.loads(said.out)
    assert {(row["profile"], row["format"], row["type"]) for row in rows} >= {
        ("intel-n100", "gguf", "Q8_0"), ("intel-n100", "onnx", "INT4"), ("x86-64-v3", "onnx", "INT8"),
    }  # fmt: skip
    assert all(row["bytes"] > 0 and row["memory_bytes"] > row["bytes"] for row in rows)
    assert all(row["verdict"] for row in rows)
    assert shown.out.splitlines()[0].startswith("intel-n100: to be built")
    assert all(f"{row['format']} {row['type']}" in shown.out for row in rows)
    assert not home.exists()


def test_a_type_that_is_none_names_those_there_are(slmops, model):
    ended = slmops("quantize", model, *WORDS, "--type", "Q9", "--dry-run")

    assert (ended.code, ended.out) == (2, "")
    assert "no GGUF type 'Q9'; expected one of F32, F16, " in ended.err


def planned(ended):
    assert ended.code == 0, ended.err
    return [(row["profile"], row["format"], row["type"]) for row in json.loads(ended.out)]


@pytest.fixture
def recipe(tmp_path, model):
    """A recipe file for two profiles."""
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"name: stories\nversion: 1.0.0\nmodel: {model}\n"
        "profiles: ['intel-n100', 'x86-64-v3:onnx:INT8']\nevaluation: {file: text.txt, tokens: 99}\n"
    )
    (file.parent / "text.txt").write_text("Once upon a time.")
    return file


def test_a_recipe_says_all_of_it(slmops, recipe):
    rows = planned(slmops("quantize", "--recipe", recipe, "--dry-run", "-o", "json"))

    assert ("intel-n100", "gguf", "Q8_0") in rows
    assert [row for row in rows if row[0] == "x86-64-v3"] == [("x86-64-v3", "onnx", "INT8")]


def test_what_the_command_says_goes_before_the_recipe(slmops, recipe):
    words = ["quantize", "--recipe", recipe, "--dry-run", "-o", "json"]

    assert planned(slmops(*words, "--type", "q8_0")) == [
        ("intel-n100", "gguf", "Q8_0"), ("x86-64-v3", "onnx", "INT8"),
    ]  # fmt: skip
    assert planned(slmops(*words, "--profile", "intel-n100:onnx:INT4")) == [("intel-n100", "onnx", "INT4")]
    assert "there is no model './nowhere'" in slmops(*words[:1], "./nowhere", *words[1:]).err


def test_a_part_that_both_speak_of_is_put_together(recipe):
    from slmops.cli.quantize import _recipe  # noqa: PLC0415 - it imports the build room

    said = _recipe(recipe, {"evaluation": {"tokens": 128}}, {"format": "auto", "type": "auto"})

    assert said.evaluation.tokens == 128
    assert said.evaluation.file == str(recipe.parent / "text.txt")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version: 1.0.0", "verison: 1.0.0", ["line 2", "verison"]),
        ("tokens: 99", "tokens: -99", ["line 5", "tokens"]),
        ("name: stories", "quality: excellent\nname: stories", ["line 1", "quality", "strict"]),
    ],
)
def test_what_a_recipe_may_not_say_is_named_with_its_line(slmops, recipe, old, new, words):
    recipe.write_text(recipe.read_text().replace(old, new))

    ended = slmops("quantize", "--recipe", recipe, "--dry-run")

    assert (ended.code, ended.out) == (2, "")
    for word in ["SLM-DOCUMENT", "recipe.yaml", *words]:
        assert word in ended.err


def test_a_recipe_that_is_not_there_is_named(slmops, tmp_path):
    ended = slmops("quantize", "--recipe", tmp_path / "nowhere.yaml")

    assert (ended.code, ended.out) == (2, "")
    assert "nowhere.yaml" in ended.err


def test_an_empty_cache_lists_nothing_and_clears_nothing(slmops, home):
    listed, cleared = slmops("cache", "list", "-o", "json"), slmops("cache", "clear", "--yes")

    assert (listed.code, json.loads(listed.out)) == (0, [])
    assert (cleared.code, cleared.out) == (0, "Freed 0 B.\n")
    assert not home.exists()


def test_a_cache_is_not_cleared_without_being_asked_to(slmops):
    ended = slmops("cache", "clear")

    assert (ended.code, ended.out) == (2, "")
    assert "--yes" in ended.err


def test_a_release_of_which_no_recipe_is_kept_cannot_be_built_again(slmops, released):
    ended = slmops("release", "verify", released.signed.release.reference, "--rebuild")

    assert ended.code == 1
    assert "recipe of parrot:1.0.0 is not kept here" in ended.err


@pytest.fixture
def interrupted(tmp_path, model):
    """Press Ctrl-C, as a terminal does, once quantize says what it is doing; return how that ended."""

    def press(doing):
        words = [sys.executable, "-m", "slmops.cli.app", "quantize", model, *WORDS]
        own = {"SLMOPS_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        with subprocess.Popen(
            words, stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, **own}
        ) as process:
            said = ""
            while doing not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            os.killpg(process.pid, signal.SIGINT)
            said += process.stderr.read()
            return process.wait(timeout=60), said, tmp_path / "home" / "registry"

    return press


@pytest.mark.journey
@pytest.mark.parametrize("doing", ["building", "measuring"])
def test_ctrl_c_leaves_nothing_half_written(interrupted, doing):
    code, said, registry = interrupted(doing)

    assert code == 130, said
    assert "Traceback" not in said
    assert [path.name for path in registry.rglob(".*") if path.name != ".lock"] == []
    assert not (registry / "index.json").exists()
    assert list((registry.parent / "cache").rglob(".making-*")) == []


@pytest.mark.journey
def test_ctrl_c_is_answered_with_what_became_of_the_work(interrupted):
    _, said, _ = interrupted("building")

    assert "Interrupted" in said
    assert "building onnx INT4" not in said
