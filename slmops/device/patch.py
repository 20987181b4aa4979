"""Make a file from one that is here and what it differs by, in a child of the runtime's Python.

The decoder wants numpy, which the agent has not: `RUNTIME_PYTHON agent.pyz --apply-delta BASE DELTA OUT`.
Laws: what the child made takes its name only when its digest holds; whatever fails leaves nothing half made,
and is counted: a delta that failed twice on this device is not tried again.
"""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

from slmops.artifact.manifest import Blob
from slmops.device import borrow, incoming, journal, runtimes
from slmops.device.places import Places, read_json, write_json
from slmops.errors import DeviceError, IntegrityError

TRIES = 2
MEMORY = 2 << 30
"""Bytes of address space that the child may take: far more than it needs, far less than a runaway would."""
SLOWEST = 1 << 20
"""Bytes a second that the slowest device is waited for."""
PATIENCE = 60.0
"""Seconds that a child may take at least."""
WORDS = 300
FULL = "The whole file is sent instead."


def patch(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Make a file from `base`, the digest of a file that some slot holds, and a delta that was received.

    `said` holds `slot`, `name`, `base` and `delta` {digest, size}. Returns {name, size}. Raise IntegrityError
    when what came of it is not the file, DeviceError when nothing did: the operator sends the whole file.
    """
    with journal.locked(places):
        return make(places, said)


def make(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Do what `patch` says; the caller holds the device's lock."""
    name, failed = said["name"], read_json(_counts(places)) or {}
    place = incoming.folder(places, said["slot"]) / name
    delta_said = {**said, "name": f"{name}.delta"}
    delta, delta_blob = incoming.place_of(places, delta_said)
    blob = dict(incoming.artifact(places, said["slot"]).files)[name]
    if incoming.holds(place, blob):
        return {"name": name, "size": blob.size}
    if failed.get(delta_blob.digest, 0) >= TRIES:
        raise DeviceError(f"{name}: this delta has failed {TRIES} times here", remedy=FULL)
    base = borrow.find(places, Blob("", said["base"], 0))
    if base is None or not incoming.holds(delta, delta_blob):
        raise DeviceError(f"{name}: its base or its delta is not here", remedy=FULL)
    # Counted before it is tried: a delta that brings the device down is not tried for ever.
    write_json(_counts(places), {**failed, delta_blob.digest: failed.get(delta_blob.digest, 0) + 1})
    with incoming.writing(place, blob) as file:
        if file is not None:
            _fill(places, file, (base, delta), place, blob)
    write_json(_counts(places), failed)
    delta.unlink()
    return {"name": name, "size": blob.size}


def _fill(places: Places, file: BinaryIO, made_of: tuple[Path, Path], place: Path, blob: Blob) -> None:
    """Let a child fill the part of a file, and give it its name; of what fails nothing stays."""
    part, mapped = incoming.part_of(place), blob.size + made_of[0].stat().st_size
    incoming.forget(place)
    try:
        words = [str(path) for path in (*made_of, part)]
        _apply(places, words, file.fileno(), mapped=mapped, size=blob.size)
        os.fsync(file.fileno())
        incoming.accept(place, blob)
    except (IntegrityError, DeviceError, OSError):
        part.unlink(missing_ok=True)
        raise


def able(places: Places) -> bool:
    """Say whether the runtime here can apply deltas; one that can is asked once."""
    settings = _settings(places)
    asked = {key: settings.get(key) for key in ("runtime", "runtime_slot")}
    asked["agent"] = places.agent_link.resolve().name
    known = read_json(places.run / "delta.json")
    if known is None or known.get("asked") != asked:
        try:
            done = subprocess.run(
                _decoder(places, settings),
                env=runtimes.environment(places, settings), check=False, timeout=PATIENCE,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except (IntegrityError, OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode:
            return False
        write_json(places.run / "delta.json", {"asked": asked})
    return True


def _apply(places: Places, paths: list[str], held: int, *, mapped: int, size: int) -> None:
    """Let a child write the file; raise DeviceError when it does not, or takes too long.

    The child shares the descriptor `held`, and its lock: should this process be killed, nobody writes the
    part before the child has ended. What it says goes to a file, which is bounded as what it makes is.
    """
    settings, patience = _settings(places), PATIENCE + size / SLOWEST
    words = [*_decoder(places, settings), *paths]
    environment = {
        **runtimes.environment(places, settings),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }

    def bound() -> None:
        for kind, most in (
            (resource.RLIMIT_AS, MEMORY + mapped),
            (resource.RLIMIT_FSIZE, size),
            (resource.RLIMIT_CPU, int(patience)),
        ):
            resource.setrlimit(kind, (most, most))

    with (places.run / "decoder.log").open("w+b") as told:
        with subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
            pass_fds=(held,),
            preexec_fn=bound,  # noqa: PLW1509 - the agent has one thread
        ) as child:
            try:
                child.wait(patience)
            except subprocess.TimeoutExpired as error:
                child.kill()
                raise DeviceError(
                    f"the delta was not applied within {patience:.0f} s", remedy=FULL
                ) from error
        if child.returncode:
            told.seek(max(0, told.seek(0, os.SEEK_END) - WORDS))
            last = told.read().decode(errors="replace").strip() or "it said nothing"
            raise DeviceError(f"the delta's decoder ended with {child.returncode}: {last}", remedy=FULL)


def _decoder(places: Places, settings: dict[str, Any]) -> list[str]:
    """Return the words that run the decoder; without paths it says by its exit code whether it can."""
    return [*runtimes.python_words(places, settings), str(places.agent_link.resolve()), "--apply-delta"]


def _settings(places: Places) -> dict[str, Any]:
    return {**places.read_config(), **(journal.standing(places).settings or {})}


def _counts(places: Places) -> Path:
    return places.run / "deltas.json"
