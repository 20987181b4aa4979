"""A fleet for faults: real sshds, a real operator, real agents, and releases that take a moment to send.

The daemon is the stand-in of the tests, which answers as its model file says, so that a thousand activations
cost minutes. Beside the devices stands the oracle: what must hold of each of them at any instant, and what
must hold once it was deployed to again. It does not know which fault was there.
"""

from __future__ import annotations

import io
import json
import os
import platform
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Final, Self

import yaml
from _fault_target import Target, kill
from _measure import ROOT
from _person import Operator
from _proxy import Proxy

from slmops import digest as digests
from slmops.artifact import description, golden
from slmops.artifact.description import Description
from slmops.artifact.golden import Golden
from slmops.artifact.trust import RELEASE
from slmops.cli.keyring import Keyring
from slmops.device import fsck, journal, slots
from slmops.device.trial import Standing
from slmops.errors import IntegrityError
from slmops.registry.layout import Layout
from slmops.registry.release import publish
from slmops.rollout.machine import ENDS, State

NAME: Final = "parrot"
PROFILE: Final = "local"
MODEL_BYTES: Final = 600_000
"""Of a release's model: at the rate below a third of a second to send."""
BANDWIDTH: Final = "2MB/s"
PATIENCE: Final = 40.0
"""Seconds until what is waited for counts as never coming."""
STAND_IN: Final = ROOT / "tests/device/fake_runtime.py"
PATH: Final = "/usr/local/bin:/usr/bin:/bin"
DEADLINES: Final = {
    "transfer_timeout": "30s",
    "ready_timeout": "15s",
    "gate_timeout": "10s",
    "confirm_timeout": "30s",
    # Ten devices share a machine, and a stand-in computes nothing: how fast it is means nothing.
    "gate": {"measure_before": False, "most_first_token_of_before": None, "least_speed_of_promise": None},
    # Here devices meet more in an hour than others in years.
    "quarantine": {"after": 1000, "for": "1s"},
}
ALL_AT_ONCE: Final = {
    "canary": "100%",
    "waves": ["100%"],
    "soak": "0s",
    "max_failures": "100%",
    "max_unreachable": "100%",
    **DEADLINES,
}
"""A rollout in which no device's end keeps another one from beginning."""
OPEN: Final = frozenset(state.value for state in State) - {state.value for state in ENDS}


