"""Offer deltas: for each file that some devices lack, make the delta from what they have in its place."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from slmops.artifact.manifest import Blob
from slmops.registry.deltas import Delta, Deltas
from slmops.rollout.check import Finding
from slmops.rollout.shipment import Offers


@dataclass(frozen=True)
class Pair:
    """A file some device has, and the one that is to take its place."""

    name: str
    base: Blob
    target: Blob


def pairs(deltas: Deltas, findings: Iterable[Finding]) -> list[Pair]:
    """Return the distinct pairs of files that a delta would serve some of these devices for."""
    found = [
        Pair(name, base, blob)
        for finding in findings
        if finding.parcel is not None and finding.goes
        for name, blob in finding.parcel.artifact.files
        if blob.digest not in finding.held
        and (base := deltas.base(finding.slots, name, blob)) is not None
        and base.digest in finding.held
    ]
    return list(dict.fromkeys(found))


def offer(deltas: Deltas, wanted: Iterable[Pair], each: Callable[[Pair, Delta | None], None]) -> Offers:
    """Make a delta for each pair, those that are kept taken as they are; `each` is told of every one."""
    offers: dict[str, list[Delta]] = defaultdict(list)
    for pair in wanted:
        made = deltas.make(pair.base, pair.target)
        if made is not None:
            offers[made.target].append(made)
        each(pair, made)
    return offers
