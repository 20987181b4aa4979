"""Ask a running daemon from a shell how it stands, and to change what it serves: `slmopsd ctl`.

It speaks HTTP over the daemon's admin socket, with the standard library alone, and knows no model.

Exit codes: 0 it is so, 1 it was refused or is in doubt, 2 what was asked makes no sense, 5 a version failed
its gate, 6 no daemon answers. Law: every refusal says what could be done about it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from slmops.daemon.refusal import RefusedError
from slmops.errors import SlmopsError, UnreachableError, UsageError
from slmops.profile.sizes import human_size

SOCKET = "/run/slmopsd/admin/admin.sock"
OK, REFUSED, FAILED_GATE = 0, 1, 5
PROGRAM = "slmopsd ctl"
ABOUT = """\
Ask a running daemon how it stands, and change what it serves while it serves.

A new version, step by step (each can be repeated, and says so when nothing is left to do):

  slmopsd ctl load FOLDER  beside what serves; without memory for both, in its place
  slmopsd ctl gate         ask the candidate its golden prompts
  slmopsd ctl promote      requests that name no version go to it from now on
  slmopsd ctl rollback     if it is worse after all: the version before serves again, at once
"""
REMEDIES = {
    "not_allowed": f"{PROGRAM} gate",
    "not_gated": f"{PROGRAM} gate",
    "not_loaded": f"{PROGRAM} load FOLDER",
    "no_previous": f"{PROGRAM} load FOLDER",
    "other_folder": f"{PROGRAM} load FOLDER --digest sha256:...",
    "not_a_digest": f"{PROGRAM} load FOLDER",
    "does_not_fit": f"{PROGRAM} drop VERSION",
    "invalid_value": f"{PROGRAM} --help",
    "steered": "slmops rollback FLEET.yaml, or slmops deploy FLEET.yaml, on the operator's machine",
}
"""What to do about a refusal, by its code."""
VERSION = "a label (current, previous, candidate), a digest, or its first 12 digits"


def main(words: Sequence[str]) -> int:
    """Do what was asked; return the exit code."""
    said = _options().parse_args(list(words))
    try:
        told = said.ask(said)
    except SlmopsError as error:
        remedy = f"next: {_whole(error.remedy, said.admin)}\n" if error.remedy else ""
        sys.stderr.write(f"{error}\n{remedy}")
        return error.exit_code
    text = json.dumps(told, indent=1) + "\n" if said.output == "json" else _whole(said.tell(told), said.admin)
    sys.stdout.write(text)
    return FAILED_GATE if told.get("outcome") == "fail" else REFUSED if _is_in_doubt(told) else OK


def _whole(text: str, admin: Path) -> str:
    """Return a text in which each command works as it stands: with the socket, where we had to be told it."""
    if str(admin) == os.environ.get("SLMOPS_ADMIN", SOCKET):
        return text
    return re.sub(rf"({PROGRAM} [a-z]+)", lambda found: f"{found[1]} --admin {shlex.quote(str(admin))}", text)


def call(path: Path, method: str, verb: str, body: Any = None, *, seconds: float = 600.0) -> dict[str, Any]:
    """Return what the daemon at an admin socket says; raise RefusedError or UnreachableError."""
    connection = _Connection(path, seconds)
    try:
        connection.request(method, f"/admin/v1/{verb}", None if body is None else json.dumps(body))
        response = connection.getresponse()
        told: Any = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        remedy = (
            "Say --admin SOCKET as the daemon was started with; it is for the daemon's own user, and root."
        )
        raise UnreachableError(f"no daemon answers at {path}: {what}", remedy=remedy) from error
    finally:
        connection.close()
    if response.status >= http.client.BAD_REQUEST:
        refusal = RefusedError(response.status, told["error"]["message"])
        refusal.remedy = REMEDIES.get(told["error"].get("code"), f"{PROGRAM} status")
        raise refusal
    return dict(told)


class _Connection(http.client.HTTPConnection):
    """A connection over a Unix socket."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """See http.client."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _post(verb: str, *names: str) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """Return what posts the arguments of these names that were given."""

    def ask(said: argparse.Namespace) -> dict[str, Any]:
        given = {name: getattr(said, name) for name in names if getattr(said, name) is not None}
        return call(said.admin, "POST", verb, given, seconds=said.timeout)

    return ask


def _status(said: argparse.Namespace) -> dict[str, Any]:
    return call(said.admin, "GET", "status", seconds=said.timeout)


def _report(said: argparse.Namespace) -> dict[str, Any]:
    return call(said.admin, "GET", "traffic", seconds=said.timeout)


def _load(said: argparse.Namespace) -> dict[str, Any]:
    body = {"folder": str(said.folder.resolve()), "digest": said.digest}
    return call(said.admin, "POST", "load", body, seconds=said.timeout)


def _split(said: argparse.Namespace) -> dict[str, Any]:
    """Share out anew, and leave the shadow as it is."""
    off = said.shares == ["off"]
    pairs = [each.partition("=") for each in ([] if off else said.shares)]
    split = {label: _number(weight, f"{label}=") for label, _, weight in pairs}
    shadow = _report(said)["shadow"]
    return call(said.admin, "POST", "traffic", {"split": split, "shadow": shadow}, seconds=said.timeout)


def _shadow(said: argparse.Namespace) -> dict[str, Any]:
    """Ask another label beside, or none any more, and leave the split as it is."""
    share = _number(said.share.removesuffix("%"), "share ") / (100 if said.share.endswith("%") else 1)
    shadow = None if said.label == "off" else {"label": said.label, "share": share}
    body = {"split": _report(said)["split"], "shadow": shadow}
    return call(said.admin, "POST", "traffic", body, seconds=said.timeout)


def _number(said: str, what: str) -> float:
    with suppress(ValueError):
        if math.isfinite(float(said)):
            return float(said)
    raise UsageError(f"{what}{said}: expected a number", remedy=f"See `{PROGRAM} --help`.")


def _tell_status(told: dict[str, Any]) -> str:
    rows = [("LABEL", "RELEASE", "DIGEST", "STATE", "GATED BY", "MEMORY", "CRASHES")]
    for each in told["versions"]:
        size = human_size(each["rss"]) if each["rss"] else "-"
        digest, gated = _short(each["digest"]), each["gated"] or "-"
        crashes = str(each["crashes"])
        rows.append(
            (each["label"] or "-", each["release"] or "-", digest, each["state"], gated, size, crashes)
        )
    lines = [_table(rows)]
    for each in told["versions"]:
        failure = each["failure"]
        if failure is not None:
            lines.append(_tell_failure(each, failure))
    memory, traffic = told["memory"], told["traffic"]
    free = "unbounded" if memory["free"] is None else human_size(max(0, memory["free"])) + " free"
    paused = "; current is not ready: requests wait" if told["paused"] else ""
    lines.append(f"{told['active']} requests under way, {told['waiting']} waiting; memory {free}{paused}\n")
    if told["draining"]:
        lines.append(f"It is drained, and refuses requests. Take them again: {PROGRAM} drain --undo\n")
    if traffic["shadow"] or len(traffic["split"]) > 1:
        lines.append(_tell_traffic(traffic))
    return "".join(lines)


def _tell_failure(version: dict[str, Any], failure: dict[str, Any]) -> str:
    """Tell which version ended when, why, and its worker's last words."""
    when = time.strftime(" %Y-%m-%d %H:%M:%S UTC", time.gmtime(failure["at"])) if "at" in failure else ""
    why = failure.get("why") or "rolled back by hand"
    words = [line for line in failure.get("evidence", {}).get("log", [])[-5:] if line not in why]
    whose = f"{version['release']} ({_short(version['digest'])})".strip()
    return f"{whose}{when}: {why}\n" + "".join(f"    {line}\n" for line in words)


