"""Carry out a recipe whose model labels texts: what `foretell` and `run` are to models that go on from one.

Law: a type named outright is never replaced; INT8 alone is the better of its two kinds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from slmops.artifact.golden import Golden
from slmops.build.build_classifier import BuiltClassifier, BuiltClassifiers, build_classifiers
from slmops.build.cache import Cache, tools
from slmops.build.checkpoint import Checkpoint
from slmops.build.choice import Outcome, pick
from slmops.build.classifier import DYNAMIC, STATIC, TYPES, context_of, predicted_bytes, shape_of
from slmops.build.plan import Make, Plan, Row, Wish
from slmops.build.recipe import Recipe
from slmops.build.run import Result
from slmops.build.steps import Model, Progress
from slmops.build.wrap import Built, Named, wrap
from slmops.errors import DocumentError, UsageError
from slmops.profile.device import DeviceProfile, Format
from slmops.profile.fit import Candidate, hold, most_bytes, nothing_fits

AUTO = (DYNAMIC, STATIC, "F32")


def foretell_classifier(checkpoint: Checkpoint, wishes: Sequence[Wish]) -> Plan:
    """Return the plan for a classifier; raise DoesNotFitError where a device can bear none of it."""
    shape = shape_of(checkpoint.config, checkpoint.parameters)
    shapes = list(checkpoint.shapes.values())
    rows = {}
    for wish in wishes:
        makes = [Make("onnx", name) for name in _types(wish)]
        sizes = [predicted_bytes(checkpoint.config, shapes, make.type) for make in makes]
        candidates = [Candidate("onnx", make.type, size) for make, size in zip(makes, sizes, strict=True)]
        fits = hold(wish.profile, shape, candidates)
        if all(fit.short for fit in fits):
            raise nothing_fits(wish.profile, shape, fits)
        rows[wish.profile.name] = tuple(
            Row(make, fit, fit.short) for make, fit in zip(makes, fits, strict=True)
        )
    return Plan(rows)


def as_read(checkpoint: Checkpoint, wishes: Sequence[Wish]) -> list[Wish]:
    """Return wishes whose device reads a text of as many tokens as it has room for, all at once."""
    most = context_of(checkpoint.config)

    def fitted(profile: DeviceProfile) -> DeviceProfile:
        context = min(profile.serve.context, most)
        serve = profile.serve.model_copy(update={"context": context, "micro_batch": context})
        return profile.model_copy(update={"serve": serve})

    return [replace(wish, profile=fitted(wish.profile)) for wish in wishes]


class ClassifierRun:
    """A recipe for a classifier, being carried out."""

    def __init__(
        self,
        source: Checkpoint,
        recipe: Recipe,
        wishes: Sequence[Wish],
        called: str,
        *,
        cache: Cache,
        progress: Progress,
    ) -> None:
        """Prepare; `called` is what a model card may call the source."""
        self.source, self.recipe, self.wishes = source, recipe, list(wishes)
        self.cache, self.called, self.progress = cache, called, progress
        self.digest = source.digest_by(cache.digest_of)
        self.shape = shape_of(source.config, source.parameters)

    def build(self, planned: Plan, asked: Sequence[Golden], room: Path) -> tuple[list[Built], list[Result]]:
        """Build, measure and choose; fill a folder in `room` for each profile."""
        _check_golden(asked)
        made = self._made([make.type for make in planned.makes])
        results = [self._result(wish, planned, made) for wish in self.wishes]
        named = Named(
            self.recipe.name,
            self.recipe.version,
            self.source,
            self.shape,
            {"id": self.called, "digest": self.digest, "texts": made.texts, **tools()},
            made.labels,
        )
        golden = list(asked) or made.golden
        return [self._wrapped(named, result, made, golden, room) for result in results], results

    def _wrapped(
        self, named: Named, result: Result, made: BuiltClassifiers, golden: Sequence[Golden], room: Path
    ) -> Built:
        make = result.pick.best.make
        one = _by_type(made, make.type)
        model = Model(make, one.file, "", one.report)
        folder = room / result.profile.name
        return wrap(named, result.profile, result.pick, model, golden=golden, folder=folder)

    def rebuild(self, makes: Sequence[Make]) -> dict[Make, Path]:
        """Build `makes` again and nothing else; return their files."""
        made = self._made([make.type for make in dict.fromkeys(makes)])
        return {make: _by_type(made, make.type).file for make in makes}

    def _result(self, wish: Wish, planned: Plan, made: BuiltClassifiers) -> Result:
        profile = wish.profile
        rows = [row for row in planned.rows[profile.name] if not row.dropped]
        outcomes = [self._outcome(profile, made.of[row.make.type]) for row in rows]
        gate = self.recipe.gate if wish.is_open or self.recipe.quality else None
        most: dict[Format, int] = {"onnx": most_bytes(profile, self.shape, "onnx")}
        return Result(profile, pick(profile, outcomes, gate), planned, gate, most)

    def _outcome(self, profile: DeviceProfile, one: BuiltClassifier) -> Outcome:
        make, report = Make("onnx", one.report.type), one.report
        fit = hold(profile, self.shape, [Candidate("onnx", make.type, report.bytes)])[0]
        return Outcome(make, report.bytes, report.bits_per_weight, fit, one.measured)

    def _made(self, types: Sequence[str]) -> BuiltClassifiers:
        """Return the classifiers of these types, from the cache if they were built before."""
        texts = self.recipe.calibration.file if self.recipe.calibration else None
        evaluation = self.recipe.evaluation.file
        context = min(wish.profile.serve.context for wish in self.wishes)
        files = {"texts": texts, "evaluation": evaluation}
        step = {
            "step": "classifiers",
            "source": self.digest,
            "types": sorted(types),
            **{name: self.cache.digest_of_text(Path(file)) if file else None for name, file in files.items()},
            "context": context,
            "tools": tools(),
        }
        folder = self.cache.find(step)
        if folder is None:
            with self.cache.make(step) as room:
                made = build_classifiers(
                    self.source,
                    types,
                    room,
                    Path(texts) if texts else None,
                    Path(evaluation) if evaluation else None,
                    context=context,
                    progress=self.progress,
                )
                plain: Any = TypeAdapter(BuiltClassifiers).dump_python(made, mode="json")
                for one in plain["of"].values():
                    one["file"] = Path(one["file"]).name
                (room / "made.json").write_text(json.dumps(plain), encoding="utf-8")
            folder = self.cache.find(step) or room
        kept = TypeAdapter(BuiltClassifiers).validate_json((folder / "made.json").read_bytes())
        of = {asked: replace(one, file=folder / one.file) for asked, one in kept.of.items()}
        return replace(kept, of=of)


def _types(wish: Wish) -> tuple[str, ...]:
    if wish.format not in ("auto", "onnx") or "onnx" not in wish.profile.formats:
        raise UsageError(
            f"{wish.profile.name}: a text classifier is built as onnx; asked was format {wish.format}, the "
            f"profile takes {', '.join(wish.profile.formats)}",
            remedy="Leave --format at auto."
            if "onnx" in wish.profile.formats
            else "Add onnx to the profile's formats, if its devices have ONNX Runtime.",
        )
    if wish.is_open:
        return AUTO
    # A recipe writes every type in capitals.
    asked = next((name for name in TYPES if name.upper() == wish.type.upper()), None)
    if asked is None:
        raise UsageError(f"no type {wish.type!r} for a text classifier; expected one of {', '.join(TYPES)}")
    return (asked,)


def _by_type(made: BuiltClassifiers, type_name: str) -> BuiltClassifier:
    """Return what has this type, by whatever name it was asked for."""
    return next(one for asked, one in made.of.items() if type_name in (one.report.type, asked))


def _check_golden(asked: Sequence[Golden]) -> None:
    if any(golden.messages is not None or not golden.prompt for golden in asked):
        raise DocumentError(
            "golden prompts of a text classifier are texts with their labels: expected `prompt` and `expect`",
            remedy='Write them as {"prompt": "...", "expect": "LABEL", "match": "exact"}.',
        )
