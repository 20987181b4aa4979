"""An operator's home with releases of the demo model and the runtime bundles that devices need for them.

What a bundle is made of is kept from run to run: compiling it takes minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from _measure import ROOT


def stock(home: Path, profiles: Sequence[str], releases: Mapping[str, str]) -> None:
    """Fill the empty `home`; `releases` are types of the model by NAME:VERSION."""
    kept = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "slmops/runtime-parts"
    kept.mkdir(parents=True, exist_ok=True)
    (home / "cache").mkdir(parents=True)
    (home / "cache/runtime").symlink_to(kept)
    wishes = [word for profile in profiles for word in ("--profile", profile)]
    for reference, kind in releases.items():
        name, version = reference.split(":")
        _slmops(
            home,
            "quantize",
            ROOT / "demo/model",
            *wishes,
            "--type",
            kind,
            "--name",
            name,
            "--version",
            version,
        )
    _slmops(home, "runtime", "build", *wishes, "--formats", "gguf")


def _slmops(home: Path, *words: str | Path) -> None:
    env = {**os.environ, "SLMOPS_HOME": str(home), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "slmops.cli.app", *words], check=True, env=env, stdout=sys.stderr)
