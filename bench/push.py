"""What it costs to push an artifact for the first time to many devices, against tools that copy files.

Compared: slmops (one process, `fleet/send.py` over paramiko) with scp, rsync, fabric, parallel-ssh, pyinfra
and ansible, each with as many connections at a time as there are devices. The peers are looked for in a
virtual environment, `--peers DIR`; what is not there is left out and named.

They do not do the same. scp, fabric and parallel-ssh write bytes, and that is all; pyinfra and ansible hash
to decide, rsync checks a sum and renames. slmops brings its agent to a device that has none, enrolls it, lets
it verify trust document, signature and manifest, hashes every byte as it comes, fsyncs, and stages a slot
that is there whole or not at all. Read the ratios as including that.

What is fair: the same OpenSSH servers, keys and file, every case once in every round, fresh devices each
time. CPU and memory are those of the operator's processes; memory is the largest one's. The devices share
this machine, so wall time is theirs too.

Then two figures of slmops alone: how its memory grows from that file to one of 2 GiB, and how many bytes
cross a way that is cut twenty times, of all that the way carried.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml
from _measure import ROOT, Case, Sample, median, peak, progress, ratio, rounds, run, save, show

MIB: Final = 1 << 20
OURS, SCP = "slmops", "scp"
CUTS: Final = 20
BANDWIDTH: Final = 10 * MIB
"""Bytes a second of the way that is cut, as a wire of 100 Mbit has them: less than a device can take."""

FABRIC = """
import sys
from concurrent.futures import ThreadPoolExecutor
from fabric import Connection
file, key, user, *places = sys.argv[1:]
def put(place):
    port, path = place.split(":")
    with Connection("127.0.0.1", user=user, port=int(port), connect_kwargs={"key_filename": key}) as there:
        there.put(file, path)
with ThreadPoolExecutor(len(places)) as pool:
    list(pool.map(put, places))
