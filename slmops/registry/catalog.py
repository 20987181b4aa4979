"""Names and versions: what `name:version` may be, and which version is newer.

Laws: `str(parse(text)) == text`; newest-first order is total and agrees with SemVer's precedence
where versions are SemVer.
"""

import re
from dataclasses import dataclass

from slmops.errors import UsageError

_NAME = re.compile(r"(?=.{1,64}$)[a-z0-9]+(?:[._-][a-z0-9]+)*")
_VERSION = re.compile(r"(?=.{1,64}$)[A-Za-z0-9]+(?:(?:[._+-]|--)[A-Za-z0-9]+)*")
"""What OCI lets a reference name end in."""


@dataclass(frozen=True)
class Reference:
    """A release by name and version."""

    name: str
    version: str

    def __str__(self) -> str:
        """Return `name:version`."""
        return f"{self.name}:{self.version}"


def parse(text: str) -> Reference:
    """Read `name:version`; raise UsageError that says what was expected."""
    name, colon, version = text.partition(":")
    if not colon:
        raise UsageError(f"expected NAME:VERSION, got {text!r}", remedy="Run `slmops release list`.")
    return reference(name, version)


def reference(name: str, version: str) -> Reference:
    """Check a name and a version against what the registry can keep."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"release name {name!r}: expected lower-case letters, digits, '.', '_', '-' (64 at most)"
        )
    if not _VERSION.fullmatch(version):
        raise UsageError(
            f"release version {version!r}: expected letters, digits, '.', '_', '+', '-' (64 at most)"
        )
    return Reference(name, version)


def newest_first(references: list[Reference]) -> list[Reference]:
    """Return the references by name, and within a name the newest version first."""
    by_version = sorted(references, key=lambda r: _precedence(r.version), reverse=True)
    return sorted(by_version, key=lambda r: r.name)


def _precedence(version: str) -> tuple[object, ...]:
    """Return a key that orders versions: SemVer 2.0.0, clause 11; a pre-release comes before its release."""
    release, dash, pre = version.partition("+")[0].partition("-")
    return (_identifiers(release), not dash, _identifiers(pre), version)


def _identifiers(text: str) -> tuple[tuple[int, int, str], ...]:
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in text.split("."))
