"""Write a rollout's report signed, and find out whether one holds and by whose key.

    report.json, report.html        the account as data, and as a page
    report.json.sig, report.html.sig

The key is one that tells devices what they get; where nobody has that role, one that signs releases. A
report outlives its key: it holds by any key that ever had the role and was never revoked.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slmops.artifact import sign
from slmops.artifact.trust import RELEASE, ROLLOUT, SignedTrust
from slmops.errors import IntegrityError, MissingPartError
from slmops.rollout import report, report_page

NAMESPACE: Final = "slmops-rollout-report"
DATA, PAGE = "report.json", "report.html"


@dataclass(frozen=True)
class Signer:
    """Whose key signed a report."""

    fingerprint: str
    role: str
    version: int
    """The newest trust document in which the key has the role."""
    in_force: bool
    """Whether that is the one in force."""


def role_of(chain: Sequence[SignedTrust]) -> str:
    """Return the role whose key signs reports."""
    return ROLLOUT if chain[-1].trust.roles[ROLLOUT].keys else RELEASE


def write(folder: Path, said: dict[str, Any], key: Path) -> None:
    """Write an account as data and as a page, each with the signature of `key`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in ((DATA, report.render(said)), (PAGE, report_page.draw(said).encode())):
        _write(folder / f"{name}.sig", sign.sign(data, key, NAMESPACE))
        _write(folder / name, data)


def verify(folder: Path, chain: Sequence[SignedTrust]) -> tuple[dict[str, Any], Signer]:
    """Return the account in a folder and who signed it; raise IntegrityError where it does not hold."""
    data = _read(folder / DATA)
    signer = _signer(data, folder / DATA, chain)
    if (folder / PAGE).exists():
        _signer(_read(folder / PAGE), folder / PAGE, chain)
    return report.parse(data, str(folder / DATA)), signer


def _signer(data: bytes, path: Path, chain: Sequence[SignedTrust]) -> Signer:
    known = _known(chain)
    keys = {print_: key for print_, (_, key) in known.items()}
    signature = _read(path.with_name(path.name + ".sig"))
    found = sign.signers(data, sign.split(signature), keys, NAMESPACE)
    if not found:
        raise IntegrityError(
            f"the signature does not hold: {path} was changed, or signed by a key that is not trusted here",
            remedy="Get the report again from who made it; whom you trust: slmops trust show.",
        )
    return known[min(found)][0]


def _known(chain: Sequence[SignedTrust]) -> dict[str, tuple[Signer, str]]:
    """Return who may have signed a report, by fingerprint, with the public key."""
    found: dict[str, tuple[Signer, str]] = {}
    last = chain[-1].trust
    for trust in (signed.trust for signed in chain):
        for role in (RELEASE, ROLLOUT):
            for print_, key in trust.of(role).items():
                found[print_] = Signer(print_, role, trust.version, trust.version == last.version), key
    return {print_: known for print_, known in found.items() if print_ not in last.revoked}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        missing = IntegrityError if path.suffix == ".sig" else MissingPartError
        raise missing(
            f"{path} is not there",
            remedy="Give the folder that `slmops rollout report` wrote: report.json and its .sig.",
        ) from error


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
