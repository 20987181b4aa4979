"""Prune a model: its words, then its structure, then single weights; measured, and written as a model.

What is cut is chosen by what it costs in answers, weighed on text held back; what stays makes up for what
left, by least squares. No training: `distill` heals what is left.

Laws: the teacher is not changed; without `out` nothing is written; what is written says in pruned.json
which of the teacher's structures it is made of, and in ledger.json what that cost.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slmops.build import ledger as ledgers
from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.classifier import is_classifier
from slmops.build.evaluate import size_of
from slmops.build.family_terms import Shape
from slmops.build.isolate import Progress, silent
from slmops.build.ledger import Ledger, Stage
from slmops.build.sketch import SIDE_FILES, Sketch, sketch
from slmops.build.subject import name_of
from slmops.errors import UsageError
from slmops.train.check_place import MODEL, check_place
from slmops.train.choose_cut import Chooser, Step
from slmops.train.cut_model import Knife
from slmops.train.cuts import Body, Keep, body_of
from slmops.train.mask import Pattern, mask
from slmops.train.model_folder import CONFIG, write_model
from slmops.train.open_trainable import load_weights
from slmops.train.pruning import Pruning, Wanted, most_parameters, wanted
from slmops.train.read_calibration import Calibration, read_calibration
from slmops.train.size_for_profile import Room
from slmops.train.study_influence import rank, watch
from slmops.train.trim_vocabulary import TrimReport, trim
from slmops.train.weigh_cut import Scale

FILE_NAME = "pruned.json"
BYTES = {"float16": 2, "bfloat16": 2}
FIGURES: tuple[str, ...] = ("kl_mean", "top1", "bits_per_byte")
"""Of what is measured, what a ledger tells."""


@dataclass(frozen=True)
class Size:
    """How large a model is."""

    parameters: int
    bytes: int
    """Of its weights in the number type they are stored in."""
    layers: int
    heads: int
    kv_heads: int
    inner: int
    hidden: int
    vocab: int


@dataclass(frozen=True)
class Pruned:
    """What became of a model."""

    before: Size
    after: Size
    measured: dict[str, float]
    """Against the uncut model with the same words: kl_mean, top1, perplexity_ratio, bits_per_byte, ..."""
    steps: tuple[Step, ...]
    keep: Keep
    calibration: str
    """From what text it is known."""
    bends: tuple[float, ...]
    """How far each layer of the teacher turns what passes through it: one less the cosine."""
    without: tuple[float, ...]
    """Divergence of the teacher without each layer, where that was weighed."""
    weighed: int
    """Cut models that were weighed."""
    source_digest: str
    words: TrimReport | None = None
    why: str = ""
    """What the device it was made for bears of it."""
    mask: str = ""
    zeros: float = 0.0
    """Share of the weights that were set to zero."""

    def said(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        found = dataclasses.asdict(self)
        return {"source": found.pop("source_digest"), **found}


@dataclass(frozen=True)
class Cutting:
    """All that a person says of a cut."""

    structure: Pruning = field(default_factory=Pruning)
    vocabulary: tuple[Path, ...] = ()
    """Files whose words are kept, and no others."""
    vocabulary_size: int | None = None
    mask: Pattern | None = None
    calibration: tuple[Path, ...] = ()
    """Text that says what matters; none: the model writes its own, or of a text classifier `vocabulary`."""
    tokens: int | None = None


class _Goal:
    """How small a model is to become."""

    def __init__(self, teacher: Checkpoint, structure: Pruning) -> None:
        """Take what is said; raise UsageError where it is nothing that can be."""
        said, profile, there_are = structure.params, structure.profile, teacher.parameters
        self._most = there_are if said is None else most_parameters(said, there_are)
        self._room = None if profile is None else Room(profile, teacher, structure.type)

    def excess(self, body: Body, shapes: Mapping[str, Shape], keep: Keep) -> float:
        """Return how many weights too many are left, about; none or fewer when it is small enough."""
        weights = body.parameters(shapes, keep)
        too_many = self._room.excess(self._room.hold(body, shapes, keep), weights) if self._room else 0.0
        return max(weights - self._most, too_many)

    def why(self, body: Body, shapes: Mapping[str, Shape], keep: Keep) -> str:
        """Return what the device bears of it; nothing where it is for none."""
        return self._room.why(self._room.hold(body, shapes, keep)) if self._room else ""


@dataclass(frozen=True, eq=False)
class _Opened:
    """A model, and the text by which it is cut."""

    model: Any
    body: Body
    text: Calibration
    shapes: dict[str, Shape]


def prune(
    teacher: Checkpoint,
    cutting: Cutting,
    out: Path | None,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> Pruned:
    """Cut `teacher`, write what is left to the folder `out`, and return what it is; without `out`, only that.

    Raises UsageError for what cannot be cut or has no place to go, ModelError for a model that is broken or
    of an unknown family, DocumentError for text that cannot be used.
    """
    _check_place(teacher, out, force=force)
    goal = _goal(teacher, cutting)
    asked = wanted(cutting.structure, body_of(teacher.architecture, teacher.config))
    uncut, files, words = load_weights(teacher, progress), dict[str, bytes](), None
    if cutting.vocabulary:
        trimmed = trim(teacher, uncut, cutting.vocabulary, keep=cutting.vocabulary_size, progress=progress)
        uncut, files, words = trimmed.model, dict(trimmed.files), trimmed.report
    with tempfile.TemporaryDirectory(prefix="slmops-") as room:
        drawn = _drawn(teacher, uncut, files, Path(room)) if cutting.vocabulary else teacher
        # Those texts are of the kind it reads, and it writes none itself.
        spoken = cutting.vocabulary if is_classifier(teacher.config) else ()
        text = read_calibration(drawn, uncut, cutting.calibration or spoken, cutting.tokens, progress)
    shapes = {name: tuple(weight.shape) for name, weight in uncut.named_parameters()}
    opened = _Opened(uncut, body_of(teacher.architecture, drawn.config), text, shapes)
    found, model = _cut(teacher, opened, asked, goal, progress, pattern=cutting.mask)
    found = replace(found, words=words)
    if out is not None:
        progress(f"writing {out}", 0.0)
        said = json.dumps(found.said(), indent=2) + "\n"
        write_model(out, model, teacher, {**files, FILE_NAME: said.encode()})
        ledger = ledgers.render(_ledger(teacher, found, open_checkpoint(out)))
        (out / ledgers.FILE_NAME).write_text(ledger, encoding="utf-8")
    return found


def _ledger(teacher: Checkpoint, found: Pruned, made: Checkpoint) -> Ledger:
    """Return what the cut cost, as it was measured on text held back."""
    said, name = found.measured, name_of(teacher)
    gauge = {"texts": f"held back of {found.calibration}", "tokens": f"{said['tokens']:.0f}"}
    if found.words:
        gauge["words"] = f"of both models the {found.words.tokens_after} that stay"
    lost = {key: said[key] for key in FIGURES if key in said}
    own = {"bits_per_byte": said["source_bits_per_byte"]} if "source_bits_per_byte" in said else {}
    share = found.after.parameters / found.before.parameters
    return Ledger(
        gauge,
        (
            _stage("teacher", f"{name}, as it came", teacher, found.before, own),
            _stage("pruned", f"{name}, cut to {share:.0%} of its weights", made, found.after, lost),
        ),
    )


def _stage(name: str, what: str, model: Checkpoint, large: Size, measured: dict[str, float]) -> Stage:
    return Stage(name, what, large.parameters, size_of(model), model.digest, measured)


def _goal(teacher: Checkpoint, cutting: Cutting) -> _Goal:
    """Return how small it is to become; raise UsageError where nothing is said, or nothing need be done."""
    if not (cutting.structure.cuts or cutting.vocabulary or cutting.mask):
        raise UsageError(
            "what to cut is not said",
            remedy="Give --params 60%, --layers N, --profile P, --vocabulary FILE or --mask 2:4.",
        )
    if cutting.vocabulary_size is not None and not cutting.vocabulary:
        raise UsageError(
            "--vocabulary-size says how many words stay, and nothing says which",
            remedy="Give texts of the kind the model will read: --vocabulary FILE.",
        )
    goal, body = _Goal(teacher, cutting.structure), body_of(teacher.architecture, teacher.config)
    structure, shapes = cutting.structure, _shapes(teacher)
    alone = Pruning(profile=structure.profile, type=structure.type, axes=structure.axes)
    only = structure == alone and not (cutting.vocabulary or cutting.mask)
    if only and goal.excess(body, shapes, body.whole) <= 0:
        raise UsageError(
            f"nothing need be cut: {goal.why(body, shapes, body.whole)}",
            remedy="Quantize it as it is: `slmops quantize`.",
        )
    return goal


def _shapes(teacher: Checkpoint) -> dict[str, Shape]:
    return {name: entry.shape for name, entry in teacher.tensors.items()}


def _check_place(teacher: Checkpoint, out: Path | None, *, force: bool) -> None:
    if out is not None and out.resolve() == teacher.folder.resolve():
        raise UsageError(f"{out} is the teacher itself", remedy="Give --out another folder.")
    if out is not None:
        check_place(out, MODEL, replace=force, remedy="Give --out another folder, or --force.")


def _drawn(teacher: Checkpoint, model: Any, files: Mapping[str, bytes], room: Path) -> Sketch:
    """Return the sketch of a model with other words than its teacher's."""
    for name in SIDE_FILES:
        if (teacher.folder / name).is_file():
            (room / name).write_bytes((teacher.folder / name).read_bytes())
    for name, data in files.items():
        (room / name).write_bytes(data)
    (room / CONFIG).write_text(model.config.to_json_string(use_diff=False), encoding="utf-8")
    return sketch(room)


