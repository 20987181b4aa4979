"""A statement that gets signed: a JSON object with exactly its keys, in the one form it can have.

It knows no field of its own: trust documents and assignments say which they have.

Laws: what is read renders to the very bytes it was read from, so that nothing unseen is signed along;
no bytes make `read` raise anything but IntegrityError.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from datetime import datetime
from typing import Any

from slmops.artifact.manifest import canonical
from slmops.errors import IntegrityError

LONGEST = 256 << 10
"""Bytes of the longest statement that is read."""
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_MOST = 2**53
"""Counts stay below this, so that every JSON reader sees the same number."""


def read(data: bytes, kind: str, keys: Collection[str]) -> dict[str, Any]:
    """Return the object whose `type` is `kind` and which has exactly `keys` besides."""
    if len(data) > LONGEST:
        raise IntegrityError(f"{kind}: expected at most {LONGEST} bytes, got {len(data)}")
    try:
        said: Any = json.loads(data)
        same = canonical(said) == data
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{kind}: not JSON: {error}") from error
    if not isinstance(said, dict) or said.get("type") != kind:
        raise IntegrityError(f"{kind}: expected a document of this type, got {data[:60]!r}")
    if set(said) != {"type", *keys}:
        raise IntegrityError(
            f"{kind}: expected the keys {', '.join(sorted(keys))}, got {', '.join(sorted(said))[:200]}"
        )
    if not same:
        raise IntegrityError(f"{kind}: it is not written in its one form")
    return dict(said)


def text(value: Any, form: re.Pattern[str], what: str) -> str:
    """Return `value` if it is a text of this form."""
    if not isinstance(value, str) or not form.fullmatch(value):
        raise IntegrityError(f"{what}: expected {form.pattern}, got {str(value)[:80]!r}")
    return value


def count(value: Any, what: str, least: int = 0) -> int:
    """Return `value` if it is a whole number from `least` to 2**53."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _MOST:
        raise IntegrityError(f"{what}: expected a number from {least} to 2**53, got {str(value)[:40]}")
    return value


def moment(value: Any, what: str) -> str:
    """Return `value` if it is a moment: 2026-01-31T12:00:00Z. Later moments are greater texts."""
    found = text(value, _MOMENT, what)
    try:
        datetime.strptime(found, "%Y-%m-%dT%H:%M:%SZ")  # noqa: DTZ007 - only whether there is such a day
    except ValueError as error:
        raise IntegrityError(f"{what}: there is no {found}") from error
    return found
