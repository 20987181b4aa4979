"""A channel: a name that moves from release to release, such as `demo@stable`, and where it has stood.

Pure. Laws: `parse(str(c)) == c`; `moves(render(m)) == m`; a move is added at the end and none is changed.
"""

import json
import re
from dataclasses import asdict, dataclass

from slmops.errors import IntegrityError, UsageError
from slmops.registry import catalog
from slmops.registry.catalog import Reference

MOVES_KEY = "dev.slmops.moves"
"""The annotation beside a channel's name that says where it has stood."""
_CHANNEL = re.compile(r"(?=.{1,64}$)[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*")


@dataclass(frozen=True)
class Channel:
    """A channel of the releases that share a name."""

    name: str
    channel: str

    def __str__(self) -> str:
        """Return `name@channel`."""
        return f"{self.name}@{self.channel}"


@dataclass(frozen=True)
class Move:
    """A channel came to stand for a release."""

    to: str
    """`name:version`."""
    digest: str
    at: str
    """RFC 3339, UTC."""


def parse(text: str) -> Channel:
    """Read `name@channel`; raise UsageError that says what was expected."""
    name, at, channel = text.partition("@")
    if not at or not _CHANNEL.fullmatch(channel):
        raise UsageError(
            f"expected NAME@CHANNEL, such as demo@stable (lower-case letters, digits, '.', '_', '-'), "
            f"got {text!r}"
        )
    return Channel(catalog.reference(name, "0").name, channel)


def render(moves: tuple[Move, ...]) -> str:
    """Return moves as the annotation has them."""
    return json.dumps([asdict(move) for move in moves], separators=(",", ":"))


def moves(text: str | None) -> tuple[Move, ...]:
    """Read moves, the oldest first; a channel that another tool has set has none."""
    if text is None:
        return ()
    try:
        return tuple(Move(said["to"], said["digest"], said["at"]) for said in json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"the moves of a channel cannot be read: {error!r}") from error


def is_older(one: Reference, other: Reference) -> bool:
    """Say whether `one` is a lower version than `other`."""
    return one != other and catalog.newest_first([one, other])[0] == other
