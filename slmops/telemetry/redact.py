"""Take out of a text what names a person or opens a door: mail, cards, accounts, telephones, secrets.

Pure. What is found is found in a shadow of the text, in which letters that only look like others are those
others and invisible ones are gone; what is replaced is replaced in the text itself, by <kind>. Most kinds are
a shape and a check (`checksums`); some count only after words that say what comes.

Laws: a text without anything to take out comes back as it was; a kind that is earlier in `KINDS` wins what
two would take; what is cut off at the end of the text is taken for whole where it began as a private key.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

from dataclasses import dataclass

from slmops.telemetry import shadow as shadows
from slmops.telemetry.kinds import KINDS, TAKEN, Kind

BEFORE = 64
"""Letters before a number in which the words that say what it is are looked for."""


@dataclass(frozen=True)
class Span:
    """A part of a text that is to go."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Redacted:
    """A text without it."""

    text: str
    kinds: tuple[str, ...]
    """What was taken out, in order."""


def redact(text: str) -> Redacted:
    """Return the text with everything that is found in it replaced by its kind."""
    found = spans(text)
    if not found:
        return Redacted(text, ())
    pieces, end = [], 0
    for span in found:
        pieces += [text[end : span.start], f"<{span.kind}>"]
        end = span.end
    return Redacted("".join([*pieces, text[end:]]), tuple(span.kind for span in found))


def spans(text: str) -> list[Span]:
    """Return what is to go, in the order of the text; none overlaps another."""
    shadow, places = shadows.cast(text)
    small = shadow.lower()
    found = []
    for kind in KINDS:
        if any(word in small for word in kind.words):
            for start, end in _places(kind, shadow):
                shadow = shadow[:start] + TAKEN * (end - start) + shadow[end:]
                found.append(Span(places(start), places(end - 1) + 1, kind.name))
    return sorted(found, key=lambda span: span.start)


def _places(kind: Kind, shadow: str) -> list[tuple[int, int]]:
    group = "it" if "it" in kind.shape.groupindex else 0
    found = []
    place = 0
    while match := kind.shape.search(shadow, place):
        start, end = match.span(group)
        said = shadow[start:end]
        length = 0
        if (
            said
            and TAKEN not in said
            and (not kind.after or kind.after.search(shadow, max(0, start - BEFORE), start))
        ):
            length = kind.holds(said)
        if length:
            found.append((start, start + length))
        # What begins within something that is none may be one; of what is long that would take long.
        place = start + length if length else match.start() + 1 if len(said) <= BEFORE else match.end()
        place = max(place, match.start() + 1)
    return found
