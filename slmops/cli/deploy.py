"""slmops deploy: bring a release to a fleet, a few devices at a time."""

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from threading import Event as Flag
from types import FrameType
from typing import Annotated

import typer

from slmops import digest as digests
from slmops.cli import home
from slmops.cli.follow import Follow
from slmops.cli.options import FleetFile, Selector, Yes, ask_first, verb
from slmops.cli.render import Form, Output, counter, emit, err, say, size, table
from slmops.errors import MissingPartError, SlmopsError
from slmops.fleet.inventory import Device, Fleet
from slmops.fleet.load import load_fleet
from slmops.fleet.selector import select
from slmops.registry import channels, served
from slmops.registry import release as releases
from slmops.registry.deltas import Deltas
from slmops.registry.layout import Layout
from slmops.rollout import offer
from slmops.rollout import order as orders
from slmops.rollout.apply import Terms
from slmops.rollout.check import Finding
from slmops.rollout.drive import Drive, Outcome, look_at_all
from slmops.rollout.history import History
from slmops.rollout.machine import State
from slmops.rollout.order import Order
from slmops.rollout.shipment import Offers
from slmops.rollout.waves import cut

app = verb("Bring a release to a fleet in waves; what fails its golden prompts goes back.")


@app.command()
def deploy(
    fleet: FleetFile,
    release: Annotated[str, typer.Option(help="NAME:VERSION, or NAME@CHANNEL.")],
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; touch nothing.")] = False,
    selector: Selector = "",
    delta: Annotated[
        bool, typer.Option("--delta/--whole", help="Send what files differ by, or every file whole.")
    ] = True,
    output: Output = Form.TABLE,
) -> None:
    """Bring a release to a fleet in waves; what fails its golden prompts goes back.

    Every device is looked at first. Nothing is sent when one cannot bear the release, or when more are out
    of reach than the fleet file allows. Each device verifies the signature, stages the release, puts it on
    trial and asks its golden prompts; it commits only after you were reached again over a new connection.

    Exit codes: 0 done, 1 refused, 4 some devices left out, 5 a wave failed and went back, 6 unreachable,
    7 a signature or digest does not hold, 130 interrupted.
    """
    whole, devices = load_fleet(fleet)
    asked = Asked(release, ask=not yes, dry_run=dry_run, delta=delta, output=output)
    outcome = roll_out(whole, select(devices, selector), asked)
    if outcome is not None:
        raise typer.Exit(outcome.exit_code)


@dataclass(frozen=True)
class Asked:
    """What a rollout is asked to do."""

    release: str
    ask: bool
    dry_run: bool
    delta: bool
    output: Form


def roll_out(fleet: Fleet, devices: list[Device], asked: Asked) -> Outcome | None:
    """Look at the devices, show the plan, ask, and drive the rollout; None when nothing was to be done."""
    layout = Layout(home.registry())
    with layout.in_use():
        return _roll_out(layout, fleet, devices, asked)


def _roll_out(layout: Layout, fleet: Fleet, devices: list[Device], asked: Asked) -> Outcome | None:
    release, output = asked.release, asked.output
    order = orders.take(layout, releases.find(layout, channels.resolve(layout, release)), home.mandate())
    terms = Terms(fleet.rollout, home.known_hosts(), Flag())
    with counter("looking at devices") as bar:
        row = bar.add_task("", total=len(devices))
        findings = look_at_all(devices, order, terms, lambda finding: bar.advance(row))
    _remember(fleet, findings, dry_run=asked.dry_run)
    if asked.delta:
        terms = replace(terms, offers=_offers(layout, findings))
    if asked.dry_run or asked.ask or output is Form.TABLE:
        form = Form.JSON if asked.dry_run and output is Form.JSON else Form.TABLE
        _show_plan(fleet, order, findings, terms.offers, form)
    if asked.dry_run:
        _raise_first(findings)
        return None
    if asked.ask and all(finding.refusal is None for finding in findings):
        ask_first(f"Deploy {release} to {fleet.name}?")
    with (
        closing(History(home.history())) as history,
        Follow(fleet.rollout.soak) as follow,
        _stoppable(terms.stop),
    ):
        outcome = Drive(fleet.name, order, terms, history=history, watcher=follow).run(findings)
    _show_outcome(release, order.signed.release.reference, findings, outcome, output)
    return outcome


@contextmanager
def _stoppable(stop: Flag) -> Iterator[None]:
    """Let Ctrl-C set `stop`, so that devices on trial end it; a second Ctrl-C leaves them to decide alone."""

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            say("Devices on trial go back by themselves; the same deploy again finishes all.")
            raise KeyboardInterrupt
        stop.set()
        say("Stopping: devices on trial end it, no other begins. Ctrl-C again leaves them to decide alone.")

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _remember(fleet: Fleet, findings: list[Finding], *, dry_run: bool) -> None:
    """Write down what devices have and are to have: what they may return to is never collected.

    Of a device that was not seen to the end nothing new is known, and what it said before stays.
    """
    told = {}
    for finding in findings:
        if finding.parcel is not None:
            goes = (finding.parcel, finding.runtime) if finding.goes and not dry_run else ()
            slots = (*finding.slots, *(each.slot for each in goes if each))
            told[f"{fleet.name}/{finding.device.name}"] = [f"sha256:{slot}" for slot in slots]
    served.record(home.served(), time.time(), told)


