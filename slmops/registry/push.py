"""Push a release to another place: what it lacks of it, from the files up to the name.

Order: files, artifact manifests, the index, its signatures, and last the name. Whoever finds the name there
finds all that it names. What is there already is not sent; what has rotted here is not sent either.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

from slmops import digest as digests
from slmops.artifact import manifest
from slmops.artifact.manifest import Blob, Release
from slmops.registry import referrers
from slmops.registry import release as releases
from slmops.registry.catalog import Reference
from slmops.registry.layout import Layout
from slmops.registry.remote import Remote, Source

SIDE_BY_SIDE = 4
"""Blobs under way at once."""
Told = Callable[[int], None]
"""Hears of bytes that are done with."""


@dataclass(frozen=True)
class Moved:
    """What a push or pull came to."""

    release: Release
    blob: Blob
    """Its index."""
    sent: int
    """Bytes that went over."""
    there: int
    """Bytes that were on the other side already."""


def push(layout: Layout, remote: Remote, reference: Reference, told: Told) -> Moved:
    """Push a release; raise ReleaseError when the version is another release there."""
    with layout.in_use():
        signed = releases.find(layout, reference)
        blobs, manifests = content(layout, signed.release)
        sent = side_by_side(lambda blob, hear: _send(layout, remote, blob, hear), blobs, told)
        there = sum(blob.size for blob in blobs) - sent
        sent += sum(_send(layout, remote, blob, _nobody) for blob in [*manifests, signed.blob])
        for signature in referrers.of(layout.names(), signed.blob):
            sent += _refer(layout, remote, signature, signed.blob)
        remote.name(str(reference), signed.blob, manifest.RELEASE_TYPE)
    return Moved(signed.release, signed.blob, sent, there)


def content(layout: Layout, release: Release) -> tuple[list[Blob], list[Blob]]:
    """Return the files and configs of a release, each once and the largest first; and its manifests."""
    found: dict[str, Blob] = {}
    for _, entry in release.artifacts:
        built = releases.artifact(layout, entry)
        found |= {blob.digest: blob for blob in (built.config, *(blob for _, blob in built.files))}
    largest_first = sorted(found.values(), key=lambda blob: (-blob.size, blob.digest))
    return largest_first, [entry.blob for _, entry in release.artifacts]


def side_by_side(move: Callable[[Blob, Told], int], blobs: list[Blob], told: Told) -> int:
    """Move blobs, several at once, and return the bytes that went over; the first failure ends all."""
    ended = Event()

    def hear(count: int) -> None:
        if ended.is_set():
            raise CancelledError
        told(count)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        under_way = [pool.submit(move, blob, hear) for blob in blobs]
        try:
            return sum(each.result() for each in under_way)
        except BaseException:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _send(layout: Layout, remote: Remote, blob: Blob, told: Told) -> int:
    """Send a blob that is lacking there; return how many bytes that were."""
    if remote.has(blob):
        told(blob.size)
        return 0
    layout.check(blob)
    remote.send(blob, _reader(layout, blob, told))
    return blob.size


def _refer(layout: Layout, remote: Remote, signature: Blob, subject: Blob) -> int:
    data = layout.get(signature)
    sent = 0
    for blob in (referrers.EMPTY, referrers.content(data)):
        sent += _send(layout, remote, blob, _nobody)
    remote.refer(signature, _reader(layout, signature, _nobody), subject)
    return sent + signature.size


def _nobody(_count: int) -> None:
    """Hear of bytes that no bar counts."""


def _reader(layout: Layout, blob: Blob, told: Told) -> Source:
    def read(start: int) -> Iterator[bytes]:
        with layout.path(blob.digest).open("rb") as file:
            file.seek(start)
            for piece in digests.pieces(file):
                yield piece
                told(len(piece))

    return read
