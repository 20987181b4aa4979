"""slmops trust: whose releases devices accept."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from slmops.artifact import amendment, sign, vouch
from slmops.artifact import trust as trusts
from slmops.artifact.trust import RELEASE, ROLES, ROLLOUT, ROOT, Trust
from slmops.cli import carry_trust, home
from slmops.cli.auditing import audited
from slmops.cli.keyring import CARRY, Keyring, now, until
from slmops.cli.options import Yes, ask_first, verb
from slmops.cli.render import Form, Output, emit, out, say, table
from slmops.errors import IntegrityError, UsageError
from slmops.registry import catalog
from slmops.registry import release as releases
from slmops.registry.layout import Layout

app = verb("Whose releases devices accept: init, rotate, revoke, show, sign, export, import.", group=True)
Keys = Annotated[list[Path] | None, typer.Option(help="A key, or the .pub of an agent's; again for more.")]
Expires = Annotated[
    str | None, typer.Option(metavar="SPAN", help="How long the document is good for: 90d, 1y; or never.")
]
SOON = "30d"
"""How long before its end a document is said to expire soon."""
_FLOOR = re.compile(r"([a-z0-9][a-z0-9._-]*)=([0-9]{1,15})")


@app.command()
@audited("trust init")
def init(
    root_key: Keys = None,
    release_key: Keys = None,
    rollout_key: Keys = None,
    threshold: Annotated[int, typer.Option(min=1, help="Release keys that must sign a release.")] = 1,
    root_threshold: Annotated[
        int, typer.Option(min=1, help="Root keys that must sign a trust document.")
    ] = 1,
    expires: Expires = None,
    output: Output = Form.TABLE,
) -> None:
    """Make the first trust document, with keys of your own choice.

    Without this the first release makes one, with a key for each role. Keys that are not given are made.
    A key in an ssh-agent or on a hardware token is given by its .pub.
    """
    ring = home.keyring()
    if ring.has_begun():
        raise UsageError(
            f"there is a trust document in {ring.documents}", remedy="Change it: slmops trust rotate."
        )
    keys = {ROOT: root_key or [], RELEASE: release_key or [], ROLLOUT: rollout_key or []}
    asked = {RELEASE: threshold, ROOT: root_threshold}
    ring.begin(keys=keys, asked=asked, expires=until(expires))
    show(output)


@app.command()
@audited("trust rotate")
def rotate(
    role: Annotated[str | None, typer.Option(help=f"Whose keys change: {', '.join(ROLES)}.")] = None,
    add: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A key's path, or `new` to make one.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A fingerprint, its first letters, or a path.")
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, help="How many keys of the role must sign from now on.")
    ] = None,
    expires: Expires = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COUNTER",
            help="Let devices take a release as old as this one again; `slmops release list` has counters.",
        ),
    ] = None,
    yes: Yes = False,
    output: Output = Form.TABLE,
) -> None:
    """Make the next trust document: other keys, another threshold, more time, a lower floor.

    It is signed with all root keys that are held here, and is in force once as many have signed as the old
    and the new document ask for; until then it waits for `slmops trust sign`. Devices learn of it with the
    next deployment.
    """
    if not any((add, remove, threshold, expires, floor)):
        raise UsageError(
            "nothing is to change", remedy="Say --add, --remove, --threshold, --expires or --floor."
        )
    if (add or remove or threshold) and role not in ROLES:
        raise UsageError(f"--role: expected one of {', '.join(ROLES)}, got {role!r}")
    ring, trust = _ready()
    ends = until(expires) if expires else trust.expires
    floors = dict(map(_floor, floor or []))
    if not yes:
        _require_known(floors)
    after = amendment.following(trust, now(), ends, floors)
    if role is not None:
        gone = [_named(ring, each, trust.keys) for each in remove or []]
        fresh = [ring.make(role) if each == "new" else ring.take(Path(each), role) for each in add or []]
        after = amendment.with_role(after, role, fresh, gone, threshold)
    _enact(ring, after, output)


@app.command()
@audited("trust revoke")
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A fingerprint, its first letters, or a path.")],
    output: Output = Form.TABLE,
) -> None:
    """Let a key never count again, for any role: it was lost or stolen.

    Devices refuse what it alone has signed as soon as they see the new trust document. What they serve
    already stays.
    """
    ring, trust = _ready()
    lost = _named(ring, key, trust.keys)
    _enact(ring, amendment.without(amendment.following(trust, now(), trust.expires), lost), output)


@app.command("sign")
@audited("trust sign")
def sign_(
    release: Annotated[
        str | None, typer.Argument(metavar="[NAME:VERSION]", help="A release. Default: the waiting document.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Sign with this key. Default: all that are held.")] = None,
    output: Output = Form.TABLE,
) -> None:
    """Add a signature: to a release, or to the trust document that waits for root keys."""
    ring = home.keyring()
    if key is not None:
        ring.take(key, RELEASE if release else ROOT)
    if release is None:
        waiting = ring.waiting()
        if waiting is None:
            raise UsageError(
                "no trust document waits for signatures", remedy="Name a release, or rotate first."
            )
        _enact(ring, waiting.trust, output, waiting.signatures)
        return
    layout, trust = Layout(home.registry()), ring.trust()
    signed = releases.find(layout, catalog.parse(release))
    mine = {print_: path for print_, path in ring.held().items() if print_ in trust.roles[RELEASE].keys}
    if not mine:
        raise UsageError("no release key is held here", remedy="Give one with --key; see slmops trust show.")
    for path in mine.values():
        signed = releases.add_signature(layout, signed, path)
    who = sign.signers(signed.index, signed.signatures, trust.of(RELEASE))
    asked = trust.roles[RELEASE].threshold
    lacking = max(0, asked - len(who))
    if output is Form.JSON:
        emit({"release": release, "signed_by": sorted(who), "lacking": lacking})
    else:
        verdict = f"it lacks {lacking} more" if lacking else "enough release keys have signed it"
        say(f"{release}: signatures of release keys {len(who)}, asked for {asked}; {verdict}.")


@app.command()
@audited("trust export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write them, as JSON.")],
) -> None:
    """Write the trust documents to a file for another operator: public halves of keys alone.

    The document that waits for root signatures goes along. They take it with `slmops trust import FILE`.
    """
    ring = home.keyring()
    trust = carry_trust.write(ring, file)
    waits = ", and the one that waits for root signatures" if ring.waiting() else ""
    out.print(
        f"{file} has the trust documents up to {trust.version}{waits}: slmops trust import {file}",
        soft_wrap=True,
    )


@app.command("import")
@audited("trust import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `slmops trust export FILE` wrote.")],
    yes: Yes = False,
    output: Output = Form.TABLE,
) -> None:
    """Take trust documents from another operator: the first ones here, or newer ones that lead on.

    Where there are none yet, compare the fingerprints of the root keys with the other operator first.
    Documents of another fleet are refused. Signatures of the one that waits are put together; `slmops trust
    sign` adds yours.
    """
    ring, carried = home.keyring(), carry_trust.read(file)
    if not ring.kept():
        for print_ in carried.roots:
            say(f"root key  {print_}")
        if not yes:
            ask_first("Believe these root keys from now on?")
    fresh = carry_trust.join(ring, carried)
    say(f"Trust document {fresh[-1].version} is in force here." if fresh else "No document there is newer.")
    show(output)


@app.command()
def show(output: Output = Form.TABLE) -> None:
    """Show who is trusted with what, until when, and what is to be done next."""
    ring = home.keyring()
    trust, held, waiting = ring.trust(), ring.held(), ring.waiting()
    rows = [
        {
            "role": role,
            "key": print_,
            "kind": trust.keys[print_].split()[0],
            "held": str(held.get(print_, "")),
        }
        for role in ROLES
        for print_ in trust.roles[role].keys
    ]
    changes = _changes(trust, waiting.trust) if waiting else []
    next_ = [*_next(trust), *([_waits(waiting.trust)] if waiting else [])]
    if output is Form.JSON:
        emit(
            {
                "version": trust.version,
                "created": trust.created,
                "expires": trust.expires,
                "thresholds": {role: trust.roles[role].threshold for role in ROLES},
                "keys": rows,
                "revoked": trust.revoked,
                "floors": trust.floors,
                "pending": waiting.trust.version if waiting else None,
                "changes": changes,
                "next": next_,
            }
        )
        return
    out.print(
        f"Trust document {trust.version}, made {trust.created}, good until {trust.expires or 'replaced'}."
    )
    columns = ("role", "needs", "key", "kind", "held here")
    table(
        columns,
        [(r["role"], trust.roles[r["role"]].threshold, r["key"], r["kind"], r["held"] or "no") for r in rows],
    )
    for print_ in trust.revoked:
        out.print(f"revoked  {print_}")
    for name, floor in trust.floors.items():
        out.print(f"floor    {name}={floor}: devices take releases from this counter on")
    for line in changes:
        out.print(f"pending  {line}")
    for line in next_:
        say(line)


def _ready() -> tuple[Keyring, Trust]:
    """Return the keyring and the document in force, unless another waits already."""
    ring = home.keyring()
    trust, waiting = ring.trust(), ring.waiting()
    if waiting is not None:
        raise UsageError(
            _waits(waiting.trust), remedy=f"Sign it: slmops trust sign; or drop it: remove {ring.pending}."
        )
    return ring, trust


def _enact(ring: Keyring, candidate: Trust, output: Form, before: Iterable[bytes] = ()) -> None:
    in_force = (
        f"Trust document {candidate.version} is in force; devices learn of it with the next deployment."
    )
    say(in_force if ring.enact(candidate, before) else _waits(candidate))
    show(output)


def _waits(candidate: Trust) -> str:
    return (
        f"Trust document {candidate.version} waits for root signatures: slmops trust sign --key KEY. {CARRY}"
    )


def _changes(trust: Trust, after: Trust) -> list[str]:
    """Return what the document that waits says otherwise: whoever signs it reads this first."""
    found = []
    for role in ROLES:
        one, other = trust.roles[role], after.roles[role]
        found += [f"{role} gets key {key}" for key in other.keys if key not in one.keys]
        found += [f"{role} loses key {key}" for key in one.keys if key not in other.keys]
        if one.threshold != other.threshold:
            found.append(f"{role} needs {other.threshold} signatures, not {one.threshold}")
    found += [f"{key} is revoked" for key in after.revoked if key not in trust.revoked]
    found += [f"devices take {name} from counter {floor} on" for name, floor in after.floors.items()]
    if trust.expires != after.expires:
        found.append(f"good until {after.expires or 'replaced'}")
    return found


def _next(trust: Trust) -> list[str]:
    """Say what is to be done: about the document's end, and about releases that no device takes any more."""
    found = []
    if trust.expires is not None and trust.expires < str(until(SOON)):
        when = "has expired" if trust.expires < now() else f"expires at {trust.expires}"
        found.append(f"It {when}; devices take nothing new then: slmops trust rotate --expires 1y.")
    layout = Layout(home.registry())
    for reference in releases.references(layout):
        signed = releases.find(layout, reference)
        try:
            vouch.release(trust, signed.index, signed.signatures)
        except IntegrityError:
            found.append(f"No device takes {reference} as it is signed: slmops trust sign {reference}.")
    return found


