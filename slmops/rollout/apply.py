"""Bring a release to one device: send, stage, try, confirm. And take it back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import Any

from slmops import digest as digests
from slmops.errors import SlmopsError, UnreachableError
from slmops.fleet import agent
from slmops.fleet.inventory import Device
from slmops.fleet.ssh import Link
from slmops.fleet.strategy import Strategy
from slmops.rollout.assignment import Event
from slmops.rollout.order import Order, Parcel
from slmops.rollout.told import Told

Tell = Callable[[Told], None]
SLACK = 60.0
"""Seconds over a stage's own deadline that the operator waits to hear of its end."""


HASHING = 600.0
"""Seconds a device may be silent while it hashes files of some gigabytes on a slow card."""


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


def bring(device: Device, order: Order, terms: Terms, tell: Tell) -> None:
    """Take one device through its assignment, telling every step; every end is told, none is raised."""
    name = device.name
    try:
        parcel = order.parcel(device)
        with Link(device, terms.trusted) as link:
            tell(Told(name, Event.SEND))
            _send(link, order, parcel, terms.stop, tell)
            tell(Told(name, Event.STAGE))
            _stop_if_told(terms.stop)
            tell(Told(name, Event.TRY))
            passed = _try(link, parcel, terms.strategy, tell)
        if passed:
            # Over a new connection: a device that can no longer be reached must not stay on the new release.
            with Link(device, terms.trusted) as link:
                agent.call(link, "confirm", {"slot": parcel.slot})
            tell(Told(name, Event.CONFIRM))
    except UnreachableError as error:
        tell(Told(name, Event.LOSE, str(error)))
    except StoppedError as error:
        tell(Told(name, Event.LEFT_OUT, str(error)))
    except SlmopsError as error:
        tell(Told(name, Event.REFUSE, str(error), {"code": error.code, "remedy": error.remedy}))


def take_back(device: Device, slot: str, terms: Terms, tell: Tell) -> None:
    """Make a device that committed `slot` serve what it served before."""
    try:
        with Link(device, terms.trusted) as link:
            answer = go_back(link, slot, terms.strategy, even_to_none=True)
    except SlmopsError as error:
        tell(Told(device.name, Event.JAM, str(error)))
        return
    event = Event.RETURN if answer["outcome"] == "pass" else Event.JAM
    tell(Told(device.name, event, str(answer["message"])))


def go_back(link: Link, slot: str, strategy: Strategy, *, even_to_none: bool = False) -> dict[str, Any]:
    """Make a device leave `slot` for the one before it and prove that; return what its gate found.

    With `even_to_none` a device that had nothing before serves nothing again.
    """
    said = {"slot": slot, "code": "OPERATOR", "message": "taken back by the operator", **_deadlines(strategy)}
    return agent.call(link, "roll-back", {**said, "even_to_none": even_to_none}, silence=_longest(strategy))


def _send(link: Link, order: Order, parcel: Parcel, stop: Flag, tell: Tell) -> None:
    device, signed = link.device, order.signed
    agent.greet(link)
    settings = {
        "device": device.name,
        "profile": device.profile,
        "runtime": list(device.python),
        "port": device.daemon_port,
        "service": device.service,
    }
    agent.call(link, "enroll", {"signers": order.signers, **settings})
    said = {
        "index": signed.index.decode(),
        "signature": signed.signature.decode(),
        "manifest": parcel.manifest.decode(),
        "profile": device.profile,
    }
    prepared = agent.call(link, "prepare", said, silence=HASHING)
    whole = sum(each["size"] - each["offset"] for each in prepared["missing"])
    sent = 0

    def data(each: dict[str, Any]) -> Iterator[bytes]:
        nonlocal sent
        with parcel.files[each["name"]].open("rb") as file:
            file.seek(each["offset"])
            for piece in digests.pieces(file):
                _stop_if_told(stop)
                yield piece
                sent += len(piece)
                tell(Told(device.name, None, "", {"step": "sending", "done": sent, "whole": whole}))

    for each in prepared["missing"]:
        wanted = {"slot": parcel.slot, "name": each["name"], "offset": each["offset"]}
        agent.call(link, "receive", wanted, data=data(each), silence=HASHING)
    agent.call(link, "stage", {"slot": parcel.slot}, silence=HASHING)


def _try(link: Link, parcel: Parcel, strategy: Strategy, tell: Tell) -> bool:
    """Activate and hear the device's own verdict; return whether it passed."""
    name = link.device.name
    answer = agent.call(
        link,
        "activate",
        {"slot": parcel.slot, **_deadlines(strategy)},
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
