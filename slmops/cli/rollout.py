"""slmops rollout: what happened in past and present rollouts."""

import json
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from slmops.cli import home
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, ago, emit, out, size, table
from slmops.errors import UsageError
from slmops.rollout.history import History
from slmops.rollout.told import remedies

app = verb("Past and present rollouts: list, show.", group=True)


@app.command("list")
def list_(limit: Annotated[int, typer.Option(help="How many.")] = 20, output: Output = Form.TABLE) -> None:
    """List the latest rollouts, newest first."""
    entries = History(home.history()).rollouts(limit)
    if output is Form.JSON:
        emit([asdict(entry) for entry in entries])
        return
    now = time.time()
    rows = [
        (e.id, e.fleet, e.release, e.state, f"{min(e.wave + 1, e.waves)}/{e.waves}", ago(now - e.started))
        for e in entries
    ]
    table(("number", "fleet", "release", "state", "wave", "ago"), rows)


@app.command()
def show(
    number: Annotated[
        int | None,
        typer.Argument(help="The rollout's number; without one, the latest.", min=1, max=2**63 - 1),
    ] = None,
    output: Output = Form.TABLE,
) -> None:
    """Show a rollout: each device, where it ended, and what failed."""
    history = History(home.history())
    entry = history.find(number)
    if entry is None:
        raise UsageError("there is no such rollout", remedy="Run `slmops rollout list`.")
    lines = history.devices(entry.id)
    if output is Form.JSON:
        emit({**asdict(entry), "devices": [asdict(line) for line in lines]})
        return
    out.print(f"rollout {entry.id}: {entry.release} to {entry.fleet}, {entry.state}")
    table(
        ("device", "wave", "state", "sent", "message"),
        [(x.device, x.wave or None, x.state, _sent(x.evidence), x.message) for x in lines],
    )
    for remedy in remedies(line.evidence for line in lines):
        out.print(f"next  {remedy}", markup=False, soft_wrap=True)
    for line in lines:
        for why in line.evidence.get("whole_because", []):
            out.print(f"{line.device}: {why}", markup=False, soft_wrap=True)
        for failed in line.evidence.get("failed", []):
            out.print(f"\n{line.device} was asked  {failed['question']}", markup=False)
            out.print(f"  expected  {_plain(failed['expected'])}", markup=False)
            out.print(f"  answered  {failed['answer']}", markup=False)
        for text in line.evidence.get("log", [])[-8:]:
            out.print(f"{line.device} log  {text}", markup=False)


def _sent(evidence: dict[str, Any]) -> str | None:
    return size(evidence["sent"]) if "sent" in evidence else None


def _plain(expected: object) -> str:
    """Return text as it is and anything else as JSON: as an answer would say it."""
    return expected if isinstance(expected, str) else json.dumps(expected, ensure_ascii=False)
