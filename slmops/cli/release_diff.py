"""slmops release diff: what differs between two releases, and what an update sends."""

from typing import Annotated, Any

import typer

from slmops import digest as digests
from slmops.artifact import description as descriptions
from slmops.artifact import golden as goldens
from slmops.artifact.manifest import Artifact, Entry
from slmops.cli import home
from slmops.cli.render import Form, Output, brief, emit, out, say, size, table
from slmops.errors import ReleaseError
from slmops.registry import release as releases
from slmops.registry.channels import resolve
from slmops.registry.comparison import Difference, Fact, Side, compare
from slmops.registry.deltas import Deltas
from slmops.registry.layout import Layout

_FIGURES = "measured."
_FIRST = ("type", "memory_bytes", f"{_FIGURES}kl_mean", f"{_FIGURES}top1")
"""What people look for before all else."""


def diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="NAME:VERSION, or NAME@CHANNEL.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="NAME:VERSION, or NAME@CHANNEL.")],
    profile: Annotated[list[str] | None, typer.Option(help="Only this profile; repeatable.")] = None,
    deltas: Annotated[
        bool, typer.Option("--deltas", help="Make the deltas too, and say what an update sends with them.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show every figure that differs; JSON always has them.")
    ] = False,
    output: Output = Form.TABLE,
) -> None:
    """Say what differs between two releases: files, types, memory, measured quality, golden prompts.

    And how many bytes an update sends to a device that has nothing, to one that has the first, and to one
    that takes deltas.
    """
    layout = Layout(home.registry())
    one = dict(releases.find(layout, resolve(layout, before)).release.artifacts)
    other = dict(releases.find(layout, resolve(layout, after)).release.artifacts)
    there = f"{before} has {', '.join(one)}; {after} has {', '.join(other)}"
    shared = [name for name in one if name in other]
    strange = [name for name in profile or [] if name not in shared]
    if strange:
        raise ReleaseError(
            f"not both have the profile {', '.join(strange)}: {there}",
            remedy=f"Give one that both have: {', '.join(shared)}." if shared else None,
        )
    if not shared:
        raise ReleaseError(f"no profile is in both: {there}")
    found = []
    for name in shared:
        if name in (profile or shared):
            difference = compare(name, _side(layout, one[name]), _side(layout, other[name]))
            found.append((difference, _deltas(layout, one[name], difference) if deltas else None))
    if output is Form.JSON:
        emit({"before": before, "after": after, "profiles": [_said(*each) for each in found]})
        return
    for difference, sizes in found:
        _show(difference, sizes, every=every)
    for name in [*(n for n in one if n not in other), *(n for n in other if n not in one)]:
        say(f"{name}: {'removed' if name in one else 'added'}.")


def _side(layout: Layout, entry: Entry) -> Side:
    built = releases.artifact(layout, entry)
    files = dict(built.files)
    if descriptions.FILE_NAME not in files:
        return Side(built, None)
    said = releases.description(layout, built)
    return Side(built, said, _golden(layout, built, said.golden))


def _golden(layout: Layout, built: Artifact, name: str | None) -> tuple[goldens.Golden, ...]:
    if name is None:
        return ()
    return tuple(goldens.questions(goldens.read(layout.get(dict(built.files)[name]).decode())))


def _deltas(layout: Layout, before: Entry, difference: Difference) -> dict[str, int]:
    """Return the size of each delta that a deployment would send, by the digest of what it makes."""
    made, kept = {}, Deltas(layout)
    with layout.in_use():
        for change in difference.files:
            if change.after is not None:
                base = kept.base([digests.hexdigits(before.blob.digest)], change.name, change.after)
                delta = kept.make(base, change.after) if base is not None else None
                if delta is not None:
                    made[delta.target] = delta.size
    return made


def _said(difference: Difference, sizes: dict[str, int] | None) -> dict[str, Any]:
    return {
        "profile": difference.profile,
        "files": [
            {
                "name": change.name,
                "before": change.before and {"digest": change.before.digest, "bytes": change.before.size},
                "after": change.after and {"digest": change.after.digest, "bytes": change.after.size},
            }
            for change in difference.files
        ],
        "same_files": difference.same,
        "facts": {fact.what: {"before": fact.before, "after": fact.after} for fact in difference.facts},
        "golden": {
            "added": difference.golden_added,
            "removed": difference.golden_removed,
            "changed": difference.golden_changed,
        },
        "sends": {
            "whole": difference.whole,
            "lacking": difference.lacking,
            "delta": None if sizes is None else difference.sends(sizes),
        },
    }


def _show(difference: Difference, sizes: dict[str, int] | None, *, every: bool) -> None:
    out.print(
        f"[bold]{difference.profile}[/]: {len(difference.files)} files differ, {difference.same} do not"
    )
    rows: list[tuple[Any, ...]] = [
        ("an update sends, with nothing there", None, size(difference.whole)),
        ("an update sends, of whole files", None, size(difference.lacking)),
    ]
    if sizes is not None:
        rows.append(("an update sends, with deltas", None, size(difference.sends(sizes))))
    rows += [
        (change.name, change.before and size(change.before.size), change.after and size(change.after.size))
        for change in difference.files
    ]
    first = sorted((fact for fact in difference.facts if fact.what in _FIRST), key=_place)
    rest = [fact for fact in difference.facts if fact.what not in _FIRST]
    told = [fact for fact in rest if every or not fact.what.startswith(_FIGURES)]
    counts = (
        ("golden prompts added", len(difference.golden_added)),
        ("golden prompts removed", len(difference.golden_removed)),
        ("golden prompts answered otherwise", len(difference.golden_changed)),
    )
    rows += map(_line, first)
    rows += [(what, None, count) for what, count in counts if count]
    rows += map(_line, told)
    table(("what", "before", "after"), rows)
    if len(told) < len(rest):
        say(f"{difference.profile}: {len(rest) - len(told)} more measured figures differ: --all.")


def _place(fact: Fact) -> int:
    return _FIRST.index(fact.what)


def _line(fact: Fact) -> tuple[str, str | None, str | None]:
    return fact.what, _cell(fact.what, fact.before), _cell(fact.what, fact.after)


def _cell(what: str, value: Any) -> str | None:
    """Return a fact as people read it."""
    if value is None:
        return None
    if what.endswith("bytes"):
        return size(value)
    return f"{value:.4g}" if isinstance(value, float) else brief(str(value))
