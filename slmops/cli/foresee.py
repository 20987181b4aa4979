"""Look at devices and foresee what a deploy would do to each: what `plan` shows, and a deploy begins with."""

from contextlib import closing
from dataclasses import dataclass

from slmops.cli import auditing, home
from slmops.cli.render import counter, say
from slmops.errors import MissingPartError
from slmops.fleet.ask_all import AT_ONCE, ask_all
from slmops.fleet.inventory import Device, Fleet
from slmops.registry import channels
from slmops.registry import release as releases
from slmops.registry.deltas import Deltas
from slmops.registry.layout import Layout
from slmops.rollout import check, make_plan, offer
from slmops.rollout import order as orders
from slmops.rollout.check import Finding
from slmops.rollout.history import Entry, History
from slmops.rollout.machine import STOPS, State
from slmops.rollout.make_plan import Asked
from slmops.rollout.order import Order
from slmops.rollout.plan import Plan
from slmops.rollout.shipment import Offers


@dataclass(frozen=True)
class Foreseen:
    """What a look at a fleet has come to."""

    order: Order
    findings: list[Finding]
    offers: Offers
    """The deltas that devices may be sent in place of whole files."""
    plan: Plan
    superseded: list[Entry]
    """Rollouts that were left, over devices of these: a new one ends them."""


def foresee(
    layout: Layout, fleet: Fleet, devices: list[Device], release: str, *, selector: str, delta: bool
) -> Foreseen:
    """Look at these devices and plan; nothing is written on any of them.

    `release` is NAME:VERSION or NAME@CHANNEL; without `delta` every file is sent whole. Raise ReleaseError
    or IntegrityError for a release that is missing or spoiled.
    """
    order = orders.take(layout, releases.find(layout, channels.resolve(layout, release)), home.mandate())
    findings = _look(fleet, devices, order)
    offers = offered(layout, findings) if delta else {}
    with closing(History(home.history())) as history:
        pasts = make_plan.pasts_of(history, fleet.name, devices)
        over = superseded(history, fleet.name, {device.name for device in devices})
    asked = Asked(fleet, selector, auditing.who())
    plan = make_plan.make(asked, order, findings, offers=offers, pasts=pasts)
    return Foreseen(order, findings, offers, plan, over)


def superseded(history: History, fleet: str, names: set[str]) -> list[Entry]:
    """Return the rollouts that a new one over these devices ends; while one is driven it cannot."""
    if history.driver_of(fleet) is not None:
        return []
    left = history.left(fleet)
    return [entry for entry in left if names & {line.device for line in history.devices(entry.id)}]


def tell_superseded(entries: list[Entry]) -> None:
    """Say which rollouts a deploy ends, and how to go on with each instead."""
    for entry in entries:
        verb = "promote" if entry.state == State.HOLDING.value else "resume"
        stands = entry.state if State(entry.state) in STOPS else f"left while {entry.state}"
        say(
            f"rollout {entry.id} ({entry.release}, {stands}) over these devices will be superseded; "
            f"to go on with it instead: slmops rollout {verb} {entry.id}"
        )


def _look(fleet: Fleet, devices: list[Device], order: Order) -> list[Finding]:
    trusted = home.known_hosts()
    with counter("looking at devices") as bar:
        row = bar.add_task("", total=len(devices))
        return ask_all(
            devices,
            lambda device: check.look(device, order, trusted),
            max(fleet.rollout.max_parallel, AT_ONCE),
            lambda finding: bar.advance(row),
        )


def offered(layout: Layout, findings: list[Finding]) -> Offers:
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
