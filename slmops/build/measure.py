"""How far an artifact's next-token distribution lies from its source's.

The source model writes text of its own (sampled at temperature 1, seeded), so no corpus is needed
and the text is in the model's own domain; each artifact then reads the same tokens. An artifact is
fed as a server feeds it: the first half of a text in one go, the rest token by token.

Laws: the same source, seed and prompts write the same text; the source is out of memory before the
first artifact is opened; what llama.cpp or ONNX Runtime do to their process stays in it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from slmops.artifact.golden import Golden
from slmops.build.checkpoint import Checkpoint
from slmops.build.divergence import Measurement, Rows, judge, log_probabilities, summarize
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.open_model import GgufModel, Model, TorchModel, open_artifact
from slmops.build.phrase import CheckpointPhrasing, GgufPhrasing, Phrasing
from slmops.errors import BuildError

__all__ = ["Measurement", "Source", "judge", "measure", "measure_many", "open_source", "write_story"]

Source = Checkpoint | Path
"""A Hugging Face checkpoint, or a .gguf file."""

LENGTH = 128
"""Most tokens in one text."""


def measure(
    source: Source,
    artifact: Path,
    *,
    tokens: int = 512,
    seed: int = 0,
    prompts: Sequence[Golden] = (),
    progress: Progress = silent,
) -> Measurement:
    """Return the loss of `artifact` (.gguf or .onnx) against `source` over `tokens` tokens.

    Texts begin with `prompts`, then with nothing. Raises BuildError when either cannot be run.
    """
    return measure_many(source, [artifact], tokens=tokens, seed=seed, prompts=prompts, progress=progress)[0]


def measure_many(
    source: Source,
    artifacts: Sequence[Path],
    *,
    tokens: int = 512,
    seed: int = 0,
    prompts: Sequence[Golden] = (),
    progress: Progress = silent,
) -> list[Measurement]:
    """Return the loss of each of `artifacts`, all over the same text; the source is loaded once."""
    with tempfile.TemporaryDirectory(prefix="slmops-measure-") as room:
        folder = Path(room)
        isolate(
            "running the source model",
            _write,
            progress,
            source,
            folder,
            tokens=tokens,
            seed=seed,
            prompts=list(prompts),
        )
        return [isolate(f"running {file.name}", _read, progress, file, folder) for file in artifacts]


def open_source(source: Source, context: int, progress: Progress) -> tuple[Model, Phrasing]:
    """Open the source and its words, for a child process; `context` is the room a GGUF is given."""
    if isinstance(source, Path):
        gguf = GgufModel(source, context)
        return gguf, GgufPhrasing(gguf.llama)
    progress("loading the source model", 0.0)
    from slmops.build.reference import load_reference  # noqa: PLC0415 - torch

    phrasing = CheckpointPhrasing(source)
    return TorchModel(
        load_reference(source, lambda share: progress("loading the source model", share))
    ), phrasing


def _write(
    progress: Progress, source: Source, folder: Path, *, tokens: int, seed: int, prompts: list[Golden]
) -> None:
    """Be the child that fills `folder` with texts: 00000.ids.npy and 00000.rows.npy, and so on."""
    model, phrasing = open_source(source, LENGTH, progress)
    limit = (
        LENGTH
        if isinstance(source, Path)
        else min(LENGTH, source.config.get("max_position_embeddings", LENGTH))
    )
    random = np.random.default_rng(seed)
    begun = [ids[: limit * 3 // 4] for prompt in prompts if (ids := phrasing.ids(prompt))]
    endless = [phrasing.begin_ids] if phrasing.begin_ids else begun
    if not endless:
        raise BuildError("the source names no token to begin a text with", remedy="Give golden prompts.")
    texts = itertools.chain(begun, itertools.cycle(endless))
    written = 0
    for number in itertools.count():
        if written >= tokens:
            return
        ids, rows = write_story(model, next(texts), min(limit, tokens - written), phrasing.stop_ids, random)
        np.save(folder / f"{number:05}.ids.npy", np.array(ids))
        np.save(folder / f"{number:05}.rows.npy", rows)
        written += len(ids)
        progress(f"writing {tokens} tokens with the source model", written / tokens)


def write_story(
    model: Model, start: list[int], limit: int, stop_ids: frozenset[int], random: np.random.Generator
) -> tuple[list[int], Rows]:
    """Let the model go on from `start` until it stops or has `limit` tokens; return them and the logits."""
    model.restart()
    ids = start[:limit]
    rows = [model.feed(ids)]
    while len(ids) < limit and (len(ids) == len(start) or ids[-1] not in stop_ids):
        chances = np.exp(log_probabilities(rows[-1][-1]))
        ids = [*ids, int(random.choice(len(chances), p=chances / chances.sum()))]
        rows.append(model.feed(ids[-1:]))
    return ids, np.concatenate(rows)


def _read(progress: Progress, artifact: Path, folder: Path) -> Measurement:
    texts = [np.load(file).tolist() for file in sorted(folder.glob("*.ids.npy"))]
    model = open_artifact(artifact, max(map(len, texts)))

    def pairs() -> Iterator[tuple[Rows, Rows]]:
        for done, (ids, file) in enumerate(zip(texts, sorted(folder.glob("*.rows.npy")), strict=True), 1):
            expected, got = np.load(file, mmap_mode="r"), _as_served(model, ids)
            if expected.shape != got.shape:
                raise BuildError(
                    f"{artifact.name} knows {got.shape[1]} tokens, its source {expected.shape[1]}",
                    remedy="Build the artifact from this very source.",
                )
            yield expected, got
            progress(f"comparing {artifact.name} with its source", done / len(texts))

    return summarize(pairs())


def _as_served(model: Model, ids: list[int]) -> Rows:
    half = (len(ids) + 1) // 2
    model.restart()
    return np.concatenate([model.feed(ids[:half]), *(model.feed([id_]) for id_ in ids[half:])])
