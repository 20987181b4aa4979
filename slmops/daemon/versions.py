"""Which versions there are, how far each has come, and which labels they bear: a fold over the journal.

Theory. A record is written and synced before it is acted on, so whoever starts again after any of them
knows what may serve.

    started      a router begins: nothing is loaded yet
    loading      a version's worker is about to be started
    loaded       it has spoken, and its memory was measured; it is the candidate, if it bears no label
    gated        somebody vouches for it: the router's own gate, the agent, or who started the router;
                 with an outcome other than pass, it was looked at and nobody does
    promoted     it is current; what was current is previous
    rolled_back  previous is current again; what was rolled back has lost its gate and its label
    dropped      its worker is ended; a candidate is one no more, a previous may be loaded again
    failed       it did not load, crashed, or failed its gate; a candidate is one no more
    split        shares of the requests that name no version, by label
    shadowed     which label is asked a share of them too, unheard
    kept         what all records before it came to, where a journal grew long

It does not know files, processes or clocks.

Laws: the label current moves only to a version that is loaded and gated, so a fold of any prefix, of any
records whatever, names a current that was gated, or none; two labels never name one version; current and
previous keep their labels while they are not loaded, a candidate does not; a share of real requests goes
only to what is gated; a record repeated changes nothing; records of unknown kinds change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import msgspec

from slmops.artifact.description import Description

Label = Literal["current", "previous", "candidate"]
LABELS: tuple[Label, ...] = get_args(Label)
Reason = Literal["asked", "broken", "unloadable"]
"""Of a rollback: somebody asked for it, the worker kept ending, or what was current loads no more."""
Record = dict[str, Any]
REMEMBERED = 32
"""Versions without a label that are remembered, for what was measured of them."""
SHORTEST = 12
"""Hexadecimal digits of a digest that name a version, at least."""
STARTER, ROUTER = "starter", "router"
"""Who vouches for a version: who started the router with it, or the router's own gate."""


@dataclass(frozen=True)
class Version:
    """One artifact that can be served: what it is and where it lies."""

    digest: str
    """`sha256:...` of what it is; its name in the journal."""
    folder: str
    description: Description
    template: str = ""
    """Short digest of its chat template; empty where it has none."""

    @property
    def release(self) -> str:
        """Return `name:version`."""
        return self.description.reference


@dataclass(frozen=True)
class Stage:
    """How far one version has come."""

    folder: str = ""
    release: str = ""
    loaded: bool = False
    """Its worker has spoken, in the present router's life."""
    gated: str = ""
    """Who vouches for it; empty: nobody."""
    failure: Record | None = None
    """What ended it last: why, evidence, at; kept when it is loaded again, until it is gated."""
    memory: int = 0
    """Bytes that were measured of its worker when it was loaded: what a later estimate is corrected by."""

    @property
    def servable(self) -> bool:
        """Say whether `current` may move to it."""
        return self.loaded and bool(self.gated)


@dataclass(frozen=True)
class State:
    """Where the router stands."""

    labels: dict[Label, str] = field(default_factory=dict)
    """Digests by label."""
    known: dict[str, Stage] = field(default_factory=dict)
    """Stages by digest."""
    split: dict[Label, float] = field(default_factory=dict)
    """Shares of the requests that name no version; empty: all are current's."""
    shadow: dict[Label, float] = field(default_factory=dict)
    """The share that one label is asked too; empty: none."""
    withdrawn: str | None = None
    """What the last rollback took back; None once something is promoted."""

    @property
    def current(self) -> str | None:
        """Return the digest that serves."""
        return self.labels.get("current")

    @property
    def previous(self) -> str | None:
        """Return the digest that a rollback leads to."""
        return self.labels.get("previous")

    @property
    def candidate(self) -> str | None:
        """Return the digest that is loaded and has no other label."""
        return self.labels.get("candidate")

    def stage(self, digest: str) -> Stage:
        """Return how far a version has come; one that is not known has not begun."""
        return self.known.get(digest, Stage())

    def label(self, digest: str) -> Label | None:
        """Return the label that a version bears."""
        return next((label for label, said in self.labels.items() if said == digest), None)

    def find(self, asked: str) -> str | None:
        """Return the one known digest that a label, a digest or the beginning of one names."""
        if asked in LABELS:
            return self.labels.get(asked)
        digits = asked.removeprefix("sha256:")
        found = [digest for digest in self.known if digest.removeprefix("sha256:").startswith(digits)]
        if asked in self.known:
            return asked
        return found[0] if len(found) == 1 and len(digits) >= SHORTEST else None


