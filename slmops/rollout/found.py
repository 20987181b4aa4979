"""What was found of devices, as people read it: the gate's numbers, what they attested, their words.

Pure. Knows an account's and history's words for it, and nothing of tables or pages.

Law: whatever a device may have said in a figure's place is written: what is no finite number, as unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from slmops.profile.sizes import human_size

UNKNOWN: Final = "—"
_BYTES: Final = frozenset({"memory"})
_SECONDS: Final = frozenset({"time_to_first_token"})
_SHARES: Final = frozenset({"error_rate"})

Said = Mapping[str, Any]


def gate_table(devices: Sequence[Said]) -> dict[str, Any]:
    """Return the table of gate numbers: for each device each thing that was judged, in the order met.

    A bound that is the same for all devices stands in the head alone.
    """
    judged = {device["device"]: _judged(device) for device in devices}
    whats = list(dict.fromkeys(what for found in judged.values() for what in found))
    bounds = {what: {_bound(found[what]) for found in judged.values() if what in found} for what in whats}
    shared = {what: min(texts) for what, texts in bounds.items() if len(texts) == 1}
    return {
        "heads": [(what.replace("_", " "), shared.get(what, "")) for what in whats],
        "rows": [
            {
                "device": device["device"],
                "wave": device["wave"],
                "cells": [_figure(judged[device["device"]].get(what), what in shared) for what in whats],
            }
            for device in devices
            if judged[device["device"]]
        ],
    }


def _judged(device: Said) -> dict[str, Said]:
    measured = device.get("measured")
    found = measured.get("judged") if isinstance(measured, Mapping) else None
    return {words(each.get("what")): each for each in objects(found)}


def _bound(one: Said) -> str:
    bound, against = amount(words(one.get("what")), one.get("bound")), words(one.get("against"))
    return "" if bound == UNKNOWN else f"bound {bound}" + (f" ({against})" if against else "")


def _figure(one: Said | None, shared: bool) -> dict[str, str]:  # noqa: FBT001 - of one table
    if one is None:
        return {"text": UNKNOWN, "note": "", "outcome": ""}
    text = amount(words(one.get("what")), one.get("value"))
    return {"text": text, "note": "" if shared else _bound(one), "outcome": words(one.get("outcome"))}


def amount(what: str, value: Any) -> str:
    """Write a gate's number as people read it, in the unit of what was measured."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return UNKNOWN
    if what in _BYTES:
        return human_size(value)
    if what in _SECONDS:
        return f"{value:.3g} s"
    return f"{value:.1%}" if what in _SHARES else f"{value:.4g}"


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
