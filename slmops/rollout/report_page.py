"""One rollout's account as an HTML page: what came of it, when who was in which state, what was measured.

Pure. Knows what an account says, as `report` writes it, and not how it came about; what the page looks
like stands in `report.html.jinja`.

Laws: the page needs nothing outside itself and runs nothing; what a device or a person said is words in
it and never markup; every device that did not end well is named with what it said; the same account gives
the same page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from slmops.profile.sizes import decimal_size
from slmops.rollout.assignment import State
from slmops.rollout.found import UNKNOWN, attested, gate_table, objects, words
from slmops.rollout.tally import Sort
from slmops.rollout.timeline import HUES, Timeline, elapsed, hue_of, lay_out

DRAWINGS: Final = {"wide": 880, "narrow": 360}
"""The timeline for a screen or paper, and for a phone: width in units of a letter's 1/11."""
NAMED: Final = 1000
"""Devices that are listed, at most; of more, those alone that did not end well."""
STAGES: Final = (State.DEFERRED, State.SENDING, State.STAGED, State.TRIAL, State.PROVED)
_LINES: Final = 12
_SPANS: Final = ("timeout", "soak", "for", "watch")
"""How the names of settings end that are seconds."""
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_KEY: Final = {
    **{hue: hue for hue in HUES},
    "good": "committed",
    "bad": "failed or went back",
    "unknown": "lost or not proved",
    "out": "left out or taken back",
    "trial": "on trial",
}

Said = Mapping[str, Any]


