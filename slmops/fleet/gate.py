"""What a device must show before it keeps a release, as the fleet file says it.

It knows nothing of devices; the device judges (`slmops.device.bounds`), by what `said` returns.
Laws: a bound of null is not asked; the keys are the device's own.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slmops.artifact.golden import TOLERANCE
from slmops.fleet.duration import Seconds


class Gate(BaseModel):
    """What the gate asks beyond right answers to the release's own golden prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    tolerance: float = Field(
        TOLERANCE,
        gt=0,
        description="Nats by which a token of a reference text may be likelier or less likely on the device "
        "than on the build host, on average over the text, in the very same file.",
    )
    references: Literal["where-possible", "required", "off"] = Field(
        "where-possible",
        description="A runtime bundle from before log-probabilities cannot be asked for them: where-possible "
        "goes by the other golden prompts then, and says so; required is in doubt.",
    )
    least_speed_of_before: float | None = Field(
        0.6,
        gt=0,
        description="Tokens per second, as a share of the version before on the same device just before.",
    )
    least_speed_of_promise: float | None = Field(
        0.25, gt=0, description="Tokens per second, as a share of what was predicted for the profile."
    )
    most_first_token_of_before: float | None = Field(
        2.5, gt=0, description="Time to the first token, in times of the version before (and 50 ms over)."
    )
    most_memory_of_promise: float | None = Field(
        1.25, gt=0, description="Peak memory of the daemon, in times of what the artifact promises."
    )
    most_errors: float | None = Field(
        0.01, ge=0, le=1, description="Share of requests that may end with an error, live traffic included."
    )
    watch: Seconds = Field(0.0, description="How long live traffic is watched after the golden prompts.")
    measure_before: bool = Field(
        True,
        description="Time the version before on the same prompts right before the switch, 15 s at most, "
        "while it serves.",
    )

    def said(self) -> dict[str, Any]:
        """Return what the device is told of it, as plain JSON."""
        return self.model_dump(mode="json")