def _cut(
    teacher: Checkpoint,
    opened: _Opened,
    asked: Wanted,
    goal: _Goal,
    progress: Progress,
    *,
    pattern: Pattern | None,
) -> tuple[Pruned, Any]:
    """Cut the structure, then mask; return what came of it, and the model."""
    body, text, shapes = opened.body, opened.text, opened.shapes
    scale, flow = Scale(opened.model, text.held), watch(opened.model, body, text.watched, progress)
    knife = Knife(opened.model, body, flow)
    chooser = Chooser(knife, body, shapes, rank(opened.model, body, flow), scale)
    small = replace(asked, excess=lambda keep: goal.excess(body, shapes, keep))
    choice = chooser.choose(small, progress)
    model, zeros = knife.cut(choice.keep), 0.0
    if pattern:
        left = body_of(body.architecture, body.after(choice.keep))
        zeros = mask(model, left, watch(model, left, text.watched, progress), pattern)
    return Pruned(
        before=_size(teacher, body_of(teacher.architecture, teacher.config), _shapes(teacher)),
        after=_size(teacher, body, shapes, choice.keep),
        measured=scale.weigh(model).figures(sum(text.held_bytes[: scale.samples]), scale.weigh(opened.model)),
        steps=choice.steps,
        keep=choice.keep,
        calibration=text.said,
        bends=flow.bends,
        without=choice.without,
        weighed=choice.measured,
        source_digest=teacher.digest,
        why=goal.why(body, shapes, choice.keep),
        mask=str(pattern or ""),
        zeros=zeros,
    ), model


def _size(teacher: Checkpoint, body: Body, shapes: Mapping[str, Shape], keep: Keep | None = None) -> Size:
    """Return how large a model of these shapes is, or what is left of it."""
    kept = keep or body.whole
    width = BYTES.get(str(teacher.config.get("torch_dtype", "")).removeprefix("torch."), 4)
    parameters, (layers, groups, inner, hidden) = body.parameters(shapes, kept), kept.counts
    heads = groups * body.readers
    return Size(parameters, parameters * width, layers, heads, groups, inner, hidden, body.sizes.vocab)
