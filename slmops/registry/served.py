"""Which artifacts each device had when it was last asked: what it serves, and what it may return to.

A file beside the registry, written by whoever has just asked devices. It keeps a release that a device may
return to from being collected; devices know it better, and are asked again by `slmops status`.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from slmops.errors import IntegrityError


@dataclass(frozen=True)
class Seen:
    """What a device had, and when (seconds since the epoch) it said so."""

    at: float
    slots: tuple[str, ...]
    """Digests of artifacts' manifests."""


def record(path: Path, at: float, told: Mapping[str, Iterable[str]]) -> None:
    """Write what devices, called `fleet/device`, say they hold, in place of what they said before."""
    with _locked(path):
        known = read(path) | {device: Seen(at, tuple(sorted(slots))) for device, slots in told.items()}
        _write(path, known)


def forget(path: Path, device: str) -> bool:
    """Forget a device that is gone for good; say whether it was known."""
    with _locked(path):
        known = read(path)
        if device not in known:
            return False
        _write(path, {name: seen for name, seen in known.items() if name != device})
        return True


def read(path: Path) -> dict[str, Seen]:
    """Return what every device had when it was last asked."""
    try:
        said = json.loads(path.read_bytes())
        return {device: Seen(float(one["at"]), tuple(one["slots"])) for device, one in said.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path} cannot be read: {error!r}",
            remedy="Remove it, and ask every fleet anew (slmops status FLEET.yaml) before you collect.",
        ) from error


def _write(path: Path, known: Mapping[str, Seen]) -> None:
    incoming = path.with_name(f".{path.name}.incoming")
    with incoming.open("w", encoding="utf-8") as file:
        json.dump({device: asdict(seen) for device, seen in sorted(known.items())}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    incoming.rename(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
