"""slmops rollout report: a rollout's account as JSON and as one HTML page, both signed."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from slmops.cli import auditing, home
from slmops.cli.render import Form, Output, emit, out
from slmops.cli.rollout_choice import Number, find, opened
from slmops.errors import UsageError
from slmops.rollout import audit, sign_report
from slmops.rollout.report import report as give_account


def report(
    number: Number = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write it [default: rollout-N].")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(metavar="DIR", help="See whether the report there holds, and whose it is.")
    ] = None,
    output: Output = Form.TABLE,
) -> None:
    """Write a rollout's report: report.json and the page report.html, each signed by the rollout key.

    With --verify DIR, say instead whether a report holds and by whose key. Exit code 7: it does not.
    """
    if verify is not None:
        if number is not None or folder is not None:
            raise UsageError("--verify looks at a report that is there; give the folder alone")
        _verify(verify, output)
    else:
        _write(number, folder, output)


def _write(number: int | None, folder: Path | None, output: Form) -> None:
    with opened() as history:
        entry = find(history, number)
        lines, events = history.devices(entry.id), history.events(entry.id)
    acts = auditing.lines()
    head = audit.digest(acts[-1]) if acts else None
    said = give_account(entry, lines, events, made=time.time(), audit=head)
    ring = home.keyring()
    role = sign_report.role_of(ring.chain())
    there = folder or Path(f"rollout-{entry.id}")
    sign_report.write(there, said, ring.key(role))
    files = [there / sign_report.PAGE, there / sign_report.DATA]
    if output is Form.JSON:
        emit({"rollout": entry.id, "files": [str(path) for path in files], "signed_by": role})
        return
    for path in files:
        out.print(str(path), markup=False, soft_wrap=True)


def _verify(folder: Path, output: Form) -> None:
    said, signer = sign_report.verify(folder, home.keyring().chain())
    rollout = said["rollout"]
    if output is Form.JSON:
        emit({"holds": True, "rollout": rollout, "signer": asdict(signer)})
        return
    still = "" if signer.in_force else f", which it was last in trust document {signer.version}"
    what = f"rollout {rollout['number']}: {rollout['release']} to {rollout['fleet']}, {rollout['state']}"
    out.print(f"holds: {what}", markup=False, soft_wrap=True)
    out.print(f"signed by {signer.fingerprint}, a {signer.role} key{still}", markup=False, soft_wrap=True)
