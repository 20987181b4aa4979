"""Change which slot serves: on trial first, committed when confirmed, back when it fails."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from slmops import way
from slmops.device import (
    boots,
    damage,
    gate,
    heed,
    journal,
    leftovers,
    listen,
    runtimes,
    service,
    shun,
    slots,
    talk,
    trust,
)
from slmops.device.bounds import Measured
from slmops.device.gate import Verdict
from slmops.device.go_back import go_back, has_runtime
from slmops.device.places import Places
from slmops.device.trial import ROTTEN, Standing, expired, going_back, may_be_brought_by
from slmops.errors import DeviceError, IntegrityError, SlmopsError
from slmops.telemetry import capture

Note = gate.Note
INCONSISTENT = "INCONSISTENT"
"""The code of a device that went back and does not answer: a person must look."""


def activate(places: Places, said: dict[str, Any], note: Note) -> dict[str, Any]:
    """Put a staged slot on trial and prove it; a slot that does not pass goes back at once.

    `said` holds `slot`, and how long each stage may take: `ready_seconds`, `gate_seconds` for all golden
    prompts, `confirm_seconds` from then to the confirmation; and `runtime_slot`, where the daemon is to run
    from a bundle; `gate`, what is asked beyond right answers; `quarantine` and `override_lock`, as `shun` and
    `heed` have them. A committed slot is proved again, not moved, unless it is to be run another way.
    Returns {outcome, code, message, evidence, standing, went_back}.
    """
    slot = said["slot"]
    if not places.slot(slot).exists():
        raise DeviceError(f"slot {slot[:12]} is not staged", remedy="Deploy again.")
    _require_keys(places)
    shun.require_forgiven(places, slot, said)
    heed.require_leave(places, said)
    slots.verify(places, slot)
    for each in filter(None, (slot, said.get("runtime_slot"))):
        trust.recheck(places, each)
    slots.note_whole(places, slot)
    with journal.locked(places):
        journal.set_aside(places)
        if said.get("runtime_slot") is not None:
            runtimes.unpack(places, said["runtime_slot"], note)
        # Who ends a trial that nobody confirms must be there before the trial begins.
        service.ensure(places, places.read_config())
        earlier = gate.before(places, slot, said)
        standing = _put_to_the_proof(places, slot, said)
        damage.forget(places, slot)
        slots.point(places, standing)
        service.nudge(places)
        on_trial = standing.trial is not None
        verdict = _proved(places, slot, said, note, earlier, serving=not on_trial)
        fails = verdict.outcome != "pass"
        if on_trial and fails:
            go_back(places, verdict.code, verdict.message, _worth_keeping(verdict.evidence))
            verdict = _with_the_way_back(verdict, _settle(places, said, note))
        elif on_trial and gate.watched(said):
            _begin(places, "proved", slot, said["confirm_seconds"], watched=True)
    return {**_report(places, verdict), "went_back": on_trial and fails}


def _require_keys(places: Places) -> None:
    """Raise DeviceError where the daemon is to answer other machines, and would not start without keys."""
    host = (places.read_config().get("daemon") or {}).get("host")
    if host is not None and not listen.is_loopback(host) and not places.keys.exists():
        raise DeviceError(
            f"its daemon is to answer at {host}, which other machines reach, and there are no keys",
            remedy="Make one first: slmops device keys DEVICE create --name NAME.",
        )


def _worth_keeping(evidence: dict[str, Any]) -> dict[str, Any]:
    """Return what the journal keeps of a failure: what failed, and not every answer that did not."""
    return {name: value for name, value in evidence.items() if name != "answers"}


def _put_to_the_proof(places: Places, slot: str, said: dict[str, Any]) -> Standing:
    """Begin the slot's trial, but for a committed one that is run as it is to be.

    That one is left as it is, or started anew where it does not answer or had rotted.
    """
    standing, settings = journal.standing(places), _settings(places, said)
    committed = standing.slot == slot and standing.trial is None
    if committed and _runs_so(standing, settings):
        serving = talk.ready(places) or {}
        if serving.get("digest") != f"sha256:{slot}" or slot in damage.known(places):
            return journal.append(places, "restarted", slot=slot, settings=settings)
        return standing
    return _begin(
        *(places, "activated", slot, said["ready_seconds"] + said["gate_seconds"] + gate.watched(said)),
        settings=settings,
        earlier=_as_it_was_run(standing, slot, settings),
        rollout=_rollout(said),
        quarantine=said.get("quarantine"),
    )


def _runs_so(standing: Standing, settings: dict[str, Any]) -> bool:
    """Say whether what serves is run so; where an agent of before did not say how, from the same runtime."""
    if standing.settings is None:
        return settings["runtime_slot"] is None
    return not way.differing(standing.settings, settings)


def _as_it_was_run(standing: Standing, slot: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return how a slot is run that is committed, and to be run another way; None of any other."""
    committed = standing if standing.trial is None else (standing.before or Standing())
    return committed.settings if committed.slot == slot and not _runs_so(committed, settings) else None


def _proved(
    places: Places, slot: str, said: dict[str, Any], note: Note, earlier: Measured, *, serving: bool
) -> Verdict:
    """Return the gate's verdict; a gate that cannot be held has not been passed.

    A slot on trial serves once it has answered well; one that is `serving` does so already.
    """

    def let_serve() -> None:
        if not serving:
            watch = gate.watched(said)
            _begin(places, "proved", slot, said["confirm_seconds"] + watch, watched=not watch)
            service.nudge(places)

    try:
        return gate.prove(places, slot, said, note, earlier=earlier, let_serve=let_serve)
    except BrokenPipeError:
        return Verdict("fail", "GATE_BROKEN", "the operator hung up before the gate was held", {})
    except (SlmopsError, OSError) as error:
        return Verdict("fail", "GATE_BROKEN", f"the gate could not be held: {error}", {})


