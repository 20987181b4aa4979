"""Drive a rollout from the command line: begin one, or take up one that was left.

Both end the same way: `stop` on Ctrl-C, a view while it goes on, and its outcome for people or as JSON.
"""

import secrets
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from types import FrameType

import typer

from slmops.cli import auditing, home
from slmops.cli.follow import Follow
from slmops.cli.foresee import Foreseen, foresee, offered, tell_superseded
from slmops.cli.options import ask_first
from slmops.cli.outcome_view import FLEET, NEXT, show_outcome
from slmops.cli.plan_view import refused, show_plan
from slmops.cli.render import Form, counter, say
from slmops.errors import IntegrityError, UsageError
from slmops.fleet.inventory import Device, Fleet
from slmops.fleet.load import load_fleet
from slmops.fleet.strategy import Strategy
from slmops.registry import catalog, served
from slmops.registry import release as releases
from slmops.registry.layout import Layout
from slmops.rollout import order as orders
from slmops.rollout import plan as plans
from slmops.rollout.apply import OverSsh, Terms
from slmops.rollout.assignment import State
from slmops.rollout.check import Finding
from slmops.rollout.drive import Drive
from slmops.rollout.history import LEASE, Entry, History
from slmops.rollout.machine import ENDS
from slmops.rollout.machine import State as Standing
from slmops.rollout.order import Order
from slmops.rollout.outcome import Errand, Outcome
from slmops.rollout.plan import Plan
from slmops.rollout.reach import look_at_all
from slmops.rollout.shipment import Offers


@dataclass(frozen=True)
class Options:
    """How devices are worked on; kept with the rollout."""

    stage_only: bool = False
    override_lock: bool = False


@dataclass(frozen=True)
class Asked:
    """What a rollout is asked to do."""

    release: str
    ask: bool
    dry_run: bool
    delta: bool
    output: Form
    selector: str = ""
    file: Path | None = None
    """The fleet file, for whoever takes the rollout up later."""
    plan: Plan | None = None
    """What was planned before: where the world has moved since, nothing is done."""
    options: Options = Options()


def roll_out(fleet: Fleet, devices: list[Device], asked: Asked) -> Outcome | None:
    """Look at the devices, show the plan, ask, and drive the rollout; None when nothing was to be done."""
    layout = Layout(home.registry())
    with layout.in_use():
        seen = foresee(layout, fleet, devices, asked.release, selector=asked.selector, delta=asked.delta)
        _remember(fleet, seen.findings, dry_run=asked.dry_run)
        if asked.plan is not None:
            plans.require_same(asked.plan, seen.plan, _again(asked, seen.plan))
        if asked.dry_run or asked.ask or asked.output is Form.TABLE:
            form = Form.JSON if asked.dry_run and asked.output is Form.JSON else Form.TABLE
            show_plan(seen.plan, form)
        if seen.plan.exit_code:
            say(refused(seen.plan))
        else:
            tell_superseded(seen.superseded)
        if asked.dry_run:
            if seen.plan.exit_code:
                raise typer.Exit(seen.plan.exit_code)
            return None
        if asked.ask and not seen.plan.exit_code:
            ask_first(f"Deploy {asked.release} to {fleet.name}?")
        return _begin(fleet, seen, asked)


def drive_on(number: int, *, do: str, back: str = "none", output: Form = Form.TABLE) -> Outcome:
    """Take up a rollout that nobody drives: `do` is resume, promote or abort, `back` whom that takes back.

    Raise UsageError for one that cannot be taken up, LockedError while another drives one over the fleet.
    """
    with closing(History(home.history())) as history:
        entry = history.find(number)
        if entry is None or "waves" not in entry.options or "file" not in entry.options:
            raise UsageError(
                f"rollout {number} cannot be taken up: it was no deploy, or is from before this slmops",
                remedy="Deploy, or roll back, again: who is there already is left alone.",
            )
        whole, devices = load_fleet(Path(entry.options["file"]))
        layout = Layout(home.registry())
        with layout.in_use():
            order = _order_of(layout, entry)
            going = _devices_of(history, entry, devices, may_lack=(do, back) == ("abort", "none"))
            strategy = Strategy.model_validate(entry.options["strategy"])
            options = Options(**entry.options["how"])
            findings = _look_again(going, order, strategy)
            errand = _errand(whole, order, findings, entry.options, entry.uid, options, above=entry.epoch)
            offers = offered(layout, findings) if do != "abort" and entry.options.get("delta") else {}
            with _driven(strategy, order, errand, history, offers, options) as drive:
                outcome = drive.go_on(entry, findings, back if do == "abort" else "")
        show_outcome(entry.release, entry.release, outcome, output, entry.options["file"])
        return outcome