def _named(ring: Keyring, said: str, keys: Iterable[str]) -> str:
    """Return the fingerprint that is meant: said in full, by its first letters, or by a key's path."""
    called = f"{said.removesuffix('.pub')}.pub"
    public = next((path for path in (Path(called), ring.keys / called) if path.is_file()), None)
    if public is not None:
        return sign.fingerprint(public)
    full = said if said.startswith("SHA256:") else f"SHA256:{said}"
    found = [print_ for print_ in keys if print_.startswith(full)]
    if len(found) == 1:
        return found[0]
    if trusts.is_fingerprint(full):
        return full
    raise UsageError(
        f"expected one key that is called {said!r}, there are {len(found)}", remedy="See slmops trust show."
    )


def _require_known(floors: Iterable[str]) -> None:
    known = sorted({reference.name for reference in releases.references(Layout(home.registry()))})
    for name in floors:
        if name not in known:
            raise UsageError(
                f"the registry has no release {name}; known: {', '.join(known) or 'none'}",
                remedy="Name one of `slmops release list`; or add --yes where the release lies elsewhere.",
            )


def _floor(said: str) -> tuple[str, int]:
    found = _FLOOR.fullmatch(said)
    if found is None:
        raise UsageError(f"--floor: expected NAME=COUNTER, got {said!r}")
    return found[1], int(found[2])
