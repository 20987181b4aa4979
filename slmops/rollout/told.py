"""What the thread that works on a device tells the one that drives the rollout."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from slmops.rollout.assignment import Event


@dataclass(frozen=True)
class Told:
    """Something happened to a device: an event of its assignment, or (None) progress within a state."""

    device: str
    event: Event | None
    message: str = ""
    said: dict[str, Any] = field(default_factory=dict)


Tell = Callable[[Told], None]


def remedies(evidence: Iterable[dict[str, Any]]) -> list[str]:
    """Return the remedies in what was told of devices, each once."""
    return list(dict.fromkeys(said["remedy"] for said in evidence if said.get("remedy")))
