"""What a person at the device may type, and answers that people read.

    python3 agent.pyz ROOT install FOLDER [NAME] | status | logs [LINES] | fsck [--repair] | retire --yes

An operator's requests come in on standard input; where none does, it is a person. Law: what takes something
away is done only with its word, `--repair` or `--yes`: a link that broke before its request looks the same.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout
from typing import Any

from slmops import __version__
from slmops.device import commands, fsck, logs, report, service
from slmops.device.places import Places, read_json
from slmops.errors import SlmopsError

USAGE = f"""\
slmops agent {__version__}: it keeps a model serving on this device

usage: python3 agent.pyz ROOT VERB        ROOT is the agent's folder, mostly ~/.slmops

  install FOLDER [NAME]   install the bundle in FOLDER; NAME says which device this is, where it asks
  status                  what serves, on which port, what starts it after a boot
  logs [LINES]            the last lines of the daemon's log
  fsck [--repair]         read every byte again; with --repair, mend what can be mended
  retire --yes            stop it and remove all that it wrote

Its other verbs answer `slmops` on the operator's machine.
"""
MISUSED = 2
LINES = 20


def main(places: Places, words: list[str]) -> int:
    """Do what a person asks; return the exit code."""
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        sys.stderr.write(USAGE)
        return MISUSED
    try:
        # What a verb tells meanwhile is for operators.
        with redirect_stdout(io.StringIO()):
            code, lines = VERBS[verb](places, rest)
    except SlmopsError as error:
        code, lines = (
            error.exit_code,
            [f"error: {error}", *([f"next: {error.remedy}"] if error.remedy else [])],
        )
    except OSError as error:
        code, lines = 1, [f"error: {error}"]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return code


def after_install(places: Places) -> list[str]:
    """Return what a person may want to know once something serves."""
    said = report.status(places, {})
    after = service.outlook(places)["after_boot"]
    again = f"{after} starts it" if after else f"nothing starts it: {_start(places)}"
    return [f"port:       {said['port'] or 'none answers'} (http://127.0.0.1)", f"after boot: {again}"]


def _start(places: Places) -> str:
    return f"python3 {places.agent_link} {places.root} supervise &"


def _status(places: Places, _words: list[str]) -> tuple[int, list[str]]:
    said = report.status(places, {})
    standing, release = said["standing"], said["release"] or {}
    health = "on trial" if standing["trial"] else "healthy" if said["healthy"] else "does not answer"
    lines = [
        f"device:     {(read_json(places.config) or {}).get('device', 'was never told its name')}",
        f"release:    {release.get('reference') or 'none'}",
        f"health:     {release.get('damage') or (health if release else 'no release')}",
        *after_install(places),
    ]
    failure: dict[str, Any] = standing["failure"] or {}
    return 0, lines + ([f"went back:  {failure['message']}"] if failure.get("message") else [])


def _logs(places: Places, words: list[str]) -> tuple[int, list[str]]:
    lines = int(words[0]) if words and words[0].isdigit() else LINES
    return 0, [*logs.logs(places, {"lines": lines})["lines"], f"(the whole log: {places.log})"]


def _fsck(places: Places, words: list[str]) -> tuple[int, list[str]]:
    said = fsck.fsck(places, {"repair": "--repair" in words})
    lines = [f"{each['where']}: {each['wrong']}; {_then(each)}" for each in said["findings"]]
    return (0 if said["clean"] else 1), [
        *lines,
        "all is as it was left" if said["clean"] else "it is not whole",
    ]


def _then(found: dict[str, Any]) -> str:
    if found["mended"]:
        return "mended"
    return "next: fsck --repair" if found["advice"] == fsck.REPAIR else f"next: {found['advice']}"


def _retire(places: Places, words: list[str]) -> tuple[int, list[str]]:
    if "--yes" not in words:
        return MISUSED, [f"this stops the daemon and removes {places.root}; if so: retire --yes"]
    commands.retire(places, {})
    return 0, [f"{places.root} is gone"]


VERBS = {"status": _status, "logs": _logs, "fsck": _fsck, "retire": _retire}
