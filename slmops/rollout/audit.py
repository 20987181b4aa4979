"""The record of what operators did: one line an act, each bound to the line before by its digest.

It knows no file and no clock. A line is canonical JSON: `at`, `who`, `action`, what it was about, and `prev`,
the sha256 of the line before without its newline (of the first line: zeros). The head is the digest of the
last line.

Laws: what `line` writes, `verify` holds to be whole. One line changed, removed, put in or moved is found, and
the line is named where the chain breaks. Two things a chain cannot show by itself: that its end was cut off,
and that its last line was changed; a head that was noted elsewhere shows both, and shows as well a chain that
was written anew from its beginning. Values of options that are called like secrets never get in.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from slmops import digest as digests

BEGINNING: Final = "sha256:" + "0" * 64
"""What the first line is bound to."""
TORN: Final = "torn"
"""The action under which a line is kept whose writing was cut short."""
STRUCK: Final = "***"
_KEPT: Final = 4096
"""Characters of a torn line that are kept."""
_SECRET = re.compile(
    r"(?i)(token(?!s)|secret|passw|passphrase|credential|api[-_]?key|access[-_]?key|authorization)"
)
_OPTION = re.compile(r"(--?[A-Za-z][\w-]*)(=.*)?", re.DOTALL)
_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SAID = re.compile(r"(?i)\b(bearer|basic) +\S+|\b(hf_|sk-|ghp_|github_pat_|glpat-|xox[bp]-)[\w-]{8,}")


@dataclass(frozen=True)
class Break:
    """Where a chain breaks: a line, counted from 1, and why."""

    line: int
    why: str


@dataclass(frozen=True)
class Verdict:
    """What a chain is found to be: its lines, the digest of the last one, and where it breaks first."""

    entries: int
    head: str
    broken: Break | None = None


def line(prev: str, at: str, who: str, action: str, facts: Mapping[str, Any]) -> bytes:
    """Return one line, with its newline; `facts` are plain JSON."""
    said = {**facts, "at": at, "who": who, "action": action, "prev": prev}
    return _canonical(said) + b"\n"


def read(text: bytes) -> dict[str, Any]:
    """Return what a line says; raise ValueError where it is not one that `line` wrote."""
    said = json.loads(text)
    if not isinstance(said, dict) or not all(isinstance(said.get(key), str) for key in _NEEDED):
        raise ValueError(f"expected an object with {', '.join(_NEEDED)}")
    if _canonical(said) != text.removesuffix(b"\n"):
        raise ValueError("it is not written as this record writes")
    return said


def digest(text: bytes) -> str:
    """Return the digest that the next line is bound to."""
    return digests.of_bytes(text.removesuffix(b"\n"))


def verify(lines: Sequence[bytes], head: str | None = None) -> Verdict:
    """Judge a chain by its lines, each with its newline; `head` is one that was noted when it was shorter."""
    known = [BEGINNING, *map(digest, lines)]
    broken = next(filter(None, (_judge(at, lines, known) for at in range(len(lines)))), None)
    if broken is None and head is not None and head not in known:
        broken = Break(len(lines), "no line has the digest that was noted: the end was cut off or changed")
    return Verdict(len(lines), known[-1], broken)


def torn(piece: bytes) -> dict[str, Any]:
    """Return the facts of a line whose writing was cut short: what is left of it."""
    text = piece.decode(errors="backslashreplace")
    return {"left": text[:_KEPT], "bytes": len(piece), "digest": digests.of_bytes(piece)}


def without_secrets(words: Iterable[str]) -> list[str]:
    """Return the words of a command line; what options called like secrets are given is struck out."""
    kept: list[str] = []
    hides = False
    for word in words:
        option = _OPTION.fullmatch(word)
        secret = option is not None and _SECRET.search(option[1]) is not None
        if hides:
            kept.append(STRUCK)
        elif option is not None and secret:
            kept.append(option[1] + (f"={STRUCK}" if option[2] else ""))
        else:
            kept.append(_SAID.sub(STRUCK, _USER.sub(STRUCK, word)))
        hides = secret and not hides and option is not None and not option[2]
    return kept


_NEEDED = ("at", "who", "action", "prev")


def _canonical(said: Mapping[str, Any]) -> bytes:
    return json.dumps(
        said, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def _judge(at: int, lines: Sequence[bytes], known: Sequence[str]) -> Break | None:
    """Say whether the line at this place holds; `known[at]` is what it is to be bound to."""
    text = lines[at]
    if not text.endswith(b"\n"):
        return Break(at + 1, "it is torn: its writing was cut short; the next act that is recorded mends it")
    try:
        prev = read(text)["prev"]
    except (ValueError, RecursionError) as error:
        return Break(at + 1, f"it was changed: {error}")
    if prev == known[at]:
        return None
    return Break(at + 1, _why(at, prev, known))


def _why(at: int, prev: str, known: Sequence[str]) -> str:
    """Say what was done to a chain whose line at this place is bound to another than the one before."""
    if prev not in known:
        if at == 0:
            return "lines before it were removed"
        return f"line {at} was changed, or lines between the two were removed"
    bound = known.index(prev)
    if bound < at:
        where = f"line {bound}" if bound else "the beginning"
        return f"it is bound to {where}: what stands between was put in, or lines were moved"
    return f"it is bound to line {bound}, which stands after it: lines were moved"
