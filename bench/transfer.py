"""What an update costs on the wire: slmops' delta against rsync, xdelta3, bsdiff, HDiffPatch, zstd, chunks.

    scripts/bench transfer PAIRS [--peers PYTHON] [--only WORDS] [--rounds N]

PAIRS is a folder that bench/pairs.py made. For each pair every method makes of base and target what would be
sent, and makes the target again of base and that; the result must be the target, bit for bit. Where a pair
has a target whose block scales are the base's (`slmops quantize --delta-base`), it is another row, and every
method gets it: what building does for a delta and what coding does are then seen apart. The last columns hold
slmops' delta of the best target there is against the best peer's of the plain one.

It is fair because each step is a process of its own and its bytes are those of the file to be sent. What
peers need besides is in their favour: rsync counts what it sends and receives and is asked to compress
(--stats, -z), all of it in one step; xdelta3 gets a window as large as the base; HDiffPatch and chunks are
packed with zstd; of chunks only new ones count, with 40 bytes each for a list of all. Seconds are CPU seconds
and include the start of an interpreter where a method is a Python package. Sizes are exact and the same in
every round; seconds and peaks are medians.

The peers live outside of slmops: rsync, xdelta3 and zstd as commands, bsdiff4, hdiffpatch, fastcdc and
zstandard in the Python that --peers names. What is missing is left out, and said.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from _measure import Case, Sample, Samples, median, peak, progress, rounds, run, save, show

OURS: Final = "slmops"
FULL: Final = "zstd"
BIG: Final = 20_000_000
"""Bytes from which a pair is measured once."""
ENCODE: Final[Mapping[str, str]] = {
    OURS: "from slmops.delta.make_delta import make_delta as f; f(Path(base), Path(target), Path(sent))",
    "bsdiff": "import bsdiff4; bsdiff4.file_diff(base, target, sent)",
    "hdiff": "import hdiffpatch as h; b, t = Path(base).read_bytes(), Path(target).read_bytes(); "
    "Path(sent).write_bytes(h.diff(b, t, h.ZStdConfig(level=19), validate=False))",
    "cdc 16": "chunks(16)",
    "cdc 64": "chunks(64)",
}
DECODE: Final[Mapping[str, str]] = {
    OURS: "from slmops.delta.apply_delta import apply_delta as f; f(Path(base), Path(sent), Path(made))",
    "bsdiff": "import bsdiff4; bsdiff4.file_patch(base, made, sent)",
    "hdiff": "import hdiffpatch as h; b, d = Path(base).read_bytes(), Path(sent).read_bytes(); "
    "Path(made).write_bytes(h.apply(b, d))",
}
NEEDED: Final[Mapping[str, str]] = {
    OURS: "slmops.delta.make_delta",
    "bsdiff": "bsdiff4",
    "hdiff": "hdiffpatch",
    "cdc 16": "fastcdc, zstandard",
    "cdc 64": "fastcdc, zstandard",
}
"""What has to be importable for each."""
OPENING: Final = """
import sys
from pathlib import Path
base, target, sent, made = sys.argv[1:]
def chunks(size):
    import hashlib, fastcdc, zstandard
    def cut(file):
        data = Path(file).read_bytes()
        for one in fastcdc.fastcdc(data, avg_size=size << 10):
            yield data[one.offset : one.offset + one.length]
    known = {hashlib.sha256(one).digest() for one in cut(base)}
    packer, every = zstandard.ZstdCompressor(level=19), 0
    with open(sent, "wb") as out:
        for one in cut(target):
            every += 1
            name = hashlib.sha256(one).digest()
            if name not in known:
                known.add(name)
                out.write(packer.compress(one))
        out.write(bytes(40 * every))
