import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from slmops.fleet import known_hosts
from slmops.fleet.load import load_fleet
from slmops.fleet.ssh import shown_key

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS.parent / "bench"))

from _proxy import Proxy  # noqa: E402 (the suite's one link that misbehaves lies with the benchmarks)


@pytest.fixture(scope="session")
def devices(tmp_path_factory):
    """Two real devices on loopback: an sshd each, with a host key and a home of its own."""
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()) or not shutil.which("ssh-keygen"):
        pytest.skip("sshd is not installed")
    folder = tmp_path_factory.mktemp("fleet")
    subprocess.run([SCRIPTS / "fleet-up", "2", folder], check=True, capture_output=True)
    yield load_fleet(folder / "fleet.yaml")[1]
    subprocess.run([SCRIPTS / "fleet-down", folder], check=True, capture_output=True)


@pytest.fixture
def homes(devices):
    """Where the devices' homes lie on this machine, by name."""
    return {device.name: Path(device.identity).parent / device.name / "home" for device in devices}


@pytest.fixture
def there(devices, tmp_path):
    """A device of its own folder, and the way to it: one that is cut after so many bytes, each time."""
    ways = []

    def through(*cuts):
        device = replace(devices[0], root=str(tmp_path / "root"))
        way = Proxy(device.port, cuts)
        ways.append(way)
        name = known_hosts.name_of("127.0.0.1", way.port)
        known_hosts.trust(tmp_path / "hosts", name, shown_key(device, ()))
        return replace(device, port=way.port, known_hosts=str(tmp_path / "hosts")), way

    yield through
    for way in ways:
        way.close()
