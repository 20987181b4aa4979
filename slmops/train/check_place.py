"""Refuse to write a model or an adapter where something else lies, before any work is done.

Laws: what a person has is not written over unasked; a model and an adapter never share a folder.
"""

from __future__ import annotations

from pathlib import Path

from slmops.build.open_adapter import CONFIG as ADAPTER
from slmops.errors import UsageError
from slmops.train.model_folder import CONFIG as MODEL

__all__ = ["ADAPTER", "MODEL", "check_place"]

_HELD = {MODEL: "a model", ADAPTER: "an adapter"}


def check_place(out: Path, kind: str, *, replace: bool, remedy: str) -> None:
    """Raise UsageError where `out` is a file, or holds a model or an adapter.

    `kind` is MODEL or ADAPTER, what is to be written; of that kind there may be one, if it may be replaced.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file", remedy="Give --out a folder.")
    for name, what in _HELD.items():
        if (out / name).is_file() and not (replace and name == kind):
            ways = remedy if name == kind else "Give --out another folder."
            raise UsageError(f"{out} holds {what} already", remedy=ways)
