"""What a recorded teacher costs and loses: bytes a token, loss and gradient against all logits, peak memory.

Compared, for each trained model and number of tokens kept: what `slmops distill` keeps (three quarters
the likeliest, a quarter drawn from the rest), and the same without the drawn ones, the rest as one more
outcome, which is what a top-k file usually is. The student is the teacher with noise on every matrix;
nats is the forward KL a token by all logits, loss what it comes to over that; gradient is the cosine
between the two gradients of all its weights.

Memory and pace are those of a random Llama as a teacher and a smaller one as its student, four steps of
1024 tokens, in fresh processes of one thread: the student alone by cross-entropy, with the recorded
teacher, and with the teacher at hand. Models: the demo's with its own prompts, and $SLMOPS_TEACHER with
$SLMOPS_TEXT.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from _measure import HERE, ROOT, Case, Sample, median, peak, progress, quick, ratio, rounds, run, save, show

SHARED: Final = ROOT.parent / "shared"
DEMO: Final = ROOT / "demo" / "model"
TOKENS: Final = 8192
Size = tuple[int, int, int, int]
"""Vocabulary, hidden, inner, layers."""
SMALL: Final[tuple[Size, Size]] = ((8192, 256, 1024, 4), (8192, 128, 256, 2))
USUAL: Final[tuple[Size, Size]] = ((32000, 512, 2048, 16), (32000, 256, 512, 4))
WAYS: Final = ("alone", "recorded", "at hand")


def main() -> None:
    """Compare losses, then memory; print both tables and save."""
    small = quick(__doc__)
    count = 2 if small else 5
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        room = Path(folder)
        losses = {
            name: work(room, "losses", *each, TOKENS // (8 if small else 1))[0] for name, each in trained()
        }
        sizes = SMALL if small else USUAL
        for model, size in zip(("teacher", "student"), sizes, strict=True):
            work(room, "make", room / model, DEMO, *size)
        said = room, DEMO / "golden.jsonl", TOKENS
        recorded, recording = work(room, "record", *said)
        samples = rounds(count, {way: training(room, *said, way) for way in WAYS})
    lines = [line for name, found in losses.items() for line in loss_rows(name, found)]
    columns = ("teacher, tokens kept", "B / token", "nats", "loss", "gradient", "undrawn: loss", "gradient")
    show("What is kept of a teacher, against all its logits", columns, lines, "")
    found = {name: median(taken) for name, taken in samples.items()}
    rows = [memory_row(name, one, found["at hand"]) for name, one in found.items()]
    note = (
        f"Recording: {recorded['tokens_per_second']:.0f} tokens/s, peak {recording.peak_mb:.0f} MB; "
        f"{recorded['bytes']:.0f} bytes a token of a vocabulary of {sizes[0][0]:,}."
    )
    title = f"Training a student, medians of {count} rounds"
    show(title, ("teacher", "s", "CPU s", "peak MB", "peak / at hand"), rows, note)
    if not small:
        save("top_k", samples, rounds=count, losses=losses, recording=recorded)


def trained() -> list[tuple[str, tuple[Path, Path]]]:
    """Return trained teachers with a text each."""
    teacher = Path(os.environ.get("SLMOPS_TEACHER", SHARED / "models" / "tinystories-656k"))
    text = Path(os.environ.get("SLMOPS_TEXT", SHARED / "data" / "tinystories_sample_2MiB.txt"))
    more = [(teacher.name, (teacher, text))] if teacher.is_dir() and text.is_file() else []
    return [("demo", (DEMO, DEMO / "golden.jsonl")), *more]


def work(room: Path, *words: object) -> tuple[Any, Sample]:
    """Return what a process of its own answers, and what it took."""
    progress(" ".join(str(word) for word in words[:2]))
    answer = room / "answer.json"
    sample = run([sys.executable, HERE / "_teaching.py", answer, *map(str, words)], {"OMP_NUM_THREADS": "1"})
    return json.loads(answer.read_text(encoding="utf-8")), sample


def training(room: Path, *words: object) -> Case:
    """Return the case that trains a student; its time is that of training alone."""

    def train() -> Sample:
        answer, sample = work(room, "train", *words)
        return replace(sample, wall_s=answer["seconds"])

    return train


def loss_rows(name: str, found: list[dict[str, float]]) -> list[tuple[str, ...]]:
    """Return a line for each number of tokens kept."""
    return [
        (
            f"{name}, {one['k']}", f"{one['bytes']:.1f}", f"{one['dense']:.3f}",
            *(f"{one[key]:.4f}" for key in ("loss", "gradient", "undrawn_loss", "undrawn_gradient")),
        )
        for one in found
    ]  # fmt: skip


def memory_row(name: str, one: Sample, at_hand: Sample) -> tuple[str, ...]:
    """Return one line of the second table."""
    return (
        name, f"{one.wall_s:.1f}", f"{one.cpu_s:.1f}", peak(one.peak_mb), ratio(one.peak_mb, at_hand.peak_mb),
    )  # fmt: skip


if __name__ == "__main__":
    main()
