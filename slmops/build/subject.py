"""What can be measured: a model as a server gets it, or the checkpoint it was made from.

Opens what it is told to open, in the process that asks; see `isolate`. Knows nothing of what is
asked of a model.

Law: an artifact is opened with the words it is served with: its tokenizer.json, its template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.artifact import description as descriptions
from slmops.artifact.description import Description
from slmops.build import classifier
from slmops.build.checkpoint import Checkpoint
from slmops.build.family import FAMILIES, context_of
from slmops.build.isolate import Progress
from slmops.build.merge_adapter import merge_adapter
from slmops.build.open_adapter import Adapted
from slmops.build.open_model import Model, Shape, TorchModel, open_artifact
from slmops.build.phrase import CheckpointPhrasing, GgufPhrasing, Phrasing, TokenizerPhrasing, Words
from slmops.build.source import GgufSource, open_gguf, open_model
from slmops.build.special_tokens import SpecialTokens
from slmops.errors import ModelError

CONTEXT = 2048
"""Tokens of context of a file that does not say how many it is for."""
MICRO_BATCH = 64
"""Tokens computed at once, of a file that does not say."""
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Served:
    """A model file and how it is served."""

    name: str
    file: Path
    shape: Shape
    words: Words | None = None
    """None: the GGUF's own."""
    labels: tuple[str, ...] = ()
    """Of a text classifier, in the order of its logits."""
    adapter: Path | None = None
    """The LoRA adapter that is put on it, a GGUF."""


Source = Checkpoint | Path | Served
"""A checkpoint, run in transformers; a .gguf or .onnx file; or one with its words."""


def find_subject(said: str) -> Checkpoint | Served:
    """Return what a person means by a folder, a file or a hub id; raise ModelError when it is none."""
    path = Path(said).expanduser()
    if (path / descriptions.FILE_NAME).is_file():
        return _described(path)
    if path.suffix in (".gguf", ".onnx") and path.is_file():
        beside = path.parent / descriptions.FILE_NAME
        if beside.is_file() and _read(beside).model == path.name:
            return _described(path.parent)
        return _bare(path)
    found = open_model(said)
    return _bare(found.file) if isinstance(found, GgufSource) else found


def name_of(source: Source) -> str:
    """Return what to call it."""
    if isinstance(source, Checkpoint):
        return source.folder.name
    return source.name


def context_of_source(source: Source) -> int:
    """Return the tokens it was trained for, or is served with."""
    if isinstance(source, Served):
        return source.shape.context
    if isinstance(source, Path):
        return open_gguf(source).trained_context if source.suffix == ".gguf" else CONTEXT
    if classifier.is_classifier(source.config):
        return classifier.context_of(source.config)
    if source.architecture in FAMILIES:
        return context_of(source.architecture, source.config)
    return _positions(source.config)


def labels_of_source(source: Checkpoint | Served) -> tuple[str, ...]:
    """Return the labels of a text classifier in the order of its logits; none of any other model."""
    if isinstance(source, Served):
        return source.labels
    return classifier.labels_of(source.config) if classifier.is_classifier(source.config) else ()


def tokenizer_of(source: Checkpoint | Served) -> Path:
    """Return the tokenizer.json of a model; raise ModelError where it has none."""
    if isinstance(source, Checkpoint):
        return source.words()
    if source.words is None:
        raise ModelError(f"{source.name} has no {TOKENIZER}")
    return source.words.tokenizer


def open_words(source: Source) -> Phrasing:
    """Open the words of a model."""
    if isinstance(source, Checkpoint):
        return CheckpointPhrasing(source)
    if isinstance(source, Served) and source.words:
        return TokenizerPhrasing(source.words)
    return GgufPhrasing(source.file if isinstance(source, Served) else source)


def open_weights(source: Source, shape: Shape, progress: Progress) -> Model:
    """Open the model itself."""
    if not isinstance(source, Checkpoint):
        return (
            open_artifact(source.file, shape, source.adapter)
            if isinstance(source, Served)
            else open_artifact(source, shape)
        )
    progress(f"loading {name_of(source)}", 0.0)
    from slmops.build.reference import load_reference  # noqa: PLC0415 - torch

    model = load_reference(source, lambda share: progress(f"loading {name_of(source)}", share))
    if isinstance(source, Adapted):
        merge_adapter(model, source.adapter)
    return TorchModel(model)


def open_source(source: Source, context: int, progress: Progress) -> tuple[Model, Phrasing]:
    """Open a model, with room for `context` tokens, and its words."""
    return open_weights(source, Shape(context), progress), open_words(source)


def _described(folder: Path) -> Served:
    said = _read(folder / descriptions.FILE_NAME)
    for name in filter(None, (said.model, said.tokenizer, said.chat_template, said.adapter)):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is not whole: it names {name}, which is not there")
    if said.format != "gguf" and not said.tokenizer:
        raise ModelError(f"{folder} is not whole: an .onnx model has no words of its own, and it names none")
    words = None
    if said.tokenizer:
        template = (folder / said.chat_template).read_text("utf-8") if said.chat_template else None
        words = Words(
            folder / said.tokenizer,
            special_tokens=said.special_tokens,
            stop_ids=tuple(said.stop_ids),
            add_bos=said.add_bos,
            chat_template=template,
        )
    shape = Shape(said.context, said.threads, said.micro_batch)
    adapter = folder / said.adapter if said.adapter else None
    name = f"{said.reference} ({said.type})"
    return Served(name, folder / said.model, shape, words, tuple(said.labels), adapter)


def _read(file: Path) -> Description:
    return descriptions.parse(file.read_bytes())


def _bare(file: Path) -> Served:
    """Return a file that no artifact describes; an ONNX model has its words beside it."""
    if file.suffix == ".gguf":
        return Served(file.name, file, Shape(open_gguf(file).trained_context, None, MICRO_BATCH))
    folder = file.parent
    if not (folder / TOKENIZER).is_file():
        raise ModelError(
            f"{file} has no {TOKENIZER} beside it: an .onnx model has no words of its own",
            remedy=f"Copy the {TOKENIZER} of its source into {folder}, or give the artifact's folder.",
        )
    config, generation, tokenizer, said, names = (
        _json(folder / name)
        for name in (
            "config.json",
            "generation_config.json",
            TOKENIZER,
            "tokenizer_config.json",
            "special_tokens_map.json",
        )
    )
    facts = SpecialTokens(tokenizer, said, names)
    words = Words(
        folder / TOKENIZER,
        special_tokens=facts.texts,
        stop_ids=facts.stop_ids(config, generation),
        add_bos=facts.add_bos,
        chat_template=_template(folder, said),
        bos_id=facts.bos_id(config),
    )
    labels = classifier.labels_of(config) if classifier.is_classifier(config) else ()
    context = classifier.context_of(config) if labels else _positions(config)
    return Served(file.name, file, Shape(context, None, MICRO_BATCH), words, labels)


def _positions(config: Mapping[str, Any]) -> int:
    return int(config.get("max_position_embeddings") or config.get("n_positions") or CONTEXT)


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}", remedy="Copy or download it again.") from error


def _template(folder: Path, said: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = said.get("chat_template")
    return template if isinstance(template, str) else None
