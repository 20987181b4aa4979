"""How fast and how far a rollout may go, as the fleet file says it.

It knows nothing of devices. Laws: a share of a fleet is at least one device; every duration is
seconds and not negative.
"""

import math
import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PER_PROFILE: Final = "per-profile"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PERCENT = re.compile(r"(\d{1,3})%")


def seconds(said: object) -> object:
    """Read `90s`, `5m`, `1h`, `1h30m`; leave a number as it is."""
    if not isinstance(said, str):
        return said
    parts = _DURATION.findall(said)
    if not parts or "".join(number + unit for number, unit in parts) != said:
        raise ValueError("expected a duration such as 90s, 5m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _share(said: object) -> object:
    if isinstance(said, bool) or not isinstance(said, int | str):
        raise ValueError(  # noqa: TRY004 - pydantic collects ValueError
            "expected a number of devices or a percentage such as 10%"
        )
    if isinstance(said, int):
        if said < 0:
            raise ValueError("expected a number of devices that is not negative")
        return said
    found = _PERCENT.fullmatch(said)
    if found is None or int(found[1]) > 100:  # noqa: PLR2004 - per cent
        raise ValueError("expected a number of devices or a percentage such as 10%")
    return said


Seconds = Annotated[
    float,
    BeforeValidator(seconds, json_schema_input_type=str | float),
    Field(ge=0, json_schema_extra={"examples": ["90s", "5m", "1h"]}),
]
Share = Annotated[int | str, BeforeValidator(_share), Field(json_schema_extra={"examples": [1, "10%"]})]


def at_least_one(share: Share, whole: int) -> int:
    """Return a share of `whole` devices, rounded up, one at the least."""
    return max(1, math.ceil(_exact(share, whole)))


def at_most(share: Share, whole: int) -> int:
    """Return a share of `whole` devices, rounded down: how many may be lost."""
    return math.floor(_exact(share, whole))


def _exact(share: Share, whole: int) -> float:
    return min(share, whole) if isinstance(share, int) else int(share[:-1]) * whole / 100


class Strategy(BaseModel):
    """How a rollout goes through the fleet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    canary: Share | Literal["per-profile"] = Field(
        PER_PROFILE,
        description="First wave: a number or share of devices; or one device of every profile, so that each "
        "artifact is proved before the fleet gets it.",
    )
    waves: list[Share] = Field(
        ["10%", "50%", "100%"],
        min_length=1,
        description="How much of the fleet has the release after each further wave; the last one is 100%.",
    )
    soak: Seconds = Field(
        0.0, description="Wait after each wave before looking at its health again and going on."
    )
    max_parallel: int = Field(10, ge=1, le=500, description="Devices worked on at the same time.")
    max_failures: Share = Field(
        0, description="Devices of a wave that may fail before the wave goes back. A share is rounded down."
    )
    max_unreachable: Share = Field(
        "10%",
        description="Devices that may be unreachable when the rollout starts; more, and nothing is touched. "
        "A share is rounded down, so in a small fleet none may.",
    )
    ready_timeout: Seconds = Field(120.0, description="How long the daemon may take to load the model.")
    gate_timeout: Seconds = Field(
        300.0, description="How long all golden prompts together may take on one device."
    )
    confirm_timeout: Seconds = Field(
        120.0, description="A proved release that nobody confirms in this time goes back by itself."
    )
