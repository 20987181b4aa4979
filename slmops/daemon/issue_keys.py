"""Issue, list and revoke keys from a shell: `python -m slmops.daemon keys create|list|revoke --file FILE`.

A key is printed once, alone on standard output, and cannot be had again. A daemon that runs with this file
sees the change with its next request.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from slmops import keep_keys, keys
from slmops.errors import UsageError

DAY = 86400.0


def main(words: list[str]) -> int:
    """Do it; return the exit code. Raise UsageError, DocumentError, OSError."""
    said = _options().parse_args(words)
    file: Path = said.file
    if said.action == "create":
        lasts = None if said.days is None else said.days * DAY
        key, spoken = keep_keys.create(file, said.name, said.role, lasts=lasts)
        sys.stderr.write(f"Key {key.id} ({key.name}, {key.role}) is in {file}. It is shown this once:\n")
        sys.stdout.write(f"{spoken}\n")
    elif said.action == "revoke":
        key = keep_keys.revoke(file, said.key)
        sys.stderr.write(f"Key {key.id} ({key.name}, {key.role}) opens nothing any more.\n")
        rows = keys.shown(keep_keys.read(file), time.time())
        if not any(row["state"] == keys.IN_FORCE for row in rows):
            sys.stderr.write("It was the last: nobody is let in until a key is created.\n")
    else:
        _list(file)
    return 0


def _list(file: Path) -> None:
    try:
        rows = keys.shown(keep_keys.read(file), time.time())
    except FileNotFoundError as error:
        raise UsageError(f"there is no {file}", remedy="Create a key; it makes the file.") from error
    for row in rows:
        until = "for ever" if row["expires"] is None else f"until {_day(row['expires'])}"
        made = f"made {_day(row['created'])}"
        sys.stdout.write(
            f"{row['id']}  {row['name']:<24}  {row['role']:<8}  {row['state']:<8}  {made}, {until}\n"
        )


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def _options() -> argparse.ArgumentParser:
    reading = argparse.ArgumentParser(prog="slmopsd keys", description="Who may ask.")
    actions = reading.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key and print it, this once")
    create.add_argument("--name", required=True, help="whose it is; it stands in logs")
    create.add_argument("--role", choices=keys.ROLES, default="infer")
    create.add_argument("--days", type=float, help="after so many days it opens nothing any more")
    revoke = actions.add_parser("revoke", help="let a key open nothing any more")
    revoke.add_argument("key", help="its id or its name")
    listing = actions.add_parser("list", help="say which keys there are")
    for action in (create, revoke, listing):
        action.add_argument("--file", type=Path, required=True, help="the file of keys")
    return reading
