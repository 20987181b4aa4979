from pathlib import Path

import pytest

from slmops.profile.device import Cpu, DeviceProfile, Memory, Serve, Storage, System
from slmops.profile.reading import DeviceFacts, read_sections

MIB = 1 << 20


@pytest.fixture
def device() -> DeviceProfile:
    """A board with 1 GiB for models."""
    return DeviceProfile(
        name="board",
        title="A board",
        arch="aarch64",
        cpu=Cpu(model="Cortex-A76", cores=4, features=("asimd",)),
        memory=Memory(total=1536 * MIB, reserve=512 * MIB, bandwidth=10_000 * MIB),
        storage=Storage(kind="sd", free=4096 * MIB),
        system=System(os="Debian"),
        serve=Serve(context=2048, threads=4, micro_batch=64, min_tokens_per_second=10),
        formats=("gguf", "onnx"),
    )


@pytest.fixture
def said():
    """What recorded devices said of themselves, by name."""

    def read(name: str) -> DeviceFacts:
        return read_sections((Path(__file__).parent / "said" / f"{name}.txt").read_text())

    return read
