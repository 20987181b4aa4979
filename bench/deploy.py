"""What it costs an operator to deploy to a fleet, ask how it is, and go back.

Compared: `slmops deploy` of the demo model to devices that have nothing, again when nothing is to be done,
and of a second release; `slmops status` and `slmops rollback`; against `scp` of the same artifact to the
same devices and `ssh DEVICE true`, both by `xargs -P` with as many at a time as slmops takes.

They do not do the same. scp copies bytes, and that is all; ssh proves that a device answers. A first deploy
looks at every device, sends the agent, enrolls the device, verifies the release's signature there, sends the
artifact, hashes and fsyncs it, stages it, starts the daemon, asks the golden prompts, and confirms over a new
connection, the canary before the others. So read the ratios as the price of that.

What is fair: the same OpenSSH servers, keys and files, every case once in every round, a fresh fleet each
round. Bytes are what the operator sends over TCP, counted by a relay in this process through which all cases
go. CPU and memory are those of the operator's processes alone. The devices share this machine, so wall time
is mostly theirs: as many daemons start on its cores as there are devices, not one on each device.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml
from _measure import ROOT, Case, Sample, median, peak, progress, quick, ratio, rounds, run, save, show

NAME: Final = "home-commands"
RELEASES: Final = {"1.0.0": "Q8_0", "1.0.1": "Q4_K_M"}
AT_A_TIME: Final = "10"
"""The default `max_parallel` of a fleet file."""
SCP, SSH = "scp of the files", "ssh DEVICE true"
FIRST, AGAIN, STATUS, ROLLBACK = "first deploy", "deploy again, nothing to do", "status", "rollback"
PEERS: Final = {FIRST: SCP, AGAIN: SSH, STATUS: SSH, ROLLBACK: SSH}
PIECE: Final = 1 << 16


class Relay:
    """Passes connections on to the devices, and counts the bytes that go there."""

    def __init__(self) -> None:
        self.sent = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def open(self, port: int) -> int:
        """Return a free port that leads to `port`."""
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(partial(self._pass_on, port), "127.0.0.1", 0), self._loop
        ).result()
        return int(server.sockets[0].getsockname()[1])

    async def _pass_on(self, port: int, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(self._pump(near, there, counted=True), self._pump(far, back, counted=False))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool) -> None:
        try:
            while piece := await source.read(PIECE):
                self.sent += len(piece) * counted
                sink.write(piece)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()


class Fleet:
    """Fresh devices on loopback behind a relay, and an operator who has two releases."""

    def __init__(self, room: Path, count: int) -> None:
        self.room, self.count, self.relay, self.born = room, count, Relay(), 0
        self.env = {"SLMOPS_HOME": str(room / "home"), "NO_COLOR": "1"}
        for version, type_ in RELEASES.items():
            progress(f"building {NAME}:{version} ({type_})")
            self.slmops("quantize", ROOT / "demo/model", "--profile", "local", "--type", type_,
                        "--name", NAME, "--version", version)  # fmt: skip

    @property
    def folder(self) -> Path:
        """Where the devices of this round are."""
        return self.room / f"fleet-{self.born}"

    def renew(self) -> None:
        """Stop the devices there are, and start as many that have nothing."""
        self.stop()
        self.born += 1
        run([ROOT / "scripts/fleet-up", str(self.count), self.folder])
        fleet: dict[str, Any] = yaml.safe_load((self.folder / "fleet.yaml").read_text(encoding="utf-8"))
        hosts, config = [], []
        for device in fleet["devices"]:
            key = (self.folder / device["name"] / "host_key.pub").read_text(encoding="utf-8")
            device["port"] = self.relay.open(device["port"])
            hosts.append(f"[127.0.0.1]:{device['port']} {key}")
            config.append(f"Host {device['name']}\n  Port {device['port']}\n")
        common = (
            "HostName 127.0.0.1", f"User {fleet['defaults']['user']}", "IdentitiesOnly yes", "BatchMode yes",
            f"IdentityFile {self.folder}/id", f"UserKnownHostsFile {self.folder}/known_hosts",
        )  # fmt: skip
        config.append("Host *\n" + "".join(f"  {line}\n" for line in common))
        (self.folder / "known_hosts").write_text("".join(hosts), encoding="utf-8")
        (self.folder / "fleet.yaml").write_text(yaml.safe_dump(fleet), encoding="utf-8")
        (self.folder / "ssh_config").write_text("".join(config), encoding="utf-8")
        names = "\n".join(device["name"] for device in fleet["devices"])
        (self.folder / "names").write_text(names, encoding="utf-8")

    def stop(self) -> None:
        """Stop the devices and forget their files."""
        if self.folder.is_dir():
            run([ROOT / "scripts/fleet-down", self.folder])
            shutil.rmtree(self.folder)

    def slmops(self, *words: object) -> Sample:
        """Run one command of slmops."""
        return self._counted([Path(sys.executable).with_name("slmops"), *map(str, words)])

    def first(self) -> Sample:
        """Deploy to a fresh fleet; keep what the first device got, for scp."""
        self.renew()
        sample = self.deploy("1.0.0")
        files = next((self.folder / "edge-1/home/.slmops/slots").glob("*/files"))
        shutil.copytree(files, self.folder / "artifact")
        return sample

    def deploy(self, version: str) -> Sample:
        """Deploy one of the releases."""
        return self.slmops("deploy", self.folder / "fleet.yaml", "--release", f"{NAME}:{version}", "--yes")

    def ask(self, verb: str, *words: str) -> Sample:
        """Run a verb on the whole fleet."""
        return self.slmops(verb, self.folder / "fleet.yaml", *words)

    def scp(self) -> Sample:
        """Copy the artifact to every device."""
        return self._each(
            "scp", "-q", "-r", "-F", self.folder / "ssh_config", self.folder / "artifact", "{}:artifact"
        )

    def ssh(self) -> Sample:
        """Run `true` on every device."""
        return self._each("ssh", "-F", self.folder / "ssh_config", "{}", "true")

    def _each(self, *words: str | Path) -> Sample:
        names = self.folder / "names"
        return self._counted(["xargs", "-a", names, "-P", AT_A_TIME, "-I", "{}", *words])

    def _counted(self, argv: Sequence[str | Path]) -> Sample:
        before = self.relay.sent
        return replace(run(argv, self.env), bytes=self.relay.sent - before)


def main() -> None:
    """Build, measure, print, save."""
    count, many = (2, 4) if quick(__doc__) else (5, 10)
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        fleet = Fleet(Path(folder), many)
        cases: dict[str, Case] = {
            FIRST: fleet.first,
            AGAIN: partial(fleet.deploy, "1.0.0"),
            STATUS: partial(fleet.ask, "status"),
            "deploy the next release": partial(fleet.deploy, "1.0.1"),
            ROLLBACK: partial(fleet.ask, "rollback", "--yes"),
            SCP: fleet.scp,
            SSH: fleet.ssh,
        }
        try:
            samples = rounds(count, cases)
            artifact = sum(file.stat().st_size for file in (fleet.folder / "artifact").iterdir())
        finally:
            fleet.stop()
    found = {name: median(taken) for name, taken in samples.items()}
    title = f"{many} devices on loopback, {artifact / 1e6:.2f} MB to each, medians of {count} rounds"
    columns = ("case", "wall s", "CPU s", "peak MB", "sent MB", "CPU / peer", "sent / peer", "peer")
    notes = "CPU and memory are the operator's; MB are 10^6 bytes. scp verifies, starts and proves nothing."
    show(title, columns, [row(name, one, found) for name, one in found.items()], notes)
    save("deploy", samples, rounds=count, devices=many, artifact_bytes=artifact)


def row(name: str, one: Sample, found: dict[str, Sample]) -> tuple[str, ...]:
    """Return one line of the table."""
    sent, peer = one.bytes or 0, PEERS.get(name)
    cells = (name, f"{one.wall_s:.1f}", f"{one.cpu_s:.2f}", peak(one.peak_mb), f"{sent / 1e6:.2f}")
    if peer is None:
        return (*cells, "", "", "")
    other = found[peer]
    return (*cells, ratio(one.cpu_s, other.cpu_s), ratio(sent, other.bytes or 0), peer)


if __name__ == "__main__":
    main()
