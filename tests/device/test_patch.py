import fcntl
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from slmops import digest as digests
from slmops.artifact import manifest
from slmops.artifact.manifest import CONFIG_TYPE, WEIGHT_TYPE, Artifact, Blob
from slmops.delta.make_delta import make_delta
from slmops.device import incoming, patch
from slmops.device.places import read_json, write_json
from slmops.wire import Request, render_request

SIZE = 300_000
NUMPY = [sys.executable]
BARE = [sys.executable, "-I", "-S"]


@dataclass
class Patched:
    """A device that holds one version of a file, and gets the next as a delta."""

    box: object
    slot: str
    old: Path
    new: bytes
    delta: bytes

    def said(self, **changes):
        """What `patch` is told."""
        delta = {"digest": digests.of_bytes(self.delta), "size": len(self.delta)}
        return {
            "slot": self.slot,
            "name": "model",
            "base": digests.of_file(self.old),
            "delta": delta,
        } | changes

    def send(self, delta=None):
        """Let the delta arrive, or another."""
        self.delta = self.delta if delta is None else delta
        said = self.said(name="model.delta", offset=0, length=len(self.delta))
        answer = self.box.ask("receive", self.delta, **said)
        assert answer.said["whole"], answer

    def patch(self, **changes):
        return self.box.ask("patch", **self.said(**changes))

    @property
    def folder(self):
        return self.box.places.incoming / self.slot

    def left(self):
        """What lies in the release's folder, but for what was signed and the delta."""
        return [path.name for path in self.folder.iterdir() if not path.name.endswith((".json", ".delta"))]

    def runtime(self, words):
        """Be a device whose runtime is another."""
        config = self.box.places.config
        write_json(config, {**read_json(config), "runtime": words})


def described(whole):
    config = Blob(CONFIG_TYPE, digests.of_bytes(b"{}"), 2)
    blob = Blob(WEIGHT_TYPE, digests.of_bytes(whole), len(whole))
    return manifest.render_artifact(Artifact(config, (("model", blob),)))


@pytest.fixture
def patched(device, tmp_path):
    before = random.Random(0).randbytes(SIZE)  # noqa: S311
    after = before[:1000] + b"changed" + before[1007:]
    (tmp_path / "before").write_bytes(before)
    (tmp_path / "after").write_bytes(after)
    make_delta(tmp_path / "before", tmp_path / "after", tmp_path / "delta")
    held = described(before)
    slot = device.places.slot(digests.hexdigits(digests.of_bytes(held)))
    (slot / "files").mkdir(parents=True)
    (slot / "files" / "model").write_bytes(before)
    (slot / "manifest.json").write_bytes(held)
    coming = described(after)
    folder = device.places.incoming / digests.hexdigits(digests.of_bytes(coming))
    folder.mkdir()
    (folder / ".manifest.json").write_bytes(coming)
    found = Patched(device, folder.name, slot / "files" / "model", after, (tmp_path / "delta").read_bytes())
    found.runtime(NUMPY)
    return found


def test_a_file_is_made_of_the_one_before_it_and_what_they_differ_by(patched):
    patched.send()

    assert patched.patch().said == {"name": "model", "size": SIZE}
    assert (patched.folder / "model").read_bytes() == patched.new
    assert patched.left() == ["model"]


def test_a_file_that_was_made_already_is_not_made_again(patched):
    patched.send()
    patched.patch()

    assert patched.patch().said == {"name": "model", "size": SIZE}


def test_a_delta_that_makes_another_file_is_refused_and_leaves_nothing(patched, tmp_path):
    (tmp_path / "other").write_bytes(patched.new[:-1] + b"?")
    make_delta(patched.old, tmp_path / "other", tmp_path / "wrong")
    patched.send((tmp_path / "wrong").read_bytes())

    assert patched.patch().said["code"] == "SLM-INTEGRITY"
    assert patched.left() == []


