"""Which version answers a request, which one is asked beside it, and how two of them compare.

Pure. It does not know the clock, a dice, or what a version is: labels and keys are text.

Theory. A request goes to a label by weighted rendezvous: each label draws a number from a digest of its name
and the key, divided by its weight, and the lowest wins. So a key stays where it is as long as the weights
stay, needs no table, and comes out the same in every process; when one weight changes, keys move to or from
that label alone. A shadow is a second answer that nobody is given: it is asked only while nothing waits.

Laws: a label of weight 0 gets nothing; weights that are multiples of others mean the same; raising one
weight moves keys to that label only. A shadow is counted as a shadow, never as a request that a client made.
Texts are measured and let go: what is kept are numbers, at most LATEST of each kind.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from slmops.daemon.refusal import BAD_REQUEST, RefusedError
from slmops.telemetry.events import RequestFinished

LABELS: Final = ("current", "previous", "candidate")
HEAVIEST: Final = 1e6
LATEST: Final = 2000
"""Requests that a comparison remembers of each side."""
ENOUGH: Final = 30
"""Of each side, before anything is said of them."""
ENOUGH_FOR_P95: Final = 200
"""Of each side, before its p95 is judged: of 30 requests it is the second slowest, which chance alone makes
half as slow again; of 200 ten lie beyond it."""
MORE_ERRORS: Final = 0.01
"""By how much the share of errors may be higher, and not be called worse."""
FEW_ERRORS: Final = 2
"""So few errors are chance."""
SLOWER: Final = 1.2
"""How many times as long a token may take, or the first one, and not be called worse."""
OK: Final = 200
SERVER_ERROR: Final = 500
QUANTILES: Final = (0.5, 0.95, 0.99)

Verdict = Literal["unknown", "worse", "no worse"]


@dataclass(frozen=True)
class Shadow:
    """A share of the requests is asked of a second version too."""

    label: str
    share: float


@dataclass(frozen=True)
class Traffic:
    """How requests that name no version are dealt out."""

    split: Mapping[str, float] = field(default_factory=lambda: {"current": 1.0})
    shadow: Shadow | None = None

    def label(self, key: str) -> str:
        """Return the label that answers `key`.

        The key says who asks: the request's `user`, else the name of the API key, else something of that
        request alone.
        """
        return min(
            (label for label, weight in self.split.items() if weight > 0),
            key=lambda label: -math.log(_draw(label, key)) / self.split[label],
        )

    def beside(self, key: str, label: str, *, waiting: int) -> str | None:
        """Return the label that is to be asked beside `label`, which answers; None: nobody.

        `waiting` are the requests that have no turn yet.
        """
        shadow = self.shadow
        if shadow is None or waiting or shadow.label == label:
            return None
        return shadow.label if _draw("a shadow", key) <= shadow.share else None

    def said(self) -> dict[str, Any]:
        """Return it as `read` takes it."""
        return {"split": dict(self.split), "shadow": asdict(self.shadow) if self.shadow else None}


def read(said: Any) -> Traffic:
    """Read {split?: {label: weight}, shadow?: {label, share}}; raise RefusedError that says what is wrong.

    What is not said is as it is without anybody's word: everything to `current`, no shadow.
    """
    if not isinstance(said, dict) or (odd := set(said) - {"split", "shadow"}):
        raise _wrong(f"expected split and shadow, got {sorted(odd) if isinstance(said, dict) else said!r}")
    split, shadow = said.get("split") or {"current": 1.0}, said.get("shadow")
    if not isinstance(split, dict):
        raise _wrong(f"split: expected labels with weights, got {split!r}")
    weights = {_label("split", label): _number(f"split.{label}", split[label]) for label in split}
    if not any(weights.values()):
        raise _wrong("split: at least one weight must be above 0")
    return Traffic(weights, None if shadow is None else _shadow(shadow))


def _shadow(said: Any) -> Shadow:
    if not isinstance(said, dict) or set(said) != {"label", "share"}:
        raise _wrong(f"shadow: expected label and share, got {said!r}")
    share = _number("shadow.share", said["share"])
    if share > 1:
        raise _wrong(f"shadow.share: expected 0 to 1, got {share:g}")
    return Shadow(_label("shadow", said["label"]), share)


def _label(where: str, said: Any) -> str:
    if said not in LABELS:
        raise _wrong(f"{where}: expected one of {', '.join(LABELS)}, got {said!r}")
    return str(said)


def _number(where: str, said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not 0 <= said <= HEAVIEST:
        raise _wrong(f"{where}: expected a number from 0 to {HEAVIEST:g}, got {said!r}")
    return float(said)


def _wrong(message: str) -> RefusedError:
    return RefusedError(BAD_REQUEST, f"traffic: {message}", reason="invalid_value")


def _draw(label: str, key: str) -> float:
    """Return a number above 0 and at most 1 that follows from both alone."""
    drawn = hashlib.blake2b(f"{label}\0{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(drawn, "big") + 1) / 2**64


@dataclass(frozen=True)
class Side:
    """What one version has shown: to clients, or as a shadow."""

    requests: int
    errors: int
    """Answered with a status of 500 or more."""
    error_rate: float
    timed: int
    """Requests that `first_token` tells of: none that were given again, from the cache."""
    first_token: dict[str, float]
    """Seconds to the first token, waiting included: p50, p95, p99."""
    per_token: dict[str, float]
    """Seconds for each token after the first."""


@dataclass(frozen=True)
class Agreement:
    """How alike two answers to the same request are."""

    exact: bool
    overlap: float
    """Words and signs that both have, over those they have on average: 0 to 1."""


class Comparison:
    """What two versions have answered since one of them was put beside the other."""

    def __init__(self, base: str, other: str) -> None:
        """Compare `other` with `base`; both are digests."""
        self.base = base
        self.other = other
        self._served = {digest: deque[RequestFinished](maxlen=LATEST) for digest in (base, other)}
        self._pairs: deque[tuple[RequestFinished, Agreement | None]] = deque(maxlen=LATEST)

    def count(self, event: RequestFinished) -> None:
        """Count a request of a client; one that another version answered is none of ours."""
        if event.digest in self._served:
            self._served[event.digest].append(event)

    def pair(self, shadow: RequestFinished, answers: tuple[str, str] | None) -> None:
        """Count what `other` did as a shadow; `answers` are the client's and the shadow's, if both have one.

        A shadow that was broken off because real work came is not to be counted.
        """
        self._pairs.append((shadow, agreement(*answers) if answers else None))

    def report(self) -> dict[str, Any]:
        """Return the comparison: base, other, shadow, agreement, verdict, why."""
        base, other = (_side(self._served[digest]) for digest in (self.base, self.other))
        shadow = _side([event for event, _ in self._pairs])
        alike = [told for _, told in self._pairs if told]
        verdict, why = judge(base, other, shadow)
        return {
            "base": {"digest": self.base, **asdict(base)},
            "other": {"digest": self.other, **asdict(other)},
            "shadow": asdict(shadow),
            "agreement": {
                "pairs": len(alike),
                "exact": _mean([each.exact for each in alike]),
                "overlap": _mean([each.overlap for each in alike]),
            },
            "verdict": verdict,
            "why": why,
        }


def judge(base: Side, other: Side, shadow: Side) -> tuple[Verdict, list[str]]:
    """Say whether `other` is worse than `base`, and why.

    It is worse when, to clients or as a shadow, its share of errors is more than MORE_ERRORS higher and not
    by FEW_ERRORS alone; or when, to clients, the first token at p95 or a token at p50 takes more than SLOWER
    times as long, of ENOUGH that were computed. A p95 is judged of ENOUGH_FOR_P95 of each alone: of fewer it
    is chance. A shadow's times are not judged: it has the machine to itself. Agreement is told and not
    judged: a new version may be meant to answer otherwise.
    """
    shown = [side for side in (other, shadow) if side.requests >= ENOUGH]
    if base.requests < ENOUGH or not shown:
        return "unknown", [f"fewer than {ENOUGH} requests of each version"]
    why = [
        f"{side.error_rate:.1%} errors, {base.error_rate:.1%} before"
        for side in shown
        if side.errors > FEW_ERRORS and side.error_rate > base.error_rate + MORE_ERRORS
    ]
    if other in shown:
        timed = min(base.timed, other.timed)
        if timed >= ENOUGH_FOR_P95:
            why += _slower("the first token", base.first_token, other.first_token, "p95")
        if timed >= ENOUGH:
            why += _slower("a token", base.per_token, other.per_token, "p50")
        elif not why:
            return "unknown", [f"fewer than {ENOUGH} requests of each version were computed"]
    return ("worse", why) if why else ("no worse", [])


def agreement(one: str, other: str) -> Agreement:
    """Return how alike two answers are."""
    first, second = (Counter(re.findall(r"\w+|[^\w\s]", text)) for text in (one, other))
    total = first.total() + second.total()
    return Agreement(one == other, 2 * (first & second).total() / total if total else float(one == other))


def table(report: Mapping[str, Any]) -> str:
    """Return a report for people, as lines of text."""
    sides = [report["base"], report["other"], report["shadow"]]
    rows = [("", *(_named(side) for side in sides[:2]), "shadow")]
    rows.append(("requests", *(str(side["requests"]) for side in sides)))
    rows.append(("errors", *(f"{side['error_rate']:.1%}" if side["requests"] else "-" for side in sides)))
    for title, times in (("first token", "first_token"), ("per token", "per_token")):
        rows += [
            (f"{title} {name}", *(_milliseconds(side[times].get(name)) for side in sides))
            for name in (f"p{share * 100:.0f}" for share in QUANTILES)
        ]
    wide = max(len(row[0]) for row in rows)
    alike = report["agreement"]
    said = (
        f"{alike['pairs']} pairs: {alike['exact']:.0%} alike, {alike['overlap']:.0%} of the words in common"
        if alike["pairs"]
        else "no pair yet: a shadow is asked while nobody else is, and broken off when somebody comes"
    )
    broad = [max(12, 2 + max(len(row[at]) for row in rows)) for at in (1, 2, 3)]
    lines = [
        row[0].ljust(wide) + "".join(cell.rjust(room) for cell, room in zip(row[1:], broad, strict=True))
        for row in rows
    ]
    return "\n".join([*lines, said, "; ".join([report["verdict"], *report["why"]])])


def _named(side: Mapping[str, Any]) -> str:
    """Return release and short digest of a side's version."""
    return " ".join(filter(None, [side.get("release"), side["digest"].removeprefix("sha256:")[:12]]))


def _side(events: Iterable[RequestFinished]) -> Side:
    seen = list(events)
    errors = sum(event.status >= SERVER_ERROR for event in seen)
    told = [event for event in seen if event.status == OK and event.first_token_seconds is not None]
    return Side(
        requests=len(seen),
        errors=errors,
        error_rate=errors / len(seen) if seen else 0.0,
        timed=len(told),
        first_token=_quantiles([event.first_token_seconds or 0.0 for event in told]),
        per_token=_quantiles(
            [
                (event.seconds - (event.first_token_seconds or 0.0)) / (event.output_tokens - 1)
                for event in told
                if event.output_tokens > 1
            ]
        ),
    )


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95, p99; nothing of nothing."""
    ranked = sorted(values)
    return {
        f"p{share * 100:.0f}": ranked[max(0, math.ceil(share * len(ranked)) - 1)]
        for share in QUANTILES
        if ranked
    }


def _slower(what: str, base: Mapping[str, float], other: Mapping[str, float], name: str) -> list[str]:
    before, now = base.get(name), other.get(name)
    if before is None or now is None or now <= before * SLOWER:
        return []
    return [f"{what} takes {_milliseconds(now)} at {name}, {_milliseconds(before)} before"]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
