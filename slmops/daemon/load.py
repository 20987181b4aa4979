"""From an artifact folder to a model that has proved it can speak.

It reads files and nothing else; the server and the clock are not its business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slmops.artifact.description import CLASSIFICATION, FILE_NAME, Description, parse
from slmops.daemon.batch import Batch, Job
from slmops.daemon.chat import ChatTemplate
from slmops.daemon.engine import Engine, Shape
from slmops.daemon.generate import Piece, Wish, Writing
from slmops.daemon.refusal import RefusedError
from slmops.daemon.sampling import Sampling
from slmops.daemon.text import JsonVocabulary, Vocabulary
from slmops.errors import MissingPartError, ModelError

if TYPE_CHECKING:
    from slmops.daemon.classifier import Classifier


@dataclass(frozen=True)
class Want:
    """How a model is wanted, beyond what its description says."""

    slots: int = 8
    """Requests that are computed together at most."""
    pool: int | None = None
    """Tokens that all of them together have room for; at least, and by default, the description's context."""
    threads: int | None = None
    """To compute with; by default as many as the description says."""


DEFAULT = Want()


@dataclass(frozen=True)
class Model:
    """What is needed to answer."""

    engine: Engine
    vocabulary: Vocabulary
    template: ChatTemplate | None
    stop_ids: tuple[int, ...]

    def writing(self, wish: Wish) -> Writing:
        """Return the writing of one answer."""
        return Writing(wish, self.vocabulary.decode, self.stop_ids)

    def answer(self, wish: Wish) -> Iterator[Piece]:
        """Yield the pieces of one answer, computed with nobody else; nothing of it is kept.

        Raise RefusedError when it cannot be computed.
        """
        batch = Batch(self.engine, time.monotonic)
        batch.add(Job(self.writing(wish)))
        try:
            while batch.active:
                for _, said in batch.turn():
                    if isinstance(said, RefusedError):
                        raise said
                    if said is not None:
                        yield said
        finally:
            for sequence in range(self.engine.sequences):
                self.engine.keep(sequence, 0)


def describe(folder: Path) -> Description:
    """Read the description of the artifact in `folder`; raise ModelError when there is none."""
    try:
        return parse((folder / FILE_NAME).read_bytes())
    except OSError as error:
        raise ModelError(f"{folder} is not an artifact folder: {error.strerror}: {error.filename}") from error


def load(folder: Path, description: Description, want: Want = DEFAULT) -> Model | Classifier:
    """Load what `description` names and let it generate one token, or label one text.

    Raise ModelError when a file is missing, broken or does not belong to the others, and
    MissingPartError when the runtime is not installed.
    """
    named = (description.model, description.tokenizer, description.chat_template, description.adapter)
    for name in filter(None, named):
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing")
    if description.task == CLASSIFICATION:
        return _open_classifier(folder, description, want)
    engine, vocabulary = _open(folder, description, want)
    if vocabulary.size > engine.vocabulary:
        raise ModelError(f"the tokenizer has {vocabulary.size} tokens, the model only {engine.vocabulary}")
    model = Model(engine, vocabulary, _template(folder, description), tuple(description.stop_ids))
    begin = vocabulary.bos if vocabulary.bos is not None else 0
    try:
        for _ in model.answer(Wish((begin,), limit=1, sampling=Sampling())):
            pass
    except RefusedError as error:
        raise ModelError(str(error)) from error
    return model


def _open(folder: Path, description: Description, want: Want) -> tuple[Engine, Vocabulary]:
    """Open model and tokenizer; only the runtime that is needed is imported, for it costs memory."""
    file = folder / description.model
    shape = Shape(
        context=description.context,
        pool=max(want.pool or 0, description.context),
        slots=want.slots,
        stride=description.micro_batch,
        threads=_threads(description, want),
    )
    tokenizer = _tokenizer(folder, description)
    try:
        if description.format == "gguf":
            # Read once, when OpenMP is loaded: where nobody looks after it (`spin`), threads sleep.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            from slmops.daemon.llama import GgufVocabulary, LlamaEngine, LlamaModel  # noqa: PLC0415

            model = LlamaModel(file, folder / description.adapter if description.adapter else None)
            return LlamaEngine(model, shape), tokenizer or GgufVocabulary(model)
        if description.format == "onnx" and tokenizer:
            from slmops.daemon.onnx import OnnxEngine  # noqa: PLC0415

            return OnnxEngine(file, shape), tokenizer
    except ImportError as error:
        raise _missing(description, error) from error
    raise ModelError(
        f"format: expected gguf, or onnx with a tokenizer, got {description.format} "
        f"with {description.tokenizer or 'none'}"
    )


def _open_classifier(folder: Path, description: Description, want: Want) -> Classifier:
    vocabulary = _tokenizer(folder, description)
    if description.format != "onnx" or vocabulary is None:
        raise ModelError(
            f"a classifier: expected format onnx with a tokenizer, got {description.format} "
            f"with {description.tokenizer or 'none'}"
        )
    try:
        from slmops.daemon.classifier import Classifier  # noqa: PLC0415
    except ImportError as error:
        raise _missing(description, error) from error
    shape = description.context, _threads(description, want)
    return Classifier(folder / description.model, vocabulary, description.labels, *shape)


def _tokenizer(folder: Path, description: Description) -> JsonVocabulary | None:
    if description.tokenizer is None:
        return None
    bos = description.special_tokens.get("bos_token")
    return JsonVocabulary(_text(folder / description.tokenizer), bos, add_bos=description.add_bos)


def _missing(description: Description, error: ImportError) -> MissingPartError:
    return MissingPartError(f"format {description.format} needs a package: {error}")


def _threads(description: Description, want: Want) -> int:
    """Return the threads to compute with; more than there are processors would only wait on each other."""
    return max(1, min(want.threads or description.threads, len(os.sched_getaffinity(0))))


def _template(folder: Path, description: Description) -> ChatTemplate | None:
    if description.chat_template is None:
        return None
    return ChatTemplate(_text(folder / description.chat_template), description.special_tokens)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{file} is not text in UTF-8") from error
