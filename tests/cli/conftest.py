"""The command line in this process, with a home of its own."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from slmops.artifact import description, golden, sign
from slmops.artifact.golden import Golden
from slmops.cli.app import main
from slmops.registry.layout import Layout
from slmops.registry.release import publish

# Rollouts that never were lie there.
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The operator's directory; nothing is in it, and it is not there yet."""
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path / "home"


@pytest.fixture
def slmops(home, monkeypatch, capsys):  # noqa: ARG001
    """Run a command line as a person would type it."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["slmops", *map(os.fspath, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Ended(ended.value.code, said.out, said.err)

    return run


@pytest.fixture
def released(home, tmp_path):
    """A registry with parrot:1.0.0 for profile local; where its model's bytes lie."""
    key = home / "keys" / "release"
    sign.make_key(key, "test")
    folder = tmp_path / "artifact"
    folder.mkdir()
    said = description.Description(
        name="parrot", version="1.0.0", profile="local", arch="x86_64", format="gguf", type="Q8_0",
        model="model.gguf", architecture="llama", parameters=1, context=64, threads=1, micro_batch=8,
        memory_bytes=1, golden=golden.FILE_NAME, measured={"kl_mean": 0.0012, "top1": 0.991},
    )  # fmt: skip
    (folder / "artifact.json").write_bytes(description.render(said))
    (folder / "golden.jsonl").write_text(golden.render([Golden(prompt="One and one?", expect="two")]))
    (folder / "model.gguf").write_bytes(b"weights" * 1000)
    layout = Layout(home / "registry")
    signed = publish(layout, {"local": folder}, created="2026-01-01T00:00:00Z", key=key)
    blobs = {path.stat().st_size: path for path in layout.blobs.iterdir()}
    return SimpleNamespace(signed=signed, model=blobs[7000])
