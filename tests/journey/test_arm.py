"""The main job on ARM: devices of another processor, with a runtime bundle that was built for them here."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROFILE = "raspberry-pi-4-2gb"
QUESTION = "turn the kitchen lamp to forty percent"
ANSWER = {"device": "lamp", "room": "kitchen", "action": "set", "value": 40}
CPUS = ("cortex-a53", "cortex-a76")
"""Without and with the dot product: they run different code of llama.cpp."""
KEPT = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "slmops/roots"

pytestmark = [
    pytest.mark.journey,
    pytest.mark.skipif(os.geteuid() != 0, reason="ARM devices are made by root"),
    pytest.mark.skipif(
        not shutil.which("qemu-aarch64-static"), reason="needs: apt-get install qemu-user-static mmdebstrap"
    ),
]


@pytest.mark.skipif(
    not any(KEPT.glob("bookworm-arm64-[0-9]*[0-9]")),
    reason="no ARM system was made here yet: scripts/fleet-up --arch arm64 1 DIR makes it, in minutes",
)
def test_the_agent_lives_on_another_processor(newcomer, tmp_path):
    fleet = newcomer.fleet(1, tmp_path / "fleet", PROFILE, words=("--arch", "arm64"))

    told = newcomer.json("device", "bootstrap", "edge-1", "--fleet", fleet)
    assert told["facts"]["arch"] == "aarch64", told
    assert newcomer.json("device", "fsck", "--fleet", fleet)["devices"][0]["clean"]

    subprocess.run(["scripts/fleet-power", "cut", fleet.parent, "edge-1"], check=True)
    subprocess.run(["scripts/fleet-power", "on", fleet.parent, "edge-1"], check=True)
    assert newcomer.json("device", "fsck", "--fleet", fleet)["devices"][0]["clean"]

    newcomer("device", "uninstall", "edge-1", "--fleet", fleet, "--yes")
    assert not (fleet.parent / "edge-1/disk/upper/root/.slmops").exists()


@pytest.mark.arm
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cpu", CPUS)
def test_a_device_of_another_processor_does_the_main_job(stocked, tmp_path, cpu):
    operator = stocked(PROFILE)
    fleet = operator.fleet(1, tmp_path / "fleet", PROFILE, words=("--arch", "arm64", "--cpu", cpu))
    the_main_job(operator, fleet)


@pytest.mark.arm
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    not shutil.which("qemu-system-aarch64"), reason="needs: apt-get install qemu-system-arm qemu-utils"
)
def test_a_whole_arm_machine_does_the_main_job(stocked, tmp_path):
    operator = stocked(PROFILE)
    fleet = operator.fleet(1, tmp_path / "fleet", PROFILE, words=("--vm",))
    the_main_job(operator, fleet)


def the_main_job(operator, fleet):
    operator("device", "bootstrap", "edge-1", "--fleet", fleet)

    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    assert operator.serves(fleet) == {"edge-1": "home-commands:1.0.0"}
    assert json.loads(operator.json("ask", fleet, "edge-1", QUESTION)["answer"]) == ANSWER

    told = operator("deploy", fleet, "--release", "home-commands:1.1.0", "--yes", exits=5)
    assert "golden prompts failed" in told
    assert operator.serves(fleet) == {"edge-1": "home-commands:1.0.0"}

    operator("deploy", fleet, "--release", "home-commands:1.0.1", "--yes")
    operator("rollback", fleet, "--yes")
    assert operator.serves(fleet) == {"edge-1": "home-commands:1.0.0"}
    assert json.loads(operator.json("ask", fleet, "edge-1", QUESTION)["answer"]) == ANSWER

    assert operator.json("device", "fsck", "--fleet", fleet)["devices"][0]["clean"]
    operator("device", "uninstall", "edge-1", "--fleet", fleet, "--yes")