@pytest.mark.parametrize("junk", [b"", b"no delta", bytes(5000)])
def test_what_is_no_delta_is_refused_and_leaves_nothing(patched, junk):
    patched.send(junk)

    answer = patched.patch()

    assert answer.said["code"] == "SLM-DEVICE"
    assert "decoder ended with" in answer.said["message"]
    assert patched.left() == []


def test_a_delta_that_failed_twice_is_not_tried_a_third_time(patched):
    patched.send(b"no delta")

    assert "decoder ended" in patched.patch().said["message"]
    assert "decoder ended" in patched.patch().said["message"]
    assert "has failed 2 times here" in patched.patch().said["message"]


def test_another_delta_has_tries_of_its_own(patched):
    good = patched.delta
    patched.send(b"no delta")
    patched.patch()
    patched.patch()
    patched.send(good)

    assert patched.patch().kind == "done"


def test_a_base_that_is_not_here_or_has_rotted_is_said(patched):
    patched.send()
    assert "is not here" in patched.patch(base="sha256:" + "0" * 64).said["message"]

    patched.old.write_bytes(b"rot" + patched.old.read_bytes()[3:])

    assert "is not here" in patched.patch(base=digests.of_bytes(patched.old.read_bytes())).said["message"]


def test_a_delta_that_has_not_come_is_said(patched):
    assert "its delta is not here" in patched.patch().said["message"]


def test_a_runtime_that_cannot_apply_deltas_is_said_and_told_before(patched):
    patched.send()
    patched.runtime(BARE)

    assert patch.able(patched.box.places) is False
    answer = patched.patch()
    assert answer.said["code"] == "SLM-DEVICE"
    assert "numpy" in answer.said["message"]
    assert patched.left() == []


def test_who_can_apply_deltas_is_asked_once_for_each_runtime(patched):
    assert patch.able(patched.box.places) is True
    assert read_json(patched.box.places.run / "delta.json")["asked"]["runtime"] == NUMPY

    patched.runtime(["/no/such/python"])

    assert patch.able(patched.box.places) is False


def test_a_decoder_that_writes_without_end_is_stopped_at_the_files_size(patched, tmp_path):
    """A runtime that ignores what it is told and fills the disk."""
    flood = tmp_path / "flood"
    flood.write_text('#!/bin/sh\nfor out; do :; done\nexec cat /dev/zero > "$out"\n')
    flood.chmod(0o755)
    patched.send()
    patched.runtime([str(flood)])

    answer = patched.patch()

    assert answer.said["code"] == "SLM-DEVICE"
    assert patched.left() == []


def test_a_decoder_that_talks_without_end_is_stopped_too(patched, tmp_path):
    talker = tmp_path / "talker"
    talker.write_text("#!/bin/sh\nexec cat /dev/zero\n")
    talker.chmod(0o755)
    patched.send()
    patched.runtime([str(talker)])

    assert patched.patch().said["code"] == "SLM-DEVICE"
    assert (patched.box.places.run / "decoder.log").stat().st_size == SIZE


def test_nobody_writes_a_part_while_the_child_of_a_killed_agent_does(patched, tmp_path, until):
    gate, slow = tmp_path / "gate", tmp_path / "slow"
    os.mkfifo(gate)
    slow.write_text(f"#!/bin/sh\nexec cat {gate}\n")
    slow.chmod(0o755)
    patched.send()
    patched.runtime([str(slow)])
    words = [sys.executable, "-I", str(patched.box.agent), str(patched.box.places.root), "patch"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as agent:
        agent.stdin.write(render_request(Request("patch", patched.said())))
        agent.stdin.flush()
        with gate.open("wb"):
            agent.kill()
            agent.wait()
            assert not is_free(incoming.part_of(patched.folder / "model"))

    until(lambda: is_free(incoming.part_of(patched.folder / "model")))


def is_free(part):
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_part_of_the_whole_file_gives_way_to_the_patched_one(patched):
    patched.send()
    incoming.part_of(patched.folder / "model").write_bytes(os.urandom(100))

    assert patched.patch().kind == "done"
    assert (patched.folder / "model").read_bytes() == patched.new
