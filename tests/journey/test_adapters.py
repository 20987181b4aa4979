"""A fleet that has a model is sent an adapter alone, and goes back when it is the wrong one."""

import json
import re
import shutil
import socket
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from slmops.artifact import description as descriptions
from slmops.registry import catalog
from slmops.registry import release as releases
from slmops.registry.layout import Layout

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]
QUESTION = "turn the kitchen lamp to forty percent"
NEW = {"adapter.gguf", "artifact.json", "golden.jsonl", "README.md"}
OVERHEAD = 60_000
"""Bytes that two looks and the talk of a rollout take through SSH, at most."""


@pytest.fixture
def adapted(operator, garage):
    """The operator, with home-commands 2.0.0: 1.0.0 and an adapter."""
    told = operator.json("adapt", "home-commands:1.0.0", "--adapter", garage, "--version", "2.0.0")
    assert (told["base"], told["profiles"][0]["unanswered"]) == ("home-commands:1.0.0", [])
    assert told["profiles"][0]["telling"] > 0
    return operator


class Wire:
    """What goes to a device, counted on its way."""

    def __init__(self, port):
        self.sent, self._to = 0, port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                caller, _ = self._door.accept()
            except OSError:
                return
            device = socket.create_connection(("127.0.0.1", self._to))
            threading.Thread(target=self._carry, args=(caller, device, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(device, caller, False), daemon=True).start()

    def _carry(self, one, other, counted):
        with one, other:
            try:
                while piece := one.recv(1 << 16):
                    self.sent += len(piece) if counted else 0
                    other.sendall(piece)
                other.shutdown(socket.SHUT_WR)
            except OSError:
                return

    def close(self):
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()


@contextmanager
def counted(fleet: Path):
    """Put a wire before the one device of a fleet."""
    (port,) = re.findall(r", port: (\d+)", fleet.read_text())
    wire = Wire(int(port))
    known = fleet.with_name("known_hosts")
    known.write_text(known.read_text() + known.read_text().replace(port, str(wire.port)))
    fleet.write_text(fleet.read_text().replace(f", port: {port}", f", port: {wire.port}"))
    try:
        yield wire
    finally:
        wire.close()


def room(operator, fleet):
    """Return the room that the device understands in the question."""
    return re.findall(r'"room": "(\w+)"', operator.json("ask", fleet, "edge-1", QUESTION)["answer"])[0]


def republish(operator, version, change):
    """Publish 2.0.0 again as `version`, with what `change` does to its folder."""
    layout = Layout(operator.home / "registry")
    entry = dict(releases.find(layout, catalog.parse("home-commands:2.0.0")).release.artifacts)["local"]
    folder = operator.home / version
    folder.mkdir()
    built = releases.artifact(layout, entry)
    for name, blob in built.files:
        shutil.copyfile(layout.path(blob.digest), folder / name)
    said = replace(releases.description(layout, built), version=version)
    (folder / descriptions.FILE_NAME).write_bytes(descriptions.render(said))
    change(folder)
    key = operator.home / "keys/release"
    releases.publish(layout, {"local": folder}, created="2026-01-01T00:00:00Z", key=key)


def test_a_device_that_has_the_model_is_sent_the_adapter_alone(adapted, tmp_path):
    fleet = adapted.fleet(1, tmp_path / "fleet")
    adapted("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    assert room(adapted, fleet) == "kitchen"
    files = adapted.json("release", "show", "home-commands:2.0.0")["artifacts"][0]["files"]
    small = sum(nbytes for name, nbytes in files.items() if name in NEW)

    with counted(fleet) as wire:
        (planned,) = adapted.json("deploy", fleet, "--release", "home-commands:2.0.0", "--dry-run")["devices"]
        adapted("deploy", fleet, "--release", "home-commands:2.0.0", "--yes")
        sent = wire.sent
        assert planned["sends"] == small < files["model.gguf"] / 2
        assert small < sent < small + OVERHEAD
        assert adapted.serves(fleet) == {"edge-1": "home-commands:2.0.0"}
        assert room(adapted, fleet) == "garage"

        adapted("rollback", fleet, "--yes")
        assert adapted.serves(fleet) == {"edge-1": "home-commands:1.0.0"}
        assert room(adapted, fleet) == "kitchen"
        assert wire.sent < sent + 2 * OVERHEAD


def test_an_adapter_that_is_not_the_models_goes_back_by_itself(adapted, write_adapter, garage, tmp_path):
    def cut(folder):
        shutil.copyfile(garage / "adapter_model.safetensors", folder / "adapter_model.safetensors")
        write_adapter(folder, cut=100)

    def turned(folder):
        shutil.copyfile(garage / "adapter_model.safetensors", folder / "adapter_model.safetensors")
        write_adapter(folder, alpha=-16.0)

    republish(adapted, "2.0.1", cut)
    republish(adapted, "2.0.2", turned)
    fleet = adapted.fleet(1, tmp_path / "fleet")
    adapted("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")

    adapted("deploy", fleet, "--release", "home-commands:2.0.1", "--yes", exits=5)
    (line,) = adapted.json("rollout", "show")["devices"]
    assert (line["state"], line["evidence"]["code"]) == ("went back", "RUN_CRASHLOOP")
    assert "adapter.gguf is no adapter for model.gguf" in json.dumps(line["evidence"]["log"])
    assert "golden prompts failed" in adapted(
        "deploy", fleet, "--release", "home-commands:2.0.2", "--yes", exits=5
    )
    assert adapted.serves(fleet) == {"edge-1": "home-commands:1.0.0"}
    assert room(adapted, fleet) == "kitchen"


def test_an_adapted_release_is_shown_evaluated_and_built_again(adapted):
    shown = adapted.json("release", "show", "home-commands:2.0.0")["artifacts"][0]
    assert (shown["adapter"], shown["type"]) == ("adapter.gguf", "Q8_0")
    assert "bit for bit: local" in adapted("release", "verify", "home-commands:2.0.0", "--rebuild")
    found = adapted.json("evaluate", "home-commands:2.0.0", "--against", "home-commands:1.0.0", "--no-speed")
    assert found["measured"]["kl_mean"] > 0.1


def test_an_adapter_for_an_adapted_release_goes_on_its_base(adapted, garage):
    told = adapted.json("adapt", "home-commands:2.0.0", "--adapter", garage, "--version", "2.1.0")
    assert told["base"] == "home-commands:1.0.0"
    assert "a version never changes" in adapted(
        "adapt", "home-commands:1.0.0", "--adapter", garage, "--version", "2.1.0", exits=2
    )