class Bed:
    """Devices on loopback, and an operator with releases for them. Use it in a `with`."""

    def __init__(self, folder: Path, count: int, *, interposed: bool = False, **strategy: Any) -> None:
        self.folder = folder / "fleet"
        folder.mkdir(parents=True, exist_ok=True)
        self.runtime, self.broken_runtime = _stand_in(folder), folder / "broken-runtime"
        self.broken_runtime.write_text(
            f'#!/bin/sh\ncase $1 in -m) exit 1 ;; esac\nexec {self.runtime} "$@"\n'
        )
        self.broken_runtime.chmod(0o755)
        subprocess.run(
            [ROOT / "scripts/fleet-up", str(count), self.folder], check=True, capture_output=True,
            env={**os.environ, "SLMOPS_RUNTIME": str(self.runtime)},
        )  # fmt: skip
        self.fleet = self.folder / "fleet.yaml"
        self.targets = [Target(path.name, path) for path in self.folder.glob("edge-*")]
        self.targets.sort(key=lambda target: int(target.name.partition("-")[2]))
        if interposed:
            self._interpose()
        self.home = folder / "home"
        self.operator = Operator(self.home)
        self._made = 0
        self.slots: dict[str, str] = {}
        self.strategy(**strategy)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.operator.__exit__()
        for target in self.targets:
            for pid in [*target.agents(), *target.supervisors(), *target.daemons()]:
                kill(pid)
        subprocess.run([ROOT / "scripts/fleet-down", self.folder], check=True, capture_output=True)

    def strategy(self, **said: Any) -> None:
        """Write how a rollout goes through the fleet, over what it is without a word."""
        whole: dict[str, Any] = yaml.safe_load(self.fleet.read_text())
        whole["defaults"]["bandwidth"] = BANDWIDTH
        whole["rollout"] = {**ALL_AT_ONCE, "max_parallel": len(self.targets), **said}
        self.fleet.write_text(yaml.safe_dump(whole))

    def set_device(self, name: str, **said: Any) -> None:
        """Write settings of one device."""
        whole: dict[str, Any] = yaml.safe_load(self.fleet.read_text())
        next(each for each in whole["devices"] if each["name"] == name).update(said)
        self.fleet.write_text(yaml.safe_dump(whole))

    def release(self, *, size: int = MODEL_BYTES, **model: Any) -> str:
        """Publish the next release; return its reference.

        `model` is what the stand-in finds in its file; of it `noise` seeds what fills the file.
        """
        self._made += 1
        version = f"1.0.{self._made}"
        folder = self.folder.parent / f"release-{version}"
        _write_artifact(folder, version, size, model)
        with redirect_stderr(io.StringIO()):
            signed = publish(
                Layout(self.home / "registry"), {PROFILE: folder}, created="2026-01-01T00:00:00Z",
                key=Keyring(self.home).key(RELEASE),
            )  # fmt: skip
        shutil.rmtree(folder)
        reference = signed.release.reference
        self.slots[reference] = digests.hexdigits(signed.release.entry(PROFILE).blob.digest)
        return reference

    def deploy(self, release: str, *more: str) -> tuple[str, ...]:
        """Return the words of a deploy."""
        return ("deploy", str(self.fleet), "--release", release, "--yes", *more)

    def rollout(self) -> tuple[int, str] | None:
        """Return the latest rollout's number and state."""
        rows = self._ask("select id, state from rollout order by id desc limit 1")
        return (int(rows[0][0]), str(rows[0][1])) if rows else None

    def states(self, number: int | None = None) -> dict[str, str]:
        """Return the state of each device in a rollout, else in the latest."""
        found = self.rollout()
        if number is None and found is None:
            return {}
        rows = self._ask(
            "select device, state from assignment where rollout=?", number or (found or (0, ""))[0]
        )
        return {str(name): str(state) for name, state in rows}

    def evidence(self, name: str) -> dict[str, Any]:
        """Return what the latest rollout was told of a device."""
        number = (self.rollout() or (0, ""))[0]
        rows = self._ask(
            "select evidence, message from assignment where rollout=? and device=?", number, name
        )
        return {**json.loads(rows[0][0]), "message": rows[0][1]}

    def _ask(self, query: str, *given: object) -> list[tuple[Any, ...]]:
        path = self.home / "rollouts.sqlite"
        if not path.exists():
            return []
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as base:
            try:
                return base.execute(query, given).fetchall()
            except sqlite3.OperationalError:
                return []

    def go_on(self, release: str) -> int:
        """Bring the fleet where it was to be, as a person does: resume what lies open, and deploy again."""
        found = self.rollout()
        if found is not None and found[1] in OPEN:
            self.operator("rollout", "resume", found[0])
        return self.operator(*self.deploy(release))

    def _interpose(self) -> None:
        """Put a python3 before the device's own that leads through the interposer when it is told to."""
        for target in self.targets:
            shim = target.folder / "shim/python3"
            shim.parent.mkdir()
            interposer = ROOT / "bench/_interposer.py"
            shim.write_text(
                "#!/bin/sh\n"
                f'[ -s {target.fault} ] || exec /usr/bin/python3 "$@"\n'
                f'exec /usr/bin/python3 -IS {interposer} {target.fault} "$@"\n'
            )  # fmt: skip
            shim.chmod(0o755)
            config = target.folder / "sshd_config"
            config.write_text(config.read_text().replace(f"PATH={PATH}", f"PATH={shim.parent}:{PATH}"))
            self.restart(target)

    def restart(self, target: Target) -> None:
        """Have a device's sshd read its settings anew; nothing else of the device ends."""
        pid = int((target.folder / "sshd.pid").read_text())
        os.kill(pid, signal.SIGHUP)
        port = int((target.folder / "place").read_text().split()[1])
        until(lambda: _listens(port))

    def proxy(self, target: Target) -> Proxy:
        """Let the way to a device lead through a proxy from now on; its caller closes it."""
        host_key = (target.folder / "host_key.pub").read_text().rsplit(" ", 1)[0]
        way = Proxy(int((target.folder / "place").read_text().split()[1]))
        with (self.folder / "known_hosts").open("a") as known:
            known.write(f"[127.0.0.1]:{way.port} {host_key}\n")
        self.set_device(target.name, port=way.port)
        return way

    def unplug(self, target: Target) -> None:
        """End a device's sshd: nobody reaches it, and what runs on it goes on."""
        kill(int((target.folder / "sshd.pid").read_text()))

    def plug_in(self, target: Target) -> None:
        """Start its sshd again."""
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        config, log = target.folder / "sshd_config", target.folder / "sshd.log"
        subprocess.run([sshd, "-f", config, "-E", log], check=True)
        port = int((target.folder / "place").read_text().split()[1])
        until(lambda: _listens(port))

    # What must hold.

    def wrong(self, target: Target, lawful: Iterable[str | None]) -> Iterator[str]:
        """Yield which laws a device breaks now, with nobody's help: I1, I2 and I5."""
        lawful = set(lawful)
        standing = target.standing()
        if standing.slot not in lawful:
            yield f"{target.name}: the journal says {standing.slot} serves"
        there = target.places.current.resolve().name if target.places.current.is_symlink() else None
        # The link follows the journal: a moment, or one process that was killed, may lie between.
        if there not in lawful | {standing.previous, (standing.before or Standing()).slot}:
            yield f"{target.name}: current names {there}"
        for slot in {there, standing.slot} - {None}:
            try:
                slots.verify(target.places, str(slot))
            except (IntegrityError, OSError) as error:
                yield f"{target.name}: what serves is not whole: {error}"
        records = journal.read(target.places.journal)
        # A long journal was shortened, and begins with what was committed last by then.
        proved = bool(records) and records[0]["kind"] != "activated"
        for record in records:
            kind = record["kind"]
            proved = kind == "proved" or (proved and kind != "activated")
            if kind == "confirmed" and not proved:
                yield f"{target.name}: committed without a gate that was passed"

    def rests(self, target: Target) -> bool:
        """Say whether nobody works on a device any more."""
        return not target.agents()

    def converged(self, release: str) -> Iterator[str]:
        """Yield what is not as it must be after a deploy that was done again: I6 and I7."""
        slot = self.slots[release]
        for target in self.targets:
            standing = target.standing()
            if (standing.slot, standing.trial) != (slot, None):
                yield f"{target.name}: deployed again, it stands at {standing}"
            elif not target.answers():
                yield f"{target.name}: deployed again, its daemon does not answer"
            with redirect_stdout(io.StringIO()):
                found = fsck.fsck(target.places, {"repair": False})["findings"]
            # What a killed agent was hashing or verifying goes with the next commit, and harms nobody.
            if lasting := [each for each in found if not each["where"].startswith("run/tmp")]:
                yield f"{target.name}: fsck finds {lasting}"


