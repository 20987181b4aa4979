"""The answer of a build as one HTML page: for each profile the choice, all there was as a plot, all figures.

Pure. Knows what an answer says, as `report` writes it, and not how it came about; what the page looks
like stands in `page.html.jinja`.

Laws: the page needs nothing outside itself; what people wrote is words in it and never markup; every
candidate of the answer is in its table, and in the drawings too if its size is known; the chosen one is
marked once in each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from slmops.build.choice import CHOSEN
from slmops.build.divergence import CONFIDENT
from slmops.build.plot import Figure, Mark, lay_out, raised
from slmops.profile.sizes import human_size

COLUMNS = (
    "size",
    "bits per weight",
    "memory",
    "tokens/s",
    "KL mean",
    "KL p99",
    "top-1",
)
STANDINGS = {
    CHOSEN: "chosen",
    "kept": "keeps the gate",
    "failed": "fails the gate",
    "unfit": "too large or too slow",
    "unbuilt": "left out before it was measured",
}
"""What became of a candidate, in the words of the plot's key."""
DRAWINGS = {"wide": (880, 440), "narrow": (360, 420)}
"""The plot for a screen or paper, and for a phone: width and height in units of a letter's 1/11."""
UNKNOWN = "—"


@dataclass(frozen=True)
class Cell:
    """One figure of a candidate as people read it, and by what it sorts."""

    text: str
    key: float | str
    note: str = ""


@dataclass(frozen=True)
class Candidate:
    """A row of the table, and a mark in the plot."""

    format: str
    type: str
    kinds: str
    """Of a mixed one, how many tensors have each type."""
    standing: str
    heads: tuple[str, ...]
    cells: tuple[Cell, ...]
    """One under each of `heads`."""
    mark: Mark | None
    """None where its size is not known."""

    @property
    def name(self) -> str:
        """Name it as people do: gguf Q8_0."""
        return f"{self.format} {self.type}"

    @property
    def all_said(self) -> str:
        """Return everything known of it, a line for each figure."""
        figures = zip(self.heads, self.cells, strict=True)
        lines = [f"{head}: {cell.text} {cell.note}".rstrip() for head, cell in figures]
        return "\n".join(filter(None, [self.name, self.kinds, *lines]))


