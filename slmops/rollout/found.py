"""What was found of devices, as people read it: the gate's numbers, what they attested, their words.

Pure. Knows an account's and history's words for it, and nothing of tables or pages.

Law: whatever a device may have said in a figure's place is written: what is no finite number, as unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slmops.profile.sizes import decimal_size
from slmops.rollout.tally import Sort

UNKNOWN: Final = "—"
_LEAST: Final = frozenset({"tokens_per_second"})
"""Of what more is better."""
_NAMES: Final = {
    "tokens_per_second": "tok/s",
    "time_to_first_token": "first token",
    "error_rate": "errors",
    "version before": "before",
}
"""What is judged, and against what, in as few letters as a table has room for."""
_TOLD: Final = 3
"""Figures of a number that are told of it, at least."""
_LEAST_NATS: Final = 1e-4

Said = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A number of one device's gate for people: with its bound where that is its own, and its outcome."""

    text: str
    bound: str
    outcome: str


@dataclass(frozen=True)
class GateTable:
    """What gates measured: a column for each thing that was judged, a row for each device that was."""

    heads: tuple[tuple[str, str], ...]
    """What was judged, and against what; and its bound, where that was the same for all devices."""
    rows: tuple[tuple[str, int, tuple[Figure, ...]], ...]
    """Device, wave, and a figure under each head."""


def gate_table(devices: Sequence[Said]) -> GateTable:
    """Return what the gates of devices measured, things in the order met."""
    judged = {device["device"]: _judged(device) for device in devices}
    keys = list(dict.fromkeys(key for found in judged.values() for key in found))
    bounds = {key: {_bound(found[key]) for found in judged.values() if key in found} for key in keys}
    shared = {key: min(texts) for key, texts in bounds.items() if len(texts) == 1}
    return GateTable(
        heads=tuple((_head(key), shared.get(key, "")) for key in keys),
        rows=tuple(
            (
                device["device"],
                device["wave"],
                tuple(_figure(judged[device["device"]].get(key), key not in shared) for key in keys),
            )
            for device in devices
            if judged[device["device"]]
        ),
    )


def wanting(device: Said) -> str:
    """Say what a device that is not well was found wanting in: what was judged so, else what it said."""
    if device.get("sort") not in (Sort.BAD.value, Sort.UNKNOWN.value):
        return ""
    judged = {_head(key): words(row.get("outcome")) for key, row in _judged(device).items()}
    bad = [f"{what}: {outcome}" for what, outcome in judged.items() if outcome in ("fail", "inconclusive")]
    return ", ".join(bad) or words(device.get("message"))


def _head(key: tuple[str, str]) -> str:
    what, against = (_NAMES.get(word, word.replace("_", " ")) for word in key)
    return f"{what} ({against})" if against else what


def _judged(device: Said) -> dict[tuple[str, str], Said]:
    """Return the rows of a device's gate by what was judged and against what; of the rest, what was seen."""
    measured = device.get("measured")
    rows = objects(measured.get("judged") if isinstance(measured, Mapping) else None)
    found = {(words(row.get("what")), _against(row)): row for row in rows if row.get("bound") is not None}
    there = {what for what, _ in found}
    seen = {(words(row.get("what")), ""): row for row in rows if row.get("value") is not None}
    return found | {key: row for key, row in seen.items() if key[0] not in there}


def _against(row: Said) -> str:
    against = words(row.get("against"))
    return "" if against == "bound" else against


def _bound(row: Said) -> str:
    bound = amount(words(row.get("what")), row.get("bound"))
    return "" if bound == UNKNOWN else f"{'≥' if row.get('what') in _LEAST else '≤'} {bound}"


def _figure(row: Said | None, own: bool) -> Figure:  # noqa: FBT001 - of one table
    if row is None:
        return Figure(UNKNOWN, "", "")
    text = amount(words(row.get("what")), row.get("value"))
    return Figure(text, _bound(row) if own else "", words(row.get("outcome")))


def amount(what: str, value: Any) -> str:
    """Write a gate's number as people read it, in the unit of what was measured."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return UNKNOWN
    return _with_unit(what, value)


def _with_unit(what: str, value: float) -> str:
    if what == "memory":
        return decimal_size(value)
    if what == "time_to_first_token":
        return f"{_number(value)} s" if abs(value) >= 1 else f"{_number(1000 * value)} ms"
    if what == "error_rate":
        return f"{value:.1%}"
    if what == "logprob":
        return f"{value:.2g} nats" if abs(value) >= _LEAST_NATS else f"< {_LEAST_NATS:.4f} nats"
    return _number(value)


def _number(value: float) -> str:
    """Write a number in three figures or, where it has more before its point, to the whole."""
    whole = abs(value) >= 10 ** (_TOLD - 1)
    return f"{value:,.0f}" if whole else f"{value:.{_TOLD}g}"


def attested(said: Any) -> str:
    """Return the digest that a device attested to run; empty where it did not."""
    found = said.get("digest") if isinstance(said, Mapping) else said
    return words(found) if found else ""


def objects(value: Any) -> list[Said]:
    """Return the objects in what should be a list of them."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def words(value: Any) -> str:
    """Return text as it is and anything else as JSON: as an answer would say it."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
