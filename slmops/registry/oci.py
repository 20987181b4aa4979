"""Releases in an OCI registry: a repository, a tag for each version, signatures as referrers.

Small blobs go up in one request, large ones in chunks; a chunk that is cut is gone on with where the
registry says it stands. Nothing the registry says is believed: who reads compares digests.
Source: github.com/opencontainers/distribution-spec, spec.md.
"""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus

import httpx

from slmops import digest as digests
from slmops.artifact.manifest import INDEX_TYPE, MANIFEST_TYPE, Blob
from slmops.errors import IntegrityError, RegistryError, ReleaseError, UnreachableError, UsageError
from slmops.registry import referrers
from slmops.registry.distribution import Answer, Distribution, number
from slmops.registry.remote import Remote, Source

CHUNK = 8 << 20
"""Bytes of a request's content: what fits goes in one, and what does not in several."""
_LARGEST = 64 << 20
"""Bytes of the largest chunk that a registry may want: it is held in memory."""
_TRIES = 4
"""Times in a row that an upload may get no further."""
_MANIFESTS = (MANIFEST_TYPE, INDEX_TYPE)
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")


@contextmanager
def open_oci(host: str, repository: str, *, plain_http: bool = False) -> Iterator[Remote]:
    """Give one repository of an OCI registry."""
    if not _HOST.fullmatch(host) or not _REPOSITORY.fullmatch(repository):
        raise UsageError(f"expected oci://host[:port]/repository, got oci://{host}/{repository}")
    with closing(Distribution(host, repository, plain_http=plain_http)) as http:
        yield OciRegistry(f"oci://{host}/{repository}", http)


