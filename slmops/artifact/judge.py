"""Judge an answer by the golden prompt that asked for it.

A pattern that a person wrote may try more ways through a text than there is time for, and nothing else of
its process runs meanwhile: it is searched for in a process of its own, which can be ended. An agent and a
router must not stand still for a golden prompt.

Laws: whatever the pattern, it comes back once `seconds` are over; what it says is what `golden.passes` says.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys

from slmops.artifact.golden import Golden, passes
from slmops.errors import DocumentError

SECONDS = 5.0
"""For a search and the start of its process: a busy board takes one or two of them to start Python."""
FOUND, MISSING = 10, 11
SEARCH = (
    # Its own end too, should whoever asks be killed before it is.
    "import json, re, signal, sys; pattern, text, seconds = json.load(sys.stdin); signal.alarm(seconds); "
    f"sys.exit({FOUND} if re.search(pattern, text) else {MISSING})"
)
SHOWN = 60
"""Letters of a pattern that a complaint shows."""


def judge(golden: Golden, answer: str, seconds: float = SECONDS) -> bool:
    """Say whether `answer` is what `golden` expects; raise DocumentError for a pattern without end."""
    if golden.match != "regex":
        return passes(golden, answer)
    pattern = str(golden.expect)
    # Neither pattern nor answer is an argument: those can be read by everybody on the machine.
    program = [sys.executable, "-I", "-S", "-c", SEARCH]
    said = json.dumps([pattern, answer.strip(), math.ceil(seconds) + 1]).encode("ascii")
    try:
        ended = subprocess.run(program, input=said, timeout=seconds, capture_output=True, check=False)
    except subprocess.TimeoutExpired as error:
        raise DocumentError(
            f"the pattern {pattern[:SHOWN]!r} was not searched for within {seconds:g} s",
            remedy="Write it so that it has one way to match: no repeat inside a repeat, as in (a+)+.",
        ) from error
    except OSError as error:
        raise DocumentError(f"the pattern {pattern[:SHOWN]!r} cannot be searched for: {error}") from error
    if ended.returncode not in (FOUND, MISSING):
        last = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise DocumentError(f"the pattern {pattern[:SHOWN]!r} cannot be searched for: {last}")
    return ended.returncode == FOUND
