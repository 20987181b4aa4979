"""How fast and how far a rollout may go, as the fleet file says it.

It knows nothing of devices. Laws: a share of a fleet is at least one device, and what may be lost of
it is rounded down; a strategy goes to JSON and back unchanged.
"""

import math
import re
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from slmops.fault import fault
from slmops.fleet.duration import Deadline, Seconds
from slmops.fleet.gate import Gate
from slmops.fleet.window import Window, longest_closed

PER_PROFILE: Final = "per-profile"
PROFILE: Final = "profile"
"""The key that is every device's profile; any other key is a label."""
SITE: Final = "site"
"""The label that a fleet file goes by that names no other."""
_PERCENT = re.compile(r"(\d{1,3})%")


def _share(said: object, *, otherwise: str = "") -> object:
    wanted = f"expected a number of devices or a percentage such as 10%{otherwise}"
    if isinstance(said, bool) or not isinstance(said, int | str):
        raise ValueError(wanted)  # noqa: TRY004 - pydantic collects ValueError
    if isinstance(said, int):
        if said < 0:
            raise ValueError("expected a number of devices that is not negative")
        return said
    found = _PERCENT.fullmatch(said)
    if found is None or int(found[1]) > 100:  # noqa: PLR2004 - per cent
        raise ValueError(wanted)
    return said


def _canary(said: object) -> object:
    if said == PER_PROFILE:
        return said
    return _share(said, otherwise=", per-profile, or a mapping such as {each: [profile, site]}")


def _wave(said: object) -> object:
    return _share(said, otherwise=", or a mapping with share or select")


def _form(said: object) -> str:
    return "said in full" if isinstance(said, dict | BaseModel) else "short"


Share = Annotated[int | str, BeforeValidator(_share), Field(json_schema_extra={"examples": [1, "10%"]})]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
Advance = Literal["auto", "manual"]
OnError = Literal["pause", "abort", "rollback-wave", "rollback-all"]


def at_least_one(share: Share, whole: int) -> int:
    """Return a share of `whole` devices, rounded up, one at the least."""
    return max(1, math.ceil(_exact(share, whole)))


def at_most(share: Share, whole: int) -> int:
    """Return a share of `whole` devices, rounded down: how many may be lost."""
    return math.floor(_exact(share, whole))


def _exact(share: Share, whole: int) -> float:
    return min(share, whole) if isinstance(share, int) else int(share[:-1]) * whole / 100


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Canary(_Part):
    """A first wave with one device of every kind."""

    each: tuple[Key, ...] = Field(
        (PROFILE, SITE),
        min_length=1,
        description="One device for every combination that these have in the fleet: profile, or any label.",
    )
    least: int = Field(1, ge=1, description="Devices in it at the least; more are taken evenly.")
    most: Share = Field(
        "25%",
        description="Where there are more combinations than this much of the fleet, they are thinned out; "
        "one device for every value of the first of `each` stays, so that each artifact is proved.",
    )


class Step(_Part):
    """One wave with terms of its own."""

    share: Share | None = Field(
        None, description="How much of the fleet has the release after it, with all waves before."
    )
    select: str | None = Field(
        None, min_length=1, description="Or whom it takes, of those left, by a selector: site=berlin,!kiosk."
    )
    soak: Seconds | None = Field(None, description="Its own soak.")
    advance: Advance | None = Field(None, description="Its own advance.")
    max_failures: Share | None = Field(None, description="Its own max_failures.")

    @model_validator(mode="after")
    def _says_whom(self) -> Self:
        if (self.share is None) == (self.select is None):
            raise fault("a wave says whom it takes by either share or select")
        return self


class MaxUnavailable(_Part):
    """How many devices that share a label's value may be worked on, or be down, at once."""

    by: Key = Field(SITE, description="The label; devices without it are not bound.")
    most: Share = Field(
        "25%", description="Of the devices with one value. Rounded down, yet one may always be worked on."
    )


class Rate(_Part):
    """How many devices begin in a minute, and how that grows."""

    per_minute: float = Field(gt=0, le=100_000, description="Devices that begin in a minute at first.")
    factor: float = Field(1.0, ge=1, le=10, description="What the rate is multiplied by each time.")
    after: int = Field(10, ge=1, description="Devices that end well for each time.")


class Quarantine(_Part):
    """When a device is not tried again with what failed on it."""

    after: int = Field(3, ge=1, description="Failed trials of the same content on a device.")
    seconds: Deadline = Field(
        86_400.0, alias="for", description="How long that content is then kept off the device."
    )


