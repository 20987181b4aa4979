"""Refuse a model file whose header cannot be true, before anybody signs for it.

Readers of GGUF in the field have been led past the end of a file by counts and offsets that a header merely
states; what is published here is what it says it is. What is no GGUF is not looked into.
"""

from pathlib import Path

from slmops.delta.regions import regions
from slmops.errors import ModelError

_MAGIC = b"GGUF"


def check_model(path: Path) -> None:
    """Raise ModelError when a file begins as GGUF and its tensors do not lie in it, one after another."""
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) == _MAGIC and not regions(file):
            raise ModelError(
                f"{path.name} begins as a GGUF file, and its header is broken: counts, names or offsets of "
                "tensors lead out of the file",
                remedy="Make it anew from its source, or fetch it again; nobody should be sent this one.",
            )