def _tell_load(told: dict[str, Any]) -> str:
    if told["plan"] == "resident":
        return f"{_short(told['digest'])} is loaded already; {told['folder']} was not read again.\n"
    how = {
        "parallel": "beside what serves",
        "sequential": "in the place of current, which comes back unless it is promoted soon",
    }
    loaded = f"{told['release']} ({_short(told['digest'])}) is loaded {how[told['plan']]}"
    ended = "".join(f"{_short(each)} was ended for it.\n" for each in told["ended"])
    return f"{loaded}, after {told['seconds']:.1f} s.\n{ended}Next: {PROGRAM} gate\n"


def _tell_gate(told: dict[str, Any]) -> str:
    lines = [f"{_short(told['digest'])}: {told['outcome']}: {told.get('message') or told.get('by')}\n"]
    lines += [
        f"  {each['question']!r}: expected {each['expected']!r}, got {each['answer']!r}\n"
        for each in told.get("failed") or []
    ]
    if told.get("tokens_per_second"):
        lines.append(f"  {told['tokens_per_second']:.1f} tokens/s\n")
    following = {
        "pass": f"Next: {PROGRAM} promote\n" if told.get("label") == "candidate" else "",
        "inconclusive": f"Ask again: {PROGRAM} gate; or let it be: {PROGRAM} drop candidate\n",
    }
    return "".join(lines) + following.get(told["outcome"], "It was ended; what served before serves.\n")


def _tell_promote(told: dict[str, Any]) -> str:
    if not told["changed"]:
        return f"{_short(told['digest'])} is current already.\n"
    back = told.get("previous")
    way = f"; the way back: {PROGRAM} rollback ({_short(back)})" if back else ""
    return f"{_short(told['digest'])} is current{way}\n"