def _begin(fleet: Fleet, seen: Foreseen, asked: Asked) -> Outcome:
    release = seen.order.signed.release.reference
    kept = {
        "file": str(asked.file.absolute()) if asked.file else "",
        "selector": asked.selector,
        "delta": asked.delta,
        "how": vars(asked.options),
    }
    errand = _errand(fleet, seen.order, seen.findings, kept, secrets.token_hex(8), asked.options)
    with (
        closing(History(home.history())) as history,
        _driven(fleet.rollout, seen.order, errand, history, seen.offers, asked.options) as drive,
    ):
        outcome = drive.run(seen.findings)
    if outcome.number is not None:
        auditing.note(rollout=outcome.number)
    show_outcome(asked.release, release, outcome, asked.output, _file(asked))
    return outcome


def _errand(
    fleet: Fleet,
    order: Order,
    findings: Sequence[Finding],
    kept: dict[str, object],
    uid: str,
    options: Options,
    *,
    above: int = 0,
) -> Errand:
    """Return what is to be done; its epoch is over `above` and all that was heard, whatever clocks say."""
    heard = max((above, *(finding.epoch for finding in findings)))
    return Errand(
        fleet=fleet.name,
        release=order.signed.release.reference,
        digest=order.signed.blob.digest,
        uid=uid,
        epoch=max(order.mandate.epoch, heard + 1),
        operator=auditing.who(),
        options=dict(kept),
        stages_only=options.stage_only,
    )


@contextmanager
def _driven(
    strategy: Strategy, order: Order, errand: Errand, history: History, offers: Offers, options: Options
) -> Iterator[Drive]:
    """Yield a driver, shown as it goes, that Ctrl-C stops."""
    stop = Flag()
    terms = Terms(
        strategy,
        home.known_hosts(),
        stop,
        offers,
        lease={
            "rollout": errand.uid,
            "epoch": errand.epoch,
            "holder": errand.operator,
            "seconds": 2 * LEASE,
            "after": history.over(errand.fleet, errand.uid),
        },
        keys=history.device_keys(errand.fleet),
        override_lock=options.override_lock,
        stages_only=options.stage_only,
    )
    with Follow() as follow, _stoppable(stop):
        drive = Drive(errand, strategy, OverSsh(order, terms), history=history, watcher=follow, stop=stop)
        try:
            yield drive
        except KeyboardInterrupt:
            if drive.roster.number is not None and drive.rollout.state not in ENDS:
                say(f"next  {NEXT[Standing.INTERRUPTED].format(drive.roster.number)}")
            raise


def _again(asked: Asked, now: Plan) -> str:
    """Return the command that plans anew."""
    words = ["slmops", "plan", _file(asked), "--release", now.release]
    words += ["-l", now.selector] if now.selector else []
    words += [] if asked.delta else ["--whole"]
    return f"{shlex.join(words)} --out plan.json"


def _file(asked: Asked) -> str:
    return str(asked.file) if asked.file else FLEET


def _look_again(devices: Sequence[Device], order: Order, strategy: Strategy) -> list[Finding]:
    say(f"asking {len(devices)} device{'' if len(devices) == 1 else 's'} where they stand")
    reach = OverSsh(order, Terms(strategy, home.known_hosts(), Flag()))
    with counter("asking devices where they stand") as bar:
        row = bar.add_task("", total=len(devices))
        return look_at_all(devices, reach, strategy, lambda finding: bar.advance(row))


def _order_of(layout: Layout, entry: Entry) -> Order:
    signed = releases.find(layout, catalog.parse(entry.release))
    if signed.blob.digest != entry.digest:
        raise IntegrityError(f"{entry.release} is not what rollout {entry.id} began with: {entry.digest}")
    return orders.take(layout, signed, home.mandate())


def _devices_of(history: History, entry: Entry, devices: Sequence[Device], *, may_lack: bool) -> list[Device]:
    """Return the devices of a rollout's waves, and those of which it is not written why they are in none.

    Raise UsageError when the fleet file has lost some, unless it `may_lack` them.
    """
    lines = history.devices(entry.id)
    meant = {line.device for line in lines if line.wave > 0 or line.state == State.WAITING.value}
    gone = sorted(meant - {device.name for device in devices})
    if gone and not may_lack:
        raise UsageError(
            f"rollout {entry.id} goes to devices that {entry.options['file']} does not have any more: "
            f"{', '.join(gone)}",
            remedy=f"Put them back, or end it: slmops rollout abort {entry.id}; then deploy again.",
        )
    return [device for device in devices if device.name in meant]


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
