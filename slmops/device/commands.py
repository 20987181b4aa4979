"""What an operator asks of a device that has its release: how it stands, to try, to go back, to answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from slmops.artifact.description import CLASSIFICATION, Description
from slmops.device import activate as trials
from slmops.device import attest, journal, line, service, slots, steer, talk
from slmops.device.places import Places
from slmops.errors import DeviceError


def activate(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Put a staged slot on trial, telling how it goes; the answer has an `attestation` besides."""
    return attest.attested(places, said, trials.activate(places, said, line.note))


def confirm(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Commit the slot on trial."""
    return trials.confirm(places, said["slot"], said.get("since"))


def roll_back(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Serve again what served before, telling how it goes; the answer has an `attestation` besides."""
    return attest.attested(places, said, trials.roll_back(places, said, line.note))


def ask(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Ask the daemon, passing the answer on as it comes; a classifier's is the label."""
    slot = steer.labels(journal.standing(places)).get(steer.CURRENT)
    if slot is None:
        raise DeviceError("this device has no release", remedy="Run `slmops deploy`.")
    for text in _pieces(places, slots.description(places, slot), said):
        line.note({"text": text})
    return {"release": slots.release(places, slot).reference}


def _pieces(places: Places, description: Description, said: dict[str, Any]) -> Iterator[str]:
    if description.task == CLASSIFICATION:
        yield talk.classify(places, said["prompt"], said["timeout"])
        return
    path, body = talk.question(said, chat=description.chat_template is not None)
    yield from talk.stream(places, path, body, said["timeout"])


def retire(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Stop the daemon and remove everything this agent ever wrote, and nothing else."""
    with journal.locked(places):
        service.end(places)
        for path in places.own():
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.is_dir():
                slots.remove(path)
        with suppress(OSError):
            places.root.rmdir()
    return {}
