"""Bring a release to devices over SSH: send, stage, try, confirm. And take it back."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import Any

from slmops.errors import (
    DeferredError,
    DeviceError,
    HostKeyError,
    LockedError,
    QuarantinedError,
    SlmopsError,
    UnreachableError,
)
from slmops.fleet import agent
from slmops.fleet.agent import Session
from slmops.fleet.inventory import Device
from slmops.fleet.send import TRIES, Sender
from slmops.fleet.ssh import Link
from slmops.fleet.strategy import Strategy
from slmops.rollout import attested, check
from slmops.rollout.assignment import Event
from slmops.rollout.check import Finding
from slmops.rollout.deliver import Delivery
from slmops.rollout.order import Order, Parcel
from slmops.rollout.shipment import Offers
from slmops.rollout.told import Tell, Told
from slmops.rollout.work import SLACK

GO_ON = "Run the same again when the link is better: it goes on where it was."


class StoppedError(SlmopsError):
    """The operator asked to stop; this device is left as it was."""

    code = "SLM-STOPPED"
    exit_code = 130


ENDINGS: dict[type[SlmopsError], Event] = {
    UnreachableError: Event.LOSE,
    StoppedError: Event.CANCEL,
    LockedError: Event.LEFT_OUT,
    QuarantinedError: Event.SHUN,
    DeferredError: Event.DEFER,
}
"""What an error that is no refusal of the release means for the device."""


@dataclass(frozen=True)
class Terms:
    """On what terms devices are worked on."""

    strategy: Strategy
    trusted: tuple[Path, ...]
    """known_hosts files."""
    stop: Flag
    """Set when the operator wants no more to begin."""
    offers: Offers = field(default_factory=dict)
    """The deltas that devices may be sent in place of whole files."""
    lease: Mapping[str, Any] | None = None
    """With what every request asks for the device: {rollout, epoch, holder, seconds, after}."""
    keys: Mapping[str, str | None] = field(default_factory=dict)
    """The key that each device attests with, where it was seen before."""
    override_lock: bool = False
    """An application's update lock is not waited for."""
    stages_only: bool = False


@dataclass(frozen=True)
class OverSsh:
    """The way to devices, over SSH: a `Reach`."""

    order: Order
    terms: Terms

    def look(self, device: Device) -> Finding:
        """Look at a device and change nothing there."""
        return check.look(device, self.order, self.terms.trusted)

    def bring(self, finding: Finding, tell: Tell) -> None:
        """Take one device through its assignment; every end is told, none is raised."""
        bring(finding, self.order, self.terms, tell)

    def take_back(self, device: Device, tell: Tell) -> None:
        """Make a device that committed serve what it served before."""
        take_back(device, self.order.parcel(device).slot, self.terms, tell)


def bring(finding: Finding, order: Order, terms: Terms, tell: Tell) -> None:
    """Take one device through its assignment, telling every step; every end is told, none is raised."""
    device, name = finding.device, finding.device.name
    try:
        parcel = order.parcel(device)
        stop = partial(_stop_if_told, terms.stop)
        connect = partial(agent.session, device, terms.trusted, terms.lease)

        def cut(times: int) -> None:
            tell(Told(name, None, "", {"step": "cut", "times": times, "most": TRIES}))

        tell(Told(name, Event.SEND))
        with Sender(connect, stop, cut=cut) as sender:
            took = Delivery(sender, finding, order.mandate, terms.offers, tell).stage()
            tell(Told(name, Event.STAGE, said=took))
            if terms.stages_only:
                _leave(sender, terms)
                tell(Told(name, Event.PUT_BY, "staged; the same deploy without --stage-only activates it"))
                return
            if terms.stop.is_set():
                _leave(sender, terms)
            stop()
            tell(Told(name, Event.TRY))
            since = _try(sender.session, parcel, finding.runtime, terms, tell)
        if since is not None:
            # Over a new connection: a device that can no longer be reached must not stay on the new release.
            with Sender(connect) as again:
                _confirm(again, parcel.slot, since)
            tell(Told(name, Event.CONFIRM))
    except (SlmopsError, OSError) as error:
        tell(_end(name, error))


def _confirm(sender: Sender, slot: str, since: float) -> None:
    """Confirm a proved slot; what was refused is asked once more, since the answer may be all that failed."""
    said = {"slot": slot, "since": since}
    try:
        sender.call("confirm", said)
    except DeviceError:
        sender.call("confirm", said)