def draw(said: Said) -> str:
    """Return the page for what `report` returned, or for that as read back from JSON."""
    jinja = Environment(
        loader=PackageLoader("slmops.rollout", ""),
        autoescape=True,
        finalize=_seen,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    devices = said["devices"]
    troubled = [device for device in devices if device["sort"] in (Sort.BAD.value, Sort.UNKNOWN.value)]
    listed = devices if len(devices) <= NAMED else troubled
    drawings = {name: lay_out(said, width=width) for name, width in DRAWINGS.items()}
    return jinja.get_template("report.html.jinja").render(
        rollout=said["rollout"],
        headline=_headline(said),
        verdict=" ".join(_verdict(said)),
        facts=dict(_facts(said)),
        marks=_marks(said),
        drawings=drawings,
        drawn=any(drawing.waves for drawing in drawings.values()),
        by_device=any(wave.rows for wave in drawings["wide"].waves),
        key={hue: _KEY[hue] for hue in drawings["wide"].hues},
        bands=_bands(drawings["wide"]),
        waves=_waves(said),
        troubles=[_trouble(device) for device in troubled],
        gate=gate_table(listed),
        heads=_heads(listed),
        rows=[_row(device, _stages(listed), said["rollout"]["started"]) for device in listed],
        unlisted=len(devices) - len(listed),
        asked=[(_moment(each["at"]), each["what"]) for each in said["asked"]],
        options=_options(said["rollout"]["options"]),
    )


def _seen(value: Any) -> Any:
    """Return words without what cannot be seen: no page may hold it."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", value) if type(value) is str else value


def _bands(drawn: Timeline) -> dict[str, str]:
    """Return the key of what is shown behind devices."""
    soaked = {band.hue: band.text for wave in drawn.waves for band in wave.bands}
    stopped = {"stop": "nobody drove it"} if drawn.stops else {}
    return {hue: text.partition(",")[0] for hue, text in soaked.items()} | stopped


def _headline(said: Said) -> str:
    counts, state = said["counts"], str(said["rollout"]["state"])
    return f"{state[:1].upper()}{state[1:]}: {counts['good']:,} of {_devices(counts['devices'])} good"


def _verdict(said: Said) -> Iterator[str]:
    """Yield sentences: who ran it, when, and what did not go well."""
    rollout, counts = said["rollout"], said["counts"]
    by = f" by {rollout['operator']}" if rollout["operator"] else ""
    took = "took" if rollout["ended"] else "has gone on for"
    yield f"Rollout {rollout['number']}{by} began {_moment(rollout['started'])} and {took} "
    yield f"{elapsed(rollout['seconds'])}."
    others = [(counts[sort.value], sort.value) for sort in Sort if sort is not Sort.GOOD]
    if any(count for count, _ in others):
        yield "Of the others: " + ", ".join(f"{count:,} {word}" for count, word in others if count) + "."


def _facts(said: Said) -> Iterator[tuple[str, str]]:
    rollout, counts = said["rollout"], said["counts"]
    yield "fleet", rollout["fleet"]
    yield "devices", f"{counts['devices']:,}"
    yield "waves", str(len(said["waves"]))
    yield "sent", _size(said["sent"])
    yield "began, UTC", _moment(rollout["started"]).removesuffix(" UTC")
    yield ("ended, UTC" if rollout["ended"] else "as of, UTC"), _moment(rollout["until"]).removesuffix(" UTC")


def _marks(said: Said) -> dict[str, str]:
    """Return by what the account can be held against others: digests, in full."""
    rollout = said["rollout"]
    epoch = f"{rollout['uid']}, epoch {rollout['epoch']}" if rollout["uid"] else ""
    marks = {"release": rollout["digest"], "rollout": epoch, "audit record up to": said["audit"]}
    return {name: text for name, text in marks.items() if text}


def _waves(said: Said) -> dict[str, Any]:
    """Return the table of waves; what none of their devices came to has no column."""
    sorts = [sort.value for sort in Sort if any(wave["counts"][sort.value] for wave in said["waves"])]
    heads = ["wave", "verdict", "devices", *sorts, "sent", "after", "took"]
    rows = [_wave(wave, sorts, said["rollout"]["started"]) for wave in said["waves"]]
    return {"heads": heads, "rows": rows}


def _wave(wave: Said, sorts: Sequence[str], started: float) -> list[str]:
    began, ended, counts = wave["began"], wave["ended"], wave["counts"]
    return [
        f"{wave['wave']}" + (f" ({wave['name']})" if wave["name"] else ""),
        wave["verdict"] or ("under way" if began is not None else "not begun"),
        f"{wave['devices']:,}",
        *(f"{counts[sort]:,}" if counts[sort] else UNKNOWN for sort in sorts),
        _size(wave["sent"]),
        UNKNOWN if began is None else elapsed(max(0.0, began - started)),
        UNKNOWN if began is None or ended is None else elapsed(max(0.0, ended - began)),
    ]


def _trouble(device: Said) -> dict[str, Any]:
    """Return what a device that did not end well has to say."""
    log = device.get("log")
    return {
        "device": device["device"],
        "wave": device["wave"],
        "state": device["state"],
        "hue": hue_of(device["state"]),
        "message": device["message"],
        "code": device.get("code") or "",
        "remedy": device.get("remedy") or "",
        "failed": [
            {key: words(each.get(key)) for key in ("question", "expected", "answer")}
            for each in objects(device.get("failed"))
        ],
        "log": [words(line) for line in log[-_LINES:]] if isinstance(log, list) else [],
    }


def _stages(devices: Iterable[Said]) -> list[str]:
    """Return the states that any of these devices spent time in."""
    spent = {span["state"] for device in devices for span in device["course"] if span["seconds"]}
    return [state.value for state in STAGES if state.value in spent]


def _heads(devices: Sequence[Said]) -> list[str]:
    return ["device", "wave", "state", "after", "took", *_stages(devices), "sent", "attested"]


def _row(device: Said, stages: Sequence[str], started: float) -> dict[str, Any]:
    began, took = device["began"], device["seconds"]
    spent: dict[str, float] = {}
    for span in device["course"]:
        spent[span["state"]] = spent.get(span["state"], 0.0) + (span["seconds"] or 0.0)
    return {
        "device": device["device"],
        "hue": hue_of(device["state"]),
        "state": device["state"],
        "message": device["message"],
        "wave": device["wave"] or UNKNOWN,
        "cells": [
            UNKNOWN if began is None else elapsed(max(0.0, began - started)),
            UNKNOWN if took is None else elapsed(took),
            *(elapsed(spent[stage]) if stage in spent else UNKNOWN for stage in stages),
            _size(device.get("sent")),
        ],
        "attested": attested(device.get("attested")),
    }


def _options(said: Said) -> dict[str, dict[str, str]]:
    """Return how it was asked for, under heads; waves have a table of their own."""
    strategy = said.get("strategy")
    asked = {key: value for key, value in said.items() if key not in ("strategy", "waves")}
    found = {"Asked": asked, "Strategy": strategy if isinstance(strategy, Mapping) else {}}
    return {head: flat for head, each in found.items() if (flat := dict(_flat(each)))}


def _flat(said: Said, before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in said.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key} ")
        elif value not in (None, "", [], {}):
            yield f"{before}{key}".replace("_", " "), _setting(str(key), value)


def _setting(key: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return elapsed(value) if key.endswith(_SPANS) and value >= 0 else f"{value:g}"
    return ", ".join(map(words, value)) if isinstance(value, list) else words(value)


def _size(value: Any) -> str:
    return decimal_size(value) if isinstance(value, int | float) and value > 0 else UNKNOWN


def _devices(count: int) -> str:
    return f"{count:,} device" + ("" if count == 1 else "s")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
