"""Bad input gets a clear error and loses nothing."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from slmops.artifact import description as descriptions
from slmops.registry import release as releases
from slmops.registry.layout import Layout

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]


def published(operator, folder: Path, **changes: object) -> None:
    """Publish 1.0.0's artifact once more as 2.0.0, saying something else of itself."""
    layout = Layout(operator.home / "registry")
    signed = releases.find(layout, releases.references(layout)[-1])
    built = releases.artifact(layout, signed.release.entry("local"))
    folder.mkdir()
    for name, blob in built.files:
        (folder / name).write_bytes(layout.path(blob.digest).read_bytes())
    said = replace(releases.description(layout, built), version="2.0.0", **changes)
    (folder / descriptions.FILE_NAME).write_bytes(descriptions.render(said))
    key = operator.home / "keys/release"
    releases.publish(layout, {"local": folder}, created="2026-01-01T00:00:00Z", key=key)


def untouched(fleet: Path, device: str = "edge-1") -> bool:
    return not (fleet.parent / device / "home/.slmops").exists()


def test_an_unreachable_device_stops_a_small_fleet_before_anything_is_sent(operator, tmp_path):
    fleet = operator.fleet(2, tmp_path / "fleet")
    text = fleet.read_text()
    port = next(line for line in text.splitlines() if "edge-2" in line).split("port: ")[1].split(",")[0]
    fleet.write_text(text.replace(port, "9"))

    told = operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes", exits=6)

    assert "edge-2 is unreachable" in told
    assert untouched(fleet)
    assert "unreachable" in operator("status", fleet, exits=6)


def test_a_fleet_that_may_lose_some_goes_on_without_them_and_says_so(operator, tmp_path):
    fleet = operator.fleet(2, tmp_path / "fleet")
    pid = int((fleet.parent / "edge-2/sshd.pid").read_text())
    subprocess.run(["kill", str(pid)], check=True)
    fleet.write_text(fleet.read_text().replace("canary: 1", "canary: 1\n  max_unreachable: 50%"))

    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes", exits=4)

    rows = {row["device"]: row for row in operator.json("status", fleet, exits=6)["devices"]}
    assert rows["edge-1"]["release"] == "home-commands:1.0.0"
    assert rows["edge-2"]["health"] == "unreachable"


def test_an_unknown_host_key_is_refused_until_a_person_trusts_it(operator, tmp_path):
    fleet = operator.fleet(1, tmp_path / "fleet")
    (fleet.parent / "known_hosts").write_text("")

    told = operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes", exits=6)
    assert "host key" in told
    assert "slmops device trust" in told
    assert untouched(fleet)

    assert "SHA256:" in operator("device", "trust", "--fleet", fleet, "--yes")
    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")


def test_a_changed_host_key_is_refused(operator, tmp_path):
    fleet = operator.fleet(1, tmp_path / "fleet")
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    known = fleet.parent / "known_hosts"
    kind, key = other.with_suffix(".pub").read_text().split()[:2]
    known.write_text(f"{known.read_text().split()[0]} {kind} {key}\n")

    told = operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes", exits=6)

    assert "has changed" in told
    assert untouched(fleet)


def test_one_flipped_byte_in_the_registry_ends_with_7_and_nothing_is_sent(operator, tmp_path):
    fleet = operator.fleet(1, tmp_path / "fleet")
    layout = Layout(operator.home / "registry")
    model = max(layout.blobs.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    os.chmod(model, 0o600)  # noqa: PTH101
    model.write_bytes(data)
    spoiled = next(
        str(reference)
        for reference in releases.references(layout)
        if model.name
        in str(releases.artifact(layout, releases.find(layout, reference).release.entry("local")))
    )

    assert "rotted" in operator("release", "verify", spoiled, exits=7)
    assert "rotted" in operator("deploy", fleet, "--release", spoiled, "--yes", exits=7)
    assert untouched(fleet)


def test_a_release_that_is_not_there_names_those_that_are(operator, tmp_path):
    fleet = operator.fleet(1, tmp_path / "fleet")

    told = operator("deploy", fleet, "--release", "home-commands:9.9.9", "--yes", exits=1)

    assert "1.0.0" in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"arch": "armv7l"}, "armv7l"), ({"memory_bytes": 1 << 45}, "memory")],
    ids=["another architecture", "too little memory"],
)
def test_what_a_device_cannot_bear_is_refused_before_transfer(operator, tmp_path, changes, words):
    published(operator, tmp_path / "artifact", **changes)
    fleet = operator.fleet(1, tmp_path / "fleet")

    told = operator("deploy", fleet, "--release", "home-commands:2.0.0", "--yes", exits=1)

    assert words in told
    assert untouched(fleet)


def test_too_little_disk_is_refused_before_transfer_and_says_how_much(operator, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small disk needs root and mount(8)")
    try:
        fleet = operator.fleet(1, tmp_path / "fleet")
        fleet.write_text(
            fleet.read_text().replace("daemon_port: 0", f"daemon_port: 0\n  root: {disk}/slmops")
        )

        told = operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes", exits=1)

        assert "disk" in told
        assert "short" in told
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_runtime_without_the_daemons_packages_is_named_before_transfer(operator, tmp_path):
    fleet = operator.fleet(1, tmp_path / "fleet")
    lines = [
        "  runtime: /usr/bin/env" if line.startswith("  runtime:") else line
        for line in fleet.read_text().splitlines()
    ]
    fleet.write_text("\n".join(lines) + "\n")

    told = operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes", exits=1)

    assert "/usr/bin/env" in told
    assert untouched(fleet)


def test_a_device_refuses_a_release_signed_by_another_key_than_it_knows(operator, tmp_path):
    fleet = operator.fleet(1, tmp_path / "fleet")
    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    for of_the_first in ("keys", "trust"):
        shutil.rmtree(operator.home / of_the_first)
    operator("trust", "init")
    assert "signature" in operator("deploy", fleet, "--release", "home-commands:1.0.1", "--yes", exits=7)

    published(operator, tmp_path / "artifact")
    told = operator("deploy", fleet, "--release", "home-commands:2.0.0", "--yes", exits=7)

    assert "another release key" in told
    assert operator.serves(fleet) == {"edge-1": "home-commands:1.0.0"}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text.replace("  user:", "\tuser:"), ("line 4", "tab")),
        (lambda text: text.replace("daemon_port: 0", "daemon_port: zero"), ("daemon_port", "integer")),
        (lambda text: text + "  - {name: edge-1, host: 10.0.0.9}\n", ("edge-1", "twice")),
        (lambda text: text.replace("identity:", "identty:"), ("identty", "identity")),
    ],
    ids=["a tab", "a wrong type", "a duplicate", "an unknown key"],
)
def test_a_bad_fleet_file_is_named_with_file_line_and_key(newcomer, tmp_path, spoil, words):
    fleet = newcomer.fleet(1, tmp_path / "fleet")
    fleet.write_text(spoil(fleet.read_text()))

    told = newcomer("status", fleet, exits=2)

    assert "fleet.yaml, line" in told
    for word in words:
        assert word in told