def until(holds: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until something holds."""
    end = time.monotonic() + patience
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("it never came true")
        time.sleep(0.05)


def _write_artifact(folder: Path, version: str, size: int, model: dict[str, Any]) -> None:
    folder.mkdir()
    said = Description(
        name=NAME, version=version, profile=PROFILE, arch=platform.machine(), format="gguf", type="F32",
        model="model.gguf", architecture="llama", parameters=1, context=64, threads=1, micro_batch=8,
        memory_bytes=64 << 20, golden=golden.FILE_NAME,
    )  # fmt: skip
    dice = random.Random(model.pop("noise", version))  # noqa: S311 (noise)
    told = {
        "answers": {"One and one?": "two"},
        "version": version,
        "noise": dice.randbytes(size // 2).hex(),
        **model,
    }
    (folder / "artifact.json").write_bytes(description.render(said))
    (folder / "golden.jsonl").write_text(golden.render([Golden(prompt="One and one?", expect="two")]))
    (folder / "model.gguf").write_text(json.dumps(told))


def _stand_in(folder: Path) -> Path:
    """Write a program that stands where a device's Python stands: its daemon is the one of the tests."""
    path = folder / "runtime"
    path.write_text(
        "#!/bin/sh\n"
        f'case $1 in -m) exec {sys.executable} -I -S {STAND_IN} "$@" ;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    path.chmod(0o755)
    return path


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as plain:
        plain.settimeout(2)
        return plain.recv(3) == b"SSH"
    return False
