"""A device in a folder: the real agent, signed releases, and a runtime that answers as a model file says."""

import io
import json
import os
import platform
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from slmops import digest as digests
from slmops import wire
from slmops.artifact import description, golden, manifest, sign
from slmops.artifact import trust as trusts
from slmops.artifact.golden import Golden
from slmops.device import prepare, receive, stage
from slmops.device.places import Places, read_json
from slmops.fleet.agent_bundle import bundle
from slmops.registry.layout import Layout
from slmops.registry.release import artifact, publish
from slmops.wire import Request

ANSWERS = {"One and one?": "two", "Colour of grass?": "green"}
RUNTIME = [sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_runtime.py"))]
TIMES = {"ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 60.0}
PATIENCE = 30.0
"""Seconds until what is waited for counts as never coming."""


def until(holds):
    """Wait until `holds()` is true, and return what it gave."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
    return found


def kept(places, slot, name):
    """How much of a file is on the device already."""
    part = places.incoming / slot / f".{name}.part"
    return part.stat().st_size if part.exists() else 0


@dataclass(frozen=True)
class Parcel:
    """A release as an operator sends it, for the one profile it has."""

    signed: object
    built: manifest.Artifact
    slot: str
    files: dict[str, bytes]

    def said(self, **changes):
        """What `prepare` is told."""
        whole = {
            "index": self.signed.index.decode(),
            "signatures": [signature.decode() for signature in self.signed.signatures],
            "manifest": manifest.render_artifact(self.built).decode(),
            "profile": "local",
        }
        return whole | changes


class Shop:
    """Makes releases, each signed with the shop's key."""

    def __init__(self, folder, trusting):
        self.folder = folder
        self.key = folder / "key"
        sign.make_key(self.key, "shop")
        self.trust = [trusts.said(trusting(self.key))]
        self.layout = Layout(folder / "registry")
        self.made = {}

    def release(self, version="1.0.0", arch=None, key=None, **model):
        """A release whose model file is `model`; it must answer as ANSWERS says.

        One with `labels` is a classifier's; one with `reference` brings those log-probabilities of a text.
        """
        asked = (version, arch, key, json.dumps(model, sort_keys=True))
        if asked not in self.made:
            self.made[asked] = self._make(version, arch or platform.machine(), key or self.key, model)
        return self.made[asked]

    def _make(self, version, arch, key, model):
        folder = self.folder / f"artifact-{len(self.made)}"
        folder.mkdir()
        said = description.Description(
            name="parrot", version=version, profile="local", arch=arch, format="gguf", type="F32",
            model="model.gguf", architecture="llama", parameters=1, context=64, threads=1, micro_batch=8,
            memory_bytes=1, golden=golden.FILE_NAME, labels=model.get("labels", []),
            task=description.CLASSIFICATION if "labels" in model else description.GENERATION,
        )  # fmt: skip
        prompts = [Golden(prompt=prompt, expect=expect) for prompt, expect in ANSWERS.items()]
        if "reference" in model:
            prompts.append(Golden(model["reference"], golden.LOGPROB, prompt="So it goes."))
        files = {
            "artifact.json": description.render(said),
            "golden.jsonl": golden.render(prompts).encode(),
            "model.gguf": json.dumps({"answers": ANSWERS, **model}).encode(),
            "README.md": b"# A parrot\n" * 3000,
        }
        for name, data in files.items():
            (folder / name).write_bytes(data)
        layout = Layout(self.folder / f"registry-{len(self.made)}")
        signed = publish(layout, {"local": folder}, created="2026-01-01T00:00:00Z", key=key)
        entry = signed.release.entry("local")
        return Parcel(signed, artifact(layout, entry), digests.hexdigits(entry.blob.digest), files)


class Answer(SimpleNamespace):
    """What the agent said to one request: its exit code, notes, and answer or refusal."""


class Box:
    """A device under one folder, spoken to through its real agent."""

    def __init__(self, root, shop):
        self.python = sys.executable
        self.places = Places(root)
        self.shop = shop
        self.agent = self.push(bundle().data)

    def push(self, data):
        """Lay down an agent as an operator pushes it; return its file."""
        file = self.places.root / "agent" / f"{digests.short(digests.of_bytes(data))}.pyz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def feed(self, line, verb="test", agent=None):
        """Give the agent bytes on its standard input; return its replies."""
        words = [self.python, "-I", "-S", str(agent or self.agent), str(self.places.root), verb]
        done = subprocess.run(words, input=line, capture_output=True, timeout=60, check=False)
        replies = [wire.parse_reply(text) for text in done.stdout.decode().split("\n")[:-1]]
        assert all(replies), done.stdout
        assert replies, done.stderr.decode()
        *notes, last = replies
        assert {note.kind for note in notes} <= {"note"}
        return Answer(
            code=done.returncode, kind=last.kind, said=last.said, notes=[note.said for note in notes]
        )

    def ask(self, verb, data=b"", agent=None, **said):
        """Ask for a verb."""
        return self.feed(wire.render_request(Request(verb, said)) + data, verb, agent)

    def get(self, verb, **said):
        """Ask for a verb that must be done; return the answer."""
        answer = self.ask(verb, **said)
        assert answer.kind == "done", answer
        assert answer.code == 0
        return answer.said

    def enroll(self, **changes):
        """Make the device one that accepts the shop's releases."""
        settings = {"device": "box", "profile": "local", "runtime": RUNTIME, "port": 0, "service": "process"}
        self.get("hello")
        self.get("enroll", trust=self.shop.trust, **settings | changes)
        return self

    def take(self, parcel):
        """Send a release and stage it, within this process; return its slot."""
        prepared = prepare.make_ready(self.places, parcel.said())
        for each in prepared["missing"]:
            self.send(parcel, each["name"], parcel.files[each["name"]][each["offset"] :])
        stage.make_slot(self.places, parcel.slot)
        return parcel.slot

    def send(self, parcel, name, data):
        """Send (the rest of) one file, from this process."""
        offset = kept(self.places, parcel.slot, name)
        said = {"slot": parcel.slot, "name": name, "offset": offset, "length": len(data)}
        return receive.take(self.places, said, io.BytesIO(data).read)

    def activate(self, parcel, **times):
        """Stage a release and put it on trial; return the gate's verdict."""
        return self.get("activate", slot=self.take(parcel), **TIMES | times)

    def commit(self, parcel):
        """Bring a release that passes, and confirm it."""
        assert self.activate(parcel)["outcome"] == "pass"
        self.get("confirm", slot=parcel.slot)

    def status(self):
        return self.get("status")

    def serves(self):
        """The slot that answers now, by its own word, or None."""
        said = self.status()
        return said["standing"]["slot"] if said["healthy"] else None

    def supervisor(self):
        """The supervisor's process id, or None where none runs."""
        return _living(read_json(self.places.supervisor))

    def daemon(self):
        """The daemon's process id, or None where none runs."""
        return _living((read_json(self.places.daemon) or {}).get("child"))

    def supervised_by(self):
        """Which agent the supervisor runs, as the link names it."""
        return (read_json(self.places.supervisor) or {}).get("agent")

    def newer_agent(self):
        """Lay down an agent of other bytes; return its file."""
        packed = io.BytesIO(self.agent.read_bytes())
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr("newer.txt", "of tomorrow")
        return self.push(packed.getvalue())

    def supervise(self):
        """Start a supervisor, as a boot does."""
        words = [sys.executable, str(self.places.agent_link), str(self.places.root), "supervise"]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)

    def daemons(self):
        """Every process that was started to serve from this folder and runs still."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(self.places.port).encode() in words:
                found.append(int(folder.name))
        return found

    def end(self):
        """Leave no process of this device behind."""
        pid = self.supervisor()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            until(lambda: self.supervisor() is None)
        for pid in self.daemons():
            os.kill(pid, signal.SIGKILL)


def _living(said):
    """The process id that was written down, if such a process runs (and is no zombie)."""
    if not said:
        return None
    try:
        state = Path(f"/proc/{said['pid']}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else said["pid"]


@pytest.fixture(scope="session")
def shop(tmp_path_factory, trusting):
    """Where releases come from."""
    return Shop(tmp_path_factory.mktemp("shop"), trusting)


@pytest.fixture
def box(tmp_path, shop):
    """A device with an agent and nothing else."""
    made = Box(tmp_path / "device", shop)
    yield made
    made.end()


@pytest.fixture
def device(box):
    """A device that is enrolled and has no release."""
    return box.enroll()


@pytest.fixture
def places(tmp_path):
    """The folders of a device that has no agent: for what needs none."""
    made = Places(tmp_path / "device")
    made.make()
    return made


@pytest.fixture(name="until")
def until_fixture():
    """A way to wait."""
    return until
