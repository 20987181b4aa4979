"""Read where a source model is from, for the lineage of what is made of it: revision, license, ledger.

What is not there is not said. It reads the folder alone, and asks no hub.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from slmops import digest as digests
from slmops.artifact.manifest import canonical
from slmops.build import ledger
from slmops.build.checkpoint import Checkpoint
from slmops.build.recipe import Recipe
from slmops.build.source import Source

CARD = "README.md"
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")


def read_origin(source: Source) -> dict[str, str]:
    """Return revision (of a hub's repository), license and ledger (digest), as far as they are known."""
    if not isinstance(source, Checkpoint):
        return {}
    found = {}
    snapshot = _SNAPSHOT.search(str(source.folder))
    if snapshot:
        found["revision"] = snapshot[1]
    if name := license_of(source.folder):
        found["license"] = name
    if (source.folder / ledger.FILE_NAME).is_file():
        found["ledger"] = digests.of_file(source.folder / ledger.FILE_NAME)
    return found


def recipe_digest(recipe: Recipe) -> str:
    """Return the digest of a recipe; of a path in it the last part counts, since folders move."""
    return digests.of_bytes(canonical(_portable(recipe.model_dump(mode="json"))))


def license_of(folder: Path) -> str | None:
    """Return what the front matter of a model folder's card names as the license."""
    card = folder / CARD
    front = _FRONT.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    if front is None:
        return None
    try:
        said = yaml.safe_load(front[1])
    except yaml.YAMLError:
        return None
    name = said.get("license") if isinstance(said, dict) else None
    return str(name) if isinstance(name, str) else None


def _portable(said: Any) -> Any:
    if isinstance(said, dict):
        return {key: _portable(value) for key, value in said.items()}
    if isinstance(said, list):
        return [_portable(each) for each in said]
    return Path(said).name if isinstance(said, str) and Path(said).is_absolute() else said
