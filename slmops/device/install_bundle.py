"""Install a release from a folder that somebody brought, with no link and no operator.

    python3 DIR/agent.pyz ROOT install DIR [NAME]

It is the way of any release: prepared, received, staged, put on trial, proved by its golden prompts; only
that this device confirms it by itself. Everything is verified as if it had come over a link. NAME says which
device this is, where it was never told and the folder is for several.
Law: to be cut off anywhere does no harm, and to run it again ends what was begun.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from slmops import __version__, wire
from slmops import digest as digests
from slmops.artifact import sign
from slmops.device import (
    activate,
    by_hand,
    hold,
    journal,
    limit,
    prepare,
    receive,
    renew,
    service,
    stage,
    supervise,
    trust,
)
from slmops.device.places import Places, read_json, write, write_json
from slmops.errors import DeviceError, DoesNotFitError, IntegrityError, SlmopsError
from slmops.profile.sizes import human_size
from slmops.wire import Request

WENT_BACK = 5
"""Exit code of a release that did not pass: the device serves what it served."""
INTERRUPTED = 130
ANEW = "Have the bundle written again: slmops bundle create."
LINES = 8
"""Of the daemon's log that a person is shown."""


def main(places: Places, words: list[str]) -> int:
    """Install from the folder `words[0]`; tell a person how it goes; return the exit code."""
    try:
        folder = Path(words[0]).resolve()
        said = _read(folder)
        _take_over(places, folder, words)
        hold.require_free(places)
        name = _introduce(places, said, words[1] if len(words) > 1 else None)
        slots = {}
        for part in sorted(said["parts"], reverse=True):
            _tell(f"{part}: checking and copying")
            slots[part] = _bring(places, folder / part, said, part, name)
        return _try(places, said, slots)
    except IndexError:
        _tell("usage: python3 agent.pyz ROOT install FOLDER [NAME]")
        return 2
    except SlmopsError as error:
        _tell(f"error: {error}")
        # What an operator is to do about a release is nothing that a person with a stick can.
        remedy = ANEW if error.remedy == IntegrityError.remedy else error.remedy
        if remedy:
            _tell(f"next: {remedy}")
        return error.exit_code
    except OSError as error:
        _tell(f"error: {error}")
        return 1
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        _tell(f"error: the bundle is not what `slmops bundle create` writes: {error!r}")
        _tell(f"next: {ANEW}")
        return IntegrityError.exit_code
    except KeyboardInterrupt:
        _tell("stopped: what serves is as it was, or goes back by itself. Run it again to install.")
        return INTERRUPTED


def _read(folder: Path) -> dict[str, Any]:
    said = read_json(folder / "bundle.json")
    if said is None:
        raise IntegrityError(f"{folder} holds no whole bundle", remedy=ANEW)
    return said


def _take_over(places: Places, folder: Path, words: list[str]) -> None:
    """Put the folder's agent in force; where a newer one is, that one goes on in its place."""
    places.make()
    data = Path(sys.argv[0]).read_bytes()
    mine = f"agent/{digests.short(digests.of_bytes(data))}.pyz"
    if supervise.in_force(places) == mine:
        return
    if _newer_in_force(places):
        agent = str(places.agent_link)
        rest = [str(places.root), "install", str(folder), *words[1:]]
        os.execv(sys.executable, [sys.executable, agent, *rest])  # noqa: S606 (the same work, by a newer agent)
    (places.root / "agent").mkdir(exist_ok=True, mode=0o700)
    write(places.root / mine, data)
    with journal.locked(places):
        renew.point(places, mine)
        service.nudge(places)


def _newer_in_force(places: Places) -> bool:
    if not places.agent_link.exists() or places.agent_link.resolve() == Path(sys.argv[0]).resolve():
        return False
    asked = limit.run(
        [sys.executable, str(places.agent_link), str(places.root), "hello"],
        input=wire.render_request(Request("hello")).decode(),
    )
    replies = [wire.parse_reply(line) for line in asked.stdout.splitlines()]
    done = [reply.said for reply in replies if reply is not None and reply.kind == "done"]
    return bool(done) and wire.newer(str(done[-1].get("version")), __version__)


def _introduce(places: Places, said: dict[str, Any], name: str | None) -> str:
    """Return what this device is called, enrolling it where nobody has."""
    known = read_json(places.config)
    if known is None:
        if name is None and len(said["devices"]) == 1:
            name = next(iter(said["devices"]))
        told = said["devices"].get(name, {}).get("told")
        if told is None:
            there = ", ".join(said["devices"])
            raise DeviceError(f"which device is this? The bundle is for {there}", remedy="Add its name.")
        with journal.locked(places):
            trust.greet(places, said["trust"])
            write_json(places.config, told)
        return str(name)
    if name not in (None, known["device"]):
        raise DeviceError(
            f"this device is {known['device']}, not {name}", remedy="Leave the name away: it knows its own."
        )
    key = said["parts"]["model"]["key"]
    if known["profile"] != key:
        raise DoesNotFitError(f"the bundle is for devices of profile {key}, this is a {known['profile']}")
    told = said["devices"]
    if known["device"] not in told and any(any(each["assignments"].values()) for each in told.values()):
        raise DeviceError(
            f"this device is {known['device']}; the bundle is for {', '.join(told)}",
            remedy=f"Have one written for it: slmops bundle create --device {known['device']} ...",
        )
    return str(known["device"])


def _bring(places: Places, folder: Path, said: dict[str, Any], part: str, name: str) -> str:
    """Take one release in, as it comes over a link; return the slot that was vouched for."""
    signatures = sign.split((folder / "signature").read_bytes())
    prepared = prepare.prepare(
        places,
        {
            "index": (folder / "index.json").read_text(encoding="utf-8"),
            "signatures": [signature.decode() for signature in signatures],
            "manifest": (folder / "manifest.json").read_text(encoding="utf-8"),
            "profile": said["parts"][part]["key"],
            "trust": said["trust"],
            "assignment": said["devices"].get(name, {}).get("assignments", {}).get(part),
        },
    )
    for each in prepared["missing"]:
        _tell(f"  {each['name']} ({human_size(each['size'])})")
        if (folder / "files" / each["name"]).stat().st_size != each["size"]:
            raise IntegrityError(f"{each['name']} is not as long as was signed", remedy=ANEW)
        told = {"slot": prepared["slot"], "name": each["name"], "offset": 0, "length": each["size"]}
        with (folder / "files" / each["name"]).open("rb") as file:
            receive.take(places, told, file.read)
    stage.stage(places, {"slot": prepared["slot"]})
    return str(prepared["slot"])


def _try(places: Places, said: dict[str, Any], slots: dict[str, str]) -> int:
    """Put the model on trial and commit it when it passes; `slots` holds those that were brought."""
    _tell("on trial: starting it and asking its golden prompts")
    told = {**said["times"], "slot": slots["model"], "runtime_slot": slots.get("runtime")}
    verdict = activate.activate(places, told, lambda said: None)
    if verdict["outcome"] != "pass":
        _tell(f"went back: {verdict['message']} ({verdict['code']})")
        for text in verdict["evidence"].get("log", [])[-LINES:]:
            _tell(f"  {text}")
        _tell(f"next: Read {places.log}")
        return WENT_BACK
    activate.confirm(places, slots["model"], verdict["standing"]["since"])
    _tell(f"{said['release']} serves: {verdict['message']}")
    for text in by_hand.after_install(places):
        _tell(text)
    return 0


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
