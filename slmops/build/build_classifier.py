"""Make of a text classifier what devices can bear, measured against its source.

The one door to classifiers: what is written, what it lost, and the golden prompts that hold for all.
Knows nothing of profiles, folders of artifacts or releases.

Laws: a type asked for by its full name is never replaced; INT8 is whichever of dynamic and static
diverges less over texts that calibrated neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slmops.artifact.golden import Golden
from slmops.build.checkpoint import Checkpoint
from slmops.build.classification import Comparison, compare, judge_classifier, sure_prompts
from slmops.build.classifier import DYNAMIC, STATIC, TYPES, context_of, labels_of
from slmops.build.isolate import Progress, silent
from slmops.build.measure_classifier import read_with, read_with_source
from slmops.build.quantize_classifier import quantize_classifier
from slmops.build.quantize_onnx import OnnxReport
from slmops.build.read_labelled import read_for_build
from slmops.errors import UsageError


@dataclass(frozen=True)
class BuiltClassifier:
    """One classifier's file, and what is known of it."""

    file: Path
    report: OnnxReport
    """Its type is what INT8 came to: INT8-dynamic or INT8-static."""
    measured: Comparison


@dataclass(frozen=True)
class BuiltClassifiers:
    """What was made of one source."""

    of: dict[str, BuiltClassifier]
    """By the type that was asked for."""
    labels: tuple[str, ...]
    context: int
    """Tokens of the longest text that can be read."""
    golden: list[Golden]
    """Texts, and the labels that the source and all that was made of it are sure of; may be empty."""
    texts: str
    """Digest of the texts that calibrated and measured."""
    too_long: int
    """Texts left out because they have more tokens than `context`."""


def build_classifiers(
    checkpoint: Checkpoint,
    types: Sequence[str],
    room: Path,
    texts: Path | None,
    evaluation: Path | None = None,
    *,
    context: int | None = None,
    progress: Progress = silent,
) -> BuiltClassifiers:
    """Build `checkpoint` in `room` once for each of `types` (INT8, INT8-dynamic, INT8-static, F32).

    `texts` is a file of texts as the device will read them (see `read_labelled`): some calibrate, others
    measure; with `evaluation`, that file measures. `context` is the longest text, in tokens, that it will
    be served with; without it, the longest that the model can read. Raises UsageError without `texts`
    or for another type, ModelError for a source that is no such classifier, DocumentError for files that
    cannot be used, BuildError when what was built is not its source.
    """
    strange = [name for name in types if name not in TYPES]
    if strange:
        raise UsageError(f"no type {strange[0]!r} for a text classifier; known are {', '.join(TYPES)}")
    labels, most = labels_of(checkpoint.config), context_of(checkpoint.config)
    context = min(context or most, most)
    read = read_for_build(checkpoint.words(), labels, context, _given(texts), evaluation)
    wanted = dict.fromkeys(each for asked in types for each in _made_for(asked))
    calibration = [each.ids for each in read.calibrating]
    made = quantize_classifier(checkpoint, list(wanted), room, calibration, progress)
    ids = [each.ids for each in read.measuring]
    source = read_with_source(checkpoint, ids, progress)
    rows = {name: read_with(file, ids, progress) for name, (file, _) in made.items()}
    known = [each.label for each in read.measuring]
    found = {name: compare(source, rows[name], known) for name in made}
    chosen = {asked: min(_made_for(asked), key=lambda name: found[name].kl_mean) for asked in types}
    for name in chosen.values():
        judge_classifier(found[name], name)
    kept = [rows[name] for name in dict.fromkeys(chosen.values())]
    return BuiltClassifiers(
        of={asked: BuiltClassifier(*made[name], found[name]) for asked, name in chosen.items()},
        labels=labels,
        context=context,
        golden=sure_prompts([each.text for each in read.measuring], known, labels, source, kept),
        texts=read.digest,
        too_long=read.too_long,
    )


def _given(texts: Path | None) -> Path:
    if texts is None:
        raise UsageError(
            "a text classifier is calibrated and measured with texts as the device will read them, and "
            "none can be made up",
            remedy="Give a file with --calibration: .txt (a text a line), .jsonl or .csv (text, label).",
        )
    return texts


def _made_for(type_name: str) -> tuple[str, ...]:
    """Return what is built where `type_name` is asked for."""
    return (DYNAMIC, STATIC) if type_name == "INT8" else (type_name,)
