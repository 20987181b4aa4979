"""Where an artifact comes from: the source model, the data it was measured and calibrated with, the tools.

Pure. It is read from what the artifact says of itself, which the release's signature covers; nothing is
looked up elsewhere. Law: every word of that is in the lineage, and none is added.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from slmops.artifact.description import Description

_OF_SOURCE = ("id", "digest", "revision", "license", "ledger")
_OF_DATA = ("calibration", "evaluation")
_OF_BUILD = ("recipe", "base", "adapter", "delta_base")


@dataclass(frozen=True)
class Lineage:
    """Where an artifact comes from, all of it in words and digests."""

    source: dict[str, str] = field(default_factory=dict)
    """id, digest, revision (of a hub's repository), license, ledger (digest of its distillation's)."""
    data: dict[str, str] = field(default_factory=dict)
    """Digests of the texts it was calibrated and evaluated with, and how many tokens of them."""
    build: dict[str, str] = field(default_factory=dict)
    """recipe (digest), base (of an adapted release), adapter (digest), delta_base."""
    tools: dict[str, str] = field(default_factory=dict)
    """Version of everything that had a hand in it."""

    def said(self) -> dict[str, Any]:
        """Return it for machines."""
        return asdict(self)


def of(said: Description) -> Lineage:
    """Return the lineage that an artifact's description tells."""
    found: dict[str, dict[str, str]] = {"source": {}, "data": {}, "build": {}, "tools": {}}
    for key, value in said.source.items():
        found[_part(key)][key] = value
    return Lineage(**found)


def _part(key: str) -> str:
    if key in _OF_SOURCE:
        return "source"
    if key.startswith(_OF_DATA):
        return "data"
    return "build" if key in _OF_BUILD else "tools"
