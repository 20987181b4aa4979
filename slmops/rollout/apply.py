"""Bring a release to one device: send, stage, try, confirm. And take it back."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import Any

from slmops.errors import HostKeyError, SlmopsError, UnreachableError
from slmops.fleet import agent
from slmops.fleet.agent import Session
from slmops.fleet.inventory import Device
from slmops.fleet.send import TRIES, Sender
from slmops.fleet.ssh import Link
from slmops.fleet.strategy import Strategy
from slmops.rollout.assignment import Event
from slmops.rollout.check import Finding
from slmops.rollout.deliver import Delivery
from slmops.rollout.order import Order, Parcel
from slmops.rollout.shipment import Offers
from slmops.rollout.told import Tell, Told

SLACK = 60.0
"""Seconds over a stage's own deadline that the operator waits to hear of its end."""


GO_ON = "Run the same again when the link is better: it goes on where it was."


class StoppedError(SlmopsError):
    """The operator asked to stop; this device is left as it was."""

    code = "SLM-STOPPED"
    exit_code = 130


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


def bring(finding: Finding, order: Order, terms: Terms, tell: Tell) -> None:
    """Take one device through its assignment, telling every step; every end is told, none is raised."""
    device, name = finding.device, finding.device.name
    try:
        parcel = order.parcel(device)
        stop = partial(_stop_if_told, terms.stop)

        def cut(times: int) -> None:
            tell(Told(name, None, "", {"step": "cut", "times": times, "most": TRIES}))

        with Sender(partial(agent.session, device, terms.trusted), stop, cut=cut) as sender:
            tell(Told(name, Event.SEND))
            took = Delivery(sender, finding, order.mandate, terms.offers, tell).stage()
            tell(Told(name, Event.STAGE, said=took))
            stop()
            tell(Told(name, Event.TRY))
            passed = _try(sender.session, parcel, finding.runtime, terms.strategy, tell)
        if passed:
            # Over a new connection: a device that can no longer be reached must not stay on the new release.
            with Sender(partial(agent.session, device, terms.trusted)) as again:
                again.call("confirm", {"slot": parcel.slot})
            tell(Told(name, Event.CONFIRM))
    except UnreachableError as error:
        remedy = error.remedy if isinstance(error, HostKeyError) else GO_ON
        tell(Told(name, Event.LOSE, str(error), {"code": error.code, "remedy": remedy}))
    except StoppedError as error:
        tell(Told(name, Event.LEFT_OUT, str(error)))
    except SlmopsError as error:
        tell(Told(name, Event.REFUSE, str(error), {"code": error.code, "remedy": error.remedy}))
    except OSError as error:
        tell(Told(name, Event.REFUSE, f"a file cannot be read here: {error}"))


def take_back(device: Device, slot: str, terms: Terms, tell: Tell) -> None:
    """Make a device that committed `slot` serve what it served before."""
    try:
        with Link(device, terms.trusted) as link:
            answer = go_back(link, slot, terms.strategy, even_to_none=True)
    except SlmopsError as error:
        tell(Told(device.name, Event.JAM, str(error), {"code": error.code, "remedy": error.remedy}))
        return
    event = Event.RETURN if answer["outcome"] == "pass" else Event.JAM
    tell(Told(device.name, event, str(answer["message"])))


def go_back(link: Link, slot: str, strategy: Strategy, *, even_to_none: bool = False) -> dict[str, Any]:
    """Make a device leave `slot` for the one before it and prove that; return what its gate found.

    With `even_to_none` a device that had nothing before serves nothing again.
    """
    said = {"slot": slot, "code": "OPERATOR", "message": "taken back by the operator", **_deadlines(strategy)}
    return agent.call(link, "roll-back", {**said, "even_to_none": even_to_none}, silence=_longest(strategy))


def _try(session: Session, parcel: Parcel, runtime: Parcel | None, strategy: Strategy, tell: Tell) -> bool:
    """Activate and hear the device's own verdict; return whether it passed."""
    name = session.link.device.name
    answer = session.call(
        "activate",
        {"slot": parcel.slot, "runtime_slot": runtime and runtime.slot, **_deadlines(strategy)},
        note=lambda said: tell(Told(name, None, "", said)),
        silence=_longest(strategy),
    )
    passed = bool(answer["outcome"] == "pass")
    told = {"code": answer["code"], **answer["evidence"]}
    stayed = answer["standing"]["slot"] == parcel.slot
    back = Event.JAM if stayed or answer["code"] == "INCONSISTENT" else Event.FALL_BACK
    tell(Told(name, Event.PASS if passed else back, str(answer["message"]), told))
    return passed


def _longest(strategy: Strategy) -> float:
    """Return how long an activation, and the way back after it, may take to be heard of."""
    return 2 * (strategy.ready_timeout + strategy.gate_timeout) + SLACK


def _deadlines(strategy: Strategy) -> dict[str, float]:
    return {
        "ready_seconds": strategy.ready_timeout,
        "gate_seconds": strategy.gate_timeout,
        "confirm_seconds": strategy.confirm_timeout,
    }


def _stop_if_told(stop: Flag) -> None:
    if stop.is_set():
        raise StoppedError("stopped before the switch; the device serves what it served")
