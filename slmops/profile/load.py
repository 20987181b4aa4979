"""Find profiles by name: those that come with slmops, and a user's own.

A user's profile of the same name goes before ours. `local` is the machine this runs on: its file says how to
serve, and what the machine is made of is read off it each time.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from slmops import document
from slmops.errors import DocumentError, UsageError
from slmops.profile.detect import as_profile, here
from slmops.profile.device import DeviceProfile

LOCAL = "local"


def load_profile(name_or_path: str, extra_folder: Path | None = None) -> DeviceProfile:
    """Return the profile of that name, or of that .yaml file; raise UsageError naming the near ones."""
    if name_or_path.endswith((".yaml", ".yml")) or os.sep in name_or_path:
        return _read(Path(name_or_path))
    files = _files(extra_folder)
    if name_or_path not in files:
        near = get_close_matches(name_or_path, files, n=3, cutoff=0.5) or sorted(files)
        raise UsageError(
            f"no profile is named {name_or_path!r}; did you mean {', '.join(near)}?",
            remedy="Run `slmops profile list`.",
        )
    return _read(files[name_or_path])


def load_profiles(extra_folder: Path | None = None) -> list[DeviceProfile]:
    """Return all profiles by name."""
    return [_read(file) for _, file in sorted(_files(extra_folder).items())]


def _files(extra_folder: Path | None) -> dict[str, Path]:
    """Return the profile files by name; a wheel carries ours inside the package, a checkout beside it."""
    package = Path(__file__).parents[1]
    ours = package / "device_profiles"
    folders = [ours if ours.is_dir() else package.parent / "device_profiles", extra_folder]
    return {file.stem: file for folder in folders if folder for file in sorted(folder.glob("*.yaml"))}


def _read(file: Path) -> DeviceProfile:
    profile = document.load(file, DeviceProfile)
    if profile.name != file.stem:
        raise DocumentError(
            f"{file}: name: expected {file.stem!r}, the name of the file, got {profile.name!r}"
        )
    if profile.name != LOCAL:
        return profile
    found = as_profile(here(Path.home()), LOCAL, like=profile)
    return found.model_copy(update={"title": profile.title, "sources": profile.sources})
