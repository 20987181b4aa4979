"""What differs between two releases, profile by profile, and what an update from one to the other sends.

Pure. Laws: a release does not differ from itself, and updating to it sends nothing; what an update sends is
at most the artifact's size; swapping the two swaps added and removed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmops.artifact.description import Description
from slmops.artifact.golden import Golden
from slmops.artifact.manifest import Artifact, Blob

_FACTS = (
    "arch", "format", "type", "architecture", "parameters", "context", "threads", "memory_bytes", "task",
    "labels", "generation", "stop_ids", "add_bos",
)  # fmt: skip
"""Fields of a description in which artifacts are compared; measured figures and lineage come besides."""


@dataclass(frozen=True)
class Side:
    """An artifact of one of the two releases."""

    built: Artifact
    said: Description | None
    """None of a runtime bundle."""
    golden: tuple[Golden, ...] = ()


@dataclass(frozen=True)
class FileChange:
    """A file that is not the same in both; None where it is not there at all."""

    name: str
    before: Blob | None
    after: Blob | None


@dataclass(frozen=True)
class Fact:
    """Something that the artifacts say of themselves, differently."""

    what: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Difference:
    """What differs between the artifacts of one profile."""

    profile: str
    files: tuple[FileChange, ...]
    same: int
    """How many files are the same."""
    facts: tuple[Fact, ...]
    golden_added: tuple[str, ...]
    """Questions."""
    golden_removed: tuple[str, ...]
    golden_changed: tuple[str, ...]
    """Questions that are to be answered otherwise."""
    whole: int
    """Bytes of the artifact: what a device gets that has nothing."""
    lacks: Mapping[str, int]
    """Bytes of each file that a device with the first lacks, by digest."""

    @property
    def lacking(self) -> int:
        """Return the bytes of all that a device with the first lacks."""
        return sum(self.lacks.values())

    def sends(self, deltas: Mapping[str, int]) -> int:
        """Return the bytes an update sends with deltas of these sizes, by the digest of what they make."""
        return sum(min(size, deltas.get(digest, size)) for digest, size in self.lacks.items())


def compare(profile: str, before: Side, after: Side) -> Difference:
    """Return what differs between two artifacts for a profile."""
    one, other = dict(before.built.files), dict(after.built.files)
    names = [*one, *(name for name in other if name not in one)]
    files = tuple(FileChange(name, one.get(name), other.get(name)) for name in names)
    changed = tuple(each for each in files if _digest(each.before) != _digest(each.after))
    held = {blob.digest for blob in one.values()}
    added, removed, otherwise = _golden(before.golden, after.golden)
    return Difference(
        profile=profile,
        files=changed,
        same=len(files) - len(changed),
        facts=tuple(_facts(before.said, after.said)),
        golden_added=added,
        golden_removed=removed,
        golden_changed=otherwise,
        whole=after.built.size,
        lacks={blob.digest: blob.size for blob in other.values() if blob.digest not in held},
    )


def _digest(blob: Blob | None) -> str | None:
    return blob.digest if blob is not None else None


def _facts(before: Description | None, after: Description | None) -> list[Fact]:
    if before is None or after is None:
        return []
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in _FACTS]
    pairs += _keys("measured", before.measured, after.measured)
    pairs += _keys("source", before.source, after.source)
    return [Fact(what, one, other) for what, one, other in pairs if one != other]


def _keys(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = [*before, *(name for name in after if name not in before)]
    return [(f"{what}.{name}", before.get(name), after.get(name)) for name in names]


def _golden(
    before: Sequence[Golden], after: Sequence[Golden]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the questions that came, that went, and that are to be answered otherwise."""
    one, other = {_asked(each): each for each in before}, {_asked(each): each for each in after}
    added = tuple(each.question for key, each in other.items() if key not in one)
    removed = tuple(each.question for key, each in one.items() if key not in other)
    return added, removed, tuple(each.question for key, each in other.items() if one.get(key, each) != each)


def _asked(golden: Golden) -> str:
    return repr((golden.prompt, golden.messages))
