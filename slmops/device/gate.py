"""Prove a slot on this device: it runs, it is the one meant, and it answers its golden prompts.

The verdict is pass, fail or inconclusive. What could not be asked never passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slmops.artifact import golden as goldens
from slmops.artifact.description import CLASSIFICATION, Description
from slmops.artifact.golden import Golden
from slmops.device import journal, slots, supervise, talk
from slmops.device.places import Places, read_json
from slmops.device.trial import Standing
from slmops.errors import DeviceError

Note = Callable[["dict[str, Any]"], None]


@dataclass(frozen=True)
class Verdict:
    """What the gate found."""

    outcome: str
    """pass, fail or inconclusive."""
    code: str
    message: str
    evidence: dict[str, Any]


def prove(places: Places, slot: str, said: dict[str, Any], note: Note) -> Verdict:
    """Wait until the slot's daemon is ready, then ask its golden prompts; `note` is told of progress.

    `said` holds `ready_seconds` and `gate_seconds`, the time for each of the two.
    """
    refused = _await_ready(places, slot, said["ready_seconds"], note)
    if refused is not None:
        return refused
    description = slots.description(places, slot)
    if description.golden is None:
        return Verdict("pass", "READY", "it runs; the release has no golden prompts", {"golden": 0})
    asked = goldens.read((places.files(slot) / description.golden).read_text(encoding="utf-8"))
    end = time.monotonic() + said["gate_seconds"]
    return _ask_all(places, asked, end, note, description)


def _await_ready(places: Places, slot: str, seconds: float, note: Note) -> Verdict | None:
    """Return None once the right daemon is ready, else why it is not."""
    end = time.monotonic() + seconds
    digest = f"sha256:{slot}"
    standing = journal.standing(places)
    note({"step": "starting"})
    while time.monotonic() < end:
        state = read_json(places.daemon) or {}
        ours = _is_of(state, standing)
        # A daemon of the same slot that the supervisor is about to end answers too.
        said = talk.ready(places) if ours and state.get("child") else None
        if said is not None and said.get("digest") == digest:
            return None
        if ours and state.get("crashes", 0) >= supervise.CRASHES:
            why = f"the daemon ended {state['crashes']} times, last with exit code {state.get('last_exit')}"
            return Verdict("fail", "RUN_CRASHLOOP", why, {"log": supervise.log_tail(places)})
        time.sleep(0.05)
    why = f"the daemon was not ready within {seconds:.0f} s"
    return Verdict("fail", "ACT_TIMEOUT", why, {"log": supervise.log_tail(places)})


def _is_of(state: dict[str, Any], standing: Standing) -> bool:
    """Say whether what the supervisor wrote down is of the present standing and not of one before."""
    return (state.get("slot"), state.get("since")) == (standing.slot, standing.since)


def _ask_all(
    places: Places, asked: list[Golden], end: float, note: Note, description: Description
) -> Verdict:
    failed: list[dict[str, Any]] = []
    for number, golden in enumerate(asked, 1):
        note({"step": "golden", "number": number, "of": len(asked), "failed": len(failed)})
        try:
            answer = _answer(places, golden, description, max(end - time.monotonic(), 0.001))
        except DeviceError as error:
            evidence = {"question": golden.question, "log": supervise.log_tail(places)}
            return Verdict("inconclusive", "GATE_INCONCLUSIVE", f"golden prompt {number}: {error}", evidence)
        if not goldens.passes(golden, answer):
            failed.append({"question": golden.question, "expected": golden.expect, "answer": answer[:500]})
    found: dict[str, Any] = {"golden": len(asked), "failed": failed[:3]}
    if failed:
        message = f"{len(failed)} of {len(asked)} golden prompts failed"
        return Verdict("fail", "GATE_QUALITY", message, found)
    return Verdict("pass", "READY", f"{len(asked)} of {len(asked)} golden prompts passed", found)


def _answer(places: Places, golden: Golden, description: Description, timeout: float) -> str:
    if description.task == CLASSIFICATION:
        return talk.classify(places, golden.question, timeout)
    said = {
        "prompt": golden.prompt,
        "messages": golden.messages,
        "max_tokens": golden.max_tokens,
        "temperature": 0,
        "raw": True,
    }
    path, body = talk.question(said, chat=description.chat_template is not None)
    return talk.complete(places, path, body, timeout)
