"""Which releases may go: neither what is new, nor what a channel names, nor what a device may return to.

Pure. Laws: what one of the three reasons keeps, stays, and so does what it was built on; keeping more never
lets more go; what stays and what goes are together all there is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slmops.registry import catalog
from slmops.registry.catalog import Reference


@dataclass(frozen=True)
class Held:
    """A release in the registry, as far as keeping it goes."""

    reference: Reference
    digests: frozenset[str]
    """Of its index and of its artifacts' manifests: what channels and devices call it by."""
    base: Reference
    """The release whose models it has; its own name when they are its own."""


def reasons(
    held: Iterable[Held],
    channels: Mapping[str, Reference],
    protected: Mapping[str, str],
    keep: int | None,
) -> dict[Reference, str | None]:
    """Return for each release why it stays; None for one that may go.

    `channels` says what each stands for, `protected` which digest somebody needs and why, `keep` how many of
    each name stay whatever else; None: all of them.
    """
    there = list(held)
    why: dict[Reference, str | None] = {each.reference: _reason(each, channels, protected) for each in there}
    for reference in _newest(list(why), keep):
        why[reference] = why[reference] or "among the newest"
    bases = {each.reference: each.base for each in there}
    for reference in [reference for reference, reason in why.items() if reason]:
        base = bases[reference]
        while base in why and why[base] is None:
            why[base] = f"{reference} is built on it"
            base = bases[base]
    return why


def _reason(each: Held, channels: Mapping[str, Reference], protected: Mapping[str, str]) -> str | None:
    for channel, reference in channels.items():
        if reference == each.reference:
            return f"{channel} stands for it"
    return next((protected[digest] for digest in sorted(each.digests) if digest in protected), None)


def _newest(references: list[Reference], keep: int | None) -> list[Reference]:
    if keep is None:
        return references
    by_name: dict[str, list[Reference]] = {}
    for reference in catalog.newest_first(references):
        by_name.setdefault(reference.name, []).append(reference)
    return [reference for newest in by_name.values() for reference in newest[:keep]]