"""
PARALLEL_SSH = """
import sys
from gevent import joinall
from pssh.clients import ParallelSSHClient
from pssh.config import HostConfig
file, key, user, *places = sys.argv[1:]
ports, paths = zip(*(place.split(":") for place in places))
hosts = [HostConfig(port=int(port), user=user, private_key=key) for port in ports]
client = ParallelSSHClient(["127.0.0.1"] * len(ports), host_config=hosts, pool_size=len(ports))
files = [{"local_file": file, "remote_file": path} for path in paths]
joinall(client.scp_send("%(local_file)s", "%(remote_file)s", copy_args=files), raise_error=True)
"""
PYINFRA = """
from pyinfra import host
from pyinfra.operations import files
files.put(src=host.data.file, dest=host.data.dest)
"""


class Fleet:
    """Devices on loopback, and a signed release of one file."""

    def __init__(self, room: Path, count: int, size: int, peers: Path) -> None:
        self.room, self.count, self.peers = room, count, peers
        self.folder = room / "fleet"
        run([ROOT / "scripts/fleet-up", str(count), self.folder])
        said: dict[str, Any] = yaml.safe_load((self.folder / "fleet.yaml").read_text(encoding="utf-8"))
        self.user, self.key = said["defaults"]["user"], str(self.folder / "id")
        self.ports = [str(device["port"]) for device in said["devices"]]
        self.names = [str(device["name"]) for device in said["devices"]]
        self.file = room / "artifact"
        write_random(self.file, size)
        self._write_inventories()

    def _write_inventories(self) -> None:
        hosts = [f"Host {name}\n  Port {port}\n" for name, port in zip(self.names, self.ports, strict=True)]
        common = (
            "HostName 127.0.0.1", f"User {self.user}", "IdentitiesOnly yes", "BatchMode yes",
            f"IdentityFile {self.key}", f"UserKnownHostsFile {self.folder}/known_hosts",
        )  # fmt: skip
        hosts.append("Host *\n" + "".join(f"  {line}\n" for line in common))
        (self.room / "ssh_config").write_text("".join(hosts), encoding="utf-8")
        (self.room / "names").write_text("\n".join(self.names), encoding="utf-8")
        lines = [f"{name} ansible_host=127.0.0.1 ansible_port={port} ansible_user={self.user} "
                 f"ansible_ssh_private_key_file={self.key} ansible_python_interpreter=/usr/bin/python3 "
                 f"dest={self.folder}/{name}/home/artifact"
                 for name, port in zip(self.names, self.ports, strict=True)]  # fmt: skip
        (self.room / "ansible.ini").write_text("\n".join(lines) + "\n", encoding="utf-8")
        entries = [
            (name, {"ssh_hostname": "127.0.0.1", "ssh_port": int(port), "ssh_user": self.user,
                    "ssh_key": self.key, "ssh_strict_host_key_checking": "no",
                    "file": str(self.file),
                    "dest": f"{self.folder}/{name}/home/artifact",
                    "ssh_known_hosts_file": str(self.folder / "known_hosts")})
            for name, port in zip(self.names, self.ports, strict=True)
        ]  # fmt: skip
        (self.room / "inventory.py").write_text(f"devices = {entries!r}\n", encoding="utf-8")
        (self.room / "fabric_put.py").write_text(FABRIC, encoding="utf-8")
        (self.room / "pyinfra_put.py").write_text(PYINFRA, encoding="utf-8")
        (self.room / "parallel_ssh_put.py").write_text(PARALLEL_SSH, encoding="utf-8")

    def stop(self) -> None:
        """Stop the devices."""
        run([ROOT / "scripts/fleet-down", self.folder])

    def homes(self) -> list[Path]:
        """Return where the devices' homes are on this machine."""
        return [self.folder / name / "home" for name in self.names]

    def cases(self) -> dict[str, Case]:
        """Return what can be measured here, by name."""
        binaries = self.peers / "bin"
        packages = next(self.peers.glob("lib/python*/site-packages"), self.peers)
        places = [f"{port}:{home}/artifact" for port, home in zip(self.ports, self.homes(), strict=True)]
        python, words = binaries / "python", [str(self.file), self.key, self.user, *places]
        there = f"{{}}:{self.folder}/{{}}/home/artifact"
        each: list[str | Path] = ["xargs", "-a", self.room / "names", "-P", str(self.count), "-I", "{}"]
        config: list[str | Path] = ["-F", self.room / "ssh_config"]
        remote = f"ssh -F {self.room}/ssh_config"
        found: dict[str, tuple[Path | None, list[str | Path]]] = {
            OURS: (None, [sys.executable, __file__, "--push", self.room]),
            SCP: (None, [*each, "scp", "-q", *config, self.file, there]),
            "rsync": (None, [*each, "rsync", "-e", remote, self.file, there]),
            "fabric": (binaries / "fab", [python, self.room / "fabric_put.py", *words]),
            "parallel-ssh": (packages / "pssh", [python, self.room / "parallel_ssh_put.py", *words]),
            "pyinfra": (binaries / "pyinfra", [
                binaries / "pyinfra", "-y", "--parallel", str(self.count), self.room / "inventory.py",
                self.room / "pyinfra_put.py",
            ]),
            "ansible": (binaries / "ansible", [
                binaries / "ansible", "all", "-i", self.room / "ansible.ini", "-f", str(self.count),
                "-m", "copy", "-a", f"src={self.file} dest={{{{ dest }}}}",
            ]),
        }  # fmt: skip
        env = {
            "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_PIPELINING": "True", "HOME": str(self.room),
            "ANSIBLE_SSH_ARGS": f"-o ControlMaster=no -o UserKnownHostsFile={self.folder}/known_hosts",
        }  # fmt: skip
        missing = [name for name, (needs, _) in found.items() if needs is not None and not needs.exists()]
        if missing:
            progress(f"not in {self.peers}: {', '.join(missing)}")
        return {
            name: partial(self._fresh, words, env)
            for name, (_, words) in found.items()
            if name not in missing
        }

    def _fresh(self, words: Sequence[str | Path], env: dict[str, str]) -> Sample:
        """Run a case on devices that have nothing, and see that every one has the file."""
        for home in self.homes():
            shutil.rmtree(home / ".slmops", ignore_errors=True)
            (home / "artifact").unlink(missing_ok=True)
        os.sync()
        sample = run(words, env)
        size = self.file.stat().st_size
        for home in self.homes():
            (arrived,) = [*home.glob("artifact"), *home.glob(".slmops/slots/*/files/artifact")]
            if arrived.stat().st_size != size:
                sys.exit(f"{arrived} is not whole: {words}")
        return sample


