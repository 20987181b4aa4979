"""Fetch packages from the package index, for another machine than this one.

pip does it, so its settings hold: index, proxy, certificates. It does not know what packages are for.
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from slmops.artifact.runtime import Platform
from slmops.build.runtime_parts import LIBC
from slmops.errors import BuildError

_OLDEST_LIBC = 17
"""Second number of the GNU C library that the oldest wheels of today are for: 2.17, manylinux2014."""


def fetch_wheels(pinned: Mapping[str, str], platform: Platform, folder: Path) -> dict[str, Path]:
    """Fetch the wheel of each package in its version for a platform; return them by package."""
    newest = int(LIBC.split(".")[1])
    tags = [f"manylinux_2_{minor}_{platform.arch}" for minor in range(newest, _OLDEST_LIBC - 1, -1)]
    abi = f"cp{platform.python.replace('.', '')}"
    words = [
        *("--only-binary", ":all:", "--python-version", platform.python, "--implementation", "cp"),
        *(word for each in (abi, "abi3", "none") for word in ("--abi", each)),
        *(word for tag in (*tags, f"manylinux2014_{platform.arch}") for word in ("--platform", tag)),
    ]
    _download([*words, *(f"{name}=={version}" for name, version in pinned.items())], folder)
    wheels = {_plain(path.name.split("-")[0]): path for path in folder.glob("*.whl")}
    return {name: wheels[_plain(name)] for name in pinned}


def fetch_source(package: str, version: str, folder: Path) -> Path:
    """Fetch the source distribution of a package; return its file."""
    _download(["--no-binary", package, f"{package}=={version}"], folder)
    return next(folder.glob("*.tar.gz"))


def _download(words: list[str], folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q"]
    done = subprocess.run(
        [*pip, "-d", str(folder), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
            done.stderr.strip()
        ]
        raise BuildError(
            f"the package index does not have what the runtime needs: {said[-1]}",
            remedy="See that `pip download` reaches an index; give another --python, or other --formats.",
        )


def _plain(name: str) -> str:
    """Return a package's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()
