"""Pull a release from another place, which may lie: nothing it says is believed.

The index and its signatures come first, and nothing else is asked for until they hold. Then each blob comes
under the digest and size that the signed index fixes, and is refused the moment it is longer; last the name.
A pull that was cut goes on where it ended.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from slmops import digest as digests
from slmops.artifact import manifest, sign
from slmops.artifact.manifest import Blob, Release
from slmops.errors import IntegrityError, ReleaseError, UnreachableError
from slmops.registry import catalog, referrers
from slmops.registry import release as releases
from slmops.registry.layout import Layout
from slmops.registry.push import Moved, Told, content, side_by_side
from slmops.registry.remote import Remote

SMALL = 4 << 20
"""Bytes of the longest index, manifest or signature that is taken."""
_TRIES = 4
"""Times in a row that a blob may get no further."""

Judge = Callable[[bytes, Sequence[bytes]], None]
"""Raises IntegrityError unless the signatures over an index are enough to be believed."""


def pull(layout: Layout, remote: Remote, name: str, judge: Judge, told: Told) -> Moved:
    """Pull the release that a `name:version` or `name@channel` stands for there.

    Raise IntegrityError when a digest or the signatures do not hold.
    """
    found = remote.find(name)
    if found is None:
        raise ReleaseError(
            f"{remote.where} has no release {name}",
            remedy="Compare the name and version with what was pushed there.",
        )
    # What kind of thing it is, is not the remote's to say: a collection walks what is an index, and no more.
    found = replace(found, media_type=manifest.INDEX_TYPE)
    with layout.in_use():
        release, index, signatures = _look(remote, found, name, judge)
        layout.require_free(release.reference, found)
        for _, entry in release.artifacts:
            _take(layout, remote, entry.blob, bounded=True)
        blobs, _ = content(layout, release)
        came = side_by_side(lambda blob, hear: _fetch(layout, remote, blob, hear), blobs, told)
        layout.put([index], manifest.INDEX_TYPE)
        releases.keep_signatures(layout, found, signatures)
        layout.set_name(release.reference, found, manifest.RELEASE_TYPE)
    return Moved(release, found, came, sum(blob.size for blob in blobs) - came)


def _look(remote: Remote, found: Blob, name: str, judge: Judge) -> tuple[Release, bytes, tuple[bytes, ...]]:
    """Return the release that a name stands for there, its index and the signatures, once these hold."""
    index = _small(remote, found)
    release = manifest.parse_release(index)
    catalog.parse(release.reference)
    if name not in {release.reference, f"{release.name}@{name.partition('@')[2]}"}:
        raise IntegrityError(f"{remote.where} gives {release.reference} in the place of {name}")
    signatures = tuple(
        signature
        for each in remote.referrers(found)
        for signature in sign.split(_small(remote, referrers.content(_small(remote, each))))
    )
    if not signatures:
        raise IntegrityError(f"{name} in {remote.where} is not signed", remedy="Push it again.")
    judge(index, signatures)
    return release, index, signatures[: sign.MOST]


def _small(remote: Remote, blob: Blob) -> bytes:
    """Return a small blob from there, verified."""
    if blob.size > SMALL:
        raise IntegrityError(f"{remote.where}: {digests.short(blob.digest)} is said to be {blob.size} bytes")
    data = bytearray()
    for piece in remote.read(blob, 0):
        data += piece
        if len(data) > blob.size:
            break
    if (len(data), digests.of_bytes(bytes(data))) != (blob.size, blob.digest):
        raise IntegrityError(f"{remote.where} gives something else as {digests.short(blob.digest)}")
    return bytes(data)


def _fetch(layout: Layout, remote: Remote, blob: Blob, told: Told) -> int:
    """Fetch a blob unless it is here and whole; return the bytes that came."""
    try:
        layout.check(blob)
    except IntegrityError:
        layout.path(blob.digest).unlink(missing_ok=True)
        return _take(layout, remote, blob, told=told)
    told(blob.size)
    return 0


def _take(
    layout: Layout, remote: Remote, blob: Blob, *, told: Told = lambda _count: None, bounded: bool = False
) -> int:
    """Receive a blob, going on after cuts as long as that gets further; return the bytes that came."""
    if bounded and blob.size > SMALL:
        raise IntegrityError(f"{remote.where}: {digests.short(blob.digest)} is said to be {blob.size} bytes")
    came, tries = 0, 0

    def read(start: int) -> Iterator[bytes]:
        nonlocal came
        for piece in remote.read(blob, start):
            came += len(piece)
            told(len(piece))
            yield piece

    while True:
        before = came
        try:
            layout.receive(blob, read)
        except UnreachableError:
            tries = tries + 1 if came == before else 0
            if tries == _TRIES:
                raise
            time.sleep(2.0**tries - 1)
        else:
            return came
