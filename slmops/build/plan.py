"""What is to be built for which device, before anything is: the candidates, and who of them is left.

Pure: it reads nothing and builds nothing. Laws: the same question gives the same plan; what several
profiles share is built once; a type named outright is never replaced by another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from slmops.build.onnx_size import ONNX_TYPES
from slmops.build.scheme import GGML_TYPES, Scheme, check_file_type
from slmops.errors import BuildError, SlmopsError, UsageError
from slmops.profile.device import DeviceProfile, Format
from slmops.profile.fit import Candidate, Fit, hold, nothing_fits
from slmops.profile.footprint import ModelShape

AUTO = "auto"
MIXED = "MIXED"
"""The type of a model in which each tensor has a type of its own, found by measuring."""
ROUNDED: dict[Format, tuple[str, ...]] = {
    "gguf": ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K"),
    "onnx": ("INT8", "INT4"),
}
"""Types that `auto` builds and measures."""
IN_SMALL_BLOCKS = ("Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0")
"""What it builds as well where 256 does not divide the rows."""
MOST_FALLBACK = 0.5
"""Share of the weights that may have another type than the label says."""


@dataclass(frozen=True, order=True)
class Make:
    """One model file to be built."""

    format: Format
    type: str
    types: tuple[tuple[str, str], ...] = ()
    """For a mixed one, the ggml type of each tensor by GGUF name."""
    base: str = ""
    """Digest of the earlier file whose scales it reuses; without one all scales are its own."""
    tolerance: float = 0.0
    """By how much the squared error of a block may grow, as a share, for the scales of `base`."""

    def __str__(self) -> str:
        """Name it as people do: gguf Q8_0."""
        return f"{self.format} {self.type}"


@dataclass(frozen=True)
class Base:
    """The artifact that a profile has, and that the new one is to be a small delta from."""

    release: str
    """name:version."""
    digest: str
    """Of its model file."""
    make: Make
    """What it is, and what the new one is to be."""
    has_scales: bool
    """Whether it has scales that the new one can reuse."""


@dataclass(frozen=True)
class Wish:
    """A profile, and the format and type asked for it; `auto` leaves them to the plan, or to the `base`."""

    profile: DeviceProfile
    format: str = AUTO
    type: str = AUTO
    base: Base | None = None

    @property
    def is_open(self) -> bool:
        """Return whether the type is left to be chosen."""
        return self.type == AUTO


@dataclass(frozen=True)
class Weight:
    """What is known of a candidate before it is built."""

    bytes: int
    scheme: Scheme | None = None
    refused: SlmopsError | None = None
    """Why it cannot be built at all."""


@dataclass(frozen=True)
class Row:
    """A candidate of one profile: to be built, or dropped for a reason."""

    make: Make
    fit: Fit
    dropped: str

    def figures(self) -> dict[str, float | None]:
        """Return size, memory (bytes) and speed as they are predicted; None where no size can be said."""
        figures: dict[str, float | None] = {
            "bytes": self.fit.candidate.weight_bytes,
            "memory_bytes": self.fit.need.total,
            "tokens_per_second": self.fit.tokens_per_second,
        }
        return figures if self.fit.candidate.weight_bytes else dict.fromkeys(figures)


@dataclass(frozen=True)
class Plan:
    """What will be built: the candidates of each profile, each distinct build once."""

    rows: dict[str, tuple[Row, ...]] = field(default_factory=dict)

    @property
    def makes(self) -> list[Make]:
        """Return what is to be built, in the order first wanted."""
        return list(dict.fromkeys(row.make for rows in self.rows.values() for row in rows if not row.dropped))


def plan(
    wishes: Sequence[Wish],
    shape: ModelShape,
    weigh: Callable[[Make], Weight],
    formats: Sequence[Format],
    most_fallback: float = MOST_FALLBACK,
) -> Plan:
    """Say for every profile which candidates are worth building; `formats` is what the source allows.

    Raise DoesNotFitError when a device can bear none of them, UsageError when nothing can be asked of
    this source, BuildError when the type asked for would be hardly any of its name.
    """
    weights: dict[Make, Weight] = {}

    def weighed(make: Make) -> Weight:
        if make not in weights:
            weights[make] = weigh(make)
        return weights[make]

    return Plan({wish.profile.name: _rows(wish, shape, weighed, formats, most_fallback) for wish in wishes})


def _rows(
    wish: Wish,
    shape: ModelShape,
    weigh: Callable[[Make], Weight],
    formats: Sequence[Format],
    most_fallback: float,
) -> tuple[Row, ...]:
    weights = {make: weigh(make) for make in _makes(wish, formats)}
    names_only = {make: _names_only(weight, most_fallback) for make, weight in weights.items()}
    if wish.is_open and any(names_only.values()):
        smaller = {make: weigh(make) for make in (Make("gguf", name) for name in IN_SMALL_BLOCKS)}
        names_only |= {make: _names_only(weight, most_fallback) for make, weight in smaller.items()}
        weights |= smaller
    candidates = [Candidate(make.format, make.type, weight.bytes) for make, weight in weights.items()]
    fits = hold(wish.profile, shape, candidates)
    rows = tuple(
        Row(make, fit, str(weight.refused or "") or names_only[make] or fit.short)
        for (make, weight), fit in zip(weights.items(), fits, strict=True)
    )
    if not wish.is_open:
        _check_named(rows[0], weights[rows[0].make], names_only[rows[0].make])
    if all(row.dropped for row in rows):
        refused = [weight.refused for weight in weights.values() if weight.refused]
        short = [row.fit for row in rows if row.dropped == row.fit.short]
        raise nothing_fits(wish.profile, shape, short) if short else refused[0]
    return rows


def _check_named(row: Row, weight: Weight, names_only: str) -> None:
    """Raise what speaks against the one type that was asked for, if anything does."""
    if weight.refused:
        raise weight.refused
    if names_only:
        raise BuildError(
            f"{row.make} would be that in name only: {names_only}",
            remedy=f"Ask for {_by_size(weight)}, which this model's rows allow, or leave --type at auto; "
            "--max-fallback 1 builds it all the same.",
        )


def _names_only(weight: Weight, most: float) -> str:
    """Return why a label would mislead: too many weights have another type."""
    scheme = weight.scheme
    if scheme is None or scheme.fallback_share <= most:
        return ""
    instead = ", ".join(sorted({each.got for each in scheme.fallbacks}))
    largest = max(scheme.fallbacks, key=lambda each: each.weights)
    share, block = scheme.fallback_share, GGML_TYPES[largest.wanted].block
    return f"{share:.0%} of its weights would be {instead}, because {block} does not divide its rows"


def _by_size(weight: Weight) -> str:
    """Return the type that most of the weights would have had anyway."""
    scheme = weight.scheme
    got: dict[str, int] = {}
    for each in scheme.fallbacks if scheme else ():
        got[each.got] = got.get(each.got, 0) + each.weights
    return max(got, key=lambda name: got[name])


def _makes(wish: Wish, formats: Sequence[Format]) -> list[Make]:
    if wish.base is not None:
        return [wish.base.make]
    wanted = [name for name in formats if wish.format in (AUTO, name) and name in wish.profile.formats]
    if wish.is_open:
        makes = [Make(name, type_) for name in wanted for type_ in ROUNDED[name]]
    else:
        makes = [Make(name, wish.type) for name in wanted if _offers(name, wish)]
    if not makes:
        raise UsageError(
            f"{wish.profile.name}: nothing can be built as format {wish.format}, type {wish.type}: "
            f"the profile takes {', '.join(wish.profile.formats)}, the source allows {', '.join(formats)}",
            remedy="Leave --format and --type at auto, or name a pair both allow.",
        )
    return makes


def _offers(format_: Format, wish: Wish) -> bool:
    """Return whether a type named outright is one of this format; raise UsageError if it is of none."""
    if format_ == "onnx":
        if wish.format == "onnx" and wish.type not in ONNX_TYPES:
            raise UsageError(f"no ONNX type {wish.type!r}; expected one of {', '.join(ONNX_TYPES)}")
        return wish.type in ONNX_TYPES and (wish.format == "onnx" or wish.type != "F32")
    if wish.format == AUTO and wish.type in ("INT8", "INT4"):
        return False
    check_file_type(wish.type)
    return True


def within_training(wish: Wish, most: int | None) -> Wish:
    """Return a wish that asks for no more context than the model was trained on."""
    serve = wish.profile.serve
    if most is None or serve.context <= most:
        return wish
    smaller = serve.model_copy(update={"context": most, "micro_batch": min(serve.micro_batch, most)})
    return replace(wish, profile=wish.profile.model_copy(update={"serve": smaller}))


def dropped_for(plan_: Plan, makes: Mapping[Make, str]) -> Plan:
    """Return the plan without what turned out, while it was built, not to be buildable, and why."""
    return Plan(
        {
            profile: tuple(replace(row, dropped=row.dropped or makes.get(row.make, "")) for row in rows)
            for profile, rows in plan_.rows.items()
        }
    )