def _settings(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    return way.kept(places.read_config(), said.get("runtime_slot"))


def _with_the_way_back(verdict: Verdict, settled: Verdict) -> Verdict:
    """Say it when what served before does not answer either."""
    if settled.outcome == "pass":
        return verdict
    message = f"{verdict.message}; and what served before does not answer: {settled.message}"
    return replace(verdict, code=INCONSISTENT, message=message)


def _rollout(said: dict[str, Any]) -> str | None:
    """Return for which rollout something is asked; None where nobody holds the device for one."""
    return (said.get("lease") or {}).get("rollout")


def _begin(places: Places, kind: str, slot: str, seconds: float, **more: Any) -> Standing:
    """Write that a stage of the trial begins, and when it will have had its time."""
    deadline = time.monotonic() + seconds
    return journal.append(places, kind, slot=slot, boot=boots.identity(), deadline=deadline, **more)


def confirm(places: Places, slot: str, since: float | None = None) -> dict[str, Any]:
    """Commit the slot on trial; return the device's standing.

    `since` is when the trial began: the same slot may serve again, run as it was before that.
    """
    with journal.locked(places):
        standing = journal.standing(places)
        if standing.slot != slot or since not in (None, standing.since):
            raise DeviceError(
                f"slot {slot[:12]} serves no more: the device went back ({_why(standing)})",
                remedy="See `slmops status`; deploy again.",
            )
        if expired(standing, boots.identity(), time.monotonic()):
            raise DeviceError("the trial has had its time; the device goes back", remedy="Deploy again.")
        if standing.trial is not None and not (standing.trial.proved and standing.trial.watched):
            raise DeviceError(f"slot {slot[:12]} has not passed its gate", remedy="Deploy again.")
        if standing.trial is not None:
            standing = journal.append(places, "confirmed", slot=slot)
        # It is committed, whatever becomes of the rest: the next commit, or gc, does that again.
        with suppress(OSError, IntegrityError):
            trust.raise_floors(places, slots.needed(standing))
        with suppress(OSError):
            slots.collect(places, standing)
            runtimes.collect(places, slots.needed(standing))
            leftovers.tidy(places)
        with suppress(OSError):
            _keep_no_words_unasked(places, standing)
    return {"standing": asdict(standing)}


def _keep_no_words_unasked(places: Places, standing: Standing) -> None:
    """Forget the words of requests where none are to be kept; an agent of before wrote no flags down."""
    flags = (standing.settings or {}).get("daemon")
    if flags is not None and not flags.get("capture"):
        capture.forget(places.spool)


def roll_back(places: Places, said: dict[str, Any], note: Note) -> dict[str, Any]:
    """Serve again what served before, and prove it.

    `said` holds `slot` (the one to leave, or to run again as it was run before), `code` and `message`, and
    `lease`, by whose `rollout` what is asked twice is known; with `own` what that one did not bring stays.
    """
    rollout = _rollout(said)
    with journal.locked(places):
        standing = journal.standing(places)
        if standing.slot != said["slot"]:
            return _report(places, Verdict("pass", "ALREADY", "the device does not serve that slot", {}))
        if rollout is not None and (standing.failure or {}).get("rollout") == rollout:
            return _report(places, _settle(places, said, note))
        if rollout is not None and said.get("own") and not may_be_brought_by(standing, rollout):
            return _report(places, Verdict("pass", "ALREADY", "what that rollout brought serves no more", {}))
        rotten = standing.slot in damage.known(places) and going_back(standing, ROTTEN).slot is not None
        code = ROTTEN if rotten else said["code"]
        if standing.trial is None:
            _require_way_back(places, going_back(standing, code), said, note)
        go_back(places, code, said["message"], {}, rollout)
        verdict = _settle(places, said, note)
    return _report(places, verdict)


def _require_way_back(places: Places, back: Standing, said: dict[str, Any], note: Note) -> None:
    """Raise DeviceError where a committed slot would be left for nothing, or for what cannot run any more."""
    if back.slot is None and not said.get("even_to_none"):
        raise DeviceError(
            "there is no slot to go back to", remedy="Deploy the release you want with `slmops deploy`."
        )
    if has_runtime(places, back):
        return
    runtime = (back.settings or {})["runtime_slot"]
    if not places.slot(runtime).is_dir():
        raise DeviceError(
            f"the runtime {runtime[:12]} that it ran from is not on this device any more",
            remedy="Put the fleet file back to what it said before (`runtime`, `daemon`), then bring that "
            "with `slmops deploy FLEET.yaml --release NAME:VERSION`: it sends what a device lacks.",
        )
    runtimes.unpack(places, runtime, note)


def _settle(places: Places, said: dict[str, Any], note: Note) -> Verdict:
    """See that what serves after a rollback answers."""
    service.ensure(places, places.read_config())
    slot = journal.standing(places).slot
    if slot is None:
        return Verdict("pass", "EMPTY", "the device had no release before; it serves none", {})
    # What served before is asked for right answers alone: there is nothing better to go to.
    return _proved(places, slot, {**said, "gate": None}, note, Measured(), serving=True)


def _report(places: Places, verdict: Verdict) -> dict[str, Any]:
    return {**asdict(verdict), "standing": asdict(journal.standing(places))}


def _why(standing: Standing) -> str:
    return str((standing.failure or {}).get("message", "rolled back"))
