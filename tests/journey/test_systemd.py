"""Devices that boot systemd: the agent as root's unit or a user's, through reboots and power cuts."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

QUESTION = "turn the kitchen lamp to forty percent"
ANSWER = {"device": "lamp", "room": "kitchen", "action": "set", "value": 40}
PATIENCE = 120
"""Seconds within which a device that was started serves."""

pytestmark = [
    pytest.mark.journey,
    pytest.mark.systemd,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="devices with systemd are made by root"),
    pytest.mark.skipif(
        not shutil.which("systemd-nspawn"), reason="needs: apt-get install systemd-container mmdebstrap"
    ),
]


def on(fleet, command, user="root"):
    """Run a command on edge-1; return what it printed."""
    folder = fleet.parent
    host, port = (folder / "edge-1/place").read_text().split()
    words = ["ssh", "-i", folder / "id", "-p", port, "-o", f"UserKnownHostsFile={folder}/known_hosts",
             "-o", "BatchMode=yes", f"{user}@{host}", command]  # fmt: skip
    return subprocess.run(words, check=False, capture_output=True, text=True).stdout.strip()


def power(fleet, word):
    subprocess.run(["scripts/fleet-power", word, fleet.parent, "edge-1"], check=True)


def reboot(fleet):
    """Reboot from within; return when another boot answers."""
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = on(fleet, boot)
    on(fleet, "systemctl reboot")
    until(lambda: on(fleet, boot) not in {"", before})


def until(holds):
    """Wait until `holds()`, or fail."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come about"


def serving(operator, fleet):
    """Return the release that edge-1 serves in health, else None."""
    row = operator.json("status", fleet)["devices"][0]
    return row.get("release") if row["health"] == "healthy" else None


def answers(operator, fleet):
    return json.loads(operator.json("ask", fleet, "edge-1", QUESTION)["answer"]) == ANSWER


def supervisor(fleet, user="root"):
    home = "/root" if user == "root" else f"/home/{user}"
    return json.loads(on(fleet, f"cat {home}/.slmops/run/supervisor.json", user))["pid"]


@pytest.fixture(params=["root", "slm"])
def user(request):
    return request.param


@pytest.fixture
def device(stocked, tmp_path, user):
    """An operator and a fleet of one device, which serves 1.0.0."""
    operator = stocked("local")
    fleet = operator.fleet(1, tmp_path / "fleet", "local", words=("--systemd", "--user", user))
    if user != "root":
        on(fleet, f"loginctl enable-linger {user}")
    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    return operator, fleet


def test_a_unit_keeps_the_daemon_through_a_reboot_a_kill_and_a_power_cut(device, user):
    operator, fleet = device
    control = "systemctl" if user == "root" else "systemctl --user"
    assert on(fleet, f"{control} is-active 'slmops-*.service'", user) == "active"
    assert answers(operator, fleet)

    reboot(fleet)
    until(lambda: serving(operator, fleet) == "home-commands:1.0.0")

    before = supervisor(fleet, user)
    on(fleet, f"kill -9 {before}")
    until(lambda: supervisor(fleet, user) != before and serving(operator, fleet) == "home-commands:1.0.0")
    assert answers(operator, fleet)

    power(fleet, "cut")
    power(fleet, "on")
    until(lambda: serving(operator, fleet) == "home-commands:1.0.0")
    assert answers(operator, fleet)
    assert operator.json("device", "fsck", "--fleet", fleet)["devices"][0]["clean"]

    operator("device", "uninstall", "edge-1", "--fleet", fleet, "--yes")
    assert on(fleet, f"{control} list-unit-files 'slmops-*' --no-legend", user) == ""


@pytest.mark.parametrize("ending", ["reboot", "power cut"])
def test_a_boot_ends_a_trial_and_the_release_before_serves(device, ending):
    operator, fleet = device
    process = operator.start("deploy", fleet, "--release", "home-commands:1.0.1", "--yes")
    for line in process.stderr:
        if "edge-1" in line and "trial" in line:
            break
    process.send_signal(signal.SIGSTOP)  # an operator who goes away in the middle
    try:
        if ending == "reboot":
            reboot(fleet)
        else:
            power(fleet, "cut")
            power(fleet, "on")
        until(lambda: serving(operator, fleet) == "home-commands:1.0.0")
    finally:
        process.kill()
        process.communicate()
    assert operator.json("device", "fsck", "--fleet", fleet)["devices"][0]["clean"]

    operator("deploy", fleet, "--release", "home-commands:1.0.1", "--yes")
    assert serving(operator, fleet) == "home-commands:1.0.1"


@pytest.mark.parametrize("user", ["slm"])
def test_the_daemon_of_a_user_without_linger_outlives_the_session(stocked, tmp_path, user):
    operator = stocked("local")
    fleet = operator.fleet(1, tmp_path / "fleet", "local", words=("--systemd", "--user", user))

    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")

    # A user's systemd that does not linger ends with the last session, and everything below it.
    below = on(fleet, f"cat /proc/{supervisor(fleet, user)}/cgroup")
    assert below
    assert "user@" not in below
    assert serving(operator, fleet) == "home-commands:1.0.0"
