"""What msgspec complains of, as a place in a request's body.

Pure. It knows msgspec's sentences, and that a rule of ours begins with the field that it is about; it does
not know requests.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

ROLES = "system, developer, user, assistant or tool"
EXPECTED = {
    r"messages\[\d+\]\.role": ROLES,
    r"response_format\.type": "text, json_object or json_schema",
    r"tool_choice": "none, auto, required or a function by name",
    r"(tools\[\d+\]|tool_choice|messages\[\d+\]\.tool_calls\[\d+\])\.type": "function",
    r"(tools\[\d+\]\.function|tool_choice\.function|response_format\.json_schema)\.name": (
        "1 to 64 letters, digits, dots, dashes and underscores"
    ),
    r"encoding_format": "float or base64",
    r"logit_bias": "token ids, in decimal, and what is added to their logits",
}
"""What is taken at a place, where msgspec's words do not say it."""


def told(message: str, fields: Collection[str]) -> str:
    """Return a complaint in words for who wrote the request; `fields` are those that the body may have."""
    place, name = _place(message), unknown(message)
    if re.search(r"content\[\d+\](\.type)?\Z", place) and (name or message.startswith("Invalid enum")):
        return f"{place}: only parts of type text are supported"
    if name is not None:
        near = [] if place else get_close_matches(name, fields, 1)
        return f"unknown field `{'.'.join(filter(None, [place, name]))}`" + "".join(
            f": did you mean `{each}`?" for each in near
        )
    said = message[: message.rindex(" - at `")] if place else message
    if place == "n":
        return "n: only 1 is supported"
    expected = next((words for where, words in EXPECTED.items() if re.fullmatch(where, place)), None)
    if expected is not None:
        return f"{place}: expected {expected}" + ("" if "matching regex" in said else f": {said}")
    return f"{place}: {said}" if place else said


def blamed(message: str, fields: Collection[str]) -> str | None:
    """Return the field that is to blame, as in messages[0].role; None for the body itself.

    `fields` are those that a rule may begin with.
    """
    missing = re.match(r"Object missing required field `(\w+)`", message)
    name = unknown(message) or (missing[1] if missing else "")
    first = re.match(r"\w+", message)
    if not name and first and first[0] in fields:
        return first[0]
    return ".".join(filter(None, [_place(message), name])) or None


def unknown(message: str) -> str | None:
    """Return the name of the field that is complained of for not being known."""
    found = re.match(r"Object contains unknown field `(.*?)`(?: - at `\$[^`]*`)?\Z", message, re.DOTALL)
    return found[1] if found else None


def strike(said: Any, message: str) -> bool:
    """Take the field that is not known out of what is said; say whether it was there."""
    name = unknown(message)
    for step in re.findall(r"[^.\[\]]+", _place(message)):
        if isinstance(said, list) and step.isdigit() and int(step) < len(said):
            said = said[int(step)]
        elif isinstance(said, dict) and step in said:
            said = said[step]
        else:
            return False
    return name is not None and isinstance(said, dict) and said.pop(name, said) is not said


def _place(message: str) -> str:
    """Return where the object stands that is complained of, as in messages[0]; empty for the body."""
    found = re.search(r" - at `(?:key` in `)?\$\.?([^`]*)`\Z", message)
    return found[1] if found else ""
