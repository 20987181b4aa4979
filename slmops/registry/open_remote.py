"""Open another place where releases are kept: the kind of place that a URL names."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import unquote, urlsplit

from slmops.errors import MissingPartError, UsageError, install_line
from slmops.registry.folder import Folder
from slmops.registry.layout import Layout
from slmops.registry.remote import Remote


@contextmanager
def open_remote(url: str, *, plain_http: bool = False) -> Iterator[Remote]:
    """Give the place that a URL names; nothing is asked of it yet.

    `plain_http` speaks to an OCI registry without TLS; one on this machine is spoken to so anyway.
    """
    parts = urlsplit(url)
    if not parts.scheme:
        raise UsageError(
            f"where is {url!r}? expected oci://host/repository, file:///folder or s3://bucket/folder",
        )
    if parts.scheme == "file":
        # Its own layout's lock and order of writing are better than what fsspec has for files.
        with _in_use(Layout(_path(url))) as layout:
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
