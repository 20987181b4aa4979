"""The keys an operator holds, and the trust documents that say what they are good for.

    HOME/keys/<name>, <name>.pub    key pairs, or links to them; the public half alone for an ssh-agent's key
    HOME/trust/<version>.json       trust documents with their signatures, each led to by the one before
    HOME/trust/pending.json         the next one, while it lacks signatures

On first use keys for the three roles are made, and that is said aloud.
"""

import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slmops.artifact import amendment, sign, vouch
from slmops.artifact import trust as trusts
from slmops.artifact.trust import RELEASE, ROLES, ROLLOUT, ROOT, SignedTrust, Trust
from slmops.cli.render import say
from slmops.errors import IntegrityError, MissingPartError, UsageError

_SPAN = re.compile(r"([1-9][0-9]{0,3})(d|w|y)")
_DAYS = {"d": 1, "w": 7, "y": 365}
PURPOSE = {
    ROOT: "says which keys are trusted; keep it off-line",
    RELEASE: "signs your releases",
    ROLLOUT: "tells devices what they get",
}
CARRY = (
    "Carry it to who holds the root key: slmops trust export FILE here; there slmops trust import FILE, "
    "slmops trust sign, slmops trust export FILE; and here slmops trust import FILE."
)


class Keyring:
    """The keys and trust documents under one home."""

    def __init__(self, home: Path) -> None:
        self.keys = home / "keys"
        self.documents = home / "trust"
        self.pending = self.documents / "pending.json"

    def chain(self) -> tuple[SignedTrust, ...]:
        """Return the trust documents, oldest first; the first is made where there is a release key alone."""
        found = self.kept()
        if not found and not self.pending.exists() and not (self.keys / "release.pub").exists():
            raise MissingPartError(
                f"no trust document in {self.documents}, and no release key in {self.keys}",
                remedy="Set SLMOPS_HOME to where your releases were made. Another's fleet: slmops trust "
                "export FILE there, slmops trust import FILE here. A fleet of your own: slmops trust init.",
            )
        return found or self.begin()

    def trust(self) -> Trust:
        """Return the trust document in force."""
        return self.chain()[-1].trust

    def key(self, role: str) -> Path:
        """Return a key of a role, as ssh-keygen takes it; all that is missing is made on first use."""
        trust = (self.kept() or self.begin())[-1].trust
        held = self.held()
        asked = trust.roles[role].keys
        for print_ in asked:
            if print_ in held:
                return held[print_]
        raise MissingPartError(
            f"no {role} key of trust document {trust.version} is held here: {', '.join(asked)}",
            remedy=f"Put it in {self.keys}, its .pub beside it. Or have one of your own: "
            f"slmops trust rotate --role {role} --add new; without the root key it waits in {self.pending}. "
            + CARRY,
        )

    def held(self) -> dict[str, Path]:
        """Return what is held, by fingerprint: the private key, or the public one of an agent's."""
        # A key that lies on a medium which is not here now is a link that leads nowhere.
        public = sorted(path for path in self.keys.glob("*.pub") if path.is_file())
        return {sign.fingerprint(path): _best(path) for path in public}

    def take(self, path: Path, role: str) -> str:
        """Hold a key that lies elsewhere (its public half will do), for a role; return its public line."""
        public = path if path.suffix == ".pub" else path.with_name(path.name + ".pub")
        if not public.is_file():
            raise UsageError(
                f"no public key {public}",
                remedy="Give the path of a key that ssh-keygen made, or of its .pub.",
            )
        line = trusts.key_text(public.read_text())
        if trusts.fingerprint(line) not in self.held():
            self.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
            name = self._free(role)
            (self.keys / f"{name}.pub").symlink_to(public.resolve())
            if _best(public) != public:
                (self.keys / name).symlink_to(_best(public).resolve())
        return line

    def make(self, role: str) -> str:
        """Make a key for a role, saying so; return its public line."""
        key = self.keys / self._free(role)
        sign.make_key(key, f"slmops {role} key")
        public = key.with_name(key.name + ".pub")
        say(f"Made a {role} key: {key} ({sign.fingerprint(public)}). It {PURPOSE[role]}.")
        return trusts.key_text(public.read_text())

    def has_begun(self) -> bool:
        """Say whether there is a trust document, or one that waits for signatures."""
        return bool(self.kept()) or self.pending.exists()

    def begin(
        self,
        *,
        keys: dict[str, list[Path]] | None = None,
        asked: dict[str, int] | None = None,
        expires: str | None = None,
    ) -> tuple[SignedTrust, ...]:
        """Make the first trust document, of the `keys` given by role; those of other roles are made.

        `asked` has the thresholds that are not 1.
        """
        given = keys or {}
        self._require_nothing_waits()
        public = {role: [self.take(path, role) for path in given.get(role, [])] for role in ROLES}
        for role in ROLES:
            there = self.keys / f"{role}.pub"
            if not public[role]:
                public[role] = [trusts.key_text(there.read_text()) if there.exists() else self.make(role)]
        self.enact(amendment.first(now(), expires, public, asked or {}))
        self._require_nothing_waits()
        say("Keep a copy of those keys safe. `slmops trust show` shows who is trusted with what.")
        return self.kept()

    def enact(self, candidate: Trust, before: Iterable[bytes] = ()) -> bool:
        """Sign a document with all that is held; say whether it is in force, or waits for more signatures.

        `before` are signatures that it has already.
        """
        there = self.kept()
        known = there[-1].trust if there else None
        trusts.advance(known, candidate, [*candidate.keys, *(known.keys if known else ())])
        roots = {*candidate.roles[ROOT].keys, *(known.roles[ROOT].keys if known else ())}
        # A device from before trust documents believes the first one by the release key it knows.
        signing = roots | (set(candidate.roles[RELEASE].keys) if known is None else set())
        document = trusts.render(candidate)
        held = self.held()
        fresh = [found for key in sorted(signing & set(held)) for found in _signature(document, held[key])]
        signed = SignedTrust(document, tuple(dict.fromkeys([*before, *fresh])))
        self.documents.mkdir(parents=True, exist_ok=True)
        try:
            vouch.advance(known, signed)
        except IntegrityError:
            _write(self.pending, trusts.said(signed))
            return False
        _write(self.documents / f"{candidate.version}.json", trusts.said(signed))
        self.pending.unlink(missing_ok=True)
        return True

    def follow(self, fresh: Iterable[SignedTrust], waiting: SignedTrust | None) -> None:
        """Keep documents that lead on from those here, and what waits after them."""
        self.documents.mkdir(parents=True, exist_ok=True)
        for signed in fresh:
            _write(self.documents / f"{signed.trust.version}.json", trusts.said(signed))
        if waiting is None:
            self.pending.unlink(missing_ok=True)
        else:
            _write(self.pending, trusts.said(waiting))

    def kept(self) -> tuple[SignedTrust, ...]:
        """Return the trust documents that are here, oldest first; none is made."""
        there = sorted(self.documents.glob("[0-9]*.json"), key=lambda path: int(path.stem))
        return tuple(map(_read, there))

    def first_key(self) -> str | None:
        """Return the fingerprint of the release key that a first document would be made of."""
        public = self.keys / "release.pub"
        return sign.fingerprint(public) if public.is_file() else None

    def waiting(self) -> SignedTrust | None:
        """Return the next document, while it lacks signatures."""
        return _read(self.pending) if self.pending.exists() else None

    def _require_nothing_waits(self) -> None:
        if self.pending.exists():
            raise MissingPartError(
                f"the first trust document waits for root signatures in {self.pending}",
                remedy="Have it signed: slmops trust sign --key KEY.",
            )

    def _free(self, role: str) -> str:
        taken = {path.name for path in self.keys.glob("*")}
        names = [role, *(f"{role}-{number}" for number in range(2, len(taken) + 3))]
        return next(name for name in names if not {name, f"{name}.pub"} & taken)


