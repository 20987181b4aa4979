"""Say what building would come to, before anything is built: sizes, memory, speed, and what is refused.

Reads configs and headers, never weights: of a model on the hub the small files are enough.

Law: what is said to be too much for this machine or for a device is refused before it costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from slmops.build import scheme
from slmops.build.family import FAMILIES, context_of
from slmops.build.onnx_size import predicted_bytes as predicted_onnx
from slmops.build.plan import Make, Plan, Weight, Wish, plan, within_training
from slmops.build.quantize_gguf import plan_gguf
from slmops.build.quantize_onnx import check_size
from slmops.build.recipe import Recipe
from slmops.build.sketch import Sketch
from slmops.build.source import GgufSource
from slmops.errors import BuildError, ModelError, UsageError
from slmops.profile.device import Format
from slmops.profile.sizes import human_size

EXPORT_BYTES = 17
"""Of memory for each weight, while an ONNX graph is traced and rounded."""
REFERENCE_BYTES = 5
"""Of memory for each weight, while the source model is run in float32."""

Foreseen = Sketch | GgufSource


def foretell(
    source: Foreseen, recipe: Recipe, wishes: Sequence[Wish], converted: GgufSource | None = None
) -> Plan:
    """Return the plan for `source`; `converted` is the .gguf that a converter made of it, if one did.

    Raises what `plan` raises, ModelError for a folder without a tokenizer, and UsageError when this machine
    has not the memory to measure.
    """
    memory = recipe.memory or free_memory()
    if isinstance(source, Sketch):
        source.words()
        _check_memory(source, memory)
    gguf = converted or (source if isinstance(source, GgufSource) else None)

    def weigh(make: Make) -> Weight:
        if gguf is not None and make.format == "gguf":
            return _weigh_again(make, gguf)
        if isinstance(source, GgufSource):
            raise UsageError(f"{make} cannot be made of a .gguf", remedy="Give the Hugging Face folder.")
        return _weigh_onnx(make, source, memory) if make.format == "onnx" else _weigh_gguf(make, source)

    formats: list[Format] = ["gguf"] if isinstance(source, GgufSource) else ["gguf", "onnx"]
    return plan(wishes, source.shape, weigh, formats, recipe.max_fallback)


def as_trained(source: Foreseen, wishes: Sequence[Wish]) -> list[Wish]:
    """Return wishes that ask for no more context than `source` was trained on."""
    if isinstance(source, GgufSource):
        most: int | None = source.trained_context
    elif source.architecture in FAMILIES:
        most = context_of(source.architecture, source.config)
    else:
        most = source.config.get("max_position_embeddings")
    return [within_training(wish, most) for wish in wishes]


def free_memory() -> int:
    """Return the bytes of memory that are free on this machine, as Linux says it, else all it has."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min(free, _left_in_group(free))


def _left_in_group(otherwise: int) -> int:
    """Return what a container's memory limit leaves to this process (cgroup v2), where there is one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        return int(limit) - int(used)
    except (FileNotFoundError, ValueError):  # no such controller; or `max`: no limit
        return otherwise


def _check_memory(source: Sketch, memory: int) -> None:
    needed = REFERENCE_BYTES * source.shape.parameters
    if needed > memory:
        raise UsageError(
            f"to measure against the source takes about {human_size(needed)} of memory, "
            f"{human_size(memory)} is there",
            remedy="Build on a machine with more, or allow more with --memory.",
        )


def _weigh_gguf(make: Make, source: Sketch) -> Weight:
    try:
        planned = plan_gguf(source, make.type, dict(make.types) or None)
    except ModelError as error:
        return Weight(0, refused=error)
    return Weight(planned.predicted_bytes, planned.scheme)


def _weigh_again(make: Make, gguf: GgufSource) -> Weight:
    shape = gguf.shape
    chosen = scheme.choose(gguf.tensors, make.type, scheme.Build(shape.layers, shape.heads, shape.kv_heads))
    return Weight(chosen.data_bytes + gguf.header_bytes, chosen)


def _weigh_onnx(make: Make, source: Sketch, memory: int) -> Weight:
    nbytes = predicted_onnx(make.type, source.shapes, source.shape.layers)
    try:
        check_size(make.type, nbytes)
    except BuildError as error:
        return Weight(nbytes, refused=error)
    needed = EXPORT_BYTES * source.parameters
    if needed <= memory:
        return Weight(nbytes)
    short = f"{human_size(needed)} of memory, {human_size(memory)} is there"
    return Weight(nbytes, refused=BuildError(f"an ONNX export of this model takes about {short}"))
