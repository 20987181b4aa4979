"""Adapt a release: put an adapter on its artifacts, whose models stay as they are to the last byte.

What is then served, model and adapter together, is measured against the source merged with the adapter,
asked golden prompts that hold for it, and described. Knows folders; nothing of a registry or a fleet.

Laws: an adapter is put on artifacts of the very model that it was trained for; one that brings an
artifact no closer to what was trained is refused.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slmops import digest as digests
from slmops.artifact import description as descriptions
from slmops.artifact import golden as goldens
from slmops.artifact.description import GENERATION, Description
from slmops.artifact.golden import Golden
from slmops.build import card
from slmops.build.ask_golden import ask_golden
from slmops.build.divergence import BOUNDS, Measurement
from slmops.build.isolate import Progress
from slmops.build.measure import measure_many
from slmops.build.open_adapter import GGUF, Adapted
from slmops.build.quality import Quality
from slmops.build.record_golden import record_golden
from slmops.build.record_references import record_references
from slmops.build.subject import Served, find_subject
from slmops.build.wrap import CARD, link
from slmops.errors import BuildError, ModelError, QualityError

WITHOUT = "kl_mean_without_adapter"
"""Among what an adapted artifact says was measured."""


@dataclass(frozen=True)
class Base:
    """An artifact of the release that is adapted."""

    folder: Path
    description: Description
    model: str
    """Digest of its model file: artifacts that share one are measured once."""


@dataclass(frozen=True)
class Wish:
    """What is to become of a release."""

    name: str
    version: str
    golden: tuple[Golden, ...] = ()
    """Golden prompts of a person's; without them some are recorded."""
    texts: Path | None = None
    """Held-out text to measure on; without it the merged source writes its own."""
    tokens: int = 512
    gate: Quality | None = None


@dataclass(frozen=True)
class Dressed:
    """An artifact with its adapter on, in a folder."""

    folder: Path
    description: Description
    unanswered: tuple[str, ...]
    """Golden prompts that a person gave and that it does not answer as they expect, in words."""
    telling: int
    """Golden prompts that its base, without the adapter, answers otherwise."""


@dataclass(frozen=True)
class _Found:
    """What was found of one model."""

    measured: Measurement
    without: Measurement
    golden: list[Golden]
    unanswered: tuple[str, ...]
    telling: int


def adapt(
    bases: Sequence[Base], source: Adapted, wish: Wish, room: Path, progress: Progress
) -> list[Dressed]:
    """Fill a folder in `room` for each of `bases`, named as its profile.

    Raises ModelError for an artifact of another model or one that takes no adapter, BuildError for an
    adapter that is not what its source learned, and QualityError when the gate does not hold.
    """
    for base in bases:
        _check(base.description, source)
    own = {base.model: base for base in bases}
    bare = {model: _served(base) for model, base in own.items()}
    worn = {
        model: replace(one, name=f"{one.name} + adapter", adapter=source.adapter.gguf)
        for model, one in bare.items()
    }
    context = min(base.description.context for base in bases)
    measured = measure_many(
        source,
        [*worn.values(), *bare.values()],
        texts=wish.texts,
        tokens=wish.tokens,
        context=context,
        prompts=wish.golden,
        progress=progress,
    )
    losses = dict(zip(own, zip(measured, measured[len(own) :], strict=False), strict=True))
    for model, (now, without) in losses.items():
        _judge(own[model].description, now, without, wish.gate)
    golden = list(wish.golden) or record_golden(
        source, list(worn.values()), context=context, progress=progress
    )
    found = {}
    for model, (now, without) in losses.items():
        missed = ask_golden(source, worn[model], golden, context, progress=progress) if wish.golden else []
        otherwise = ask_golden(source, bare[model], golden, context, progress=progress) if golden else []
        references = record_references(source, worn[model], context, progress=progress)
        found[model] = _Found(now, without, [*golden, *references], tuple(missed), len(otherwise))
    return [_fill(base, source, wish, found[base.model], room) for base in bases]


