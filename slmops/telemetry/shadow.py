# ruff: noqa: RUF001 - what looks alike is what this file is about
"""What a text looks like to who reads it: letters that only look like others as those, invisible ones gone.

Pure. It does not know what is looked for in it. Law: each letter of a shadow has a place in the text, and
places never go back.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from slmops.telemetry import checksums

ALIKE = str.maketrans(
    "аеорсухіѕјԁһӏАВЕКМНОРСТХІЅЈοαυνΑΒΕΖΗΙΚΜΝΟΡΤΥΧ‐‑‒–—―−﹣·․",
    "aeopcyxisjdhlABEKMHOPCTXISJoauvABEZHIKMNOPTYX--------..",
)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_MOSTLY_DIGITS = re.compile(r"(?<![A-Za-z0-9])[0-9OoIl|][0-9OoIl|SB .\-]{9,}[0-9OoIl|](?![A-Za-z0-9])")
_AS_DIGITS = str.maketrans("OoIl|SB", "0011158")


def cast(text: str) -> tuple[str, Callable[[int], int]]:
    """Return what the text looks like, and where in the text each letter of that stands."""
    if text.isascii():
        return _with_digits(text), lambda place: place
    letters: list[str] = []
    places: list[int] = []
    for place, letter in enumerate(text):
        looks = letter if letter < "\x80" else _looks(letter)
        letters.append(looks)
        places.extend([place] * len(looks))
    return _with_digits("".join(letters)), places.__getitem__


@lru_cache(maxsize=4096)
def _looks(letter: str) -> str:
    if _INVISIBLE.match(letter):
        return ""
    plain = unicodedata.normalize("NFKC", letter).translate(ALIKE)
    return "".join(str(unicodedata.decimal(each, None) if each.isdecimal() else each) for each in plain)


def _with_digits(shadow: str) -> str:
    """Return it with letters that stand among digits for digits, as 4l11 for 4111, read as those."""

    def read(match: re.Match[str]) -> str:
        said = match[0]
        digits = sum(letter.isdigit() for letter in said)
        return said.translate(_AS_DIGITS) if digits * 10 >= 7 * len(checksums.bare(said)) else said

    return _MOSTLY_DIGITS.sub(read, shadow)
