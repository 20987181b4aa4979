"""A plan: what a deploy would do to each device, written down before anyone is touched.

It is made of a look at every device (`make_plan`), shown, kept in a file, and later held against the world
as it is then. It does not know how a device is looked at, nor how long anything takes.

Laws: `parse(render(p)) == p`, and bytes that `render` would not write are no plan; nothing differs from
itself; bytes on the wire, seconds and free room differ from hour to hour and are no difference, unless a
device would be refused for them.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from slmops.errors import DocumentError, SlmopsError
from slmops.fault import plainly

NAMED = 8
"""Devices that a sentence names before it counts the rest."""
MOST = 20
"""Differences that are told before the rest is counted."""

Count = Annotated[int, Field(ge=0)]
Span = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, AfterValidator(lambda said: said.encode(errors="replace").decode())]
"""What a device may have said: text that can be written down, whatever it was."""


class MovedError(SlmopsError):
    """The world is no longer as the plan found it; nothing was touched."""

    code = "SLM-MOVED"
    remedy = "Look again, and at what it says now: `slmops plan` with the same words."


class Does(Enum):
    """What a rollout would do with a device."""

    DEPLOY = "deploy"
    ALREADY = "already"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    QUARANTINED = "quarantined"
    LOCKED = "locked"


class Known(Enum):
    """How much of an expected time is known."""

    WHOLE = "whole"
    """Every stage was measured in rollouts before."""
    SENDING = "sending"
    """The fleet file says how fast bytes go; how long the device works on them was never measured."""
    NOTHING = "nothing"


class Said(BaseModel):
    """A part of a plan."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Room(Said):
    """Bytes of memory or disk: what a device needs for the release, and what it has for it."""

    needed: Count
    there: Count
    head_room: int
    """What is left over; below zero it is short by so much."""

    @classmethod
    def of(cls, needed: int, there: int) -> Self:
        """Return the room that is left."""
        return cls(needed=needed, there=there, head_room=there - needed)


class PlannedDevice(Said):
    """One device in a plan; None stands for what is not known, or does not apply."""

    device: str
    profile: str | None
    target: str
    """Digest of what the fleet file says of it."""
    does: Does
    serves: Text | None
    """`name:version` that it serves now."""
    serves_slot: Text | None
    type: str | None
    """Format and type of the artifact it gets."""
    artifact: str | None
    """The slot of that artifact, and below that of the runtime bundle: 64 hexadecimal digits."""
    runtime: str | None
    runtime_slot: str | None
    bytes: Count | None
    """Of the artifact, all files."""
    sends: Count
    """Bytes on the wire, a runtime bundle's among them."""
    files: Count
    """How many files are sent."""
    deltas: Count
    """How many of them as what they differ by."""
    memory: Room | None
    disk: Room | None
    wave: Count | None
    """From 1 on."""
    wave_name: str | None
    seconds: Span | None
    known: Known
    reason: Text
    """Why it does not get the release; or, where it has it, what of its daemon's settings is to change."""
    code: str | None
    remedy: Text


class PlannedWave(Said):
    """One wave in a plan, and what it comes to."""

    number: Count
    name: str
    devices: Count
    sends: Count
    seconds: Span | None
    """Until its last device is done; the soak is not in it."""
    known: Known
    soak: Span
    advance: str
    """auto, or manual: somebody has to say `slmops rollout promote`."""


class Plan(Said):
    """What a deploy would do to each device."""

    kind: Literal["slmops-plan/1"] = "slmops-plan/1"
    release: str
    digest: str
    """Of the release's index."""
    fleet: str
    strategy: str
    """Digest of how the fleet file says that a rollout goes."""
    selector: str
    made: str
    """When, as 2026-01-31T12:00:00Z."""
    by: str
    exit_code: Count
    """What a deploy would be refused with; 0 when nothing speaks against it."""
    sends: Count
    seconds: Span | None
    """For the whole rollout with its soaks; waiting for a window or for a person is not in it."""
    known: Known
    windows: bool
    """Devices may begin in hours of their own alone."""
    opens: str | None
    """When the first of them may, as `made`; None where one may at once."""
    waves: tuple[PlannedWave, ...]
    devices: tuple[PlannedDevice, ...]

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        if len({each.device for each in self.devices}) != len(self.devices):
            raise ValueError("a device stands here twice")
        return self

    def those(self, *does: Does) -> list[PlannedDevice]:
        """Return the devices with which one of these is done."""
        return [each for each in self.devices if each.does in does]