class OciRegistry:
    """One repository of an OCI registry."""

    def __init__(self, where: str, http: Distribution) -> None:
        self.where, self._http = where, http

    def has(self, blob: Blob) -> bool:
        """Say whether a blob is there."""
        heard = self._http.ask("HEAD", _place(blob), headers=_accept(blob))
        if heard.status not in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
            raise self._http.refusal(heard, f"does not say whether it has {digests.short(blob.digest)}")
        return heard.status == HTTPStatus.OK

    def send(self, blob: Blob, source: Source) -> None:
        """Store a blob, or a manifest whose blobs are there."""
        if blob.media_type in _MANIFESTS:
            self._put_manifest(blob.digest, blob, b"".join(source(0)))
        elif blob.size <= CHUNK:
            self._finish(self._begin(blob)[0], blob, b"".join(source(0)))
        else:
            self._send_in_chunks(blob, source)

    def refer(self, blob: Blob, source: Source, subject: Blob) -> None:
        """Store a manifest that speaks of another one; where there is no referrers API, list it by a tag."""
        heard = self._put_manifest(blob.digest, blob, b"".join(source(0)))
        if "oci-subject" in heard.headers:
            return
        tag = referrers.tag(subject)
        held = self._manifest(tag)
        data = referrers.with_one(held and held[1], blob)
        self._put_manifest(tag, Blob(INDEX_TYPE, digests.of_bytes(data), len(data)), data)

    def read(self, blob: Blob, start: int) -> Iterator[bytes]:
        """Yield a blob's bytes from `start` on."""
        headers = _accept(blob) | ({"Range": f"bytes={start}-"} if start else {})
        with self._http.open("GET", _place(blob), headers=headers) as heard:
            if heard.status_code == HTTPStatus.NOT_FOUND:
                raise IntegrityError(f"{self.where} has no {digests.short(blob.digest)}, which it names")
            if heard.status_code not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                raise self._http.refusal(
                    self._http.whole(heard), f"does not give {digests.short(blob.digest)}"
                )
            skip = start if heard.status_code == HTTPStatus.OK else 0
            for piece in self._http.pieces(heard):
                yield piece[skip:]
                skip = max(0, skip - len(piece))

    def find(self, name: str) -> Blob | None:
        """Return what a name's tag stands for."""
        found = self._manifest(tag_of(name))
        return found[0] if found else None

    def referrers(self, subject: Blob) -> list[Blob]:
        """Return the signatures that say they speak of `subject`."""
        heard = self._http.ask("GET", f"referrers/{subject.digest}", headers={"Accept": INDEX_TYPE})
        if heard.status == HTTPStatus.OK:
            return referrers.listed(heard.content)
        held = self._manifest(referrers.tag(subject))
        return referrers.listed(held[1]) if held else []

    def name(self, name: str, blob: Blob, artifact_type: str) -> None:  # noqa: ARG002 - the manifest says it
        """Let a name's tag stand for a manifest that is there."""
        held = self.find(name)
        if held is not None and held.digest == blob.digest:
            return
        if held is not None and "@" not in name:
            raise ReleaseError(
                f"{self.where} has {digests.short(held.digest)} as {tag_of(name)}, and this would be "
                f"{digests.short(blob.digest)}; a version never changes",
                remedy="Push a new version, or to another repository.",
            )
        heard = self._http.ask("GET", _place(blob), headers=_accept(blob))
        self._put_manifest(tag_of(name), blob, heard.content)

    def _manifest(self, reference: str) -> tuple[Blob, bytes] | None:
        """Return what a tag stands for, and its bytes."""
        accepted = {"Accept": ", ".join(_MANIFESTS)}
        heard = self._http.ask("GET", f"manifests/{reference}", headers=accepted)
        if heard.status == HTTPStatus.NOT_FOUND:
            return None
        if heard.status != HTTPStatus.OK:
            raise self._http.refusal(heard, f"does not give {reference}")
        kind = heard.headers.get("content-type", "").partition(";")[0].strip()
        return Blob(kind, digests.of_bytes(heard.content), len(heard.content)), heard.content

    def _put_manifest(self, reference: str, blob: Blob, data: bytes) -> Answer:
        if digests.of_bytes(data) != blob.digest:
            raise IntegrityError(f"{digests.short(blob.digest)} is not what its digest says")
        heard = self._http.ask(
            "PUT", f"manifests/{reference}", body=data, headers={"Content-Type": blob.media_type}
        )
        if heard.status not in {HTTPStatus.CREATED, HTTPStatus.OK}:
            raise self._http.refusal(heard, f"does not take the manifest {reference}")
        return heard

    def _begin(self, blob: Blob) -> tuple[str, int]:
        """Open an upload; return where it goes, and the bytes of a chunk that the registry wants at least."""
        heard = self._http.ask("POST", "blobs/uploads/")
        if heard.status != HTTPStatus.ACCEPTED:
            raise self._http.refusal(heard, f"does not take {digests.short(blob.digest)}")
        least = number(heard.headers.get("oci-chunk-min-length", "")) or 0
        if least > _LARGEST:
            raise RegistryError(f"{self.where} wants chunks of {least} bytes; {_LARGEST} is the most")
        return self._location(heard), least

    def _finish(self, place: str, blob: Blob, rest: bytes) -> None:
        """End an upload with the bytes that are left; the registry compares the digest."""
        where = str(httpx.URL(place).copy_merge_params({"digest": blob.digest}))
        heard = self._http.ask("PUT", where, body=rest, headers={"Content-Type": "application/octet-stream"})
        if heard.status not in {HTTPStatus.CREATED, HTTPStatus.NO_CONTENT}:
            raise self._http.refusal(heard, f"does not take {digests.short(blob.digest)}")

    def _send_in_chunks(self, blob: Blob, source: Source) -> None:
        place, least = self._begin(blob)
        sent, tries = 0, 0
        while sent < blob.size:
            try:
                place = self._send_chunks(place, sent, source(sent), max(CHUNK, least))
                sent = blob.size
            except UnreachableError:
                before = sent
                place, sent = self._stands(place)
                tries = tries + 1 if sent <= before else 0
                if tries == _TRIES:
                    raise
        self._finish(place, blob, b"")

    def _send_chunks(self, place: str, sent: int, pieces: Iterator[bytes], size: int) -> str:
        """Send all there is from `sent` on; return where the upload goes on."""
        for chunk in _cut(pieces, size):
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{sent}-{sent + len(chunk) - 1}",
            }
            heard = self._http.ask("PATCH", place, body=chunk, headers=headers)
            if heard.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise UnreachableError(f"{self.where} stands elsewhere in an upload than it said")
            if heard.status not in {HTTPStatus.ACCEPTED, HTTPStatus.CREATED}:
                raise self._http.refusal(heard, "does not take a chunk")
            place, sent = self._location(heard), sent + len(chunk)
        return place

    def _stands(self, place: str) -> tuple[str, int]:
        """Ask how much of an upload has come; return where it goes on, and from which byte."""
        heard = self._http.ask("GET", place)
        if heard.status not in {HTTPStatus.NO_CONTENT, HTTPStatus.ACCEPTED}:
            raise self._http.refusal(heard, "has forgotten an upload that was cut")
        last = number(heard.headers.get("range", "").rpartition("-")[2])
        if last is None:
            raise RegistryError(f"{self.where} does not say how much of an upload it has")
        # "0-0" is what registries say of an upload of which nothing has come.
        return self._location(heard), last + 1 if last else 0

    def _location(self, heard: Answer) -> str:
        said = heard.headers.get("location")
        if not said:
            raise RegistryError(f"{self.where} does not say where an upload goes on")
        return str(self._http.place(heard.url, said))


def tag_of(name: str) -> str:
    """Return the tag of a `name:version` or `name@channel`; tags cannot hold a plus."""
    return re.split("[:@]", name, maxsplit=1)[-1].replace("+", "_")


def _place(blob: Blob) -> str:
    return f"{'manifests' if blob.media_type in _MANIFESTS else 'blobs'}/{blob.digest}"


def _accept(blob: Blob) -> dict[str, str]:
    return {"Accept": blob.media_type if blob.media_type in _MANIFESTS else "*/*"}


def _cut(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the same bytes in pieces of `size`, the last one shorter."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)