"""
LONG: Final = "--long=31"


@dataclass(frozen=True)
class Pair:
    """A file that devices have, and what it is to become."""

    name: str
    base: Path
    target: Path


@dataclass(frozen=True)
class Places:
    """Where what is made of a pair by one method lies."""

    sent: Path
    made: Path


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path, help="folder that bench/pairs.py made")
    parser.add_argument("--peers", type=Path, default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--only", nargs="*", default=[], help="pairs whose names have one of these words")
    parser.add_argument("--without", nargs="*", default=[], help="methods to leave out")
    parser.add_argument("--rounds", type=int, default=5, help="of pairs under 20 MB; larger ones: one round")
    asked = parser.parse_args()
    pairs = [
        pair for pair in pairs_in(asked.pairs) if not asked.only or any(w in pair.name for w in asked.only)
    ]
    if not pairs:
        sys.exit(f"no pairs in {asked.pairs}; make them: .venv/bin/python bench/pairs.py --help")
    methods = [method for method in usable(asked.peers) if method not in asked.without]
    samples: Samples = {}
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        for pair in pairs:
            cases: dict[str, Case] = {}
            for method in methods:
                cases |= cases_of(pair, method, Path(folder), asked.peers)
            samples |= rounds(1 if pair.target.stat().st_size > BIG else asked.rounds, cases)
            for file in Path(folder).iterdir():
                file.unlink() if file.is_file() else shutil.rmtree(file)
    report(pairs, methods, samples)


def pairs_in(folder: Path) -> list[Pair]:
    """Return the pairs of a folder; one with reused scales follows its plain one."""
    found = []
    for base in sorted(folder.glob("*/base.*")):
        found.append(Pair(base.parent.name, base, base.with_stem("target")))
        if (reused := base.with_stem("target-reused")).is_file():
            found.append(Pair(f"{base.parent.name} reused", base, reused))
    return found


def usable(peers: Path) -> list[str]:
    """Return the methods that are installed here; say which are not."""
    there = {name: shutil.which(name) is not None for name in ("rsync", "xdelta3", FULL)}
    for method, modules in NEEDED.items():
        python = sys.executable if method == OURS else peers
        told = subprocess.run([python, "-c", f"import {modules}"], capture_output=True, check=False)
        there[method] = told.returncode == 0
    there |= {"zstd -p": there[FULL]}
    missing = [method for method, is_there in there.items() if not is_there]
    if missing:
        progress(f"not installed, left out: {', '.join(missing)}")
    return sorted((method for method, is_there in there.items() if is_there), key=lambda name: name != OURS)


def cases_of(pair: Pair, method: str, room: Path, peers: Path) -> dict[str, Case]:
    """Return the steps of a method."""
    stem = re.sub(r"\W+", "-", f"{pair.name} {method}")
    places = Places(room / f"{stem}.sent", room / f"{stem}.made")
    if method == "rsync":
        return {f"{pair.name} | {method} | encode": partial(by_rsync, pair, room / stem)}
    words = commands(pair, method, places, peers)
    cases: dict[str, Case] = {f"{pair.name} | {method} | encode": partial(encode, pair, places, words[0])}
    if len(words) > 1:
        cases[f"{pair.name} | {method} | decode"] = partial(decode, pair, places, words[1])
    return cases


def commands(pair: Pair, method: str, places: Places, peers: Path) -> list[list[str | Path]]:
    """Return how a method makes what is sent, and how it makes the target of that."""
    base, target, sent, made = pair.base, pair.target, places.sent, places.made
    if method == "xdelta3":
        window = str(max(base.stat().st_size, 1 << 20))
        return [
            ["xdelta3", "-e", "-9", "-f", "-B", window, "-s", base, target, sent],
            ["xdelta3", "-d", "-f", "-B", window, "-s", base, sent, made],
        ]
    if method == "zstd -p":
        end = [f"--patch-from={base}", "-q", "-f"]
        return [
            [FULL, "-19", LONG, *end, target, "-o", sent],
            [FULL, "-d", LONG, *end, sent, "-o", made],
        ]
    if method == FULL:
        return [[FULL, "-19", "-q", "-f", target, "-o", sent], [FULL, "-d", "-q", "-f", sent, "-o", made]]
    python = Path(sys.executable) if method == OURS else peers
    codes = [code[method] for code in (ENCODE, DECODE) if method in code]
    return [[python, "-c", OPENING + code, base, target, sent, made] for code in codes]


def encode(pair: Pair, places: Places, words: list[str | Path]) -> Sample:
    """Make what is sent; a method that makes nothing has the whole target sent."""
    taken = run(words)
    sent = places.sent if places.sent.is_file() else pair.target
    return replace(taken, bytes=sent.stat().st_size)


def decode(pair: Pair, places: Places, words: list[str | Path]) -> Sample:
    """Make the target again; end the benchmark if it is another."""
    if not places.sent.is_file():
        return Sample(0.0, 0.0, 0.0)
    taken = run(words)
    if not filecmp.cmp(places.made, pair.target, shallow=False):
        sys.exit(f"{pair.name}: what came out is not the target: {' '.join(map(str, words))}")
    return taken


def by_rsync(pair: Pair, room: Path) -> Sample:
    """Let rsync bring a copy of the base up to date; the sample has what went both ways."""
    room.mkdir(exist_ok=True)
    shutil.copyfile(pair.base, room / "file")
    said = room / "said"
    words = 'rsync -I -z --no-whole-file --stats "$1" "$2" > "$3"'
    taken = run(["sh", "-c", words, "sh", pair.target, room / "file", said])
    if not filecmp.cmp(room / "file", pair.target, shallow=False):
        sys.exit(f"{pair.name}: rsync did not make the target")
    counts = re.findall(r"Total bytes (?:sent|received): ([\d,]+)", said.read_text(encoding="utf-8"))
    return replace(taken, bytes=sum(int(count.replace(",", "")) for count in counts))


def report(pairs: Sequence[Pair], methods: Sequence[str], samples: Samples) -> None:
    """Print what was sent, and what it took; save all of it."""
    taken = {name: median(each) for name, each in samples.items()}
    sizes = {pair.name: pair.target.stat().st_size for pair in pairs}
    sent = {
        pair.name: {method: taken[f"{pair.name} | {method} | encode"].bytes or 0 for method in methods}
        for pair in pairs
    }
    lines = [row(pair.name, sizes[pair.name], sent, methods) for pair in pairs]
    best = ("of best peer",) if OURS in methods else ()
    show(
        "Bytes on the wire, % of the target",
        ("pair", *methods, *best),
        lines,
        "of best peer: slmops' bytes as a share of the best peer's of the plain target. cdc: chunks of 16 or "
        "64 KiB. Each result was verified.",
    )
    largest = max(pairs, key=lambda pair: sizes[pair.name]).name
    show(
        f"What it takes: {largest}, {sizes[largest] / 1e6:.1f} MB",
        ("method", "encode CPU s", "peak MB", "decode CPU s", "MB/s", "peak MB"),
        [cost(method, largest, sizes[largest], taken) for method in methods],
        "MB are 10^6 bytes; peaks are of resident memory, mapped files included. rsync: both in one.",
    )
    facts = {"pairs": {name: {"bytes": sizes[name], "sent": each} for name, each in sent.items()}}
    save("transfer", samples, **facts, load=os.getloadavg()[0])


def row(
    name: str, size: int, sent: Mapping[str, Mapping[str, int]], methods: Sequence[str]
) -> tuple[str, ...]:
    """Return a pair's line."""
    shares = [_share(sent[name][method] / size) for method in methods]
    plain = sent[name.removesuffix(" reused")] if name.endswith(" reused") else sent[name]
    theirs = {method: count for method, count in plain.items() if method != OURS}
    if OURS not in methods or not theirs:
        return (name, *shares)
    best = min(theirs, key=lambda method: theirs[method])
    return (name, *shares, f"{sent[name][OURS] / theirs[best]:.2f} {best}")


def _share(part: float) -> str:
    """Show a share in per cent, three figures of it."""
    return f"{100 * part:.{1 if part > 0.1 else 2}f}"  # noqa: PLR2004 - from ten per cent on


def cost(method: str, pair: str, size: int, taken: Mapping[str, Sample]) -> tuple[str, ...]:
    """Return a method's line."""
    made, back = taken[f"{pair} | {method} | encode"], taken.get(f"{pair} | {method} | decode")
    first = (method, f"{made.cpu_s:.2f}", peak(made.peak_mb))
    if back is None or not back.cpu_s:
        return (*first, "", "", "")
    return (*first, f"{back.cpu_s:.2f}", f"{size / 1e6 / back.cpu_s:.0f}", peak(back.peak_mb))


if __name__ == "__main__":
    main()