def render(plan: Plan) -> bytes:
    """Return the canonical bytes: sorted keys, two-space indent, a newline at the end."""
    return (json.dumps(plan.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def parse(data: bytes, name: str = "the plan") -> Plan:
    """Read a plan; raise DocumentError naming what is wrong in the file called `name`."""
    again = "Write one with `slmops plan ... --out plan.json`; it is not made to be edited."
    try:
        plan = Plan.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DocumentError(
            f"{name} is not a plan: {where + ': ' if where else ''}{plainly(first)}", remedy=again
        ) from error
    if render(plan) != data:
        raise DocumentError(f"{name} is not as slmops wrote it", remedy=again)
    return plan


def differences(then: Plan, now: Plan) -> list[str]:
    """Say in words what makes a deploy of now another one than was planned then; empty when nothing does."""
    return [*_of_the_whole(then, now), *_of_devices(then, now), *_of_waves(then, now)]


def require_same(then: Plan, now: Plan, again: str | None = None) -> None:
    """Raise MovedError, which says what moved, unless a deploy would do now what `then` says.

    `again` is the command that plans anew.
    """
    moved = differences(then, now)
    if moved:
        more = [f"... and {len(moved) - MOST} more differences"] if len(moved) > MOST else []
        lines = "\n".join(f"  {each}" for each in [*moved[:MOST], *more])
        raise MovedError(f"since the plan of {then.made} the world has moved:\n{lines}", remedy=again)


def _of_the_whole(then: Plan, now: Plan) -> Iterator[str]:
    if then.fleet != now.fleet:
        yield f"the plan is for the fleet {then.fleet}, and this is {now.fleet}"
    if then.release != now.release:
        yield f"the plan is for {then.release}, and now {now.release} is asked for"
    elif then.digest != now.digest:
        yield f"{then.release} is another release now: {_short(then.digest)} then, {_short(now.digest)} now"
    if then.strategy != now.strategy:
        yield "the fleet file's strategy (`rollout:`) is another one now"


def _of_devices(then: Plan, now: Plan) -> Iterator[str]:
    before = {each.device: each for each in then.devices}
    after = {each.device: each for each in now.devices}
    if gone := before.keys() - after.keys():
        yield f"{_named(sorted(gone))} {_was(gone)} in the plan and {_is(gone)} not picked now"
    if new := after.keys() - before.keys():
        yield f"{_named(sorted(new))} {_is(new)} picked now and {_was(new)} not in the plan"
    alike = defaultdict(list)
    for name, device in before.items():
        for said in _of_device(device, after.get(name, device)):
            alike[said].append(name)
    for (one, many), names in alike.items():
        yield f"{_named(names)} {one if len(names) == 1 else many}"


def _of_device(then: PlannedDevice, now: PlannedDevice) -> Iterator[tuple[str, str]]:
    """Say what is another thing of a device: as it is said of one, and of several."""
    if then.target != now.target:
        said = "another entry in the fleet file now (address, profile, labels, runtime...)"
        yield f"has {said}", f"have {said}"
    if then.does is not now.does:
        why = f": {now.reason}" if now.reason else ""
        one, many = _BECAME[now.does]
        yield one + why, many + why
        return
    # A device that is out of reach does not say what it serves.
    if then.serves_slot != now.serves_slot and now.does is not Does.UNREACHABLE:
        yield _twice(f"served {_serving(then)} then, and {_serving(now)} now")
    if now.does is Does.DEPLOY and (then.artifact, then.runtime_slot) != (now.artifact, now.runtime_slot):
        yield _twice(f"would get {_parcel(now)} now, and {_parcel(then)} then")


def _of_waves(then: Plan, now: Plan) -> Iterator[str]:
    """Say who would go in another wave; one device that changed its place moves many, so it is one line."""
    before = {each.device: (each.wave, each.wave_name) for each in then.those(Does.DEPLOY)}
    moved = [
        each.device
        for each in now.those(Does.DEPLOY)
        if before.get(each.device, (each.wave, each.wave_name)) != (each.wave, each.wave_name)
    ]
    if moved:
        yield f"{_named(moved)} would go in another wave now"


def _twice(said: str) -> tuple[str, str]:
    return said, said


_BECAME = {
    Does.DEPLOY: _twice("would get the release now"),
    Does.ALREADY: ("has the release already", "have the release already"),
    Does.REFUSED: _twice("would be refused now"),
    Does.UNREACHABLE: ("is out of reach now", "are out of reach now"),
    Does.QUARANTINED: ("is quarantined now", "are quarantined now"),
    Does.LOCKED: ("is locked now", "are locked now"),
}


def _serving(device: PlannedDevice) -> str:
    if device.serves_slot is None:
        return device.serves or "nothing"
    return f"{device.serves} ({device.serves_slot[:12]})"


def _parcel(device: PlannedDevice) -> str:
    ran = f" on {device.runtime} ({device.runtime_slot[:12]})" if device.runtime_slot else ""
    return f"{device.type} ({(device.artifact or '-')[:12]}){ran}"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _named(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _is(names: Iterable[str]) -> str:
    return "is" if len(list(names)) == 1 else "are"


def _was(names: Iterable[str]) -> str:
    return "was" if len(list(names)) == 1 else "were"
