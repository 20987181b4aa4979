"""The release that devices have, as the base of an update: its artifacts, out of the registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from slmops.build.classifier import is_classifier
from slmops.build.open_base import open_base
from slmops.build.plan import AUTO, Base, Make, Wish
from slmops.build.sketch import Sketch
from slmops.build.source import GgufSource
from slmops.cli import home
from slmops.errors import BuildError
from slmops.registry import catalog
from slmops.registry import release as releases
from slmops.registry.layout import Layout
from slmops.registry.release import Signed


@dataclass(frozen=True)
class Based:
    """Wishes for artifacts that are small deltas from what devices have."""

    wishes: list[Wish]
    files: Mapping[str, Path] = field(default_factory=dict)
    """Of the bases, by digest."""
    apart: Mapping[str, str] = field(default_factory=dict)
    """Why a profile's artifact is built without a base, by profile."""


def based_on(release: str | None, wishes: Sequence[Wish], source: Sketch | GgufSource) -> Based:
    """Return `wishes` with the artifacts of `release` as their bases.

    Raises ReleaseError if there is no such release, IntegrityError where a base is not what its digest says.
    """
    if release is None:
        return Based(list(wishes))
    layout = Layout(home.registry())
    there = releases.find(layout, catalog.parse(release))
    found: list[Wish] = []
    files, apart = dict[str, Path](), dict[str, str]()
    for wish in wishes:
        try:
            base = _base(layout, there, wish, source)
        except BuildError as error:
            found.append(wish)
            apart[wish.profile.name] = str(error)
        else:
            found.append(replace(wish, base=base))
            files[base.digest] = layout.path(base.digest)
    return Based(found, files, apart)


def _base(layout: Layout, there: Signed, wish: Wish, source: Sketch | GgufSource) -> Base:
    """Return what the profile has; raise BuildError where it is no base for what is wished."""
    entry = dict(there.release.artifacts).get(wish.profile.name)
    if entry is None:
        raise BuildError("it has no artifact for this profile")
    built = releases.artifact(layout, entry)
    said = releases.description(layout, built)
    if isinstance(source, Sketch) and is_classifier(source.config):
        raise BuildError("a text classifier is rounded as a whole")
    if wish.format not in (AUTO, said.format) or wish.type not in (AUTO, said.type):
        raise BuildError(f"it is {said.format} {said.type}, and {wish.format} {wish.type} was asked for")
    blob = dict(built.files)[said.model]
    layout.check(blob)
    make = Make("gguf" if said.format == "gguf" else "onnx", said.type)
    return open_base(there.release.reference, blob.digest, layout.path(blob.digest), make, source)
