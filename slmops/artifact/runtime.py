"""What a runtime bundle says of itself: the `runtime.json` beside its wheels.

A runtime bundle is what the daemon needs on a machine that has Python and nothing else. One is built
for a platform, a machine architecture and a Python (`aarch64-cp311`), which stands in its release
where a model's has a profile. It does not know what lies in the wheels, nor where they go.

Laws: `parse(render(r)) == r`, and the rendered bytes never vary; `parse_platform(str(p)) == p`; a machine
that `refusal` finds nothing against can unpack the bundle and start it.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from slmops.errors import IntegrityError, UsageError

FILE_NAME = "runtime.json"
SCHEMA = 1
FORMATS = ("gguf", "onnx")
WHEEL = ".whl"
_PLATFORM = re.compile(r"([a-z0-9_]+)-cp3([0-9]{1,2})")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)+")


@dataclass(frozen=True)
class Platform:
    """For which machines a bundle is."""

    arch: str
    """As `uname -m` says it: x86_64, aarch64."""
    python: str
    """Version of Python, its first two numbers: 3.11."""

    def __str__(self) -> str:
        """Return it as one word: aarch64-cp311."""
        return f"{self.arch}-cp{self.python.replace('.', '')}"


@dataclass(frozen=True)
class Machine:
    """What a bundle meets."""

    arch: str
    pythons: tuple[str, ...]
    """Versions of the Pythons that are there."""
    libc: str | None
    """Version of the GNU C library; None where there is another."""
    lzma: bool
    """Python can unpack LZMA."""


@dataclass(frozen=True)
class Runtime:
    """One bundle for one platform."""

    name: str
    version: str
    arch: str
    python: str
    libc: str
    """The least version of the GNU C library that its libraries need."""
    provides: list[str]
    """Formats of models that it serves: gguf, onnx."""
    imports: list[str]
    """Modules that must import on a device before the bundle counts as unpacked there."""
    unpacked: int
    """Bytes of its files, unpacked."""
    files: int
    """How many they are."""
    parts: dict[str, str]
    """Packages inside, and their versions."""
    schema: int = SCHEMA

    @property
    def reference(self) -> str:
        """Return `name:version`."""
        return f"{self.name}:{self.version}"

    @property
    def platform(self) -> Platform:
        """Return for which machines it is."""
        return Platform(self.arch, self.python)


def parse_platform(text: str) -> Platform:
    """Read `aarch64-cp311`; raise UsageError when it is no such word."""
    found = _PLATFORM.fullmatch(text)
    if found is None:
        raise UsageError(f"platform {text!r}: expected an architecture and a Python, as aarch64-cp311")
    return Platform(found[1], f"3.{found[2]}")


def render(runtime: Runtime) -> bytes:
    """Return the canonical bytes: sorted keys, two-space indent, a newline at the end."""
    return (json.dumps(asdict(runtime), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def parse(data: bytes) -> Runtime:
    """Read a description; raise IntegrityError when it is not one this version understands."""
    try:
        said: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{FILE_NAME} is not JSON: {error}") from error
    if not isinstance(said, dict) or said.get("schema") != SCHEMA:
        raise IntegrityError(f"{FILE_NAME}: expected schema {SCHEMA}, got {str(said)[:60]!r}")
    known = {each.name for each in fields(Runtime)}
    if set(said) != known:
        odd = ", ".join(sorted(set(said) ^ known))
        raise IntegrityError(f"{FILE_NAME}: these keys are missing or not known: {odd}")
    for key, value in said.items():
        if not _holds(key, value):
            raise IntegrityError(f"{FILE_NAME}: {key} cannot be {str(value)[:60]!r}")
    return Runtime(**said)


def refusal(runtime: Runtime, machine: Machine) -> str | None:
    """Return why a machine cannot have the bundle, or None when it can."""
    if runtime.arch != machine.arch:
        return f"the runtime is for {runtime.arch}, this device is {machine.arch}"
    if runtime.python not in machine.pythons:
        there = ", ".join(machine.pythons)
        return f"the runtime is for Python {runtime.python}, this device has {there}"
    if machine.libc is None:
        return f"the runtime needs the GNU C library {runtime.libc}, this device has another C library"
    if _numbers(machine.libc) < _numbers(runtime.libc):
        return f"the runtime needs the GNU C library {runtime.libc}, this device has {machine.libc}"
    if not machine.lzma:
        return "the runtime is packed with LZMA, which this device's Python was built without"
    return None


def _holds(key: str, value: Any) -> bool:
    if key in ("unpacked", "files", "schema"):
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if key in ("python", "libc"):
        return isinstance(value, str) and _VERSION.fullmatch(value) is not None
    if key == "provides":
        return isinstance(value, list) and bool(value) and all(each in FORMATS for each in value)
    if key == "imports":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if key == "parts":
        return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    return isinstance(value, str) and bool(value)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))
