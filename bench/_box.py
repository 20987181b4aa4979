"""A device in a folder for benchmarks that break it: the real agent, tiny signed releases, no model.

Its daemon is the stand-in of the tests, which answers as its model file says. It does not know what is
done to the device.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, cast

from slmops import digest as digests
from slmops import wire
from slmops.artifact import description, golden, manifest, sign
from slmops.artifact import trust as trusts
from slmops.artifact.description import Description
from slmops.artifact.golden import Golden
from slmops.artifact.trust import Role, SignedTrust, Trust
from slmops.device.places import Places, read_json
from slmops.fleet.agent_bundle import bundle
from slmops.registry.layout import Layout
from slmops.registry.release import Signed, artifact, publish
from slmops.wire import Request

RUNTIME = [sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "tests/device/fake_runtime.py")]
TIMES = {"ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 60.0}
PATIENCE = 30.0
"""Seconds until what is waited for counts as never coming."""


@dataclass(frozen=True)
class Parcel:
    """A release as an operator sends it."""

    signed: Signed
    built: manifest.Artifact
    slot: str
    files: dict[str, bytes]


class Shop:
    """Makes tiny releases, each signed with the shop's key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "key"
        sign.make_key(self.key, "shop")
        self.trust = [_trust(self.key)]

    def release(self, version: str) -> Parcel:
        """Return a release whose daemon answers right; each version's files differ."""
        folder = self.folder / version
        folder.mkdir()
        said = Description(
            name="parrot", version=version, profile="local", arch=platform.machine(), format="gguf",
            type="F32", model="model.gguf", architecture="llama", parameters=1, context=64, threads=1,
            micro_batch=8, memory_bytes=1, golden=golden.FILE_NAME,
        )  # fmt: skip
        files = {
            "artifact.json": description.render(said),
            "golden.jsonl": golden.render([Golden(prompt="One and one?", expect="two")]).encode(),
            "model.gguf": json.dumps({"answers": {"One and one?": "two"}, "version": version}).encode(),
        }
        for name, data in files.items():
            (folder / name).write_bytes(data)
        layout = Layout(self.folder / f"registry-{version}")
        signed = publish(layout, {"local": folder}, created="2026-01-01T00:00:00Z", key=self.key)
        entry = signed.release.entry("local")
        return Parcel(signed, artifact(layout, entry), digests.hexdigits(entry.blob.digest), files)


class Box:
    """A device under one folder."""

    def __init__(self, root: Path, shop: Shop) -> None:
        self.places = Places(root)
        self.shop = shop
        self.agent = self.lay(bundle().data)
        settings = {"device": "box", "profile": "local", "runtime": RUNTIME, "port": 0, "service": "process"}
        with self.session() as ask:
            ask("hello")
            ask("enroll", b"", trust=shop.trust, **settings)

    def lay(self, data: bytes) -> Path:
        """Lay down an agent as an operator pushes it; return its file."""
        file = self.places.root / "agent" / f"{digests.short(digests.of_bytes(data))}.pyz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def words(self, verb: str, agent: Path | None = None) -> list[str]:
        """Return the command that asks the agent for a verb."""
        return [sys.executable, "-I", "-S", str(agent or self.agent), str(self.places.root), verb]

    def session(self) -> Session:
        """Speak with the agent over one connection."""
        return Session(self.words("serve"))

    def prepare(self, parcel: Parcel) -> dict[str, Any]:
        """Return what the agent is told to prepare for a release."""
        return {
            "index": parcel.signed.index.decode(),
            "signatures": [signature.decode() for signature in parcel.signed.signatures],
            "manifest": manifest.render_artifact(parcel.built).decode(),
            "profile": "local",
        }

    def requests(self, parcel: Parcel, ask: Session) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
        """Yield what the agent is asked to install a release, in order: verb, raw bytes, what is said."""
        missing = ask("prepare", **self.prepare(parcel))["missing"]
        for number, each in enumerate(missing, 1):
            data = parcel.files[each["name"]][each["offset"] :]
            told = {
                "slot": parcel.slot,
                **{key: each[key] for key in ("name", "offset")},
                "length": len(data),
            }
            yield ("receive" if number == len(missing) else "receive some"), data, told
        yield "stage", b"", {"slot": parcel.slot}
        yield "activate", b"", {"slot": parcel.slot, **TIMES}
        yield "confirm", b"", {"slot": parcel.slot}

    def install(self, parcel: Parcel, *, until: str = "confirm") -> None:
        """Install a release up to a step, as an operator does."""
        with self.session() as ask:
            for step, data, said in self.requests(parcel, ask):
                ask(step.split()[0], data, **said)
                if step == until:
                    return

    def supervisor(self) -> int | None:
        """Return the supervisor's process id while it runs."""
        return _living(read_json(self.places.supervisor))

    def end(self) -> None:
        """Leave no process of this device behind."""
        pid = self.supervisor()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            until(lambda: self.supervisor() is None)
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.places.port).encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)


class Session:
    """Requests and answers over one connection to an agent."""

    def __init__(self, words: list[str]) -> None:
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.requests, self.replies = cast(
            "tuple[IO[bytes], IO[bytes]]", (self.process.stdin, self.process.stdout)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def __call__(self, verb: str, data: bytes = b"", **said: Any) -> dict[str, Any]:
        """Ask for a verb that must be done; return the answer."""
        self.requests.write(wire.render_request(Request(verb, said)) + data)
        self.requests.flush()
        for line in self.replies:
            reply = wire.parse_reply(line.decode())
            if reply is not None and reply.kind == "done":
                return reply.said
            if reply is not None and reply.kind == "failed":
                raise RuntimeError(f"{verb}: {reply.said['message']}")
        raise RuntimeError(f"{verb}: the agent ended without an answer")


def _trust(key: Path) -> dict[str, Any]:
    """Return a trust document in which one key speaks for everything but rollouts."""
    public = trusts.key_text(key.with_suffix(".pub").read_text())
    mark = trusts.fingerprint(public)
    only = Role((mark,), 1)
    roles = {trusts.ROOT: only, trusts.RELEASE: only, trusts.ROLLOUT: Role()}
    document = trusts.render(Trust(1, "2026-01-01T00:00:00Z", None, {mark: public}, roles))
    return trusts.said(SignedTrust(document, (sign.sign(document, key, sign.TRUST),)))


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("it never came true")
        time.sleep(0.01)


def copy(source: Path, target: Path) -> None:
    """Make `target` what `source` is, hard links and all."""
    if target.exists():
        subprocess.run(["chmod", "-R", "u+w", target], check=True)
        shutil.rmtree(target)
    subprocess.run(["cp", "-a", source, target], check=True)


def _living(said: dict[str, Any] | None) -> int | None:
    if not said:
        return None
    with suppress(OSError):
        state = Path(f"/proc/{said['pid']}/stat").read_text().rpartition(")")[2].split()[0]
        return None if state == "Z" else int(said["pid"])
    return None