def now() -> str:
    """Return this moment, as documents say it."""
    return _moment(time.time())


def until(said: str | None) -> str | None:
    """Return the end of a span that begins now, such as 90d, 12w, 1y; None for `never`."""
    if said in (None, "never"):
        return None
    span = _SPAN.fullmatch(str(said))
    if span is None:
        raise UsageError(f"--expires: expected a span such as 90d, 12w, 1y, or never; got {said!r}")
    return _moment(time.time() + int(span[1]) * _DAYS[span[2]] * 86400)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _signature(document: bytes, key: Path) -> list[bytes]:
    """Return the signature by a key; none, and that is said, when an agent's key is not to be had now."""
    try:
        return [sign.sign(document, key, sign.TRUST)]
    except IntegrityError as error:
        if key.suffix != ".pub":
            raise
        say(f"{key} does not sign now: {error}")
        return []


def _best(public: Path) -> Path:
    """Return the private key beside a public one, where it is there."""
    private = public.with_suffix("")
    return private if private.is_file() else public


def _read(path: Path) -> SignedTrust:
    try:
        said = json.loads(path.read_bytes())
    except ValueError as error:
        raise IntegrityError(f"{path} is no trust document: {error}", remedy="Restore it.") from error
    return trusts.from_said(said)


def _write(path: Path, said: dict[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(json.dumps(said, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
