"""How much of what must not be kept `slmops.telemetry.redact` finds, what it takes by mistake, and how fast.

    python bench/redact.py [CORPUS] [--misses]

The corpus is a file of JSON strings, one a line. In them «kind:value» marks what must go; a line without
marks holds nothing that must. `~|` stands within secrets, so that nobody's scanner takes them for real ones,
and is taken out. A value is found when every letter and digit of it is covered, by whatever kind; what is
covered and not marked is a mistake.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from slmops.telemetry.redact import Span, redact, spans

CORPUS = Path(__file__).parents[1] / "tests" / "telemetry" / "corpus" / "lines.jsonl"
MARK = re.compile(r"«([a-z\-]+):(.*?)»", re.DOTALL)
BYTES = 2048
REPEATS = 20


@dataclass
class Found:
    """What became of a corpus."""

    marked: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    mistaken: list[str] = field(default_factory=list)

    @property
    def recall(self) -> float:
        """Return the share of all that is marked that was found."""
        return self.found.total() / self.marked.total()


def read(path: Path = CORPUS) -> list[tuple[str, list[Span]]]:
    """Return the texts of a corpus with what must go from each."""
    return [unmark(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def unmark(line: str) -> tuple[str, list[Span]]:
    """Return a line without its marks, and where what they mark stands in it."""
    text, marked, end = "", [], 0
    line = line.replace("~|", "")
    for match in MARK.finditer(line):
        text += line[end : match.start()]
        marked.append(Span(len(text), len(text) + len(match[2]), match[1]))
        text += match[2]
        end = match.end()
    return text + line[end:], marked


def judge(corpus: list[tuple[str, list[Span]]]) -> Found:
    """Return what is found of a corpus."""
    judged = Found()
    for text, marked in corpus:
        taken = spans(text)
        covered = {place for span in taken for place in range(span.start, span.end)}
        for span in marked:
            judged.marked[span.kind] += 1
            value = {place for place in range(span.start, span.end) if text[place].isalnum()}
            if value <= covered:
                judged.found[span.kind] += 1
            else:
                judged.missed.append(f"{span.kind}: {text!r}")
        for span in taken:
            if not any(span.start < each.end and each.start < span.end for each in marked):
                judged.mistaken.append(f"{span.kind}: {text[span.start : span.end]!r} in {text!r}")
    return judged


def milliseconds(corpus: list[tuple[str, list[Span]]]) -> tuple[float, float]:
    """Return the median and the worst time for two kibibytes of the corpus, lines joined."""
    whole = "\n".join(text for text, _ in corpus)
    pieces = [whole[start : start + BYTES] for start in range(0, len(whole) - BYTES, BYTES)]
    took = []
    for piece in pieces:
        best = float("inf")
        for _ in range(REPEATS):
            began = time.perf_counter()
            redact(piece)
            best = min(best, time.perf_counter() - began)
        took.append(best * 1000)
    return statistics.median(took), max(took)


def main() -> None:
    """Print the table."""
    reading = argparse.ArgumentParser(
        description="Recall, mistakes and speed of redaction on a labelled corpus."
    )
    reading.add_argument("corpus", nargs="?", type=Path, default=CORPUS)
    reading.add_argument("--misses", action="store_true", help="print what was missed and what was mistaken")
    options = reading.parse_args()
    corpus = read(options.corpus)
    judged = judge(corpus)
    print(f"{'kind':<14}{'marked':>8}{'found':>8}{'recall':>9}")
    for kind in sorted(judged.marked):
        marked, found = judged.marked[kind], judged.found[kind]
        print(f"{kind:<14}{marked:>8}{found:>8}{found / marked:>9.1%}")
    print(f"{'all':<14}{judged.marked.total():>8}{judged.found.total():>8}{judged.recall:>9.1%}")
    clean = sum(not marked for _, marked in corpus)
    print(f"{len(judged.mistaken)} mistakes in {len(corpus)} lines, {clean} of which hold nothing")
    middle, worst = milliseconds(corpus)
    print(f"{middle:.2f} ms for {BYTES} letters (median; worst {worst:.2f})")
    if options.misses:
        print("\n".join(["", "missed", *judged.missed, "", "mistaken", *judged.mistaken]))


if __name__ == "__main__":
    main()
