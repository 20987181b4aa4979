"""The steps of a build, each done once: what was made before from the same things is taken from the cache.

Knows what each step is made of; nothing of profiles, choices or artifacts.

Law: the name of a step says all that its result depends on, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from pydantic import TypeAdapter

from slmops import digest as digests
from slmops.artifact import golden as goldens
from slmops.artifact.golden import Golden
from slmops.build.ask_golden import ask_golden
from slmops.build.cache import Cache, tools
from slmops.build.checkpoint import Checkpoint
from slmops.build.collect_importance import collect_importance
from slmops.build.divergence import Measurement
from slmops.build.importance import Importance
from slmops.build.measure import measure_many
from slmops.build.measure_tensors import measure_tensors
from slmops.build.mix import Option
from slmops.build.plan import Make
from slmops.build.prove_vocabulary import prove
from slmops.build.quantize_gguf import GgufPlan, GgufReport, Reuse, plan_gguf, write_all
from slmops.build.quantize_onnx import OnnxReport, quantize_onnx
from slmops.build.record_golden import record_golden
from slmops.build.record_references import record_references
from slmops.build.requantize_gguf import convert_with, converter_files, requantize_gguf
from slmops.build.source import GgufSource, Source, open_gguf
from slmops.errors import BuildError, MissingPartError, UsageError

Progress = Callable[[str, float], None]
"""Told what is being done and which share of it is done, 0 to 1."""
Report: TypeAlias = GgufReport | OnnxReport
T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """One built model file, before it is wrapped for a profile."""

    make: Make
    file: Path
    key: str
    """Names the step that made it."""
    report: Report


@dataclass(frozen=True)
class Reading:
    """On what text artifacts are held against their source."""

    tokens: int
    file: Path | None = None
    """Held-out text of a person's; without it the source writes its own."""


