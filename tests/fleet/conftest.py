import contextlib
import shutil
import socket
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from slmops.fleet import known_hosts
from slmops.fleet.load import load_fleet
from slmops.fleet.ssh import shown_key

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


class Proxy:
    """Passes bytes between whoever connects and `port`; cuts the way there after so many bytes each time."""

    def __init__(self, port, cuts=()):
        self.target, self.cuts, self.sent, self.stalled = port, list(cuts), 0, False
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.open = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.server.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self.open += [near, far]
                most = self.cuts.pop(0) if self.cuts else None
                threading.Thread(target=self.pump, args=(near, far, most), daemon=True).start()
                threading.Thread(target=self.pump, args=(far, near, None), daemon=True).start()

    def pump(self, source, sink, most):
        """Pass on what comes; the one way that may be cut is the one that is counted."""
        counted = source.getpeername()[1] != self.target
        passed = 0
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                if self.stalled:
                    continue
                if counted:
                    self.sent += len(piece)
                    passed += len(piece)
                sink.sendall(piece)
                if most is not None and passed >= most:
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        for end in (self.server, *self.open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


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
