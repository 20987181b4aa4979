"""Carry out a recipe: plan, build each distinct model once, measure it, fill a folder for each profile."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from slmops.artifact import description as descriptions
from slmops.artifact import golden as goldens
from slmops.artifact.description import Description
from slmops.artifact.golden import Golden
from slmops.build import card, scheme
from slmops.build.checkpoint import Checkpoint
from slmops.build.divergence import Measurement, judge
from slmops.build.family import FAMILIES, context_of
from slmops.build.measure import measure_many
from slmops.build.prove_vocabulary import prove
from slmops.build.quantize_gguf import GgufReport, plan_gguf, quantize_gguf
from slmops.build.quantize_onnx import OnnxReport, quantize_onnx
from slmops.build.recipe import Format, Plan, Recipe, Wish, plan
from slmops.build.record_golden import record_golden
from slmops.build.requantize_gguf import convert_with, requantize_gguf
from slmops.build.source import GgufSource, Source, open_gguf
from slmops.errors import UsageError
from slmops.profile.device import DeviceProfile
from slmops.profile.fit import Choice

Progress = Callable[[str, float], None]
"""Told what is being done and which share of it is done, 0 to 1."""
ONNX_BYTES = {"INT8": 1.0, "F32": 4.0}
"""Bytes of each weight in the file."""
ONNX_GRAPH = 200_000
"""Bytes of graph, names and scales, about: what a file is larger than its weights."""
TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"


@dataclass(frozen=True)
class Model:
    """One built model file, before it is wrapped for a profile."""

    file: Path
    report: GgufReport | OnnxReport
    measured: Measurement


@dataclass(frozen=True)
class Built:
    """The artifact folder of one profile, and why it is what it is."""

    profile: DeviceProfile
    folder: Path
    description: Description
    choice: Choice
    bits_per_weight: float
    fallbacks: int
    size: int


class Run:
    """A recipe being carried out in `room`, a folder of its own on the disk the result will lie on."""

    def __init__(self, source: Source, name: str, recipe: Recipe, room: Path, progress: Progress) -> None:
        """Prepare; `name` is what the person called the source."""
        self.source, self.name = source, called(name)
        self.room, self.progress = room, progress
        self.recipe = replace(recipe, wishes=tuple(self._within_training(wish) for wish in recipe.wishes))
        self.gguf = source if isinstance(source, GgufSource) else None

    def convert(self, converter: Path) -> None:
        """Let a llama.cpp converter make the GGUF that all types are then made from, without loss."""
        if isinstance(self.source, Checkpoint):
            file = self.room / "converted.gguf"
            convert_with(converter, self.source.folder, "F32", file)
            self.gguf = open_gguf(file)

    def plan(self) -> Plan:
        """Choose what to build for each profile, before anything is built."""
        formats: list[Format] = ["gguf"] if isinstance(self.source, GgufSource) else ["gguf", "onnx"]
        return plan(self.recipe, self.source.shape, self._weigh, formats)

    def _within_training(self, wish: Wish) -> Wish:
        """Ask for no more context than the model was trained on."""
        most = _trained_context(self.source)
        serve = wish.profile.serve
        if most is None or serve.context <= most:
            return wish
        return replace(
            wish,
            profile=wish.profile.model_copy(update={"serve": serve.model_copy(update={"context": most})}),
        )

    def build(self, planned: Plan, asked: Sequence[Golden]) -> list[Built]:
        """Build, prove and measure every model of the plan; without `asked`, record golden prompts."""
        pairs = planned.builds
        files = {pair: self.room / f"{pair[1]}.{pair[0]}" for pair in pairs}
        reports = {pair: self._make(pair, files[pair]) for pair in pairs}
        for pair in pairs:
            self._prove(files[pair])
        measured = self._measure([files[pair] for pair in pairs], asked)
        for pair, found in zip(pairs, measured, strict=True):
            judge(found, pair[1])
        golden = list(asked) or self._record([files[pair] for pair in pairs])
        models = {
            pair: Model(files[pair], reports[pair], found)
            for pair, found in zip(pairs, measured, strict=True)
        }
        digest = self.source.digest
        return [
            self._wrap(wish, planned.choices[wish.profile.name], models, golden, digest)
            for wish in self.recipe.wishes
        ]

    @property
    def _checkpoint(self) -> Checkpoint:
        if isinstance(self.source, Checkpoint):
            return self.source
        raise UsageError(
            f"{self.name} is a .gguf: only gguf can be made of it", remedy="Give the Hugging Face folder."
        )

    def _weigh(self, format_: Format, type_name: str) -> int:
        shape = self.source.shape
        if format_ == "onnx":
            return int(shape.parameters * ONNX_BYTES[type_name]) + ONNX_GRAPH
        if self.gguf is not None:
            build = scheme.Build(shape.layers, shape.heads, shape.kv_heads)
            chosen = scheme.choose(self.gguf.tensors, type_name, build)
            return chosen.data_bytes + self.gguf.header_bytes
        return plan_gguf(self._checkpoint, type_name).predicted_bytes

    def _make(self, pair: tuple[Format, str], out: Path) -> GgufReport | OnnxReport:
        format_, type_name = pair
        doing = f"building {format_} {type_name}"

        def counted(done: int, whole: int) -> None:
            self.progress(doing, done / max(whole, 1))

        if format_ == "onnx":
            return quantize_onnx(
                self._checkpoint, type_name, out, lambda what, share: self.progress(f"{doing}: {what}", share)
            )
        if self.gguf is not None:
            return requantize_gguf(self.gguf.file, type_name, out, counted)
        return quantize_gguf(self._checkpoint, type_name, out, counted)

    def _prove(self, file: Path) -> None:
        if file.suffix == ".gguf" and isinstance(self.source, Checkpoint) and self.source.tokenizer:
            self.progress(f"proving the tokenizer of {file.name}", 0.0)
            prove(file, self.source.tokenizer)

    def _measure(self, files: list[Path], asked: Sequence[Golden]) -> list[Measurement]:
        measured = self.source.file if isinstance(self.source, GgufSource) else self.source
        return measure_many(
            measured,
            files,
            prompts=asked,
            progress=lambda what, share: self.progress(f"measuring: {what}", share),
        )

    def _record(self, files: list[Path]) -> list[Golden]:
        source = self.source.file if isinstance(self.source, GgufSource) else self.source
        return record_golden(
            source, files, progress=lambda what, share: self.progress(f"golden prompts: {what}", share)
        )

    def _wrap(
        self,
        wish: Wish,
        choice: Choice,
        models: dict[tuple[Format, str], Model],
        golden: Sequence[Golden],
        digest: str,
    ) -> Built:
        """Fill the artifact folder of one profile; the model's file is linked, not copied."""
        profile, candidate = wish.profile, choice.candidate
        model = models[candidate.format, candidate.type]
        folder = self.room / "artifacts" / profile.name
        folder.mkdir(parents=True)
        os.link(model.file, folder / f"model.{candidate.format}")
        said = self._describe(profile, choice, model, digest, golden=bool(golden))
        if said.tokenizer and isinstance(self.source, Checkpoint) and self.source.tokenizer:
            (folder / TOKENIZER).write_bytes(self.source.tokenizer.read_bytes())
        if said.chat_template and self.source.chat_template:
            (folder / TEMPLATE).write_text(self.source.chat_template, encoding="utf-8")
        if golden:
            (folder / goldens.FILE_NAME).write_text(goldens.render(golden), encoding="utf-8")
        (folder / descriptions.FILE_NAME).write_bytes(descriptions.render(said))
        bits, size = model.report.bits_per_weight, model.report.bytes
        fallbacks = len(model.report.fallbacks) if isinstance(model.report, GgufReport) else 0
        text = card.render(said, size=size, bits_per_weight=bits, reason=choice.reason, fallbacks=fallbacks)
        (folder / "README.md").write_text(text, encoding="utf-8")
        return Built(profile, folder, said, choice, bits, fallbacks, size)

    def _describe(
        self, profile: DeviceProfile, choice: Choice, model: Model, digest: str, *, golden: bool
    ) -> Description:
        source, candidate, found = self.source, choice.candidate, model.measured
        has_tokenizer = isinstance(source, Checkpoint) and source.tokenizer is not None
        return Description(
            name=self.recipe.name,
            version=self.recipe.version,
            profile=profile.name,
            arch=profile.arch,
            format=candidate.format,
            type=candidate.type,
            model=f"model.{candidate.format}",
            architecture=source.architecture,
            parameters=source.shape.parameters,
            context=profile.serve.context,
            threads=profile.serve.threads,
            micro_batch=profile.serve.micro_batch,
            memory_bytes=choice.footprint.total,
            tokenizer=TOKENIZER if has_tokenizer else None,
            chat_template=TEMPLATE if source.chat_template else None,
            special_tokens=dict(source.special_tokens),
            add_bos=isinstance(source, Checkpoint) and source.add_bos,
            stop_ids=list(source.stop_ids),
            generation=dict(source.generation) if isinstance(source, Checkpoint) else {},
            golden=goldens.FILE_NAME if golden else None,
            measured={
                "kl_mean": found.kl_mean,
                "kl_p99": found.kl_p99,
                "top1": found.top1,
                "tokens": float(found.tokens),
            },
            source={"id": self.name, "digest": digest, "slmops": version("slmops")},
        )


def called(said: str) -> str:
    """Return what a model card may call the source: a hub id as it is, of a path its last part alone."""
    path = Path(said).expanduser()
    return path.resolve().name if path.exists() else said


def _trained_context(source: Source) -> int | None:
    if isinstance(source, GgufSource):
        return source.trained_context
    if source.architecture in FAMILIES:
        return context_of(source.architecture, source.config)
    found = source.config.get("max_position_embeddings") or source.config.get("n_positions")
    return int(found) if found else None
