"""slmops write-answers, with the demo model, and with a daemon that serves it."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from slmops.artifact import description
from slmops.build.checkpoint import open_checkpoint
from slmops.build.quantize_gguf import quantize_gguf

DEMO = Path(__file__).parents[2] / "demo" / "model"
COMMANDS = [
    "turn on the lamp in the kitchen",
    "lock the door in the garage",
    "turn on the lamp in the kitchen",
]


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(COMMANDS))
    return tmp_path / "prompts.txt"


@pytest.mark.journey
def test_a_teacher_writes_answers_for_people_and_for_machines(slmops, prompts, tmp_path):
    words = ("write-answers", DEMO, "--prompts", prompts, "--chat", "--out", tmp_path / "a.jsonl")
    ended = slmops(*words)
    assert ended.code == 0
    rows = [line.split() for line in ended.out.splitlines() if line.strip()]
    assert rows[:4] == [["asked", "model"], ["prompts", "2", "(1", "again)"], ["answers", "2"], ["kept", "2"]]
    assert '{"device": "lamp", "room": "kitchen", "action": "on"}' in ended.out
    assert "a.jsonl has what is kept" in ended.err

    said = json.loads(slmops(*words, "-o", "json").out)
    assert (said["questions"], said["repeated"], said["kept"], said["dropped"]) == (2, 1, 2, {})
    assert (said["written"], said["tokens_per_second"]) == (0, None)
    assert said["examples"][0]["question"] == COMMANDS[0]


def test_a_dry_run_says_what_would_be_asked_and_asks_nothing(slmops, prompts, tmp_path):
    words = ("write-answers", DEMO, "--prompts", prompts, "--answers", "3", "--out", tmp_path / "a.jsonl")
    said = json.loads(slmops(*words, "--dry-run", "-o", "json").out)
    assert (said["questions"], said["repeated"], said["answers"], said["most_tokens"]) == (2, 1, 6, 6 * 256)
    assert "different prompts" in slmops(*words, "--dry-run").out
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".jsonl"] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out", "a.jsonl"], "nothing to ask"),
        (["--out", "a.jsonl", "--prompts", "p.txt", "--openings", "p.txt"], "either prompts or documents"),
        (["--out", "a.jsonl", "--openings", "p.txt", "--chat"], "continued, not answered"),
        (["--out", "a.txt", "--prompts", "p.txt"], "ends with .jsonl"),
        (["--out", "a.jsonl", "--prompts", "p.txt", "--teacher-model", "x"], "names a model of an endpoint"),
        (["--out", "a.jsonl", "--prompts", "nowhere.txt"], "nowhere.txt cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_refused(slmops, words, told):
    ended = slmops("write-answers", DEMO, *words)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err


def test_an_endpoint_that_is_not_there_is_said(slmops, prompts, tmp_path):
    ended = slmops(
        "write-answers", "http://127.0.0.1:1/v1", "--prompts", prompts, "--out", tmp_path / "a.jsonl"
    )
    assert (ended.code, ended.out) == (6, "")
    assert "cannot be reached" in ended.err


@pytest.mark.journey
def test_a_daemon_of_ours_may_be_the_teacher(slmops, prompts, tmp_path):
    with serving(tmp_path) as port:
        words = ("--prompts", prompts, "--chat", "--json-only", "--out", tmp_path / "a.jsonl")
        ended = slmops("write-answers", f"http://127.0.0.1:{port}/v1", *words)
        wrong = slmops("write-answers", f"http://127.0.0.1:{port}/v1", "--teacher-model", "x", *words[:-1],
                       tmp_path / "b.jsonl")  # fmt: skip
    assert ended.code == 0, ended.err
    first, second = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert json.loads(first["messages"][1]["content"]) == {
        "device": "lamp",
        "room": "kitchen",
        "action": "on",
    }
    assert json.loads(second["messages"][1]["content"]) == {
        "device": "door",
        "room": "garage",
        "action": "lock",
    }
    assert first["provenance"]["teacher"] == "demo"
    assert wrong.code == 2
    assert "one of: demo" in wrong.err


class serving:  # noqa: N801 - used as a function is
    """A daemon that serves the demo model as GGUF, for the length of a with block."""

    def __init__(self, folder):
        self.artifact, self.port, self.log = folder / "artifact", folder / "port", folder / "log"
        source = open_checkpoint(DEMO)
        self.artifact.mkdir()
        quantize_gguf(source, "Q8_0", self.artifact / "model.gguf")
        (self.artifact / "tokenizer.json").write_bytes((DEMO / "tokenizer.json").read_bytes())
        (self.artifact / "chat_template.jinja").write_text(source.chat_template)
        said = description.Description(
            name="demo", version="1.0.0", profile="local", arch="x86_64", format="gguf", type="Q8_0",
            model="model.gguf", architecture="llama", parameters=1, context=256, threads=1, micro_batch=32,
            memory_bytes=1, tokenizer="tokenizer.json", chat_template="chat_template.jinja",
            special_tokens=dict(source.special_tokens), stop_ids=list(source.stop_ids),
        )  # fmt: skip
        (self.artifact / "artifact.json").write_bytes(description.render(said))

    def __enter__(self):
        command = [sys.executable, "-m", "slmops.daemon", "--artifact", self.artifact, "--port", "0",
                   "--port-file", self.port, "--spool", self.artifact.parent / "spool"]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while not self.port.exists() or not self.port.read_text():
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the daemon ended: {self.process.wait(timeout=0.05)}\n{self.log.read_text()}")
        return int(self.port.read_text())

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
