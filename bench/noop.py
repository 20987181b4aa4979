"""What it costs to ask a whole fleet how it is, and to deploy what is there already.

A hundred devices, which are five folders behind each of twenty OpenSSH servers, each with a daemon of its
own that serves the demo model. Compared: `slmops status` and `slmops deploy` of the release that all of them
serve, with pyinfra and ansible-core copying that model's file to where the same file lies, and with `ssh
DEVICE true`, all with as many connections at a time. The peers are looked for in a virtual environment,
`--peers DIR`; what is not there is left out and named.

They do not do the same. pyinfra and ansible hash the file on the device, see that it is the one, and that
is all; ssh proves that a device answers. `slmops deploy` verifies the release in the registry, and of each
device that it trusts the same keys, serves this artifact committed and healthy, from the runtime it is to
run from, and that nothing of it is known to be rotten. The device's supervisor says so, and hashed the files
when they came and when they began to serve; they are not hashed anew.

What is fair: the same OpenSSH servers, keys and connections, none of them kept from one case to the next;
every case once in every round. Bytes are what the operator sends over TCP, counted by a relay in this
process through which all cases go. CPU and memory are those of the operator's processes; memory is the
largest one's. The devices share this machine, so wall time is theirs too. Artifact bytes are what the
rollouts say they sent; daemons were restarted when their process ids changed over all rounds.

With `--room DIR` the fleet is kept there and stays up for the next time, unless `--end` is said. It asserts
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml
from _measure import ROOT, Case, Sample, median, peak, progress, ratio, rounds, run, save, show
from deploy import Relay
from push import PYINFRA

RELEASE: Final = "home-commands:1.0.0"
ROOTS: Final = 5
AT_A_TIME: Final = "32"
"""As many devices as `slmops status` asks at a time."""
STATUS, AGAIN, SSH = "slmops status", "slmops deploy, nothing to do", "ssh DEVICE true"


class Fleet:
    """Sshds with several devices behind each, all serving one release, and what reaches them."""

    def __init__(self, room: Path, servers: int, peers: Path) -> None:
        self.room, self.peers, self.relay = room, peers, Relay()
        self.folder, self.sent = room / "fleet", 0
        self.env = {"SLMOPS_HOME": str(room / "home"), "NO_COLOR": "1", "COLUMNS": "200"}
        self.servers = servers
        if not (self.folder / "fleet.yaml").exists():
            self._build()
        elif not (self.folder / "edge-1/sshd.pid").exists():
            run([ROOT / "scripts/fleet-up", str(servers), self.folder])
        said = yaml.safe_load((self.folder / "fleet.yaml").read_text(encoding="utf-8"))
        self.user, self.key = said["defaults"]["user"], str(self.folder / "id")
        self.devices = self._devices(said)
        self._write_fleet(said)
        self._write_peers()
        progress(f"deploying {RELEASE} to {len(self.devices)} devices")
        self.slmops("deploy", self.fleet, "--release", RELEASE, "--yes")

    @property
    def fleet(self) -> Path:
        """Return the fleet file."""
        return self.folder / "many.yaml"

    def _build(self) -> None:
        run([ROOT / "scripts/fleet-up", str(self.servers), self.folder])
        name, _, version = RELEASE.partition(":")
        self.slmops("quantize", ROOT / "demo/model", "--profile", "local", "--type", "Q8_0",
                    "--name", name, "--version", version)  # fmt: skip

    def _devices(self, said: dict[str, Any]) -> list[dict[str, Any]]:
        """Return every device as the fleet file has it, its port leading through the relay."""
        found, hosts = [], []
        for server in said["devices"]:
            port = self.relay.open(int((self.folder / server["name"] / "place").read_text().split()[1]))
            key = (self.folder / server["name"] / "host_key.pub").read_text(encoding="utf-8")
            hosts.append(f"[127.0.0.1]:{port} {key}")
            found += [
                {**server, "port": port, "name": f"{server['name']}-{number}", "root": f"~/.slmops-{number}"}
                for number in range(1, ROOTS + 1)
            ]
        (self.folder / "relay_hosts").write_text("".join(hosts), encoding="utf-8")
        return found

    def _write_fleet(self, said: dict[str, Any]) -> None:
        # A hundred daemons that start on one machine are slower than their promise.
        gate = {"least_speed_of_before": None, "least_speed_of_promise": None}
        parallel = int(AT_A_TIME)
        strategy = {"canary": 1, "waves": ["100%"], "soak": "1s", "max_parallel": parallel, "gate": gate}
        defaults = {**said["defaults"], "known_hosts": "relay_hosts"}
        fleet = {**said, "name": "many", "defaults": defaults, "devices": self.devices, "rollout": strategy}
        self.fleet.write_text(yaml.safe_dump(fleet), encoding="utf-8")

    def home(self, device: dict[str, Any]) -> Path:
        """Return where a device's home is on this machine; five devices share one."""
        server: str = device["name"].rpartition("-")[0]
        return self.folder / server / "home"

    def root(self, device: dict[str, Any]) -> Path:
        """Return where a device's agent keeps what is its own."""
        name: str = device["root"].rpartition("/")[2]
        return self.home(device) / name

    def daemons(self) -> dict[str, int | None]:
        """Return the process id of every device's daemon."""
        found = {}
        for device in self.devices:
            said = json.loads((self.root(device) / "run/daemon.json").read_bytes())
            found[device["name"]] = (said["child"] or {}).get("pid")
        return found

    def lay_out(self) -> int:
        """Put the model's file where the peers are to find it; return its size."""
        model = next((self.root(self.devices[0]) / "slots").glob("*/files/*.gguf"))
        shutil.copyfile(model, self.room / "artifact")
        for device in self.devices:
            shutil.copyfile(model, self._place(device))
        return model.stat().st_size

    def _place(self, device: dict[str, Any]) -> Path:
        return self.home(device) / f"artifact-{device['name']}"

    def _write_peers(self) -> None:
        config, lines, entries = [], [], []
        for device in self.devices:
            name, port, place = device["name"], device["port"], str(self._place(device))
            config.append(f"Host {name}\n  Port {port}\n")
            lines.append(
                f"{name} ansible_host=127.0.0.1 ansible_port={port} ansible_user={self.user} "
                f"ansible_ssh_private_key_file={self.key} ansible_python_interpreter=/usr/bin/python3 "
                f"dest={place}"
            )
            reach = {"ssh_hostname": "127.0.0.1", "ssh_port": port, "ssh_user": self.user,
                     "ssh_key": self.key, "ssh_strict_host_key_checking": "no",
                     "ssh_known_hosts_file": str(self.folder / "relay_hosts"),
                     "file": str(self.room / "artifact"), "dest": place}  # fmt: skip
            entries.append((name, reach))
        common = (
            "HostName 127.0.0.1", f"User {self.user}", "IdentitiesOnly yes", "BatchMode yes",
            f"IdentityFile {self.key}", f"UserKnownHostsFile {self.folder}/relay_hosts",
        )  # fmt: skip
        config.append("Host *\n" + "".join(f"  {line}\n" for line in common))
        (self.room / "ssh_config").write_text("".join(config), encoding="utf-8")
        (self.room / "names").write_text("\n".join(each["name"] for each in self.devices), encoding="utf-8")
        (self.room / "ansible.ini").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (self.room / "inventory.py").write_text(f"devices = {entries!r}\n", encoding="utf-8")
        (self.room / "pyinfra_put.py").write_text(PYINFRA, encoding="utf-8")

    def cases(self) -> dict[str, Case]:
        """Return what can be measured here, by name."""
        binaries = self.peers / "bin"
        pyinfra, ansible = binaries / "pyinfra", binaries / "ansible"
        found: dict[str, Case] = {
            STATUS: partial(self.slmops, "status", self.fleet),
            AGAIN: self.again,
            SSH: partial(self._counted, ["xargs", "-a", self.room / "names", "-P", AT_A_TIME, "-I", "{}",
                                         "ssh", "-F", self.room / "ssh_config", "{}", "true"]),
        }  # fmt: skip
        if pyinfra.exists():
            files = [self.room / "inventory.py", self.room / "pyinfra_put.py"]
            found["pyinfra files.put"] = partial(
                self._counted, [pyinfra, "-y", "--parallel", AT_A_TIME, *files]
            )
        if ansible.exists():
            inventory, copy = self.room / "ansible.ini", f"src={self.room}/artifact dest={{{{ dest }}}}"
            found["ansible copy"] = partial(
                self._counted,
                [ansible, "all", "-i", inventory, "-f", AT_A_TIME, "-m", "copy", "-a", copy],
            )
        missing = [path.name for path in (pyinfra, ansible) if not path.exists()]
        if missing:
            progress(f"not in {self.peers}: {', '.join(missing)}")
        return found

    def again(self) -> Sample:
        """Deploy what is there; count what was sent of the artifact, by the rollout's own word."""
        said = self.room / "said.json"
        words = self._words("deploy", self.fleet, "--release", RELEASE, "--yes", "-o", "json")
        sample = self._counted(["sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", said, *words])
        self.sent += sum(json.loads(said.read_bytes())["sent"].values())
        return sample

    def slmops(self, *words: object) -> Sample:
        """Run one command of slmops."""
        return self._counted(self._words(*words))

    def _words(self, *words: object) -> list[str]:
        return [str(Path(sys.executable).with_name("slmops")), *map(str, words)]

    def _counted(self, argv: Sequence[str | Path]) -> Sample:
        before = self.relay.sent
        env = {
            **self.env, "HOME": str(self.room),
            "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_SSH_ARGS": f"-o ControlMaster=no -o UserKnownHostsFile={self.folder}/relay_hosts",
        }  # fmt: skip
        return replace(run(argv, env), bytes=self.relay.sent - before)

    def end(self) -> None:
        """Stop every device, and what runs on them."""
        for device in self.devices:
            said = json.loads((self.root(device) / "run/supervisor.json").read_bytes())
            with suppress(ProcessLookupError):
                os.kill(said["pid"], signal.SIGTERM)
        run([ROOT / "scripts/fleet-down", self.folder])


