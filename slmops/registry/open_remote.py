"""Open another place where releases are kept: the kind of place that a URL names."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import unquote, urlsplit

from slmops.errors import MissingPartError, UsageError, install_line
from slmops.registry import index as indexes
from slmops.registry.folder import Folder
from slmops.registry.layout import Layout
from slmops.registry.remote import Remote

_FORMS = "oci://host/repository, file:///folder or s3://bucket/folder"


@contextmanager
def open_remote(url: str, *, plain_http: bool = False, make: bool = False) -> Iterator[Remote]:
    """Give the place that a URL names; nothing is asked of it yet.

    `plain_http` speaks to an OCI registry without TLS; one on this machine is spoken to so anyway. `make`
    makes a folder that is not there yet; without it, it must be a registry. Raise UsageError for a URL that
    names no such place, UnreachableError where a store does not answer.
    """
    parts = urlsplit(url)
    if not parts.scheme:
        raise UsageError(f"where is {url!r}? expected {_FORMS}")
    if parts.scheme == "file":
        # Its own layout's lock and order of writing are better than what fsspec has for files.
        with _in_use(Layout(_folder(url, make=make))) as layout:
            yield Folder(layout, url)
        return
    try:
        if parts.scheme == "oci":
            from slmops.registry.oci import open_oci  # noqa: PLC0415 - needs httpx

            found = open_oci(parts.netloc, parts.path.strip("/"), plain_http=plain_http)
        else:
            from slmops.registry.store import open_store  # noqa: PLC0415 - needs fsspec

            found = open_store(url)
    except ModuleNotFoundError as error:
        raise MissingPartError(
            f"{parts.scheme}:// needs {error.name}, which is not installed", remedy=install_line("registry")
        ) from error
    with found as remote:
        yield remote


def _folder(url: str, *, make: bool) -> Path:
    """Return the folder of a file:/// URL, one that can be written or that is a registry."""
    folder = _path(url)
    if not make and not (folder / indexes.INDEX_FILE).is_file():
        what = f"it has no {indexes.INDEX_FILE}" if folder.is_dir() else "there is no such folder"
        raise UsageError(
            f"no registry in {folder}: {what}",
            remedy=f"Name the folder that `slmops release push` has written to; expected {_FORMS}.",
        )
    if make:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UsageError(
                f"{url} cannot be written: {error.strerror or error}",
                remedy=f"Name a folder that you may write to; expected {_FORMS}.",
            ) from error
    return folder


def _path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc or not parts.path:
        raise UsageError(f"expected file:///folder, the path whole and three slashes before it, got {url}")
    return Path(unquote(parts.path))


@contextmanager
def _in_use(layout: Layout) -> Iterator[Layout]:
    """Keep whoever else has a registry there from sweeping it; nobody sweeps what cannot be written."""
    with layout.in_use() if os.access(layout.folder, os.W_OK) else nullcontext():
        yield layout
