"""Where the operator's state lies: `$SLMOPS_HOME`, else the platform's user data directory."""

import os
from pathlib import Path

import platformdirs

from slmops.artifact import sign
from slmops.cli.render import say
from slmops.errors import MissingPartError


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


def known_hosts() -> tuple[Path, ...]:
    """Return the known_hosts files, slmops' own first."""
    return (folder() / "known_hosts", Path("~/.ssh/known_hosts").expanduser())


def release_key() -> Path:
    """Return the private release key; it is made on first use, and that is said aloud."""
    key = folder() / "keys" / "release"
    if not key.exists():
        sign.make_key(key, "slmops release key")
        mark = sign.fingerprint(key.with_suffix(".pub"))
        say(f"Made a release key: {key} ({mark}). It signs your releases; keep it, and a copy of it, safe.")
    return key


def signers() -> str:
    """Return the allowed-signers text for the release key; raise MissingPartError when there is none."""
    public = folder() / "keys" / "release.pub"
    if not public.exists():
        raise MissingPartError(
            f"the release key is not there: {public}",
            remedy="Restore it, or set SLMOPS_HOME to where your releases were made.",
        )
    return sign.allowed_signers(public.read_text())
