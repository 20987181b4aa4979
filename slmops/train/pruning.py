"""What a model is to be cut to, as people say it: 60%, 400k weights, four layers, what a device bears.

Pure. Laws: what is said is never more than there is; the same words mean the same cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from slmops.build.plan import AUTO
from slmops.errors import UsageError
from slmops.profile.device import DeviceProfile
from slmops.train.cuts import Body, Keep

LAYERS, HEADS, MLP, WIDTH = "layers", "heads", "mlp", "hidden"
AXES = (LAYERS, HEADS, MLP, WIDTH)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_WHOLE = "%"
HUNDRED = 100
"""A number up to this was meant as a share."""
_HOW = "60% of the teacher's, or a number such as 650000, 400k, 1.5M"


@dataclass(frozen=True)
class Wanted:
    """What a cut is to come to."""

    layers: int | None = None
    groups: int | None = None
    """Key-value heads, each with the query heads that read it."""
    inner: int | None = None
    hidden: int | None = None
    """Where the heads are as wide as the stream, this and `groups` say the same, both or neither."""
    axes: tuple[str, ...] = AXES
    """What may be cut to become small enough, besides what is said outright."""
    excess: Callable[[Keep], float] = field(default=lambda _keep: 0.0)
    """How many weights too many there are, about; none or fewer when it is small enough."""

    @property
    def free(self) -> tuple[str, ...]:
        """Return the axes that are left to be chosen."""
        said = {LAYERS: self.layers, HEADS: self.groups, MLP: self.inner, WIDTH: self.hidden}
        return tuple(axis for axis in self.axes if said[axis] is None)


@dataclass(frozen=True)
class Pruning:
    """What is wished for; what is None is not."""

    params: str | None = None
    """60%, or 400k, 1.5M, 650000."""
    layers: int | None = None
    heads: int | None = None
    """Query heads; they leave with the key-value heads they read."""
    mlp: int | None = None
    """Channels of the feed-forward."""
    hidden: int | None = None
    profile: DeviceProfile | None = None
    type: str = AUTO
    """Of the file that the profile is to bear."""
    axes: tuple[str, ...] = AXES
    """What may be cut for `params` and `profile`."""

    @property
    def cuts(self) -> bool:
        """Return whether any structure is to leave."""
        return (self.params, self.layers, self.heads, self.mlp, self.hidden, self.profile) != (None,) * 6


def parse_pruning(said: str, load: Callable[[str], DeviceProfile]) -> Pruning:
    """Return what is said in a word: 60%, 400k, layers=4, profile=NAME, or several of them with commas.

    Raises UsageError for anything else, and what `load` raises for a profile that is not there.
    """
    found: dict[str, Any] = {}
    for part in said.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals:
            found["params"] = key
        elif key == "profile":
            found[key] = load(value)
        elif key in ("params", "type"):
            found[key] = value
        elif key in AXES and value.isdecimal():
            found[key] = int(value)
        else:
            raise UsageError(
                "prune: expected 60%, layers=4, heads=8, mlp=512, hidden=256, profile=NAME, or several of "
                f"them with commas between, got {part!r}"
            )
    return Pruning(**found)


def parse_axes(said: str) -> tuple[str, ...]:
    """Return the axes that are named, with commas between; raise UsageError for one there is not."""
    named = tuple(part.strip() for part in said.split(","))
    strange = [part for part in named if part not in AXES]
    if strange:
        raise UsageError(f"--axes: expected some of {', '.join(AXES)}, got {', '.join(strange)!r}")
    return tuple(axis for axis in AXES if axis in named)


def most_parameters(said: str, there_are: int) -> int:
    """Return how many weights may be left of so many; raise UsageError for what is no part of them."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|[kKmMbB]?)", said.strip())
    if not found:
        raise UsageError(f"--params: expected {_HOW}, got {said!r}")
    number, unit = Fraction(found[1]), found[2].lower()
    if not unit and 0 < number <= HUNDRED:
        raise UsageError(
            f"--params: {said} weights are no model", remedy=f"Give {said}%, if that is meant; or {_HOW}."
        )
    most = int(number * there_are / 100) if unit == _WHOLE else int(number * _UNITS[unit])
    if not 0 < most < there_are:
        raise UsageError(
            f"--params: expected fewer than the {there_are:,} weights there are, and some, got {said}",
            remedy=f"Give {_HOW}.",
        )
    return most


def wanted(pruning: Pruning, body: Body) -> Wanted:
    """Return what is to stay of a model, `params` and `profile` aside; raise UsageError where it cannot."""
    sizes = body.sizes
    there_are = {"layers": sizes.layers, "heads": sizes.heads, "mlp": sizes.inner, "hidden": sizes.hidden}
    for name, whole in there_are.items():
        asked: Any = getattr(pruning, name)
        if asked is not None and not 0 < asked <= whole:
            raise UsageError(f"--{name}: expected 1 to {whole}, as many as the model has, got {asked}")
    wide = body.hidden_of_group
    if pruning.heads is not None and pruning.heads % body.readers:
        raise UsageError(
            f"--heads: {body.readers} heads share one key-value head and leave together: expected a multiple "
            f"of {body.readers}, got {pruning.heads}"
        )
    groups = None if pruning.heads is None else pruning.heads // body.readers
    if (
        wide
        and pruning.hidden is not None
        and (pruning.hidden % wide or groups not in (None, pruning.hidden // wide))
    ):
        raise UsageError(
            f"--hidden: the heads of a {body.architecture} are together as wide as its stream, "
            f"{sizes.head_dim} each: expected a multiple of {wide}, as --heads has it, got {pruning.hidden}"
        )
    hidden = pruning.hidden
    if wide and (groups or hidden):
        groups = groups or (hidden or 0) // wide
        hidden = groups * wide
    return Wanted(pruning.layers, groups, pruning.mlp, hidden, pruning.axes)