class Way:
    """A way to a port that carries so many bytes before it breaks, each time until it has broken enough."""

    def __init__(self, port: int, cuts: int, after: int) -> None:
        self.sent, self.cuts, self._after, self._target = 0, cuts, after, port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            near, _ = self._server.accept()
            far = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._there, args=(near, far), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near), daemon=True).start()

    def _there(self, near: socket.socket, far: socket.socket) -> None:
        carried = 0

        def count(size: int) -> bool:
            nonlocal carried
            self.sent += size
            carried += size
            return self.cuts > 0 and carried >= self._after

        if self._pump(near, far, count):
            self.cuts -= 1

    @staticmethod
    def _pump(
        source: socket.socket, sink: socket.socket, count: Callable[[int], bool] = lambda size: False
    ) -> bool:
        cut = False
        with suppress(OSError):
            while not cut and (piece := source.recv(1 << 16)):
                cut = count(len(piece))
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        return cut


def write_random(path: Path, size: int) -> None:
    """Write bytes that nothing can make smaller."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


def release(room: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Sign a release of the file in `room`; return what `enroll` hears of trust, and what `prepare` hears."""
    from slmops.artifact import amendment, manifest, sign  # noqa: PLC0415 (not in the process that measures)
    from slmops.artifact import trust as trusts  # noqa: PLC0415
    from slmops.artifact.manifest import Artifact, Blob, Entry, Release  # noqa: PLC0415
    from slmops.digest import of_bytes, of_file  # noqa: PLC0415

    file, signing = room / "artifact", {trusts.ROOT: room / "root_key", trusts.RELEASE: room / "release_key"}
    for key in signing.values():
        if not key.exists():
            sign.make_key(key, key.name)
    keys = {role: [key.with_suffix(".pub").read_text()] for role, key in signing.items()}
    document = trusts.render(amendment.first("2026-01-01T00:00:00Z", None, keys, {}))
    trust = trusts.SignedTrust(document, (sign.sign(document, signing[trusts.ROOT], sign.TRUST),))
    blob = Blob(manifest.WEIGHT_TYPE, of_file(file), file.stat().st_size)
    config = Blob(manifest.CONFIG_TYPE, of_bytes(b"{}"), 2)
    described = manifest.render_artifact(Artifact(config, (("artifact", blob),)))
    entry = Entry(Blob(manifest.MANIFEST_TYPE, of_bytes(described), len(described)), platform.machine())
    index = manifest.render_release(Release("push", "1.0.0", "2026-01-01T00:00:00Z", (("local", entry),)))
    said = {
        "index": index.decode(), "signatures": [sign.sign(index, signing[trusts.RELEASE]).decode()],
        "manifest": described.decode(), "profile": "local",
    }  # fmt: skip
    return [trusts.said(trust)], said