@dataclass(frozen=True)
class Asked:
    """What a request names as its model: parts that are not said are None."""

    name: str | None = None
    version: str | None = None
    label: str | None = None
    digest: str | None = None
    """The digits that its digest begins with."""

    @property
    def is_open(self) -> bool:
        """Say whether it leaves the version to us, so that a split may decide."""
        return (self.version, self.label, self.digest) == (None, None, None)

    def fits(self, release: str, digest: str) -> bool:
        """Say whether a version is of that name, version and digest; the label is not its business."""
        name, _, version = release.partition(":")
        return (
            self.name in (None, name)
            and self.version in (None, version)
            and digest.removeprefix("sha256:").startswith(self.digest or "")
        )


_ASKED = re.compile(
    r"(?P<name>[^@:]+)(:(?P<version>[^@:]+))?"
    rf"(@((?P<label>{'|'.join(LABELS)})|sha256:(?P<digest>[0-9a-f]{{{SHORTEST},64}})))?"
)


def asked(model: str | None) -> Asked | None:
    """Read NAME, NAME:VERSION, NAME@label or NAME:VERSION@sha256:DIGITS; None is open; anything else None."""
    if model is None:
        return Asked()
    found = _ASKED.fullmatch(model)
    return Asked(**found.groupdict()) if found else None


def pick(wanted: Asked, residents: Mapping[str, Version], state: State) -> str | None:
    """Return the digest among the residents that is meant: of several the current, previous, candidate.

    Current may be meant though it is away for a moment; what is open is current's, if it is of that name,
    else of the first that is.
    """
    order: Iterable[str] = [state.labels[label] for label in LABELS if label in state.labels]
    if wanted.label is not None:
        order = [digest for digest in order if state.label(digest) == wanted.label]
    elif wanted.name is not None:
        order = [*order, *(digest for digest in residents if digest not in state.labels.values())]
    else:
        order = [digest for digest in order if digest == state.current]
    names = {digest: version.release for digest, version in residents.items()}
    if state.current is not None:
        names.setdefault(state.current, state.stage(state.current).release)
    return next((each for each in order if each in names and wanted.fits(names[each], each)), None)


def fold(records: Iterable[Record], start: State | None = None) -> State:
    """Return where the router stands after these records; `start` is where it stood before them."""
    state = start or State()
    for record in records:
        state = step(state, record)
    return state


def step(state: State, record: Record) -> State:
    """Return the state after one record; one that a law forbids changes nothing."""
    kind = str(record.get("kind"))
    if kind in _WHOLE:
        return _WHOLE[kind](state, record)
    digest = record.get("digest")
    change = _STEPS.get(kind)
    return change(state, digest, record) if change and isinstance(digest, str) else state


def kept(state: State, at: float) -> Record:
    """Return the one record that all records of a state come to, less what is long forgotten."""
    plain = [digest for digest in state.known if state.label(digest) is None]
    forgotten = set(plain[:-REMEMBERED])
    known = {digest: stage for digest, stage in state.known.items() if digest not in forgotten}
    return {"kind": "kept", "at": at, "state": msgspec.to_builtins(replace(state, known=known))}


def why_not_promoted(state: State, digest: str) -> str:
    """Return why `current` may not move to a version; empty where it may."""
    stage = state.stage(digest)
    if not stage.loaded:
        return "it is not loaded"
    return "" if stage.gated else "it has passed no gate"


def _started(state: State, _record: Record) -> State:
    """Nothing is loaded any more: the workers ended with the router before."""
    known = {digest: replace(stage, loaded=False) for digest, stage in state.known.items()}
    return _settled(replace(state, known=known))


def _kept(state: State, record: Record) -> State:
    """Take over what a journal that grew long was rewritten to."""
    try:
        kept = msgspec.convert(record.get("state"), State)
    except msgspec.ValidationError:
        return state
    lawful = all(kept.stage(digest).gated for label, digest in kept.labels.items() if label != "candidate")
    return _settled(kept) if lawful and len(set(kept.labels.values())) == len(kept.labels) else state


