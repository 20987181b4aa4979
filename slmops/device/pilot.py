"""Bring the router where `steer` says, a step at a time, and never wait for it.

One question is under way at most. A load may take minutes, in which the supervisor must still end a trial by
time and hear signals: so what was asked is looked at again and again, and left when the standing wants
something else by then.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from slmops.device import admin, steer
from slmops.device.admin import Answer, Errand
from slmops.device.places import Places

STEP = 0.5
"""Seconds between looks at a router on the way; where all is as wanted, the caller says how many."""
SILENCE = 30.0
"""Seconds that a router may say nothing of how it stands before it is asked again."""
SILENCES = 5
"""Times that it may, one after the other; then it hangs."""
LONGEST = 900.0
"""Seconds that a verb may take before the router is asked how it stands: two loads, one after the other."""


@dataclass(frozen=True)
class Refusal:
    """What the router would not or could not do."""

    verb: steer.Verb
    message: str
    broke_off: bool
    """The router gave no answer: it may have ended."""


class Pilot:
    """What is known of one router, and what it was asked."""

    def __init__(self, places: Places, silence: float = SILENCE) -> None:
        """Begin with a router of which nothing is known."""
        self._places, self._silence, self._silences = places, silence, 0
        self.status: dict[str, Any] | None = None
        """The router's own, as it was last heard."""
        self._errand: Errand | None = None
        self._verb: steer.Verb | None = None
        self._wanted: dict[str, str] = {}
        self._fresh = False
        """The status was heard after all that was done and wanted."""
        self._due = self._end = 0.0

    @property
    def hurries(self) -> bool:
        """Say whether an answer is waited for, or the router's first word."""
        return self.status is None or self._errand is not None

    @property
    def hangs(self) -> bool:
        """Say whether the router takes questions and has not answered any for long."""
        return self._silences >= SILENCES

    def is_there(self, wanted: dict[str, str]) -> bool:
        """Say whether the router is known to stand as wanted."""
        return self.status is not None and steer.following(self.status, wanted) is None

    def forget(self) -> None:
        """Begin anew with another router."""
        self._leave()
        self.status, self._fresh, self._due, self._silences = None, False, 0.0, 0

    def turn(self, wanted: dict[str, str], pause: float, *, may_act: bool) -> Refusal | None:
        """Take one step; return what was refused.

        `pause` is how long a router that stands well is left alone. Without `may_act` it is only looked at:
        what it refused is asked again later.
        """
        if wanted != self._wanted:
            self._wanted, self._fresh, self._due = wanted, False, 0.0
            if self._verb is not None and self._verb.name == steer.LOAD:
                self._leave()
        if self._errand is not None:
            refusal = self._hear(self._errand, pause)
            if refusal is not None or self._errand is not None:
                return refusal
        verb = steer.following(self.status, wanted) if self.status is not None and self._fresh else None
        if verb is not None and may_act:
            return self._ask(verb)
        if time.monotonic() >= self._due:
            self._look()
        return None

    def _look(self) -> None:
        """Ask how the router stands; one that does not listen yet is asked again at the next turn."""
        with suppress(OSError):
            self._errand, self._verb = Errand(self._places, "status"), None
            self._end = time.monotonic() + self._silence

    def _ask(self, verb: steer.Verb) -> Refusal | None:
        # A rollback goes where the router's own `previous` is: it takes no name.
        said: dict[str, Any] = {} if verb.name == steer.ROLLBACK else {"digest": f"sha256:{verb.slot}"}
        if verb.name == steer.LOAD:
            said["folder"] = str(self._places.files(verb.slot))
        if verb.name == steer.GATE:
            said["verdict"] = {"outcome": "pass", "by": "device", "message": "it passed its gate here"}
        self._fresh, self._due = False, 0.0
        try:
            self._errand, self._verb = Errand(self._places, verb.name, said), verb
            self._end = time.monotonic() + LONGEST
        except OSError as error:
            return Refusal(verb, str(error), broke_off=True)
        return None

    def _hear(self, errand: Errand, pause: float) -> Refusal | None:
        verb = self._verb
        try:
            answer = errand.look()
        except OSError as error:
            self._leave()
            return None if verb is None else Refusal(verb, str(error), broke_off=True)
        if answer is None:
            if time.monotonic() >= self._end:
                self._leave()
                self._silences += verb is None
            return None
        self._leave()
        self._silences = 0
        if verb is None:
            self._note(answer, pause)
            return None
        return None if answer.status == admin.OK else Refusal(verb, answer.message, broke_off=False)

    def _note(self, answer: Answer, pause: float) -> None:
        if answer.status == admin.OK and {"labels", "versions"} <= set(answer.said):
            self.status, self._fresh = answer.said, True
            self._due = time.monotonic() + (pause if self.is_there(self._wanted) else STEP)

    def _leave(self) -> None:
        if self._errand is not None:
            self._errand.leave()
        self._errand = self._verb = None