def push(room: Path, port: int | None, bandwidth: int | None) -> None:
    """Bring the release of the file in `room` to its devices: what slmops does until a slot is staged.

    With `port` it goes to the first device alone, over that port.
    """
    from slmops.fleet import agent, known_hosts  # noqa: PLC0415 (not in the process that measures)
    from slmops.fleet.inventory import Device  # noqa: PLC0415
    from slmops.fleet.load import load_fleet  # noqa: PLC0415
    from slmops.fleet.send import HASHING, Outgoing, Sender  # noqa: PLC0415
    from slmops.fleet.ssh import shown_key  # noqa: PLC0415

    file = room / "artifact"
    trust, said = release(room)

    def bring(device: Device) -> None:
        with Sender(partial(agent.session, device, (room / "hosts",))) as sender:
            settings = {"device": device.name, "profile": "local", "runtime": ["python3"], "port": 0}
            sender.call("enroll", {**settings, "service": "process", "trust": trust})
            prepared = sender.call("prepare", said, silence=HASHING)
            missing = [
                Outgoing(each["name"], each["size"], file, each["offset"]) for each in prepared["missing"]
            ]
            sender.send(prepared["slot"], missing, lambda here, whole: None)
            sender.call("stage", {"slot": prepared["slot"]}, silence=HASHING)

    devices = load_fleet(room / "fleet/fleet.yaml")[1]
    if port is not None:
        name, shown = known_hosts.name_of("127.0.0.1", port), shown_key(devices[0], ())
        known_hosts.trust(room / "hosts", name, shown)
        devices = [replace(devices[0], port=port, bandwidth=bandwidth)]
    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(bring, devices))


def alone(fleet: Fleet, size: int, cuts: int = 0) -> tuple[Sample, int]:
    """Push a file of `size` bytes to one device over a way that is cut; return what it took and carried."""
    write_random(fleet.file, size)
    home = fleet.homes()[0]
    shutil.rmtree(home / ".slmops", ignore_errors=True)
    way = Way(int(fleet.ports[0]), cuts, size // (cuts + 1))
    words: list[str | Path] = [sys.executable, __file__, "--push", fleet.room, "--port", str(way.port)]
    sample = run([*words, "--bandwidth", str(BANDWIDTH)] if cuts else words)
    if cuts and way.cuts:
        sys.exit(f"the way broke {cuts - way.cuts} times, not {cuts}")
    shutil.rmtree(home / ".slmops")
    return replace(sample, bytes=way.sent), way.sent


def main() -> None:
    """Build, measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller, and 2 rounds: does it work?")
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".venv", help="virtual environment with the peers"
    )
    parser.add_argument("--push", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--bandwidth", type=int, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.push:
        push(said.push, said.port, said.bandwidth)
        return
    count, many, size, huge = (2, 4, 8 * MIB, 64 * MIB) if said.quick else (5, 20, 50 * MIB, 2048 * MIB)
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        fleet = Fleet(Path(folder), many, size, said.peers)
        try:
            samples = rounds(count, fleet.cases())
            shutil.rmtree(fleet.homes()[-1] / ".slmops", ignore_errors=True)
            progress(f"one device, {size / MIB:.0f} MiB, {huge / MIB:.0f} MiB, and {CUTS} cuts")
            small, large = alone(fleet, size)[0], alone(fleet, huge)[0]
            carried = alone(fleet, size, CUTS)[1]
        finally:
            fleet.stop()
    found = {name: median(taken) for name, taken in samples.items()}
    best = min(one.wall_s for name, one in found.items() if name != OURS)
    title = f"First push of {size / MIB:.0f} MiB to {many} devices on loopback, medians of {count} rounds"
    rows = [
        (name, f"{one.wall_s:.2f}", ratio(one.wall_s, best), f"{one.cpu_s:.2f}", peak(one.peak_mb))
        for name, one in found.items()
    ]
    notes = (
        "slmops verifies, hashes, fsyncs and stages; no peer does. CPU and peak memory are the operator's.\n"
        f"One device: peak {small.peak_mb:.0f} MB for {size / MIB:.0f} MiB, {large.peak_mb:.0f} MB for "
        f"{huge / MIB:.0f} MiB. {CUTS} cuts: {carried / size:.3f} x the bytes."
    )
    show(title, ("tool", "wall s", "wall / best peer", "CPU s", "peak MB"), rows, notes)
    facts = {"small_peak_mb": small.peak_mb, "huge_peak_mb": large.peak_mb, "huge_bytes": huge,
             "cuts": CUTS, "carried_bytes": carried, "carried_ratio": round(carried / size, 4)}  # fmt: skip
    save("push", samples, rounds=count, devices=many, artifact_bytes=size, **facts)


if __name__ == "__main__":
    main()
