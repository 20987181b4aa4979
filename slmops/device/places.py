"""Where things lie on a device: all under one directory.

ROOT/agent/<digest>.pyz, ROOT/agent.pyz   the agent; the link names the one in force
ROOT/config.json                          what this device was told of itself
ROOT/trust/                               whose releases are accepted here: trust documents, what was seen
ROOT/incoming/<slot>/                     a release on its way in
ROOT/slots/<slot>/                        index.json, signature, manifest.json, files/
ROOT/runtimes/<slot>/                     the runtime bundle in a slot, unpacked
ROOT/current, ROOT/previous               links to slots
ROOT/journal.jsonl                        what was decided, in order
ROOT/committed.json                       what was committed last: a second copy
ROOT/rotten.json                          what was found rotten, until it is whole again
ROOT/lease.json                           whose rollout has this device, and the highest epoch heard
ROOT/keys.json                            who may ask the daemon; without it, this machine
ROOT/identity_key, ROOT/identity_key.pub  the device's own key: with it, it says what it runs
ROOT/update-lock                          made by an application that must not be disturbed; not ours
ROOT/reserve                              bytes of disk that the journal may take when there are no others
ROOT/run/, ROOT/log/, ROOT/spool/         the living processes' own
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from slmops.errors import DeviceError


class Places:
    """The paths under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.agent_link = root / "agent.pyz"
        self.config = root / "config.json"
        self.trust = root / "trust"
        self.signers = root / "trust" / "allowed_signers"
        self.incoming = root / "incoming"
        self.slots = root / "slots"
        self.runtimes = root / "runtimes"
        self.current = root / "current"
        self.previous = root / "previous"
        self.journal = root / "journal.jsonl"
        self.committed = root / "committed.json"
        self.reserve = root / "reserve"
        self.rotten = root / "rotten.json"
        self.lock = root / "lock"
        self.lease = root / "lease.json"
        self.lease_lock = root / "run" / "lease.lock"
        self.lease_work = root / "run" / "lease.work"
        self.identity_key = root / "identity_key"
        self.update_lock = root / "update-lock"
        self.run = root / "run"
        self.supervisor = root / "run" / "supervisor.json"
        self.supervisor_lock = root / "run" / "supervisor.lock"
        self.daemon = root / "run" / "daemon.json"
        self.whole = root / "run" / "whole.json"
        self.port = root / "run" / "port"
        self.admin = root / "run" / "admin.sock"
        self.keys = root / "keys.json"
        self.bulletin = root / "run" / "bulletin"
        self.log = root / "log" / "daemon.log"
        self.spool = root / "spool"

    def own(self) -> list[Path]:
        """Return every path the agent makes under its root, itself last: cut off, it can be asked again."""
        torn = [*self.root.glob(".new-*"), *self.root.glob(".*.new")]
        names = (
            *(
                "config.json",
                "trust",
                "incoming",
                "slots",
                "runtimes",
                "current",
                "previous",
                "journal.jsonl",
            ),
            *(
                "committed.json",
                "reserve",
                "rotten.json",
                "lease.json",
                "keys.json",
                "identity_key",
                "identity_key.pub",
                "run",
                "log",
                "spool",
                "lock",
                "agent",
                "agent.pyz",
            ),
        )
        return torn + [self.root / name for name in names]

    def slot(self, name: str) -> Path:
        """Return the folder of a slot."""
        return self.slots / name

    def files(self, name: str) -> Path:
        """Return the artifact folder inside a slot: what the daemon serves."""
        return self.slots / name / "files"

    def make(self) -> None:
        """Make the directories, for the owner alone."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.incoming, self.slots, self.run, self.log.parent, self.spool, self.trust):
            folder.mkdir(exist_ok=True, mode=0o700)

    def read_config(self) -> dict[str, Any]:
        """Return what this device was told of itself; raise DeviceError before it was enrolled."""
        said = read_json(self.config)
        if said is None:
            raise DeviceError(
                f"{self.root} is not enrolled", remedy="Run `slmops deploy`: it enrolls new devices."
            )
        return said


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None where there is no such file or it is torn."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object so that a reader sees the old file or the new one, whole."""
    write(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def write(path: Path, data: bytes) -> None:
    """Write a file by temporary file, fsync and rename."""
    # Not by tempfile: an agent starts often, and reads it for nothing else.
    fresh = path.with_name(f".new-{os.urandom(6).hex()}")
    descriptor = os.open(str(fresh), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` last through a power cut."""
    descriptor = os.open(str(folder), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
