"""What to make, from what, for which devices: a recipe, and the plan it comes to.

It reads nothing and builds nothing. Laws: the same recipe, shape and sizes give the same plan; a build
that several profiles share stands in it once; a type named outright is never replaced by another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from slmops.errors import UsageError
from slmops.profile.device import DeviceProfile
from slmops.profile.fit import Candidate, Choice, choose
from slmops.profile.footprint import ModelShape

Format = Literal["gguf", "onnx"]
AUTO = "auto"
BEST_FIRST: dict[Format, tuple[str, ...]] = {
    "gguf": ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"),
    "onnx": ("INT8",),
}
"""Types that `auto` chooses among, best first by KL divergence to the source."""
ONNX_TYPES = ("INT8", "F32")


@dataclass(frozen=True)
class Wish:
    """A profile, and the format and type asked for it; `auto` leaves them to the plan."""

    profile: DeviceProfile
    format: str = AUTO
    type: str = AUTO


@dataclass(frozen=True)
class Recipe:
    """What to make."""

    name: str
    version: str
    wishes: tuple[Wish, ...]


@dataclass(frozen=True)
class Plan:
    """What will be built: a choice for each profile, each distinct build once."""

    choices: dict[str, Choice] = field(default_factory=dict)

    @property
    def builds(self) -> list[tuple[Format, str]]:
        """Return the distinct (format, type) pairs, in the order first chosen."""
        pairs = [(choice.candidate.format, choice.candidate.type) for choice in self.choices.values()]
        return list(dict.fromkeys(pairs))


def plan(
    recipe: Recipe, shape: ModelShape, weigh: Callable[[Format, str], int], formats: Sequence[Format]
) -> Plan:
    """Choose for every profile; `weigh` says the bytes of a (format, type), `formats` what the source allows.

    Raise DoesNotFitError when a device can bear none of what is allowed, UsageError when nothing is.
    """
    sizes: dict[tuple[Format, str], int] = {}

    def candidate(pair: tuple[Format, str]) -> Candidate:
        if pair not in sizes:
            sizes[pair] = weigh(*pair)
        return Candidate(*pair, sizes[pair])

    choices = {}
    for wish in recipe.wishes:
        allowed = [candidate(pair) for pair in _pairs(wish, formats)]
        choices[wish.profile.name] = choose(wish.profile, shape, allowed)
    return Plan(choices)


def _pairs(wish: Wish, formats: Sequence[Format]) -> list[tuple[Format, str]]:
    wanted = [name for name in formats if wish.format in (AUTO, name)]
    if wish.type != AUTO:
        wanted = [
            name for name in wanted if (name == "onnx") == (wish.type == "INT8" or wish.format == "onnx")
        ]
        if "onnx" in wanted and wish.type not in ONNX_TYPES:
            raise UsageError(f"no ONNX type {wish.type!r}; expected one of {', '.join(ONNX_TYPES)}")
        pairs: list[tuple[Format, str]] = [(name, wish.type) for name in wanted]
    else:
        pairs = [(name, type_) for name in wanted for type_ in BEST_FIRST[name]]
    pairs = [pair for pair in pairs if pair[0] in wish.profile.formats]
    if not pairs:
        raise UsageError(
            f"{wish.profile.name}: nothing can be built as format {wish.format}, type {wish.type}: "
            f"the profile takes {', '.join(wish.profile.formats)}, the source allows {', '.join(formats)}",
            remedy="Leave --format and --type at auto, or name a pair both allow.",
        )
    return pairs
