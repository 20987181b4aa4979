"""slmops telemetry: fetch what devices told of their requests, and look at it."""

import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from slmops import digest as digests
from slmops.cli import home
from slmops.cli.options import FleetFile, Selector, verb
from slmops.cli.render import Form, Output, ago, counter, emit, say, table
from slmops.errors import DocumentError, MissingPartError, PartialError, SlmopsError, install_line
from slmops.fleet import agent
from slmops.fleet.ask_all import AT_ONCE, ask_all
from slmops.fleet.inventory import Device
from slmops.fleet.load import load_fleet
from slmops.fleet.selector import select
from slmops.fleet.ssh import Link
from slmops.telemetry import gather
from slmops.telemetry.gather import EVENTS, SAMPLES, Gathered, Seen
from slmops.telemetry.summary import quantile

app = verb("What devices told of their requests: pull, show, export.", group=True)
MaybeFleet = Annotated[
    Path | None, typer.Argument(metavar="[FLEET.yaml]", help="Only devices of this fleet; without it, all.")
]


class Sort(str, Enum):  # noqa: UP042 - typer wants a str to show choices
    """What is written out, and how."""

    PROM = "prom"
    JSONL = "jsonl"
    SAMPLES = "samples"


@app.command()
def pull(
    fleet: FleetFile,
    selector: Selector = "",
    samples: Annotated[
        bool,
        typer.Option(
            "--samples", help="Captured prompts and answers too, where the fleet file asks for them."
        ),
    ] = False,
    output: Output = Form.TABLE,
) -> None:
    """Fetch what devices told of their requests since it was last fetched, and keep it here.

    Each event is kept once, whatever is cut when: the same command again goes on where it ended.
    Exit codes: 0 all told, 4 some could not be asked, 2 samples of devices whose fleet file allows none.
    """
    whole, devices = load_fleet(fleet)
    chosen = select(devices, selector)
    shut = [device.name for device in chosen if not _captures(device)] if samples else []
    if shut:
        raise DocumentError(
            f"{fleet} does not let {shut[0]} capture prompts, and none of it are fetched",
            remedy="Say `daemon: {capture: 0.01}` for the devices that may, or leave --samples out.",
        )
    with counter("asking devices") as bar:
        task = bar.add_task("", total=len(chosen))
        rows = ask_all(
            chosen,
            lambda device: _pull(device, f"{whole.name}/{device.name}", samples=samples),
            max(whole.rollout.max_parallel, AT_ONCE),
            lambda row: bar.advance(task),
        )
    if output is Form.JSON:
        emit({"fleet": whole.name, "devices": rows})
    else:
        columns = ("device", "new events", "dropped", *(("new samples",) if samples else ()), "remark")
        keys = ("device", "events", "dropped", *(("samples",) if samples else ()), "error")
        table(columns, [[row.get(key) for key in keys] for row in rows])
    if any("error" in row for row in rows):
        raise typer.Exit(PartialError.exit_code)


@app.command()
def show(fleet: MaybeFleet = None, selector: Selector = "", output: Output = Form.TABLE) -> None:
    """Show what every version came to on each device, of what was fetched: requests, errors, times, speed."""
    with _gathered() as gathered:
        rows = [_row(seen) for seen in gathered.seen(_devices(fleet, selector))]
        dropped = gathered.dropped()
    if output is Form.JSON:
        emit({"versions": rows, "dropped": dropped})
        return
    columns = (
        "device",
        "release",
        "digest",
        "requests",
        "errors",
        "refused",
        "p50 first",
        "p95 first",
        "tok/s",
        "last",
    )
    table(columns, [_shown(row) for row in rows])
    if not rows:
        say("Nothing was fetched: slmops telemetry pull FLEET.yaml")


