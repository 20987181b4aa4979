"""Where the channels in a registry stand, and how they move.

A channel is a name in the layout like a release, so that it lasts through a power cut as releases do, and a
release that a channel names is never swept. It says nothing of trust: what it stands for is signed.
"""

from slmops.artifact import manifest
from slmops.artifact.manifest import Blob, Release
from slmops.errors import ReleaseError, UsageError
from slmops.registry import catalog, channel
from slmops.registry import index as indexes
from slmops.registry import release as releases
from slmops.registry.catalog import Reference
from slmops.registry.channel import Channel, Move
from slmops.registry.layout import Layout


def resolve(layout: Layout, text: str) -> Reference:
    """Return the release that `name:version` says, or that `name@channel` stands for now."""
    if "@" not in text:
        return catalog.parse(text)
    asked = channel.parse(text)
    blob = layout.names().get(str(asked))
    if blob is None:
        there = [str(each) for each, _ in stand(layout) if each.name == asked.name]
        hint = f"; of {asked.name} there is {', '.join(there)}" if there else ""
        raise ReleaseError(
            f"the registry has no channel {asked}{hint}",
            remedy=f"Set it: slmops release channel set {asked.channel} {asked.name}:VERSION.",
        )
    return _reference(layout, blob)


def stand(layout: Layout) -> list[tuple[Channel, Reference]]:
    """Return every channel and the release it stands for, by name."""
    named = {name: blob for name, blob in layout.names().items() if "@" in name}
    return [(channel.parse(name), _reference(layout, blob)) for name, blob in sorted(named.items())]


def moves(layout: Layout, which: Channel) -> tuple[Move, ...]:
    """Return where a channel has stood, the oldest first."""
    return channel.moves(indexes.notes(layout.index(), str(which)).get(channel.MOVES_KEY))


def set_channel(layout: Layout, name: str, reference: Reference, *, at: str) -> Channel:
    """Let a channel of the reference's name stand for it; `at` is RFC 3339. What stands so already stays."""
    which = channel.parse(f"{reference.name}@{name}")
    with layout.in_use():
        if Reference(which.name, which.channel) in releases.references(layout):
            raise UsageError(
                f"{which.channel} is a version of {which.name}; in an OCI registry both are tags",
                remedy="Choose another name for the channel.",
            )
        signed = releases.find(layout, reference)
        before = moves(layout, which)
        if layout.names().get(str(which)) != signed.blob:
            said = channel.render((*before, Move(str(reference), signed.blob.digest, at)))
            layout.move_name(str(which), signed.blob, manifest.RELEASE_TYPE, {channel.MOVES_KEY: said})
    return which


def require_forward(layout: Layout, which: Channel, pulled: Release) -> None:
    """Raise ReleaseError when a pulled channel would go back: who offers an old release may be lying."""
    held = layout.names().get(str(which))
    here = manifest.parse_release(layout.get(held)) if held is not None else None
    if here is not None and _is_older(pulled, here):
        raise ReleaseError(
            f"{which} stands for {here.reference} here and for the older {pulled.reference} there; it is not "
            "moved back",
            remedy=f"If that is meant: slmops release channel set {which.channel} {pulled.reference}.",
        )


def _is_older(one: Release, other: Release) -> bool:
    """Say which came first: by the counters, as devices do; versions decide where these do not."""
    if one.counter != other.counter:
        return one.counter < other.counter
    return channel.is_older(catalog.parse(one.reference), catalog.parse(other.reference))


def _reference(layout: Layout, blob: Blob) -> Reference:
    return catalog.parse(manifest.parse_release(layout.get(blob)).reference)