def _loading(state: State, digest: str, record: Record) -> State:
    """Only what has served keeps the gate that it passed in an earlier life."""
    said = {key: str(record[key]) for key in ("folder", "release") if key in record}
    served = state.label(digest) in ("current", "previous")
    gated = state.stage(digest).gated if served else ""
    return _settled(_with(state, digest, loaded=False, gated=gated, **said))


def _loaded(state: State, digest: str, record: Record) -> State:
    if digest not in state.known:
        return state
    memory = record.get("memory") or state.known[digest].memory
    changed = _with(state, digest, loaded=True, memory=int(memory))
    if changed.label(digest) is not None:
        return changed
    return _settled(replace(changed, labels={**changed.labels, "candidate": digest}))


def _gated(state: State, digest: str, record: Record) -> State:
    if not state.stage(digest).loaded:
        return state
    if record.get("outcome", "pass") != "pass":
        return _with(state, digest, failure=_failure(record))
    return _with(state, digest, gated=str(record.get("by") or ROUTER), failure=None)


def _promoted(state: State, digest: str, _record: Record) -> State:
    if not state.stage(digest).servable or state.current == digest:
        return state
    labels: dict[Label, str] = {"current": digest}
    if state.current is not None:
        labels["previous"] = state.current
    if state.candidate not in (None, digest):
        labels["candidate"] = str(state.candidate)
    return replace(_settled(replace(state, labels=labels)), split={}, shadow={}, withdrawn=None)


def _rolled_back(state: State, digest: str, record: Record) -> State:
    """`digest` is what was current: a record written twice takes back one version."""
    back = state.previous
    if state.current != digest or back is None or not state.stage(back).servable:
        return state
    labels: dict[Label, str] = {"current": back}
    if state.candidate is not None:
        labels["candidate"] = state.candidate
    changed = _with(replace(state, labels=labels), digest, gated="", failure=_failure(record))
    return replace(_settled(changed), split={}, shadow={}, withdrawn=digest)


def _dropped(state: State, digest: str, _record: Record) -> State:
    if digest not in state.known:
        return state
    return _settled(_with(state, digest, loaded=False))


def _failed(state: State, digest: str, record: Record) -> State:
    named: Record = {key: str(record[key]) for key in ("folder", "release") if key in record}
    said: Record = {**named, "loaded": False, "failure": _failure(record)}
    if state.label(digest) not in ("current", "previous"):
        said["gated"] = ""
    return _settled(_with(state, digest, **said))


def _split(state: State, record: Record) -> State:
    shares = {label: float(share) for label, share in _shares(record.get("split")) if share > 0}
    fair = all(_gated_at(state, label) for label in shares)
    return replace(state, split=shares) if fair else state


def _shadowed(state: State, record: Record) -> State:
    shares = {label: float(share) for label, share in _shares(record.get("shadow")) if share > 0}
    fair = all(label in state.labels and label != "current" for label in shares) and len(shares) <= 1
    return replace(state, shadow=shares) if fair else state


def _with(state: State, digest: str, **said: Any) -> State:
    return replace(state, known={**state.known, digest: replace(state.stage(digest), **said)})


def _settled(state: State) -> State:
    """Return the state without a candidate that is not loaded, and without shares of what has no label."""
    labels: dict[Label, str] = {
        label: digest
        for label, digest in state.labels.items()
        if label != "candidate" or state.stage(digest).loaded
    }
    rest = replace(state, labels=labels)
    split = rest.split if all(_gated_at(rest, label) for label in rest.split) else {}
    return replace(rest, split=split, shadow={a: b for a, b in rest.shadow.items() if a in labels})


def _gated_at(state: State, label: Label) -> bool:
    return label in state.labels and bool(state.stage(state.labels[label]).gated)


def _shares(said: Any) -> list[tuple[Label, float]]:
    if not isinstance(said, dict):
        return []
    return [(label, share) for label, share in said.items() if isinstance(share, int | float)]


def _failure(record: Record) -> Record:
    return {key: record[key] for key in ("why", "reason", "at", "evidence") if key in record}


_WHOLE = {"started": _started, "kept": _kept, "split": _split, "shadowed": _shadowed}
_STEPS = {
    "loading": _loading,
    "loaded": _loaded,
    "gated": _gated,
    "promoted": _promoted,
    "rolled_back": _rolled_back,
    "dropped": _dropped,
    "failed": _failed,
}
KINDS = (*_WHOLE, *_STEPS)