def draw(answer: Mapping[str, Any]) -> str:
    """Return the page for what `report` returned, or for that as read back from JSON."""
    jinja = Environment(
        loader=PackageLoader("slmops.build", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return jinja.get_template("page.html.jinja").render(
        release=answer["release"],
        model=answer["model"],
        profiles=[_view(profile) for profile in answer["profiles"]],
        standings=STANDINGS,
    )


def _view(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template says of one profile."""
    ordered = sorted(profile["candidates"], key=_by_size)
    chosen = next(one for one in ordered if one["verdict"] == CHOSEN)
    heads = _heads(chosen["measured"])
    candidates = [_candidate(one, profile, heads) for one in ordered]
    return {
        "name": profile["profile"],
        "title": profile["title"],
        "chosen": profile["chosen"],
        "reason": profile["reason"],
        "taken": _taken(chosen),
        "device": _device(profile),
        "columns": heads,
        "candidates": candidates,
        "order": _order(candidates),
        "standings": {one.standing for one in candidates},
        "limits": [format_ for format_, _ in _limits(profile)],
        "drawings": {name: _plot(candidates, profile, *size) for name, size in DRAWINGS.items()},
        "measured": chosen["measured"],
        "gate": profile["gate"],
        "source_perplexity": _source_perplexity(chosen["measured"]),
    }


def _by_size(one: Mapping[str, Any]) -> tuple[float, str, str]:
    return math.inf if one["bytes"] is None else one["bytes"], one["format"], one["type"]


def _order(candidates: Sequence[Candidate]) -> list[int]:
    """Return the places of those that are drawn; what is drawn last lies on top."""
    drawn = [place for place, one in enumerate(candidates) if one.mark]
    return sorted(drawn, key=lambda place: candidates[place].standing == CHOSEN)


def _heads(measured: Mapping[str, float]) -> tuple[str, ...]:
    """Return the heads of the table; of a classifier, accuracy stands where others have perplexity."""
    last = "accuracy" if "accuracy" in measured else "perplexity ratio"
    return (*COLUMNS, last, "verdict")


def _taken(chosen: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of the chosen one that people ask for first."""
    measured = chosen["measured"]
    return {
        "model file": human_size(chosen["bytes"]),
        "bits per weight": _number(chosen["bits_per_weight"], ".2f"),
        "memory": human_size(chosen["memory_bytes"]),
        "predicted tokens/s": _speed(chosen["tokens_per_second"]),
        "mean KL, nats": f"{_loss(measured.get('kl_mean'))} {_interval(measured)}".rstrip(),
        "top-1": _number(measured.get("top1"), ".1%"),
    }


def _device(profile: Mapping[str, Any]) -> dict[str, str]:
    wanted = profile["wanted_tokens_per_second"]
    return {
        "architecture": profile["arch"],
        "memory budget": human_size(profile["memory_budget_bytes"]),
        "context": f"{profile['context']:,} tokens",
        "wanted tokens/s": f"at least {wanted:g}" if wanted else "any",
    } | {
        f"largest {format_} file": human_size(most) if most else "none"
        for format_, most in profile["most_model_bytes"].items()
    }


def _source_perplexity(measured: Mapping[str, float]) -> str:
    names = ("source_perplexity", "source_perplexity_low", "source_perplexity_high")
    mean, low, high = (_number(measured.get(name), ".4g") for name in names)
    return f"{mean} (95 % interval {low} to {high})" if mean != UNKNOWN else ""


def _candidate(said: Mapping[str, Any], profile: Mapping[str, Any], heads: tuple[str, ...]) -> Candidate:
    standing = _standing(said, profile)
    measured = said["measured"] or {}
    loss = measured.get("kl_mean")
    ratio, accuracy = measured.get("perplexity_ratio"), measured.get("accuracy")
    return Candidate(
        format=said["format"],
        type=said["type"],
        kinds=", ".join(f"{count} {kind}" for kind, count in said["types"].items()),
        standing=standing,
        heads=heads,
        cells=(
            _size(said["bytes"]),
            _cell(said["bits_per_weight"], _number(said["bits_per_weight"], ".2f")),
            _size(said["memory_bytes"]),
            _cell(said["tokens_per_second"], _speed(said["tokens_per_second"])),
            _cell(loss, _loss(loss), _interval(measured)),
            _cell(measured.get("kl_p99"), _loss(measured.get("kl_p99"))),
            _cell(measured.get("top1"), _number(measured.get("top1"), ".1%")),
            _cell(accuracy, _number(accuracy, ".1%")) if accuracy else _cell(ratio, _number(ratio, ".4f")),
            Cell(said["verdict"], said["verdict"]),
        ),
        mark=_mark(said, standing),
    )


def _mark(said: Mapping[str, Any], standing: str) -> Mark | None:
    if said["bytes"] is None:
        return None
    measured = said["measured"] or {}
    return Mark(
        text=said["type"],
        bytes=said["bytes"],
        loss=measured.get("kl_mean"),
        error=CONFIDENT * measured.get("kl_error", math.nan),
        first=standing == CHOSEN,
    )


def _standing(said: Mapping[str, Any], profile: Mapping[str, Any]) -> str:
    """Return what became of a candidate, as a key of STANDINGS."""
    if said["verdict"] == CHOSEN:
        return CHOSEN
    if said["measured"] is None:
        return "unbuilt"
    if said["fails"]:
        return "failed"
    fits = said["bytes"] <= profile["most_model_bytes"].get(said["format"], 0)
    return "kept" if fits else "unfit"


def _plot(candidates: Sequence[Candidate], profile: Mapping[str, Any], width: int, height: int) -> Figure:
    return lay_out(
        [one.mark for one in candidates if one.mark],
        _levels(profile["gate"]),
        [(f"{format_} at most {human_size(most)}", most) for format_, most in _limits(profile)],
        width=width,
        height=height,
    )


def _levels(gate: Mapping[str, float] | None) -> list[tuple[str, float]]:
    if not gate:
        return []
    if gate["kl"] == gate["enough"]:
        return [(f"gate, enough {_loss(gate['kl'])}", gate["kl"])]
    return [(f"gate {_loss(gate['kl'])}", gate["kl"]), (f"enough {_loss(gate['enough'])}", gate["enough"])]


def _limits(profile: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return for each format that has any room the largest file there is room for, the largest first."""
    most = [(format_, size) for format_, size in profile["most_model_bytes"].items() if size]
    return sorted(most, key=lambda limit: -limit[1])


def _interval(measured: Mapping[str, float]) -> str:
    """Return how far the mean loss may be off to each side, as a share of it."""
    mean, error = measured.get("kl_mean"), measured.get("kl_error")
    return f"± {CONFIDENT * error / mean:.0%}" if mean and error else ""


def _cell(amount: float | None, text: str, note: str = "") -> Cell:
    """Return a cell for what may not be known; the unknown sorts as no number does."""
    return Cell(text, "" if amount is None else amount, note)


def _size(nbytes: int | None) -> Cell:
    return _cell(nbytes, UNKNOWN if nbytes is None else human_size(nbytes))


def _number(amount: float | None, form: str) -> str:
    return UNKNOWN if amount is None else format(amount, form)


def _speed(amount: float | None) -> str:
    if amount is None:
        return UNKNOWN
    return f"{amount:,.0f}" if amount >= 10 else f"{amount:.1f}"  # noqa: PLR2004 - then halves are noise


def _loss(nats: float | None) -> str:
    """Write a loss to two digits: 0.012, 2.6·10⁻⁵."""
    if nats is None:
        return UNKNOWN
    digits, _, power = f"{nats:.2g}".partition("e")
    return f"{digits}·{raised(int(power))}" if power else digits
