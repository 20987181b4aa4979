"""A runtime bundle, really built, is all that a device with only Python needs: scripts/test -m runtime.

Packages come from the package index and llama.cpp is compiled: ten minutes the first time. What was made is
kept in ~/.cache/slmops/runtime for the next time.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.runtime, pytest.mark.timeout(3600)]
QUESTION = "turn the kitchen lamp to forty percent"
ANSWER = {"device": "lamp", "room": "kitchen", "action": "set", "value": 40}
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
HERE = f"{platform.machine()}-cp{PYTHON.replace('.', '')}"


@pytest.fixture
def maker(newcomer, tmp_path):
    """An operator whose cache of what runtimes are made of outlives the test."""
    reach = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path / "reach"), "h11"]
    if subprocess.run(reach, capture_output=True, check=False).returncode:
        pytest.skip("the package index cannot be reached")
    kept = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "slmops" / "runtime"
    kept.mkdir(parents=True, exist_ok=True)
    (newcomer.home / "cache").mkdir(parents=True)
    (newcomer.home / "cache" / "runtime").symlink_to(kept)
    return newcomer


@pytest.fixture
def plain_python():
    """The Python of the system, which has nothing of ours."""
    found = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
    said = found and subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if not said or not said.startswith(f"Python {PYTHON}."):
        pytest.skip(f"the system's python3 is not {PYTHON}")
    return found


def build(operator, *words):
    """Build a bundle: it may compile, and so takes as long as it takes."""
    process = operator.start("runtime", "build", *words, "-o", "json")
    out, err = process.communicate(timeout=3000)
    assert process.returncode == 0, err
    return json.loads(out)


def test_devices_with_only_python_serve_gguf_and_onnx_from_a_bundle(
    maker, plain_python, tmp_path, monkeypatch
):
    (bundle,) = build(maker, "--platform", HERE, "--version", "1.0.0")
    assert bundle["provides"] == ["gguf", "onnx"]
    maker("quantize", ROOT / "demo/model", "--profile", "local:gguf:Q8_0", "--profile", "x86-64-v3:onnx:INT8",
          "--name", "home-commands", "--version", "1.0.0")  # fmt: skip
    monkeypatch.setenv("SLMOPS_RUNTIME", "auto")
    fleet = maker.fleet(2, tmp_path / "fleet", "local", "x86-64-v3")

    maker("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    for device in ("edge-1", "edge-2"):
        assert json.loads(maker.json("ask", fleet, device, QUESTION)["answer"]) == ANSWER
        own = tmp_path / "fleet" / device / "home/.slmops"
        pid = json.loads((own / "run/daemon.json").read_text())["child"]["pid"]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        assert words[:5] == [plain_python, "-I", "-S", "-B", str(own / "runtimes" / bundle["digest"][7:])]
        assert str(ROOT) not in Path(f"/proc/{pid}/maps").read_text().replace(str(own), "")

    # A new model does not send the runtime again, and a new bundle sends only what differs: runtime.json.
    (again,) = build(maker, "--platform", HERE, "--version", "1.0.1")
    files = {each["digest"]: each for each in maker.json("runtime", "show", "runtime:1.0.1")}
    assert again["bytes"] == bundle["bytes"]
    assert files.keys() == {again["digest"]} != {bundle["digest"]}
    plan = maker.json("deploy", fleet, "--release", "home-commands:1.0.0", "--dry-run")
    assert max(device["sends"] for device in plan["devices"]) < 5000


def test_a_bundle_for_arm_holds_code_for_every_processor_of_its_kind(maker):
    (bundle,) = build(maker, "--platform", f"aarch64-cp{PYTHON.replace('.', '')}", "--version", "1.0.0")
    (shown,) = maker.json("runtime", "show", "runtime:1.0.0")
    (wheel,) = [name for name in shown["files"] if name.startswith("llama_cpp_python")]

    assert wheel.endswith("manylinux_2_28_aarch64.whl")
    assert bundle["bytes"] < 40 << 20


def test_a_bundle_for_onnx_alone_compiles_nothing(maker):
    (bundle,) = build(maker, "--platform", HERE, "--formats", "onnx", "--version", "1.0.0")

    assert bundle["provides"] == ["onnx"]
    assert "llama_cpp_python" not in bundle["parts"]
