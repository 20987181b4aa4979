"""Ask a machine what it is, and write it down as a profile.

Laws: a profile made from facts is valid; what the device did not say of itself (bandwidth, clock, how much to
keep for the rest, how to serve) is that of a profile it is like, or cautious.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import get_args

from slmops.errors import DeviceError
from slmops.profile.device import Arch, Cpu, DeviceProfile, Memory, Serve, Storage, System
from slmops.profile.reading import PROBE_SCRIPT, DeviceFacts, read_sections
from slmops.profile.sizes import UNITS

RESERVE_SHARE = 4
"""A quarter of the memory stays with the operating system and the application ..."""
MOST_RESERVE = 2 * UNITS["GiB"]
"""... but never more than this."""
BANDWIDTH = 4 * UNITS["GB"]
"""Bytes per second of a device that nobody has measured; most boards since the Raspberry Pi 4 do better."""
KERNEL_FEATURES = re.compile(
    r"neon|vfpv4|asimd(dp|hp)?|fphp|i8mm|bf16|sve2?|atomics|aes|crc32"
    r"|sse4_2|avx2?|avx_vnni|avx512(f|bw|vl|_vnni|_bf16)|amx_int8|abm|bmi[12]|f16c|fma|movbe|xsave"
)
"""The features that llama.cpp and ONNX Runtime choose their kernels by; a cpu names a hundred others."""


def here(folder: Path) -> DeviceFacts:
    """Read the facts of this machine; `folder` says whose disk is meant."""
    probe = subprocess.run(
        ["sh", "-s", str(folder)], input=PROBE_SCRIPT, capture_output=True, text=True, check=True
    )
    return read_sections(probe.stdout)


def as_profile(facts: DeviceFacts, name: str, like: DeviceProfile | None = None) -> DeviceProfile:
    """Describe a device by its own facts, and by those of the profile it is like where it said nothing.

    Raise DeviceError when the device did not say enough, or is of an architecture that nothing is built for.
    """
    if facts.arch not in get_args(Arch):
        known = ", ".join(get_args(Arch))
        raise DeviceError(f"{name}: expected an architecture of {known}, got {facts.arch or 'none'}")
    if facts.memory_total is None or facts.cores is None or facts.disk_free is None:
        raise DeviceError(f"{name}: the device did not say how much memory, disk or how many cores it has")
    total, disk = (size // UNITS["MiB"] * UNITS["MiB"] for size in (facts.memory_total, facts.disk_free))
    cores = facts.cores
    serve = like.serve if like else Serve(context=1024, threads=cores, min_tokens_per_second=1)
    cautious = min(total // RESERVE_SHARE, MOST_RESERVE)
    return DeviceProfile(
        name=name,
        title=facts.board or facts.cpu_model or name,
        arch=facts.arch,
        cpu=Cpu(
            model=facts.cpu_model or "unknown",
            cores=cores,
            clock_mhz=like.cpu.clock_mhz if like else None,
            features=tuple(feature for feature in facts.features if KERNEL_FEATURES.fullmatch(feature)),
        ),
        memory=Memory(
            total=total,
            reserve=like.memory.reserve if like and like.memory.reserve < total else cautious,
            bandwidth=like.memory.bandwidth if like else BANDWIDTH,
        ),
        storage=Storage(kind=like.storage.kind if like else "unknown", free=disk),
        system=System(os=facts.os or "unknown", libc=facts.libc, python=facts.python),
        serve=serve.model_copy(update={"threads": min(serve.threads, cores)}),
        formats=like.formats if like else ("gguf", "onnx"),
        sources=(
            f"read off the device; bandwidth and serving as {like.name if like else 'a cautious guess'}",
        ),
    )
