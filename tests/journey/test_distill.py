"""From a teacher to a release of its student: cut, taught, quantized, and an account of every step."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from slmops.build.checkpoint import open_checkpoint
from slmops.train.measure_stage import Gauge, measure_stage

ROOT = Path(__file__).parents[2]
TEACHER = ROOT / "demo" / "model"
RECIPE = """\
teacher: {teacher}
student: {student}
out: student
data: [commands.jsonl]
training: {{steps: 12, rate: 0.0003, batch_tokens: 512, validations: 3, checkpoint_every: 2}}
teaching: {{top_k: 32}}
evaluation: {{tokens: 64}}
"""
ALIKE = 2e-3
"""Weights of one and of two processes differ by no more: sums are rounded, and AdamW makes steps of them."""

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]


@pytest.fixture(scope="session")
def scene(tmp_path_factory, operator_of):
    """An operator, commands to learn, and the teacher cut to one layer."""
    room = tmp_path_factory.mktemp("distill")
    operator = operator_of(room / "home")
    written = [sys.executable, ROOT / "scripts/write_demo_commands.py", "160"]
    (room / "commands.jsonl").write_bytes(subprocess.run(written, check=True, capture_output=True).stdout)
    operator(
        "prune", TEACHER, "--layers", 1, "--calibration", room / "commands.jsonl", "--tokens", 1024,
        "--out", room / "cut",
    )  # fmt: skip
    return operator, room


@pytest.fixture(scope="session")
def taught(scene, tmp_path_factory):
    """The student of the recipe, its release home-small 1.0.0, and what the command said of both."""
    operator, _ = scene
    folder = tmp_path_factory.mktemp("taught")
    told = operator.json(
        "distill", "--recipe", recipe(scene, folder), "--then-quantize",
        "--profile", "raspberry-pi-5:gguf:Q8_0", "--name", "home-small", "--version", "1.0.0",
    )  # fmt: skip
    return told, folder / "student"


def recipe(scene, folder, student=None):
    """Write the recipe into `folder`; its paths are relative to it."""
    _, room = scene
    shutil.copy(room / "commands.jsonl", folder)
    file = folder / "distill.yaml"
    file.write_text(RECIPE.format(teacher=TEACHER, student=student or room / "cut"))
    return file


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def kill_when(process, there):
    """End a process by kill -9 as soon as something is there."""
    while not there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_ledger_leads_from_the_teacher_to_the_release_and_its_card_shows_it(taught, scene):
    (operator, _), (told, student) = scene, taught
    stages = told["ledger"]["stages"]

    assert [stage["name"] for stage in stages] == [
        "teacher", "student", "distilled", "raspberry-pi-5: gguf Q8_0",
    ]  # fmt: skip
    assert json.loads((student / "ledger.json").read_text())["stages"] == stages
    sizes = [stage["parameters"] for stage in stages]
    assert sizes[0] > sizes[1] == sizes[2]
    assert all(stage["speed"]["decode_per_second"] > 0 for stage in stages)
    assert operator.json("release", "list")[0]["release"] == "home-small:1.0.0"
    files = [file.read_bytes() for file in (operator.home / "registry").rglob("*") if file.is_file()]
    (card,) = (data.decode() for data in files if b"## The way here" in data)
    assert all(f"| {stage['name']} | {stage['parameters']:,} |" in card for stage in stages)


def test_what_the_cut_cost_is_healed_in_part(taught):
    told, _ = taught
    teacher, cut, healed, quantized = (stage["measured"]["kl_mean"] for stage in told["ledger"]["stages"])

    assert teacher == pytest.approx(0, abs=1e-6)
    assert max(healed, quantized) < cut
    assert told["best"]["step"] > 0


def test_a_trimmed_student_is_measured_against_its_teacher(scene, tmp_path):
    operator, room = scene
    operator(
        "prune", TEACHER, "--vocabulary", room / "commands.jsonl", "--vocabulary-size", 480,
        "--out", tmp_path / "trimmed",
    )  # fmt: skip
    student = open_checkpoint(tmp_path / "trimmed")
    gauge = Gauge(room / "commands.jsonl", tokens=512, speed=False)
    found = measure_stage(
        student, open_checkpoint(TEACHER), gauge, name="student", what="", parameters=student.parameters
    )

    assert student.config["vocab_size"] == 480 < open_checkpoint(TEACHER).config["vocab_size"]
    # What it keeps of the teacher's words it says as the teacher does.
    assert found.measured["kl_mean"] < 1e-3


def test_killed_twice_it_goes_on_to_the_same_bytes(scene, taught, tmp_path):
    operator, _ = scene
    file, student = recipe(scene, tmp_path), tmp_path / "student"
    kill_when(operator.start("distill", "--recipe", file), (student / "run" / "state.npz").exists)
    assert not (student / "config.json").exists()
    kill_when(operator.start("distill", "--recipe", file), (student / "config.json").exists)

    assert weights(student) == weights(taught[1])


def test_two_processes_teach_nearly_the_same(scene, taught, tmp_path):
    operator, _ = scene
    file, student = recipe(scene, tmp_path), tmp_path / "student"
    both = subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "slmops", "distill", "--recipe", file,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "SLMOPS_HOME": str(operator.home), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
    )  # fmt: skip
    while not (student / "config.json").exists():
        assert both.poll() is None, both.communicate()
        time.sleep(0.01)
    both.terminate()
    _, err = both.communicate()

    assert err.count("step 12/12") == 1, err
    own, other = (load_file(folder / "model.safetensors") for folder in (student, taught[1]))
    assert own.keys() == other.keys()
    for name, weight in own.items():
        assert np.abs(weight.astype(np.float32) - other[name].astype(np.float32)).max() < ALIKE


def test_models_of_different_words_are_refused_with_the_reason(scene, tmp_path):
    operator, _ = scene
    other = tmp_path / "other"
    shutil.copytree(TEACHER, other)
    words = json.loads((other / "tokenizer.json").read_text())
    # Without the merges of the last half, words are cut into smaller pieces.
    words["model"]["merges"] = words["model"]["merges"][: len(words["model"]["merges"]) // 2]
    (other / "tokenizer.json").write_text(json.dumps(words))
    said = operator("distill", "--recipe", recipe(scene, tmp_path, other), exits=1)

    assert "do not cut the data's texts alike" in said
    assert "slmops write-answers" in said
    assert not (tmp_path / "student" / "config.json").exists()


def test_a_broken_line_is_named_before_anything_is_trained(scene, tmp_path):
    operator, _ = scene
    file = recipe(scene, tmp_path)
    with (tmp_path / "commands.jsonl").open("a") as commands:
        commands.write('{"messages": [\n')
    said = operator("distill", "--recipe", file, exits=2)

    assert f"{tmp_path / 'commands.jsonl'}, line 161: not JSON" in said
    assert not (tmp_path / "student").exists()
