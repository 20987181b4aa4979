"""What a kind of device can bear: cpu, memory, storage, system, and how to serve on it.

A profile is a promise about a kind of device, not the state of one; `reading` has what one says of itself.

Laws: a profile's memory budget is positive; it asks for no more threads than there are cores and for no more
prompt tokens at once than its context holds; what it writes as JSON or YAML reads back as the same profile.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from slmops.fault import fault
from slmops.profile.sizes import (
    RATE_PATTERN,
    SIZE_PATTERN,
    exact_rate,
    exact_size,
    parse_rate,
    parse_size,
)

Arch = Literal["x86_64", "aarch64", "armv7l"]
Format = Literal["gguf", "onnx"]

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(exact_size, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{SIZE_PATTERN}$"}],
            "examples": ["8GiB", "512MiB", "1.5GB"],
        }
    ),
]
"""Bytes; in a document a number of bytes or text such as 8GiB."""

Rate = Annotated[
    int,
    BeforeValidator(parse_rate),
    PlainSerializer(exact_rate, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{RATE_PATTERN}$"}],
            "examples": ["10.2GB/s"],
        }
    ),
]
"""Bytes per second; in a document a number or text such as 10.2GB/s."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Cpu(_Part):
    """The processor, as `/proc/cpuinfo` and the vendor describe it."""

    model: str
    """Name of the cores: Cortex-A76, Intel N100, 4x Cortex-A55 + 4x Cortex-A76."""
    cores: Annotated[int, Field(ge=1, le=1024)]
    """Cores that Linux sees."""
    clock_mhz: Annotated[int, Field(ge=1)] | None = None
    """Highest clock of the fastest core, in MHz."""
    features: tuple[str, ...] = ()
    """Instruction-set features that matter to the kernels, by their names in /proc/cpuinfo: asimddp, avx2."""


class Memory(_Part):
    """Main memory: how much, how much of it is not ours, and how fast it is."""

    total: Size
    """Memory that Linux can use: MemTotal, less than what is printed on the box."""
    reserve: Size
    """Kept for the operating system and the application; models get the rest."""
    bandwidth: Rate
    """Bytes per second that a decoding model reads: measured where known, and a floor where not."""

    @property
    def budget(self) -> int:
        """Return the bytes a serving daemon may use in all."""
        return self.total - self.reserve

    @model_validator(mode="after")
    def _something_is_left(self) -> Memory:
        if self.reserve >= self.total:
            raise fault("expected less than memory.total, or no model will ever fit", "reserve")
        return self


class Storage(_Part):
    """Where models lie on the device."""

    kind: Literal["sd", "emmc", "ssd", "nvme", "disk", "unknown"]
    """What the storage is; an SD card loads a model ten times slower than NVMe."""
    free: Size
    """Bytes that models may use, the version before and the one after together."""


class System(_Part):
    """The operating system, for what was built elsewhere and must run here."""

    os: str
    """PRETTY_NAME of /etc/os-release."""
    libc: str | None = None
    """C library and its version: glibc 2.36, musl 1.2.5."""
    python: str | None = None
    """Version of python3, if there is one."""


class Serve(_Part):
    """How the daemon serves on this kind of device."""

    context: Annotated[int, Field(ge=16, le=1_048_576)]
    """Tokens of context, prompt and answer together."""
    threads: Annotated[int, Field(ge=1, le=1024)]
    """Threads that compute; on cores of two sizes, the number of big ones."""
    micro_batch: Annotated[int, Field(ge=1, le=4096)] = 64
    """Prompt tokens computed at once: fewer need less memory, more read a prompt faster."""
    min_tokens_per_second: Annotated[float, Field(ge=0)] = 0.0
    """Slowest answer worth having; a better type that is slower than this is passed over."""


class DeviceProfile(_Part):
    """One kind of device."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
    """What commands and fleet files call it; the name of its file."""
    title: str
    """What people call it."""
    arch: Arch
    """Machine, as `uname -m` says it."""
    cpu: Cpu
    """The processor."""
    memory: Memory
    """Main memory."""
    storage: Storage
    """Where models lie."""
    system: System
    """The operating system it is expected to run."""
    serve: Serve
    """How the daemon serves on it."""
    formats: Annotated[tuple[Format, ...], Field(min_length=1)]
    """Formats it can serve, the preferred one first."""
    detect: str | None = None
    """Regular expression that finds this kind of device by /proc/device-tree/model or the name of its cpu."""
    sources: tuple[str, ...] = ()
    """Where the figures are from."""

    @field_validator("detect")
    @classmethod
    def _detect_is_an_expression(cls, said: str | None) -> str | None:
        try:
            re.compile(said or "")
        except re.error as error:
            raise ValueError(f"expected a regular expression, got {said!r}: {error}") from error
        return said

    @model_validator(mode="after")
    def _parts_agree(self) -> DeviceProfile:
        if self.serve.threads > self.cpu.cores:
            raise fault(f"expected at most cpu.cores, {self.cpu.cores}", "serve", "threads")
        if self.serve.micro_batch > self.serve.context:
            raise fault(f"expected at most serve.context, {self.serve.context}", "serve", "micro_batch")
        if len(set(self.formats)) < len(self.formats):
            raise fault("expected each format once", "formats")
        return self
