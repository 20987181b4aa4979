"""The language of the demo model: spoken commands for a house, and the JSON action that each one means.

It knows nothing of models, tokens or files, and draws no lots itself: every choice is made by the
chance it is given (a `random.Random`), so the same chance says the same commands.

Laws:
- a text has one meaning, and the answer to it is that meaning as JSON;
- the split is by content: whether a meaning is held out follows from the meaning alone, so no
  wording of a held-out meaning is ever seen in training;
- every device, room, action and value is seen in training: only their combinations are new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Protocol, TypeVar

T = TypeVar("T")


class Chance(Protocol):
    """Whoever makes the choices."""

    def choice(self, seq: Sequence[T], /) -> T:
        """Return one of `seq`."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a command asks for; `value` is percent, or degrees for the heater."""

    device: str
    room: str
    action: str
    value: int | None = None

    def answer(self) -> str:
        """Return the JSON that the model has to say, without `value` where there is none."""
        return json.dumps({key: said for key, said in asdict(self).items() if said is not None})


@dataclass(frozen=True, slots=True)
class Command:
    """A spoken text and what it means."""

    text: str
    meaning: Meaning


@dataclass(frozen=True, slots=True)
class Device:
    """How people speak of one kind of device: {it} is the device, {be} is or are, {n} a number."""

    names: tuple[tuple[str, str], ...]
    """Singular and plural."""
    orders: Mapping[str, tuple[str, ...]]
    """Action -> its wordings."""
    questions: tuple[str, ...]
    levels: range = range(0)
    """Values that it can be set to."""
    steps: range = range(0)
    """Values that it can go up or down by."""
    units: Mapping[str, str] = field(default_factory=dict)
    """How a number may end -> how it ends after 1."""

    def values(self, action: str) -> tuple[int | None, ...]:
        """Return every value that may go with `action`; None is no value."""
        if action == "set":
            return tuple(self.levels)
        return (None, *self.steps) if action in {"up", "down"} else (None,)


HERE: Final = "here"
ALL: Final = "all"
ROOMS: Final[Mapping[str, tuple[str, ...]]] = {
    "kitchen": ("kitchen",),
    "bedroom": ("bedroom",),
    "bathroom": ("bathroom",),
    "living room": ("living room", "lounge"),
    "dining room": ("dining room",),
    "guest room": ("guest room",),
    "hallway": ("hallway", "hall"),
    "office": ("office", "study"),
    "garage": ("garage",),
    "nursery": ("nursery",),
    "cellar": ("cellar", "basement"),
    "attic": ("attic",),
    HERE: ("in here", "in this room"),
    ALL: ("everywhere", "in every room", "in the whole house"),
}

_SWITCH: Final = {
    "on": ("turn on {it}", "turn {it} on", "switch on {it}", "switch {it} on", "start {it}", "{it} on"),
    "off": ("turn off {it}", "turn {it} off", "switch off {it}", "switch {it} off", "stop {it}", "{it} off"),
}
_SET: Final = (
    "set {it} to {n}",
    "turn {it} to {n}",
    "put {it} at {n}",
    "bring {it} to {n}",
    "change {it} to {n}",
    "{it} to {n}",
)
_UP: Final = ("turn {it} up", "turn up {it}", "raise {it}", "increase {it}")
_DOWN: Final = ("turn {it} down", "turn down {it}", "lower {it}", "decrease {it}")
_LEVEL: Final = {
    "set": (*_SET, "turn {it} up to {n}", "turn {it} down to {n}", "lower {it} to {n}", "raise {it} to {n}"),
    "up": _UP,
    "down": _DOWN,
}
_ASK_ANY: Final = ("check {it}", "what is the state of {it}", "tell me about {it}", "how {be} {it} doing")
_ASK_LEVEL: Final = (*_ASK_ANY, "what {be} {it} set to", "{be} {it} on", "{be} {it} off", "{be} {it} running")
_PERCENT: Final = {"": "", " percent": " percent", "%": "%"}
_DEGREES: Final = {"": "", " degrees": " degree", "°": "°"}