def _leave(sender: Sender, terms: Terms) -> None:
    """Give the device back, on which nothing more is to be done now."""
    if terms.lease:
        sender.call("lease", {"action": "return"})


def _end(name: str, error: SlmopsError | OSError) -> Told:
    """Return what becomes of a device that could not be brought all the way."""
    if isinstance(error, OSError):
        return Told(name, Event.REFUSE, f"a file cannot be read here: {error}")
    event = next((event for kind, event in ENDINGS.items() if isinstance(error, kind)), Event.REFUSE)
    lost = isinstance(error, UnreachableError) and not isinstance(error, HostKeyError)
    said = {} if event is Event.CANCEL else {"code": error.code, "remedy": GO_ON if lost else error.remedy}
    return Told(name, event, str(error), said)


def take_back(device: Device, slot: str, terms: Terms, tell: Tell) -> None:
    """Make a device that committed `slot` serve what it served before; what others brought since stays."""
    try:
        with Link(device, terms.trusted) as link:
            answer = go_back(link, slot, terms.strategy, lease=terms.lease, own=True, even_to_none=True)
    except SlmopsError as error:
        tell(Told(device.name, Event.JAM, str(error), {"code": error.code, "remedy": error.remedy}))
        return
    event = Event.RETURN if answer["outcome"] == "pass" else Event.JAM
    tell(Told(device.name, event, str(answer["message"])))


def go_back(
    link: Link,
    slot: str,
    strategy: Strategy,
    *,
    lease: Mapping[str, Any] | None = None,
    own: bool = False,
    even_to_none: bool = False,
) -> dict[str, Any]:
    """Make a device that serves `slot` serve again what it served before; return what its gate found.

    With `own` it does so only where the rollout of the `lease` brought that; with `even_to_none` a device
    that had nothing before serves nothing again.
    """
    said = {"slot": slot, "code": "OPERATOR", "message": "taken back by the operator", **_deadlines(strategy)}
    said |= {"own": own, "even_to_none": even_to_none, "lease": lease}
    return agent.call(link, "roll-back", said, silence=_longest(strategy))


def _try(session: Session, parcel: Parcel, runtime: Parcel | None, terms: Terms, tell: Tell) -> float | None:
    """Activate and hear the device's own verdict; return when the trial began, or None: it did not pass."""
    name, strategy, nonce = session.link.device.name, terms.strategy, secrets.token_hex(16)
    answer = session.call(
        "activate",
        {
            "slot": parcel.slot,
            "runtime_slot": runtime and runtime.slot,
            "override_lock": terms.override_lock,
            "quarantine": {"after": strategy.quarantine.after, "seconds": strategy.quarantine.seconds},
            "gate": strategy.gate.said(),
            "nonce": nonce,
            **_deadlines(strategy),
        },
        note=lambda said: tell(Told(name, None, "", said)),
        silence=_longest(strategy),
    )
    # Answers that passed are attested by their digest: nobody reads them again.
    evidence = {what: found for what, found in answer["evidence"].items() if what != "answers"}
    told = {"code": answer["code"], **evidence}
    if answer["outcome"] == "pass":
        told["attested"] = attested.check(
            name, parcel.slot, nonce, answer.get("attestation"), terms.keys.get(name)
        )
        tell(Told(name, Event.PASS, str(answer["message"]), told))
        return float(answer["standing"]["since"])
    doubtful = Event.DOUBT if answer["outcome"] == "inconclusive" else Event.FALL_BACK
    back = doubtful if answer["went_back"] and answer["code"] != "INCONSISTENT" else Event.JAM
    tell(Told(name, back, str(answer["message"]), told))
    return None


def _longest(strategy: Strategy) -> float:
    """Return how long an activation, and the way back after it, may take to be heard of."""
    return 2 * (strategy.ready_timeout + strategy.gate_timeout + strategy.gate.watch) + SLACK


def _deadlines(strategy: Strategy) -> dict[str, float]:
    return {
        "ready_seconds": strategy.ready_timeout,
        "gate_seconds": strategy.gate_timeout,
        "confirm_seconds": strategy.confirm_timeout,
    }


def _stop_if_told(stop: Flag) -> None:
    if stop.is_set():
        raise StoppedError("stopped before the switch; the device serves what it served")