class Strategy(_Part):
    """How a rollout goes through the fleet; a duration is 90s, 5m or 1h30m, and a number alone is seconds."""

    canary: Annotated[
        Annotated[int | str, BeforeValidator(_canary), Tag("short")] | Annotated[Canary, Tag("said in full")],
        Discriminator(_form),
    ] = Field(
        Canary(),
        description="First wave: a number or share of devices; per-profile, one device of every profile, so "
        "that each artifact is proved before the fleet gets it; or one of every combination of profile and "
        "labels.",
    )
    waves: list[
        Annotated[
            Annotated[int | str, BeforeValidator(_wave), Tag("short")] | Annotated[Step, Tag("said in full")],
            Discriminator(_form),
        ]
    ] = Field(
        ["10%", "50%", "100%"],
        min_length=1,
        description="The waves after it. A share is how much of the fleet has the release after the wave; a "
        "selector takes whom it picks. Whom no wave names go last.",
    )
    advance: Advance = Field(
        "auto",
        description="Whether a wave that passed leads to the next alone, or waits for `rollout promote`.",
    )
    soak: Seconds = Field(
        60.0, description="Wait after each wave before looking at its health again and going on."
    )
    max_parallel: int = Field(10, ge=1, le=500, description="Devices worked on at the same time.")
    max_unavailable: MaxUnavailable = Field(
        MaxUnavailable(),
        description="Devices with the same value of a label that may be worked on, or be down, at once.",
    )
    max_failures: Share = Field(
        0,
        description="Devices of a wave that may fail; one more, and `on_error` is done. A share is of those "
        "that ended good or bad, and rounded down.",
    )
    min_executed: int = Field(
        3,
        ge=1,
        description="Ends from which on a share of failures is judged while a wave goes on; at its end it is "
        "judged whatever their number, and one that can no longer be kept counts at once.",
    )
    max_unreachable: Share = Field(
        "10%",
        description="Devices that may be unreachable when the rollout starts; more, and nothing is touched. "
        "Then devices of a wave that may be lost or unproved; more, and the rollout pauses. "
        "A share is rounded down, so in a small fleet none may.",
    )
    rate: Rate | None = Field(None, description="How many devices begin in a minute. Default: no bound.")
    windows: list[Window] = Field(
        [],
        description="When a device may begin, in its own `timezone`. Default: at any time.",
    )
    transfer_timeout: Deadline = Field(3600.0, description="How long sending to one device may take.")
    ready_timeout: Seconds = Field(120.0, description="How long the daemon may take to load the model.")
    gate_timeout: Seconds = Field(
        300.0, description="How long all golden prompts together may take on one device."
    )
    confirm_timeout: Seconds = Field(
        120.0, description="A proved release that nobody confirms in this time goes back by itself."
    )
    defer_timeout: Deadline = Field(
        600.0,
        description="How long an application's update lock is waited for before the device is left out.",
    )
    wave_timeout: Deadline = Field(
        86_400.0, description="A wave that is not decided in this time is inconclusive: the rollout pauses."
    )
    rollout_timeout: Deadline = Field(
        30 * 86_400.0, description="A rollout that is not at its end in this time is paused."
    )
    on_error: OnError = Field(
        "rollback-wave",
        description="When a wave failed: pause; abort, what is committed stays; take the wave back; or take "
        "back every device of the rollout.",
    )
    gate: Gate = Field(Gate(), description="What a device must show beyond the release's golden prompts.")
    quarantine: Quarantine = Field(
        Quarantine(), description="When a device is not tried again with content that failed on it."
    )

    @model_validator(mode="after")
    def _a_window_opens_before_a_wave_ends(self) -> Self:
        closed = longest_closed(self.windows)
        if closed >= self.wave_timeout:
            hours, given = f"{closed / 3600:g}h", f"{self.wave_timeout / 3600:g}h"
            raise fault(
                f"no window is open for {hours}, and wave_timeout is {given}: a wave could not end", "windows"
            )
        return self

    @model_validator(mode="after")
    def _a_soak_ends_before_a_wave_does(self) -> Self:
        said: list[tuple[float, tuple[str | int, ...]]] = [(self.soak, ("soak",))]
        said += [
            (wave.soak, ("waves", at, "soak"))
            for at, wave in enumerate(self.waves)
            if isinstance(wave, Step) and wave.soak is not None
        ]
        for soak, place in said:
            for name in ("wave_timeout", "rollout_timeout"):
                if soak >= getattr(self, name):
                    most = f"{name} is {getattr(self, name):g} s"
                    raise fault(f"it is {soak:g} s, and {most}: a wave could not end", *place)
        return self