def _check(said: Description, source: Adapted) -> None:
    if said.format != "gguf" or said.task != GENERATION:
        raise ModelError(
            f"{said.reference} for {said.profile} is {said.format} and does {said.task}: only gguf models "
            "that generate take an adapter",
            remedy="Name the other profiles with --profile; for this one merge the adapter (`slmops finetune "
            "--merge`) and quantize what comes out.",
        )
    wanted, made_of = source.adapter.base_digest, said.source["digest"]
    if made_of != wanted:
        raise ModelError(
            f"{source.adapter.folder} was trained for {source.adapter.base}, digest {digests.short(wanted)}; "
            f"{said.reference} was made of {said.source['id']}, digest {digests.short(made_of)}",
            remedy="Adapt a release that was made of the adapter's own model.",
        )


def _served(base: Base) -> Served:
    found = find_subject(str(base.folder))
    if not isinstance(found, Served):
        raise ModelError(f"{base.folder} is no artifact")
    return found


def _judge(said: Description, now: Measurement, without: Measurement, gate: Quality | None) -> None:
    """Raise BuildError or QualityError where the adapter is not what it should be on this artifact."""
    bits = said.measured["bits_per_weight"]
    bound = BOUNDS[max((known for known in BOUNDS if known <= bits), default=min(BOUNDS))]
    closer = now.kl_mean <= without.kl_mean + now.kl_error
    if not (closer and math.isfinite(now.kl_p99) and now.kl_mean <= bound):
        raise BuildError(
            f"the adapter on {said.reference} ({said.type}) is not what its source learned: mean divergence "
            f"{now.kl_mean:.3g} nats from the source merged with it, {without.kl_mean:.3g} without it "
            f"(at most {bound:g} expected of {bits:.1f} bits per weight)",
            remedy=f"Write {GGUF} again with `slmops finetune`, or merge the adapter (--merge) and quantize.",
        )
    complaint = gate.complaint(now) if gate else ""
    if complaint:
        raise QualityError(
            f"{said.reference} ({said.type}) with the adapter does not keep the gate: {complaint}",
            remedy="Ask for less with --quality, or adapt a release of a finer type.",
        )


def _fill(base: Base, source: Adapted, wish: Wish, found: _Found, room: Path) -> Dressed:
    said = _describe(base.description, source, wish, found)
    folder = room / said.profile
    folder.mkdir(parents=True)
    for name in filter(None, (said.model, said.tokenizer, said.chat_template)):
        link(base.folder / name, folder / name)
    shutil.copyfile(source.adapter.gguf, folder / GGUF)
    if found.golden:
        (folder / goldens.FILE_NAME).write_text(goldens.render(found.golden), encoding="utf-8")
    (folder / descriptions.FILE_NAME).write_bytes(descriptions.render(said))
    text = card.render(
        said,
        size=(folder / said.model).stat().st_size,
        bits_per_weight=said.measured["bits_per_weight"],
        reason=f"it is the type of {said.base}, whose model this is, byte for byte",
        fallback_share=0.0,
    )
    (folder / CARD).write_text(text, encoding="utf-8")
    return Dressed(folder, said, found.unanswered, found.telling)


def _describe(said: Description, source: Adapted, wish: Wish, found: _Found) -> Description:
    nbytes = source.adapter.gguf.stat().st_size
    provenance = {key: value for key, value in said.source.items() if key != "evaluation"}
    if wish.texts:
        provenance["evaluation"] = digests.of_file(wish.texts)
    return replace(
        said,
        name=wish.name,
        version=wish.version,
        adapter=GGUF,
        memory_bytes=said.memory_bytes + nbytes,
        predicted={**said.predicted, "weights": said.predicted["weights"] + nbytes},
        golden=goldens.FILE_NAME if found.golden else None,
        measured={
            **found.measured.figures(),
            WITHOUT: found.without.kl_mean,
            "bits_per_weight": said.measured["bits_per_weight"],
        },
        source={**provenance, "base": said.reference, "adapter": digests.of_file(source.adapter.gguf)},
    )
