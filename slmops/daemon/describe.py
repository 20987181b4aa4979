"""Describe what lies in an artifact folder, without loading any of it.

It knows no model code, so the router may use it.
"""

from __future__ import annotations

from pathlib import Path

from slmops.artifact.description import FILE_NAME, parse
from slmops.daemon.versions import Version
from slmops.digest import of_bytes, short
from slmops.errors import ModelError, SlmopsError


def read(folder: str, digest: str = "") -> Version:
    """Return the version in an artifact folder; raise ModelError when there is none.

    Without a digest it is called by that of its artifact.json, which the files beside it are not part of.
    """
    try:
        if not (Path(folder) / FILE_NAME).is_file():
            # A pipe, which nobody may ever write to, would hold up all that is served.
            raise ModelError(f"{folder} is not an artifact folder: it has no file {FILE_NAME}")
        said = (Path(folder) / FILE_NAME).read_bytes()
        described = parse(said)
        template = Path(folder, described.chat_template) if described.chat_template else None
        rendered_by = short(of_bytes(template.read_bytes())) if template and template.is_file() else ""
        return Version(digest or of_bytes(said), folder, described, rendered_by)
    except OSError as error:
        raise ModelError(f"{folder} is not an artifact folder: {error.strerror}: {error.filename}") from error
    except SlmopsError as error:
        raise ModelError(str(error)) from error
