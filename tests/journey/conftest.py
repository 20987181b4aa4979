"""A real operator: the command line in processes of its own, devices that are OpenSSH servers on loopback."""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@dataclass
class Operator:
    """Runs slmops as a person would, with a home of its own."""

    home: Path
    fleets: list[Path] = field(default_factory=list)

    def start(self, *words: object, **more: Any) -> subprocess.Popen[str]:
        own = {"SLMOPS_HOME": str(self.home), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "slmops.cli.app", *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **own}, **more,
        )  # fmt: skip

    def __call__(self, *words: object, exits: int = 0, seconds: float = 600) -> str:
        """Run one command; return what it printed, errors after data."""
        process = self.start(*words)
        out, err = process.communicate(timeout=seconds)
        assert process.returncode == exits, f"slmops {words}: exit {process.returncode}\n{out}\n{err}"
        return out + err

    def json(self, *words: object, exits: int = 0) -> Any:
        process = self.start(*words, "-o", "json")
        out, err = process.communicate(timeout=300)
        assert process.returncode == exits, f"slmops {words}: exit {process.returncode}\n{out}\n{err}"
        return json.loads(out)

    def fleet(self, count: int, folder: Path, *profiles: str, words: tuple[str, ...] = ()) -> Path:
        """Start devices; return their fleet file. They are stopped with the operator."""
        words += tuple(word for profile in profiles for word in ("--profile", profile))
        self.fleets.append(folder)
        subprocess.run(
            [ROOT / "scripts/fleet-up", str(count), folder, *words], check=True, capture_output=True,
            env={**os.environ, "SLMOPS_HOME": str(self.home)},
        )  # fmt: skip
        return folder / "fleet.yaml"

    def serves(self, fleet: Path) -> dict[str, str | None]:
        """Return which release each device serves, healthily or not at all."""
        rows = self.json("status", fleet)["devices"]
        assert {row["health"] for row in rows} <= {"healthy", "no release"}, rows
        return {row["device"]: row.get("release") for row in rows}

    def stop(self) -> None:
        for folder in self.fleets:
            subprocess.run([ROOT / "scripts/fleet-down", folder], check=True, capture_output=True)


@pytest.fixture(scope="session")
def operator_of() -> type[Operator]:
    """Return what makes an operator of a home."""
    return Operator


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operator's home with home-commands 1.0.0 and 1.0.1 (good) and 1.1.0 (broken), for profile local."""
    home = tmp_path_factory.mktemp("operator")
    build(Operator(home), "local", tmp_path_factory.mktemp("broken") / "model")
    return home


@pytest.fixture(scope="session")
def stocked_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what makes the home of an operator who has the releases for a profile, and a runtime bundle.

    What the bundle is made of is kept from run to run: compiling it takes minutes.
    """
    kept = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "slmops/runtime-parts"

    @functools.cache
    def make(profile: str) -> Path:
        home = tmp_path_factory.mktemp("stocked")
        kept.mkdir(parents=True, exist_ok=True)
        (home / "cache").mkdir()
        (home / "cache/runtime").symlink_to(kept)
        operator = Operator(home)
        build(operator, profile, tmp_path_factory.mktemp("broken") / "model")
        operator("runtime", "build", "--profile", profile, "--formats", "gguf", seconds=1800)
        return home

    return make


@pytest.fixture
def stocked(stocked_home: Callable[[str], Path], tmp_path: Path):
    """Return what makes an operator with releases and a runtime bundle for a profile."""
    operators = []

    def make(profile: str) -> Operator:
        shutil.copytree(stocked_home(profile), tmp_path / "home", symlinks=True)
        operators.append(Operator(tmp_path / "home"))
        return operators[-1]

    yield make
    for operator in operators:
        operator.stop()


def build(operator: Operator, profile: str, broken: Path) -> None:
    """Make home-commands 1.0.0 and 1.0.1 (good) and 1.1.0 (broken) for a profile."""
    good = ROOT / "demo/model"
    subprocess.run([sys.executable, ROOT / "scripts/break_demo_model.py", broken], check=True)
    golden = good / "golden.jsonl"
    for model, version, type_ in (
        (good, "1.0.0", "Q8_0"),
        (good, "1.0.1", "Q4_K_M"),
        (broken, "1.1.0", "Q8_0"),
    ):
        operator("quantize", model, "--profile", profile, "--type", type_, "--name", "home-commands",
                 "--version", version, "--golden", golden)  # fmt: skip


@pytest.fixture
def operator(built: Path, tmp_path: Path):
    """An operator who has the three releases, with a registry of their own to spoil."""
    shutil.copytree(built, tmp_path / "home", symlinks=True)
    operator = Operator(tmp_path / "home")
    yield operator
    operator.stop()


@pytest.fixture
def newcomer(tmp_path: Path):
    """An operator with an empty home."""
    operator = Operator(tmp_path / "home")
    yield operator
    operator.stop()