DEVICES: Final[Mapping[str, Device]] = {
    "lamp": Device(
        names=(("lamp", "lamps"), ("light", "lights")),
        orders=_SWITCH
        | {
            "set": (*_LEVEL["set"], "dim {it} to {n}"),
            "up": (*_UP, "brighten {it}", "make {it} brighter"),
            "down": (*_DOWN, "dim {it}", "make {it} darker"),
        },
        questions=(*_ASK_LEVEL, "how bright {be} {it}"),
        levels=range(101),
        steps=range(1, 51),
        units=_PERCENT,
    ),
    "heater": Device(
        names=(("heater", "heaters"), ("radiator", "radiators"), ("thermostat", "thermostats")),
        orders=_SWITCH
        | {
            "set": (*_LEVEL["set"], "heat {it} to {n}"),
            "up": (*_UP, "make {it} warmer"),
            "down": (*_DOWN, "make {it} cooler"),
        },
        questions=(*_ASK_LEVEL, "how warm {be} {it}"),
        levels=range(5, 31),
        steps=range(1, 11),
        units=_DEGREES,
    ),
    "fan": Device(
        names=(("fan", "fans"), ("ventilator", "ventilators")),
        orders=_SWITCH | _LEVEL | {"up": (*_UP, "make {it} faster"), "down": (*_DOWN, "make {it} slower")},
        questions=(*_ASK_LEVEL, "how fast {be} {it}"),
        levels=range(101),
        steps=range(1, 51),
        units=_PERCENT,
    ),
    "speaker": Device(
        names=(("speaker", "speakers"), ("loudspeaker", "loudspeakers")),
        orders=_SWITCH | _LEVEL | {"up": (*_UP, "make {it} louder"), "down": (*_DOWN, "make {it} quieter")},
        questions=(*_ASK_LEVEL, "how loud {be} {it}"),
        levels=range(101),
        steps=range(1, 51),
        units=_PERCENT,
    ),
    "blinds": Device(
        names=(("blind", "blinds"), ("shutter", "shutters")),
        orders={
            "open": ("open {it}", "open up {it}", "pull up {it}", "pull {it} up"),
            "close": ("close {it}", "shut {it}", "pull down {it}", "pull {it} down"),
            "set": (*_SET, "open {it} to {n}", "close {it} to {n}"),
        },
        questions=(*_ASK_ANY, "{be} {it} open", "{be} {it} closed", "how far {be} {it} open"),
        levels=range(101),
        units=_PERCENT,
    ),
    "door": Device(
        names=(("door", "doors"),),
        orders={
            "lock": ("lock {it}", "lock up {it}", "bolt {it}"),
            "unlock": ("unlock {it}", "unbolt {it}"),
        },
        questions=(*_ASK_ANY, "{be} {it} locked", "{be} {it} unlocked", "{be} {it} open"),
    ),
}

QUERY: Final = "query"
ACTIONS: Final = (*dict.fromkeys(action for device in DEVICES.values() for action in device.orders), QUERY)

