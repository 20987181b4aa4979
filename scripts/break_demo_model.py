"""Copy the demo model with a fault that only running it shows: its two layers change places.

Names, shapes, types and the spread of the values are those of the sound model, so every check of the
files passes; the answers are nonsense. It needs numpy and safetensors alone.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Final

from safetensors.numpy import load_file, save_file

SOUND: Final = Path(__file__).parents[1] / "demo" / "model"


def main() -> None:
    """Write the broken copy."""
    parser = argparse.ArgumentParser(
        description="Copy the demo model with a fault that only running it shows."
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder to write; must not exist yet")
    out = parser.parse_args().out
    if out.exists():
        parser.error(f"{out} exists; name a new folder")
    break_model(SOUND, out)
    print(f"wrote {out}: layers 0 and 1 are exchanged")


def break_model(sound: Path, out: Path) -> None:
    """Copy the folder `sound` to `out` with the tensors of layers 0 and 1 exchanged."""
    shutil.copytree(sound, out)
    tensors = load_file(sound / "model.safetensors")
    exchanged = {_other_layer(name): tensor for name, tensor in tensors.items()}
    save_file(exchanged, out / "model.safetensors", metadata={"format": "pt"})


def _other_layer(name: str) -> str:
    here, there = (".0.", ".1.") if ".0." in name else (".1.", ".0.")
    return name.replace(here, there)


if __name__ == "__main__":
    main()
