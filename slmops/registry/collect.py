"""Let releases go, and free what no name leads to: mark and sweep.

Names go first and in one write, blobs after; a sweep that is killed leaves some of them, and the next one
finds them. It runs alone: while somebody publishes, pulls or deploys, blobs without a name may be about to
get one, and devices to get releases; who needs what is asked when nobody can be at it. A document that cannot
be read ends it before anything goes: what it leads to is not known.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from slmops.artifact import description as descriptions
from slmops.artifact.manifest import INDEX_TYPE, MANIFEST_TYPE, Blob
from slmops.errors import IntegrityError, ReleaseError
from slmops.registry import catalog, channels, referrers, retention
from slmops.registry import index as indexes
from slmops.registry import release as releases
from slmops.registry.catalog import Reference
from slmops.registry.deltas import Deltas
from slmops.registry.layout import Layout
from slmops.registry.release import Signed
from slmops.registry.retention import Held


@dataclass(frozen=True)
class Collected:
    """What a collection came to, or would come to."""

    gone: tuple[Reference, ...]
    kept: Mapping[Reference, str]
    """Why each of the others stays."""
    files: int
    freed: int
    """Bytes."""


Needed = Callable[[], Mapping[str, str]]
"""Says by digest, of a release's index or of an artifact's manifest, why it must stay."""


def remove(layout: Layout, reference: Reference, needed: Needed) -> None:
    """Let one release go; raise ReleaseError when a channel names it or somebody needs it."""
    with layout.alone():
        releases.find(layout, reference)
        reason = _why(layout, needed(), 0)[reference]
        if reason is not None:
            raise ReleaseError(
                f"{reference} stays: {reason}",
                remedy="Move the channel, or bring the device to another release and ask it: slmops status.",
            )
        _drop(layout, [reference])


def collect(layout: Layout, needed: Needed, *, keep: int | None = None, dry_run: bool = False) -> Collected:
    """Let go what may go when `keep` of each name are kept (None: all), and free what no name leads to."""
    with layout.alone():
        why = _why(layout, needed(), keep)
        gone = tuple(reference for reference, reason in why.items() if reason is None)
        left = indexes.without(layout.index(), _names_of(layout, gone))
        reached = reach(layout, indexes.blobs(left))
        strays = [*layout.strays(reached), *Deltas(layout).strays(reached)]
        freed = sum(path.stat().st_size for path in strays)
        if not dry_run:
            if gone:
                _drop(layout, gone)
            for path in strays:
                path.unlink()
    kept = {reference: reason for reference, reason in why.items() if reason is not None}
    return Collected(gone, kept, len(strays), freed)


def reach(layout: Layout, roots: Iterable[Blob]) -> set[str]:
    """Return the digest of everything that the roots lead to, themselves too."""
    reached: set[str] = set()
    ahead = list(roots)
    while ahead:
        blob = ahead.pop()
        if blob.digest not in reached:
            reached.add(blob.digest)
            ahead += _below(layout, blob)
    return reached


def _below(layout: Layout, blob: Blob) -> list[Blob]:
    if blob.media_type not in {INDEX_TYPE, MANIFEST_TYPE}:
        return []
    try:
        said = json.loads(layout.get(blob))
        entries: list[Any] = [*said.get("manifests", []), *said.get("layers", []), said.get("config")]
        return [Blob(one["mediaType"], one["digest"], one["size"]) for one in entries if one is not None]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{layout.path(blob.digest)} is no manifest: {error!r}") from error


def _drop(layout: Layout, gone: Collection[Reference]) -> None:
    """Drop the names of releases; how far their counters have come is remembered."""
    highest = {releases.HIGHEST_KEY + each.name: str(releases.highest(layout, each.name)) for each in gone}
    layout.drop_names(_names_of(layout, gone), highest)


def _why(layout: Layout, protected: Mapping[str, str], keep: int | None) -> dict[Reference, str | None]:
    stand = {str(channel): reference for channel, reference in channels.stand(layout)}
    return retention.reasons(_held(layout), stand, protected, keep)


def _held(layout: Layout) -> list[Held]:
    found = []
    for reference in releases.references(layout):
        signed = releases.find(layout, reference)
        digests = {signed.blob.digest, *(entry.blob.digest for _, entry in signed.release.artifacts)}
        found.append(Held(reference, frozenset(digests), _base(layout, signed)))
    return found


def _base(layout: Layout, signed: Signed) -> Reference:
    """Return the release whose models it has; a runtime bundle has none, and is its own."""
    first = next(entry for _, entry in signed.release.artifacts)
    if descriptions.FILE_NAME in dict(releases.artifact(layout, first).files):
        return releases.base(layout, signed)
    return catalog.parse(signed.release.reference)


def _names_of(layout: Layout, gone: Iterable[Reference]) -> set[str]:
    """Return the names of releases and of the signatures that speak of them."""
    names = layout.names()
    left = {str(reference) for reference in gone}
    begins = tuple(referrers.tag(names[name]) + "." for name in left)
    return left | {name for name in names if begins and name.startswith(begins)}