_CALLS: Final = ("", "", "", "", "hey ", "ok ", "um ", "hello, ")
_WISHES: Final = ("", "", "", "please ", "could you ", "can you ", "would you please ", "i want you to ")
_ENDS: Final = ("", "", "", "", " please", " now", " for me", " thank you")
_SMALL: Final = (  # noqa: SIM905 - a line of words reads better than a column of literals
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905


def is_held_out(meaning: Meaning) -> bool:
    """Say whether training never sees `meaning`.

    One in eight of what may be done to a device in a room is held out, and one in eight of the values
    that an action of a device may take.
    """
    if _one_in_eight(meaning.device, meaning.room, meaning.action):
        return True
    return meaning.value is not None and _one_in_eight(meaning.device, meaning.action, str(meaning.value))


def draw(chance: Chance, *, held_out: bool) -> Command:
    """Return a command of the training side or of the held-out side."""
    kinds = _SIDES[held_out]
    meaning = chance.choice(kinds[chance.choice(tuple(kinds))])
    return Command(say(meaning, chance), meaning)


def say(meaning: Meaning, chance: Chance) -> str:
    """Return one wording of `meaning`."""
    device = DEVICES[meaning.device]
    name = (
        chance.choice(chance.choice(device.names)) if meaning.room != ALL else chance.choice(device.names)[1]
    )
    lead, it, trail = _place(meaning.room, name, chance)
    wording = chance.choice(device.questions if meaning.action == QUERY else device.orders[meaning.action])
    asks = wording.startswith(("{be}", "what", "how"))
    wish = "" if asks or wording.startswith("{it}") else chance.choice(_WISHES)
    if meaning.value is not None and "{n}" not in wording:
        wording += " by {n}"
    number = "" if meaning.value is None else _number(meaning.value, device.units, chance)
    said = wording.format(it=it, n=number, be="are" if name in dict(device.names).values() else "is")
    mark = "?" if asks or wish.startswith(("could", "can", "would")) else "."
    return _written(chance.choice(_CALLS) + lead + wish + said + trail + chance.choice(_ENDS), mark, chance)


def _place(room: str, name: str, chance: Chance) -> tuple[str, str, str]:
    """Return what comes before the order, the device within it, and what comes after it."""
    word = chance.choice(ROOMS[room])
    the = chance.choice(("the ", "the ", "the ", "my ", ""))
    where = word if room in {HERE, ALL} else f"in the {word}"
    short = {HERE: f"{the}{name}", ALL: f"all {the}{name}"}.get(room, f"{the}{word} {name}")
    return chance.choice(
        (
            ("", short, ""),
            ("", short, ""),
            ("", f"{the}{name} {where}", ""),
            ("", f"{the}{name}", f" {where}"),
            (f"{where}{chance.choice((' ', ', '))}", f"{the}{name}", ""),
        )
    )


def _number(value: int, units: Mapping[str, str], chance: Chance) -> str:
    unit = chance.choice(tuple(units))
    number = str(value) if unit in {"%", "°"} or chance.choice((True, False)) else _words(value, chance)
    return number + (units[unit] if value == 1 else unit)


def _words(value: int, chance: Chance) -> str:
    if value < len(_SMALL):
        return _SMALL[value]
    if value == 100:  # noqa: PLR2004
        return chance.choice(("one hundred", "a hundred"))
    tens, ones = divmod(value, 10)
    return _TENS[tens - 2] + (chance.choice((" ", "-")) + _SMALL[ones] if ones else "")


def _written(text: str, mark: str, chance: Chance) -> str:
    """Return `text` as one speech recogniser or another writes it down."""
    return chance.choice(
        (text, text, text + mark, text[0].upper() + text[1:], text[0].upper() + text[1:] + mark)
    )


def _one_in_eight(*parts: str) -> bool:
    return hashlib.sha256("/".join(parts).encode()).digest()[0] % 8 == 0


def _all_meanings() -> tuple[Meaning, ...]:
    return tuple(
        Meaning(name, room, action, value)
        for name, device in DEVICES.items()
        for action in (*device.orders, QUERY)
        for room in ROOMS
        for value in device.values(action)
    )


MEANINGS: Final = _all_meanings()


def _side(*, held_out: bool) -> Mapping[tuple[str, str, bool], Sequence[Meaning]]:
    """Return the meanings of a side by kind: device, action, whether there is a value."""
    kinds: dict[tuple[str, str, bool], list[Meaning]] = {}
    for meaning in MEANINGS:
        if is_held_out(meaning) == held_out:
            kinds.setdefault((meaning.device, meaning.action, meaning.value is not None), []).append(meaning)
    return kinds


_SIDES: Final = {held_out: _side(held_out=held_out) for held_out in (False, True)}
