"""slmops release diff: what differs between two releases, and what an update sends."""

from typing import Annotated, Any

import typer

from slmops.artifact import description as descriptions
from slmops.artifact import golden as goldens
from slmops.artifact.manifest import Artifact, Entry
from slmops.cli import home
from slmops.cli.render import Form, Output, brief, emit, out, say, size, table
from slmops.errors import ReleaseError
from slmops.registry import release as releases
from slmops.registry.channels import resolve
from slmops.registry.comparison import Difference, Side, compare
from slmops.registry.deltas import Deltas
from slmops.registry.layout import Layout


def diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="NAME:VERSION, or NAME@CHANNEL.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="NAME:VERSION, or NAME@CHANNEL.")],
    profile: Annotated[list[str] | None, typer.Option(help="Only this profile; repeatable.")] = None,
    deltas: Annotated[
        bool, typer.Option("--deltas", help="Make the deltas too, and say what an update sends with them.")
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
    shared = [name for name in one if name in other and name in (profile or one)]
    if not shared:
        raise ReleaseError(
            f"{before} and {after} share no profile{' of these' if profile else ''}: "
            f"{', '.join(one)}; {', '.join(other)}",
        )
    found = []
    for name in shared:
        difference = compare(name, _side(layout, one[name]), _side(layout, other[name]))
        found.append((difference, _deltas(layout, difference) if deltas else None))
    if output is Form.JSON:
        emit({"before": before, "after": after, "profiles": [_said(*each) for each in found]})
        return
    for difference, sizes in found:
        _show(difference, sizes)
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
    return tuple(goldens.read(layout.get(dict(built.files)[name]).decode()))


def _deltas(layout: Layout, difference: Difference) -> dict[str, int]:
    """Return the size of each delta that is worth sending, by the digest of what it makes."""
    made, kept = {}, Deltas(layout)
    with layout.in_use():
        for change in difference.files:
            if change.before is not None and change.after is not None:
                delta = kept.make(change.before, change.after)
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


def _show(difference: Difference, sizes: dict[str, int] | None) -> None:
    out.print(
        f"[bold]{difference.profile}[/]: {len(difference.files)} files differ, {difference.same} do not"
    )
    rows: list[tuple[Any, ...]] = [
        (change.name, change.before and size(change.before.size), change.after and size(change.after.size))
        for change in difference.files
    ]
    rows += [
        (fact.what, _cell(fact.what, fact.before), _cell(fact.what, fact.after)) for fact in difference.facts
    ]
    counts = (
        ("golden prompts added", len(difference.golden_added)),
        ("golden prompts removed", len(difference.golden_removed)),
        ("golden prompts answered otherwise", len(difference.golden_changed)),
    )
    rows += [(what, None, count) for what, count in counts if count]
    rows.append(("an update sends, with nothing there", None, size(difference.whole)))
    rows.append(("an update sends, of whole files", None, size(difference.lacking)))
    if sizes is not None:
        rows.append(("an update sends, with deltas", None, size(difference.sends(sizes))))
    table(("what", "before", "after"), rows)


def _cell(what: str, value: Any) -> str | None:
    """Return a fact as people read it."""
    if value is None:
        return None
    if what.endswith("bytes"):
        return size(value)
    return f"{value:.4g}" if isinstance(value, float) else brief(str(value))
