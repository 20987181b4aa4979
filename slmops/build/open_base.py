"""Open what devices have as the base of an update, and see whether a new model can be a small delta from it.

Knows files and models; nothing of registries. Law: what is taken for a base has the new model's tensors, and
the new model gets its types, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gguf import GGUFReader

from slmops.build.plan import Base, Make
from slmops.build.quantize_gguf import plan_gguf
from slmops.build.reuse_scales import REUSABLE
from slmops.build.scheme import FILE_TYPES
from slmops.build.sketch import Sketch
from slmops.build.source import GgufSource
from slmops.errors import BuildError


def open_base(release: str, digest: str, file: Path, make: Make, source: Sketch | GgufSource) -> Base:
    """Return the model `file` of `release` as a base for `source`; `make` is what its artifact says it is.

    Of an ONNX the type alone is taken, its scales are not reused. Raises BuildError saying why it is none.
    """
    if not isinstance(source, Sketch):
        raise BuildError("llama.cpp itself rounds what is made of a .gguf")
    if make.format == "onnx":
        return Base(release, digest, make, has_scales=False)
    tensors = GGUFReader(file).tensors
    _check_shapes({each.name: tuple(int(n) for n in reversed(each.shape)) for each in tensors}, source)
    types = {each.name: str(each.tensor_type.name) for each in tensors}
    return Base(release, digest, _typed(make, types, source), not REUSABLE.isdisjoint(types.values()))


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], source: Sketch) -> None:
    wanted = {tensor.name: tensor.shape for tensor in plan_gguf(source, "F16").tensors}
    if shapes != wanted:
        other = min(name for name in shapes.keys() | wanted if shapes.get(name) != wanted.get(name))
        found = " and ".join(_shape(each.get(other)) for each in (shapes, wanted))
        raise BuildError(f"its tensors are not the new model's: {other} is {found}")


def _shape(said: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, said)) if said else "not there"


def _typed(make: Make, types: Mapping[str, str], source: Sketch) -> Make:
    """Return `make` with the type of every tensor, where its name does not say them."""
    if make.type in FILE_TYPES and plan_gguf(source, make.type).scheme.types == types:
        return make
    return replace(make, types=tuple(sorted(types.items())))
