"""Read the blocks of a GGUF file's tensors, a few rows at a time: what is looked at is what is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFReader

from slmops.build.reuse_scales import REUSABLE, Bytes


@dataclass(frozen=True, eq=False)
class Blocks:
    """A tensor in blocks."""

    type: str
    shape: tuple[int, ...]
    """Rows first."""
    rows: Bytes
    """(rows, bytes of a row)."""


def blocks_of(file: Path) -> dict[str, Blocks]:
    """Return the tensors of a GGUF file whose scales can be reused, by name."""
    return {
        tensor.name: Blocks(
            tensor.tensor_type.name,
            tuple(int(length) for length in reversed(tensor.shape)),
            tensor.data.reshape(-1, tensor.data.shape[-1]),
        )
        for tensor in GGUFReader(file).tensors
        if tensor.tensor_type.name in REUSABLE
    }
