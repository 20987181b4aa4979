import shutil
import subprocess
from pathlib import Path

import pytest

from slmops.fleet.load import load_fleet

SCRIPTS = Path(__file__).parents[2] / "scripts"


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
