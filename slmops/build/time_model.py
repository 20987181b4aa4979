"""How fast an artifact answers on this machine, and how much memory it takes.

It is opened in a process of its own as a server opens it, reads a prompt and goes on from it, several
times over. Nothing is sampled and no text is made: this is the runtime's share of an answer. A text
classifier reads texts, one at a time.

Law: what is said is the median of ROUNDS rounds, after one that does not count. Speeds are this
machine's, as busy as it is; a device's own are what the device reports.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slmops.build.isolate import Progress, isolate, silent
from slmops.build.open_classifier import OnnxClassifier
from slmops.build.open_model import Model, Shape, open_artifact, threads_for

PROMPT, ANSWER = 128, 32
"""Tokens that are read, and that are generated; fewer where the context is small."""
ROUNDS = 5
CPUINFO, STATUS = Path("/proc/cpuinfo"), Path("/proc/self/status")


@dataclass(frozen=True)
class Timing:
    """Medians over ROUNDS rounds."""

    prompt_per_second: float
    """Prompt tokens."""
    decode_per_second: float
    """Generated tokens."""
    first_token_seconds: float
    """From a prompt of `prompt` tokens to the first token of the answer."""
    load_seconds: float
    peak_bytes: int | None
    """High-water mark of the process's resident memory; nothing where the system does not say."""
    prompt: int
    answer: int
    context: int
    threads: int
    micro_batch: int
    cpu: str


@dataclass(frozen=True)
class TextTiming:
    """Of a text classifier: medians over the texts and ROUNDS rounds."""

    text_seconds: float
    """Of the clock, from the ids of one text to its logits."""
    text_cpu_seconds: float
    """Of all threads."""
    load_seconds: float
    peak_bytes: int | None
    """As in Timing."""
    texts: int
    tokens: float
    """Of a text."""
    threads: int
    cpu: str


def time_model(
    file: Path, shape: Shape, adapter: Path | None = None, *, progress: Progress = silent
) -> Timing:
    """Return how fast the .gguf or .onnx `file` is when it is served with `shape`, and with `adapter` on.

    More threads than this machine has processors are not used. Raises BuildError when it cannot be run.
    """
    served = Shape(shape.context, _threads(file, shape.threads), shape.micro_batch, last_only=True)
    return isolate(f"timing {file.name}", _time, progress, file, served, adapter)


def time_classifier(
    file: Path, texts: Sequence[Sequence[int]], threads: int | None, *, progress: Progress = silent
) -> TextTiming:
    """Return how fast the classifier in `file` reads `texts`, given as ids; threads as in `time_model`."""
    return isolate(f"timing {file.name}", _time_texts, progress, file, texts, _threads(file, threads))


def _threads(file: Path, asked: int | None) -> int:
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(asked or threads_for(file.stat().st_size), here)


def _time_texts(progress: Progress, file: Path, texts: Sequence[Sequence[int]], threads: int) -> TextTiming:
    """Be the child, as `_time` is."""
    began = time.perf_counter()
    model = OnnxClassifier(file, threads)
    loaded = time.perf_counter() - began
    readings = list[tuple[float, float]]()
    for number in range(ROUNDS + 1):
        for ids in texts:
            start = time.perf_counter(), time.process_time()
            model.logits(ids)
            readings.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        progress(f"timing {file.name}", (number + 1) / (ROUNDS + 1))
    clock, cpu = (statistics.median(column) for column in zip(*readings[len(texts) :], strict=True))
    return TextTiming(
        text_seconds=clock,
        text_cpu_seconds=cpu,
        load_seconds=loaded,
        peak_bytes=_peak(),
        texts=len(texts),
        tokens=statistics.median(map(len, texts)),
        threads=threads,
        cpu=_cpu(),
    )


def _time(progress: Progress, file: Path, shape: Shape, adapter: Path | None) -> Timing:
    """Be the child; it imports no more than a server of the model does, for the sake of its memory."""
    began = time.perf_counter()
    model = open_artifact(file, shape, adapter)
    loaded = time.perf_counter() - began
    prompt = min(PROMPT, shape.context // 2)
    answer = min(ANSWER, shape.context - prompt)
    rounds = list[tuple[float, float]]()
    for number in range(ROUNDS + 1):
        rounds.append(_round(model, prompt, answer))
        progress(f"timing {file.name}", (number + 1) / (ROUNDS + 1))
    first, rest = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
    return Timing(
        prompt_per_second=prompt / first,
        decode_per_second=answer / rest,
        first_token_seconds=first,
        load_seconds=loaded,
        peak_bytes=_peak(),
        prompt=prompt,
        answer=answer,
        context=shape.context,
        threads=shape.threads or 1,
        micro_batch=shape.micro_batch,
        cpu=_cpu(),
    )


def _round(model: Model, prompt: int, answer: int) -> tuple[float, float]:
    """Return the seconds from the prompt to the first token, and those that the next `answer` take."""
    model.restart()
    began = time.perf_counter()
    best = int(model.read([0, 1] * (prompt // 2) + [0] * (prompt % 2))[-1].argmax())
    first = time.perf_counter()
    for _ in range(answer):
        best = int(model.read([best])[-1].argmax())
    return first - began, time.perf_counter() - first


def _peak() -> int | None:
    """Return the high-water mark of this process; getrusage would tell of the one that started it, too."""
    if not STATUS.is_file():
        return None
    marks = [line.split() for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(marks[0][1]) * 1024 if marks else None


def _cpu() -> str:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
