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


def test_a_profile_named_twice_is_refused_before_anything_is_built(slmops, model):
    ended = slmops("quantize", model, *WORDS, "--profile", "local:gguf:Q4_K_M", "--dry-run")

    assert ended.code == 2
    assert "local" in ended.err


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


@pytest.mark.journey
def test_ctrl_c_is_answered_with_what_became_of_the_work(interrupted):
    _, said, _ = interrupted("building")

    assert "Interrupted" in said
