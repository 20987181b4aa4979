"""Where the operator's state lies: `$SLMOPS_HOME`, else the platform's user data directory."""

import os
import time
from pathlib import Path

import platformdirs

from slmops.artifact.trust import RELEASE, ROLLOUT
from slmops.cli.keyring import Keyring
from slmops.rollout.mandate import Mandate


def folder() -> Path:
    """Return the operator's directory."""
    said = os.environ.get("SLMOPS_HOME")
    return Path(said).expanduser() if said else Path(platformdirs.user_data_dir("slmops", appauthor=False))


def registry() -> Path:
    """Return where releases are kept."""
    return folder() / "registry"


def profiles() -> Path:
    """Return where the operator's own device profiles lie."""
    return folder() / "profiles"


def cache() -> Path:
    """Return where finished steps of builds are kept; throwing it away costs time alone."""
    return folder() / "cache"


def teachers() -> Path:
    """Return where recorded teachers are kept, part of the cache."""
    return cache() / "teachers"


def report_of(name: str, version: str) -> Path:
    """Return where the answer of the build that made a release is kept, with its recipe."""
    return folder() / "reports" / name / version


def history() -> Path:
    """Return the file that records rollouts."""
    return folder() / "rollouts.sqlite"


def served() -> Path:
    """Return the file that says which artifacts each device had when it was last asked."""
    return folder() / "served.json"


def known_hosts() -> tuple[Path, ...]:
    """Return the known_hosts files, slmops' own first."""
    return (folder() / "known_hosts", Path("~/.ssh/known_hosts").expanduser())


def keyring() -> Keyring:
    """Return the operator's keys and trust documents."""
    return Keyring(folder())


def release_key() -> Path:
    """Return a key that signs releases, as ssh-keygen takes it; it is made on first use."""
    return keyring().key(RELEASE)


def mandate() -> Mandate:
    """Return with whose word a rollout that begins now speaks to devices."""
    ring = keyring()
    chain = ring.chain()
    asked = chain[-1].trust.roles[ROLLOUT].keys
    return Mandate(chain, ring.key(ROLLOUT) if asked else None, epoch())


def epoch() -> int:
    """Return the epoch of what begins now: that of everything before is lower."""
    return time.time_ns() // 1_000_000