class Steps:
    """The steps of building from one source."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        progress: Progress,
        jobs: int = 1,
        bases: Mapping[str, Path] | None = None,
    ) -> None:
        """Build from `source`, up to `jobs` processes at a time; `bases` are earlier files by digest."""
        self.source, self.cache, self.jobs, self.bases = source, cache, jobs, dict(bases or {})
        self._heard, self._given_up = progress, False
        self.gguf = source if isinstance(source, GgufSource) else None
        """The file that GGUF types are made from by llama.cpp itself, where there is one."""

    @cached_property
    def digest(self) -> str:
        """Return what names the source."""
        return self.source.digest_by(self.cache.digest_of)

    def progress(self, doing: str, share: float) -> None:
        """Tell how far it is; raise KeyboardInterrupt where nobody waits for it any more."""
        if self._given_up:
            raise KeyboardInterrupt
        self._heard(doing, share)

    def convert(self, converter: Path) -> None:
        """Let a llama.cpp converter make the GGUF that all types are then made from, without loss."""
        if not isinstance(self.source, Checkpoint):
            return
        script = digests.of_pieces(map(Path.read_bytes, converter_files(converter)))
        step = self._step("convert", converter=script)
        folder = self.cache.find(step)
        if folder is None:
            self.progress("converting with llama.cpp's own converter", 0.0)
            with self.cache.make(step) as made:
                convert_with(converter, self.source.folder, "F32", made / "model.gguf")
        self.gguf = open_gguf(self._found(step) / "model.gguf")

    def importance(self, file: Path, tokens: int) -> Importance:
        """Return the importance matrix of the source over the calibration text in `file`."""
        step = self._step("importance", file=self.cache.digest_of_text(file), tokens=tokens)
        if self.cache.find(step) is None:
            collected = collect_importance(self.checkpoint, file, tokens=tokens, progress=self.progress)
            with self.cache.make(step) as made:
                np.savez(made / "columns.npz", allow_pickle=False, **dict(collected.columns))
                _save(made / "facts.json", (collected.digest, collected.tokens, collected.sequences))
        folder = self._found(step)
        with np.load(folder / "columns.npz") as columns:
            return Importance(dict(columns), *_load(folder / "facts.json", tuple[str, int, int]))

    def models(
        self, makes: Sequence[Make], importance: Importance | None
    ) -> tuple[dict[Make, Model], dict[Make, str]]:
        """Return a model for each of `makes`, and why there is none for those that cannot be built.

        A single one that cannot be built raises its error.
        """
        step_of = {make: self._model_step(make, importance) for make in makes}
        groups = self._groups([make for make in makes if self.cache.find(step_of[make]) is None])
        if len(makes) == 1 and groups:
            self._write(groups[0], importance)
            groups = []
        parts = self._build_all(groups, importance)
        failed = {make: why for part in parts for make, why in part.items()}
        return {make: self._model(make, step_of[make]) for make in makes if make not in failed}, failed

    def measure(
        self, models: Sequence[Model], reading: Reading, prompts: Sequence[Golden]
    ) -> list[Measurement]:
        """Return how far each model lies from the source."""
        how: dict[str, Any] = {
            "tokens": reading.tokens,
            "prompts": goldens.render(prompts) if prompts else "",
        }
        if reading.file:
            how["file"] = self.cache.digest_of_text(reading.file)
        steps = [self._step("measure", model=model.key, **how) for model in models]
        missing = [n for n, step in enumerate(steps) if self.cache.find(step) is None]
        found = (
            measure_many(
                self._measured_against,
                [models[n].file for n in missing],
                tokens=reading.tokens,
                texts=reading.file,
                prompts=prompts,
                jobs=self.jobs,
                progress=lambda what, share: self.progress(f"measuring: {what}", share),
            )
            if missing
            else []
        )
        for n, measurement in zip(missing, found, strict=True):
            with self.cache.make(steps[n]) as made:
                _save(made / "measured.json", measurement)
        return [_load(self._found(step) / "measured.json", Measurement) for step in steps]

    def options(self, importance: Importance | None) -> dict[str, list[Option]]:
        """Return what each type of each matrix costs, in bytes and in loss."""
        step = self._step("tensors", importance=importance.fingerprint if importance else None)
        if self.cache.find(step) is None:
            found = measure_tensors(self.checkpoint, importance, progress=self.progress)
            with self.cache.make(step) as made:
                _save(made / "options.json", found)
        return _load(self._found(step) / "options.json", dict[str, list[Option]])

    def golden(self, models: Sequence[Model], context: int) -> list[Golden]:
        """Return golden prompts of at most `context` tokens that the source and all `models` answer alike."""
        step = self._step("golden", models=sorted(model.key for model in models), context=context)
        if self.cache.find(step) is None:
            recorded = record_golden(
                self._measured_against,
                [model.file for model in models],
                context=context,
                progress=lambda what, share: self.progress(f"golden prompts: {what}", share),
            )
            with self.cache.make(step) as made:
                (made / goldens.FILE_NAME).write_text(goldens.render(recorded), encoding="utf-8")
        text = (self._found(step) / goldens.FILE_NAME).read_text(encoding="utf-8")
        return goldens.read(text, goldens.FILE_NAME) if text.strip() else []

    def references(self, model: Model, context: int) -> list[Golden]:
        """Return texts of at most `context` tokens, and how likely this very model held their tokens."""
        step = self._step("references", model=model.key, context=context)
        if self.cache.find(step) is None:
            recorded = record_references(self._measured_against, model.file, context, progress=self.progress)
            with self.cache.make(step) as made:
                _save(made / "references.json", recorded)
        return _load(self._found(step) / "references.json", list[Golden])

    def unanswered(self, model: Model, asked: Sequence[Golden], context: int) -> list[str]:
        """Return which of the golden prompts a person gave the model does not answer as they expect."""
        step = self._step("asked", model=model.key, golden=goldens.render(asked), context=context)
        if self.cache.find(step) is None:
            missed = ask_golden(self._measured_against, model.file, asked, context, progress=self.progress)
            with self.cache.make(step) as made:
                _save(made / "missed.json", missed)
        return _load(self._found(step) / "missed.json", list[str])

    def weighs(self, make: Make) -> bool:
        """Return whether an importance matrix has a say in how `make` is rounded."""
        return self._is_streamed(make) or make.type == "INT4"

    @property
    def checkpoint(self) -> Checkpoint:
        """Return the source as the folder that it must be here."""
        if isinstance(self.source, Checkpoint):
            return self.source
        raise UsageError(
            "a .gguf can be quantised again, and no more than that",
            remedy="Give the Hugging Face folder to build ONNX or to calibrate.",
        )

    @property
    def _converted(self) -> Path:
        if self.gguf is None:
            raise BuildError("there is no .gguf to quantise again")
        return self.gguf.file

    @property
    def _measured_against(self) -> Checkpoint | Path:
        return self.source.file if isinstance(self.source, GgufSource) else self.source

    def _groups(self, makes: Sequence[Make]) -> list[list[Make]]:
        """Return what is built together: all GGUF files of a checkpoint are one reading of it."""
        together = [make for make in makes if self._is_streamed(make)]
        alone = [[make] for make in makes if make not in together]
        return [together, *alone] if together else alone

    def _is_streamed(self, make: Make) -> bool:
        return make.format == "gguf" and self.gguf is None

    def _build_all(self, groups: list[list[Make]], importance: Importance | None) -> list[dict[Make, str]]:
        """Build the groups, up to `jobs` at a time; return for each why some of it could not be built."""
        if min(self.jobs, len(groups)) < 2:  # noqa: PLR2004 - nothing beside another: Ctrl-C ends it at once
            return [self._build(group, importance) for group in groups]
        with ThreadPoolExecutor(self.jobs) as pool:
            begun = [pool.submit(self._build, group, importance) for group in groups]
            try:
                return [each.result() for each in begun]
            except BaseException:
                # A thread cannot be ended; it ends itself when it next has something to tell.
                self._given_up = True
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _build(self, group: list[Make], importance: Importance | None) -> dict[Make, str]:
        """Build a group; return why some of it could not be built."""
        try:
            self._write(group, importance)
        except (BuildError, MissingPartError) as error:
            if len(group) == 1:
                return {group[0]: str(error)}
            return {make: why for one in group for make, why in self._build([one], importance).items()}
        return {}

    def _write(self, group: list[Make], importance: Importance | None) -> None:
        if self._is_streamed(group[0]):
            self._write_gguf(group, importance)
        else:
            self._write_alone(group[0], importance)

    def _write_gguf(self, makes: Sequence[Make], importance: Importance | None) -> None:
        checkpoint = self.checkpoint
        doing = f"building gguf {', '.join(dict.fromkeys(make.type for make in makes))}"
        with contextlib.ExitStack() as stack:
            rooms = {
                make: stack.enter_context(self.cache.make(self._model_step(make, importance)))
                for make in makes
            }
            plans = {
                rooms[make] / "model.gguf": self._plan_gguf(checkpoint, make, importance) for make in makes
            }
            reports = write_all(
                checkpoint, plans, lambda done, whole: self.progress(doing, done / max(whole, 1))
            )
            for file, report in reports.items():
                _save(file.with_name("report.json"), report)
            if checkpoint.tokenizer:
                # The vocabulary is the same in all of them.
                self.progress("proving the tokenizer", 0.0)
                prove(next(iter(plans)), checkpoint.tokenizer)

    def _plan_gguf(self, checkpoint: Checkpoint, make: Make, importance: Importance | None) -> GgufPlan:
        planned = plan_gguf(checkpoint, make.type, dict(make.types) or None, importance)
        return replace(planned, reuse=self._reuse(make))

    def _reuse(self, make: Make) -> Reuse | None:
        if not make.base:
            return None
        if make.base not in self.bases:
            raise BuildError(
                f"it reuses the scales of a file that is not here: {make.base}",
                remedy="Put the release that it was built to follow back into the registry, and try again.",
            )
        return Reuse(self.bases[make.base], make.tolerance)

    def _write_alone(self, make: Make, importance: Importance | None) -> None:
        doing = f"building {make}"
        with self.cache.make(self._model_step(make, importance)) as made:
            out = made / f"model.{make.format}"
            report: Report
            if make.format == "onnx":
                report = quantize_onnx(
                    self.checkpoint,
                    make.type,
                    out,
                    lambda what, share: self.progress(f"{doing}: {what}", share),
                    importance=importance.columns if importance else None,
                )
            else:
                report = requantize_gguf(
                    self._converted, make.type, out, lambda done, whole: self.progress(doing, done / whole)
                )
            _save(made / "report.json", report)

    def _model_step(self, make: Make, importance: Importance | None) -> dict[str, Any]:
        weighed = importance.fingerprint if importance and self.weighs(make) else None
        made_from = self.cache.digest_of(self.gguf.file) if self.gguf and make.format == "gguf" else None
        return self._step(
            "model",
            format=make.format,
            type=make.type,
            types=dict(make.types),
            importance=weighed,
            requantized=made_from,
            base=make.base,
            tolerance=make.tolerance,
        )

    def _model(self, make: Make, step: dict[str, Any]) -> Model:
        folder = self._found(step)
        kind: type[Report] = OnnxReport if make.format == "onnx" else GgufReport
        return Model(make, folder / f"model.{make.format}", folder.name, _load(folder / "report.json", kind))

    def _step(self, name: str, **made_of: Any) -> dict[str, Any]:
        return {"step": name, "source": self.digest, **made_of, "tools": tools()}

    def _found(self, step: Mapping[str, Any]) -> Path:
        folder = self.cache.find(step)
        if folder is None:
            raise BuildError("a finished step is gone from the cache", remedy="Run the same command again.")
        return folder


def _save(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, default=asdict), encoding="utf-8")


def _load(file: Path, kind: type[T]) -> T:
    return TypeAdapter(kind).validate_json(file.read_bytes())