def main() -> None:
    """Build, measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller, and 2 rounds: does it work?")
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".venv", help="virtual environment with the peers"
    )
    parser.add_argument("--room", type=Path, help="keep the fleet in this folder, and leave it up")
    parser.add_argument("--end", action="store_true", help="stop the fleet in --room when all is done")
    said = parser.parse_args()
    count, servers = (2, 2) if said.quick else (5, 20)
    if said.room is not None:
        said.room.mkdir(parents=True, exist_ok=True)
        fleet = Fleet(said.room.absolute(), servers, said.peers)
        measure(fleet, count)
        if said.end:
            fleet.end()
        return
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        fleet = Fleet(Path(folder), servers, said.peers)
        try:
            measure(fleet, count)
        finally:
            fleet.end()


def measure(fleet: Fleet, count: int) -> None:
    """Run the rounds, print what they took, write it down."""
    size, before = fleet.lay_out(), fleet.daemons()
    samples = rounds(count, fleet.cases())
    after = fleet.daemons()
    restarted = sum(before[name] != after[name] for name in before)
    found = {name: median(taken) for name, taken in samples.items()}
    many, servers = len(fleet.devices), len({device["port"] for device in fleet.devices})
    title = (
        f"{many} devices behind {servers} sshds on loopback, nothing to be done, medians of {count} rounds"
    )
    columns = ("case", "wall s", "CPU s", "peak MB", "sent KB", "wall / ours", "CPU / ours")
    notes = (
        f"{fleet.sent} bytes of the artifact's {size / 1e6:.2f} MB sent, {restarted} daemons restarted.\n"
        f"CPU, memory and bytes are the operator's. Ours: {AGAIN}; what is compared: --help."
    )
    show(title, columns, [row(name, one, found[AGAIN]) for name, one in found.items()], notes)
    facts = {"artifact_bytes_sent": fleet.sent, "daemons_restarted": restarted}
    save("noop", samples, rounds=count, devices=many, servers=servers, artifact_bytes=size, **facts)


def row(name: str, one: Sample, ours: Sample) -> tuple[str, ...]:
    """Return one line of the table."""
    cells = (
        name,
        f"{one.wall_s:.2f}",
        f"{one.cpu_s:.2f}",
        peak(one.peak_mb),
        f"{(one.bytes or 0) / 1e3:.0f}",
    )
    return (*cells, ratio(one.wall_s, ours.wall_s), ratio(one.cpu_s, ours.cpu_s))


if __name__ == "__main__":
    main()
