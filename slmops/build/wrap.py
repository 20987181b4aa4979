"""Fill the folder of an artifact: the model, its words, its golden prompts, and what it says of itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from slmops.artifact import description as descriptions
from slmops.artifact import golden as goldens
from slmops.artifact.description import CLASSIFICATION, GENERATION, Description
from slmops.artifact.golden import Golden
from slmops.build import card
from slmops.build import ledger as ledgers
from slmops.build.checkpoint import Checkpoint
from slmops.build.choice import Outcome, Pick
from slmops.build.ledger import Ledger
from slmops.build.quantize_gguf import GgufReport
from slmops.build.source import Source
from slmops.build.steps import Model
from slmops.profile.device import DeviceProfile
from slmops.profile.footprint import ModelShape

TOKENIZER, TEMPLATE, CARD = "tokenizer.json", "chat_template.jinja", "README.md"


@dataclass(frozen=True)
class Named:
    """What artifacts of one release have in common."""

    name: str
    version: str
    source: Source
    shape: ModelShape
    provenance: dict[str, str]
    """Where the model came from and what it was built with: id, digest, versions."""
    labels: tuple[str, ...] = ()
    """Of a text classifier."""
    reuse: Mapping[str, float] = field(default_factory=dict)
    """What reusing the scales of an earlier artifact came to."""


@dataclass(frozen=True)
class Built:
    """The artifact folder of one profile."""

    profile: DeviceProfile
    folder: Path
    description: Description
    outcome: Outcome
    reason: str
    fallback_share: float
    unanswered: tuple[str, ...] = ()
    """Golden prompts that a person gave and that it does not answer as they expect, in words."""


def wrap(
    named: Named,
    profile: DeviceProfile,
    chosen: Pick,
    model: Model,
    *,
    golden: Sequence[Golden],
    folder: Path,
) -> Built:
    """Fill `folder`, which is made; the model's file is linked where the disk allows it."""
    outcome, reason = chosen.best, chosen.reason
    folder.mkdir(parents=True)
    link(model.file, folder / f"model.{outcome.make.format}")
    source = named.source
    said = _describe(named, profile, outcome, golden=bool(golden))
    if said.tokenizer and isinstance(source, Checkpoint) and source.tokenizer:
        (folder / TOKENIZER).write_bytes(source.tokenizer.read_bytes())
    if said.chat_template and source.chat_template:
        (folder / TEMPLATE).write_text(source.chat_template, encoding="utf-8")
    if golden:
        (folder / goldens.FILE_NAME).write_text(goldens.render(golden), encoding="utf-8")
    (folder / descriptions.FILE_NAME).write_bytes(descriptions.render(said))
    share = model.report.fallback_share if isinstance(model.report, GgufReport) else 0.0
    text = card.render(
        said, size=outcome.bytes, bits_per_weight=outcome.bits_per_weight, reason=reason, fallback_share=share
    )
    (folder / CARD).write_text(card.with_ledger(text, _ledger(source)), encoding="utf-8")
    return Built(profile, folder, said, outcome, reason, share)


def _ledger(source: Source) -> Ledger:
    """Return what each step to the source cost, where a ledger lies beside it."""
    file = source.folder / ledgers.FILE_NAME if isinstance(source, Checkpoint) else None
    if file is None or not file.is_file():
        return Ledger()
    return ledgers.parse(file.read_text(encoding="utf-8"), str(file))


def link(file: Path, to: Path) -> None:
    """Lay a file somewhere else without a copy of its bytes, where the disk allows it."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def _describe(named: Named, profile: DeviceProfile, outcome: Outcome, *, golden: bool) -> Description:
    source, make = named.source, outcome.make
    has_tokenizer = isinstance(source, Checkpoint) and source.tokenizer is not None
    return Description(
        name=named.name,
        version=named.version,
        profile=profile.name,
        arch=profile.arch,
        format=make.format,
        type=make.type,
        model=f"model.{make.format}",
        architecture=source.architecture,
        parameters=named.shape.parameters,
        context=profile.serve.context,
        threads=profile.serve.threads,
        micro_batch=profile.serve.micro_batch,
        memory_bytes=outcome.fit.need.total,
        tokenizer=TOKENIZER if has_tokenizer else None,
        chat_template=TEMPLATE if source.chat_template and not named.labels else None,
        special_tokens=dict(source.special_tokens),
        add_bos=isinstance(source, Checkpoint) and source.add_bos,
        stop_ids=list(source.stop_ids),
        generation=dict(source.generation) if isinstance(source, Checkpoint) else {},
        golden=goldens.FILE_NAME if golden else None,
        task=CLASSIFICATION if named.labels else GENERATION,
        labels=list(named.labels),
        predicted={
            **asdict(outcome.fit.need),
            "layers": named.shape.layers,
            "tokens_per_second": outcome.fit.tokens_per_second,
        },
        measured={
            **outcome.measured.figures(),
            "bits_per_weight": outcome.bits_per_weight,
            **named.reuse,
        },
        source=named.provenance,
    )