def _tell_rollback(told: dict[str, Any]) -> str:
    already = "" if told["changed"] else " already"
    return f"{_short(told['digest'])} is current again{already}; {_short(told['withdrawn'])} was withdrawn.\n"


def _tell_drop(told: dict[str, Any]) -> str:
    return f"{_short(told['digest'])} is {'not loaded any more' if told['changed'] else 'not loaded'}.\n"


def _tell_drain(told: dict[str, Any]) -> str:
    if not told["draining"]:
        return "Requests are taken again.\n"
    back = f"Or take requests again: {PROGRAM} drain --undo\n"
    if told["drained"]:
        return f"No request is under way, and none is taken any more: stop the daemon.\n{back}"
    return f"{told['active']} requests are still under way; none is taken any more.\n{back}"


def _tell_traffic(told: dict[str, Any]) -> str:
    total = sum(told["split"].values())
    split = ", ".join(f"{label} {weight / total:.0%}" for label, weight in told["split"].items())
    shadow = told["shadow"]
    beside = f"; {shadow['share']:.0%} also asked of {shadow['label']}, unheard" if shadow else ""
    return f"Requests that name no version: {split}{beside}.\n"


def _tell_report(told: dict[str, Any]) -> str:
    if told["report"] is None:
        return f"{_tell_traffic(told)}Nothing is compared. Begin: {PROGRAM} shadow candidate 10%\n"
    from slmops.daemon import traffic  # noqa: PLC0415 - asked for by few

    return f"{_tell_traffic(told)}{traffic.table(told['report'])}\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(line.rstrip() + "\n" for line in lines)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _is_in_doubt(told: dict[str, Any]) -> bool:
    return told.get("outcome") == "inconclusive" or told.get("drained") is False


def _options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    say = common.add_argument
    where = os.environ.get("SLMOPS_ADMIN", SOCKET)
    say(
        "--admin",
        type=Path,
        default=Path(where),
        metavar="SOCKET",
        help="(default: $SLMOPS_ADMIN, %(default)s)",
    )
    say("-o", "--output", choices=("table", "json"), default="table")
    say("--timeout", type=float, default=600.0, metavar="S", help="seconds to wait (default: %(default)g)")
    reading = argparse.ArgumentParser(
        prog=PROGRAM, description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = reading.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help_: str, ask: Any, tell: Any) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=help_, description=help_.capitalize() + ".", parents=[common])
        made.set_defaults(ask=ask, tell=tell)
        return made

    verb("status", "tell which versions there are, and how they do", _status, _tell_status)
    load = verb("load", "load a version as the candidate", _load, _tell_load)
    load.add_argument("folder", type=Path, help="folder with artifact.json")
    load.add_argument("--digest", default="", help="what it is called (default: digest of its artifact.json)")
    gate = verb(
        "gate",
        "ask a version its golden prompts; one that fails is ended",
        _post("gate", "digest", "speed"),
        _tell_gate,
    )
    _version(gate, "candidate")
    gate.add_argument(
        "--speed", type=float, metavar="SHARE", help="of the promised tokens/s that it must reach"
    )
    promote = verb(
        "promote", "make a loaded and gated version current", _post("promote", "digest"), _tell_promote
    )
    _version(promote, "candidate")
    back = verb(
        "rollback", "make the previous version current again", _post("rollback", "why"), _tell_rollback
    )
    back.add_argument("--why", help="kept with the version that is rolled back")
    drop = verb("drop", "end a version's worker", _post("drop", "digest", "drain"), _tell_drop)
    _version(drop, None)
    drop.add_argument(
        "--drain",
        type=float,
        metavar="S",
        help="seconds for its requests under way (default: the daemon's --drain)",
    )
    drain = verb(
        "drain",
        "take no more requests and wait for those under way",
        _post("drain", "seconds", "undo"),
        _tell_drain,
    )
    drain.add_argument(
        "--seconds", type=float, metavar="S", help="to wait at most (default: the daemon's --drain)"
    )
    drain.add_argument("--undo", action="store_true", default=None, help="take requests again")
    split = verb(
        "split", "share requests out between labels: current=9 candidate=1; off", _split, _tell_traffic
    )
    split.add_argument("shares", nargs="+", metavar="LABEL=WEIGHT")
    shadow = verb(
        "shadow", "ask another label a share of the requests too, unheard; off", _shadow, _tell_traffic
    )
    shadow.add_argument("label", choices=("previous", "candidate", "off"))
    shadow.add_argument("share", nargs="?", default="10%", help="of the requests (default: 10%%)")
    verb("report", "compare the versions that share requests", _report, _tell_report)
    return reading


def _version(reading: argparse.ArgumentParser, default: str | None) -> None:
    told = f" (default: {default})" if default else ""
    optional: Any = {"nargs": "?", "default": default} if default else {}
    reading.add_argument("digest", metavar="VERSION", help=VERSION + told, **optional)