@app.command()
def export(
    fleet: MaybeFleet = None,
    selector: Selector = "",
    form: Annotated[
        Sort,
        typer.Option(
            "--format", help="prom: sums for Prometheus; jsonl: every event; samples: those, as lines."
        ),
    ] = Sort.JSONL,
) -> None:
    """Write out what was fetched, for other tools."""
    with _gathered() as gathered:
        devices = _devices(fleet, selector)
        if form is Sort.PROM:
            sys.stdout.write(_prometheus(gathered.seen(devices)))
            return
        lines = _events(gathered, devices) if form is Sort.JSONL else gathered.samples(devices)
        written = [sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n") for line in lines]
    if not written:
        pull = "pull --samples" if form is Sort.SAMPLES else "pull"
        say(f"Nothing was fetched: slmops telemetry {pull} FLEET.yaml")


def _captures(device: Device) -> bool:
    return bool(device.daemon.get("capture"))


def _pull(device: Device, name: str, *, samples: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"device": device.name}
    try:
        with _gathered() as gathered, Link(device, home.known_hosts()) as link:
            row |= _pull_events(gathered, link, name)
            if samples:
                row["samples"] = _pull_samples(gathered, link, name)
    except SlmopsError as error:
        row |= {"error": str(error), "code": error.code}
    return row


def _pull_events(gathered: Gathered, link: Link, name: str) -> dict[str, Any]:
    new, asked = 0, gathered.heard(name, EVENTS)
    while True:
        said = agent.call(link, "telemetry", asked)
        if not said["spool"]:
            return {"events": 0, "dropped": 0}
        new += gathered.keep(name, said)
        if not said["events"] or said["events"][-1][0] >= said["last"]:
            return {"events": new, "dropped": said["dropped"]}
        asked = {"spool": said["spool"], "after": said["events"][-1][0]}


def _pull_samples(gathered: Gathered, link: Link, name: str) -> int:
    new, asked = 0, gathered.heard(name, SAMPLES)
    while True:
        said = agent.call(link, "samples", asked)
        if not said["samples"]:
            return new
        new += gathered.keep_samples(name, said)
        asked = {"spool": said["spool"], "after": said["samples"][-1]["id"]}


@contextmanager
def _gathered() -> Iterator[Gathered]:
    """Open what was fetched; raise SlmopsError where it cannot be kept."""
    path = home.folder() / "telemetry.sqlite"
    try:
        with gather.opened(path) as gathered:
            yield gathered
    except sqlite3.Error as error:
        raise SlmopsError(f"{path}: {error}", remedy="Free some disk; what is damaged, move away.") from error


def _devices(fleet: Path | None, selector: str) -> set[str] | None:
    """Return the names under which devices are kept; None for all there are."""
    if fleet is None:
        return None
    whole, devices = load_fleet(fleet)
    return {f"{whole.name}/{device.name}" for device in select(devices, selector)}


def _row(seen: Seen) -> dict[str, Any]:
    summary = seen.summary
    return {
        "device": seen.device,
        "release": seen.release,
        "digest": seen.digest,
        "requests": summary.requests,
        "errors": summary.errors,
        "refused": summary.refused,
        "prompt_tokens": summary.prompt_tokens,
        "output_tokens": summary.output_tokens,
        "first_token_p50_seconds": quantile(summary.first_token, 0.5),
        "first_token_p95_seconds": quantile(summary.first_token, 0.95),
        "p95_seconds": quantile(summary.seconds, 0.95),
        "tokens_per_second": summary.tokens_per_second,
        "last": seen.last,
    }


def _shown(row: dict[str, Any]) -> list[Any]:
    rate = row["tokens_per_second"]
    return [
        row["device"], row["release"], digests.short(row["digest"]) if row["digest"] else None,
        row["requests"], row["errors"], row["refused"], _seconds(row["first_token_p50_seconds"]),
        _seconds(row["first_token_p95_seconds"]), None if rate is None else f"{rate:.0f}",
        ago(time.time() - row["last"]),
    ]  # fmt: skip


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.2g} s"


def _events(gathered: Gathered, devices: set[str] | None) -> Iterator[dict[str, Any]]:
    for device, spool, number, event in gathered.events(devices):
        yield {"device": device, "spool": spool, "id": number, **asdict(event)}


def _prometheus(found: list[Seen]) -> str:
    try:
        from prometheus_client import CollectorRegistry, Gauge, generate_latest  # noqa: PLC0415 - of another extra
    except ImportError as error:
        raise MissingPartError(
            "--format prom needs prometheus_client, which is not installed", remedy=install_line("daemon")
        ) from error
    registry = CollectorRegistry()
    labels = ("device", "release", "digest")
    for key in (
        *("requests", "errors", "refused", "prompt_tokens", "output_tokens", "tokens_per_second"),
        *("first_token_p50_seconds", "first_token_p95_seconds", "p95_seconds", "last"),
    ):
        family = Gauge(f"slmops_device_{key}", f"{key} of all that was fetched", labels, registry=registry)
        for seen in found:
            value = _row(seen)[key]
            if value is not None:
                family.labels(seen.device, seen.release, seen.digest).set(value)
    return generate_latest(registry).decode()