def _offers(layout: Layout, findings: list[Finding]) -> Offers:
    """Make the deltas that these devices can use, those made before taken as they are."""
    deltas = Deltas(layout)
    wanted = offer.pairs(deltas, findings)
    try:
        with counter("making deltas") as bar:
            row = bar.add_task("", total=len(wanted))
            return offer.offer(deltas, wanted, lambda pair, made: bar.advance(row))
    except MissingPartError as error:
        say(f"Files are sent whole: {error}. {error.remedy}")
        return {}


def _show_plan(fleet: Fleet, order: Order, findings: list[Finding], offers: Offers, output: Form) -> None:
    ready = [finding.device for finding in findings if _does(finding) == "deploy"]
    waves = {
        device.name: number for number, wave in enumerate(cut(ready, fleet.rollout), 1) for device in wave
    }
    rows = [
        {
            "device": finding.device.name,
            "profile": finding.device.profile,
            "serves": finding.serves,
            "does": _does(finding),
            "wave": waves.get(finding.device.name),
            "type": finding.parcel
            and f"{finding.parcel.description.format} {finding.parcel.description.type}",
            "artifact": finding.parcel and digests.short("sha256:" + finding.parcel.slot),
            "runtime": finding.runtime and finding.runtime.description.reference,
            "bytes": finding.parcel and finding.parcel.artifact.size,
            "sends": sum(item.size for item in finding.items(offers)) if finding.goes else 0,
            "reason": str(finding.unreachable or finding.refusal or ""),
        }
        for finding in findings
    ]
    if output is Form.JSON:
        emit({"release": order.signed.release.reference, "digest": order.signed.blob.digest, "devices": rows})
        return
    say(f"Plan: {order.signed.release.reference} ({digests.short(order.signed.blob.digest)}) to {fleet.name}")
    columns = (
        "device",
        "profile",
        "serves",
        "does",
        "wave",
        "type",
        "artifact",
        "runtime",
        "bytes",
        "sends",
        "reason",
    )
    shown = [
        [size(v) if k in {"bytes", "sends"} and isinstance(v, int) else v for k, v in row.items()]
        for row in rows
    ]
    table(columns, shown, on=err)


def _lost(findings: list[Finding]) -> list[str]:
    return [finding.device.name for finding in findings if finding.unreachable is not None]


def _does(finding: Finding) -> str:
    if finding.unreachable is not None:
        return "unreachable"
    if finding.refusal is not None:
        return "refused"
    return "already" if finding.current else "deploy"


def _raise_first(findings: list[Finding]) -> None:
    """End a dry run as the rollout itself would end."""
    reasons: list[SlmopsError] = [f.refusal for f in findings if f.refusal is not None]
    reasons += [f.unreachable for f in findings if f.unreachable is not None]
    if reasons:
        raise reasons[0]


def _show_outcome(
    asked: str, reference: str, findings: list[Finding], outcome: Outcome, output: Form
) -> None:
    end = outcome.rollout.state.value
    release = reference if asked == reference else f"{asked} ({reference})"
    if output is Form.JSON:
        emit(
            {
                "release": reference,
                "rollout": outcome.number,
                "state": end,
                "devices": {name: state.value for name, state in outcome.states.items()},
                "messages": outcome.messages,
                "sent": outcome.sent,
                "whole_because": outcome.whole_because,
                "next": outcome.remedies,
                "refusals": [
                    {"code": refusal.code, "message": str(refusal), "remedy": refusal.remedy}
                    for refusal in outcome.refusals
                ],
                "exit_code": outcome.exit_code,
            }
        )
    for refusal in outcome.refusals:
        err.print(f"[bold red]error[/] [dim]{refusal.code}[/]", end=" ")
        say(f"{refusal}" + (f"\nnext  {refusal.remedy}" if refusal.remedy else ""))
    if outcome.rollout.state is State.UNREACHABLE:
        names = ",".join(f"!{name}" for name in _lost(findings))
        say(f"More are out of reach than max_unreachable allows. Leave them out: -l '{names}'")
    for remedy in outcome.remedies:
        say(f"next  {remedy}")
    number = f" See `slmops rollout show {outcome.number}`." if outcome.number is not None else ""
    if outcome.exit_code == 0:
        took = f", {size(sum(outcome.sent.values()))} sent" if outcome.sent else ""
        say(f"{release}: {end}{took}.")
    elif output is Form.TABLE:
        say(f"{release}: {end}; exit code {outcome.exit_code}.{number}")
