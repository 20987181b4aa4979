"""Two hundred bad versions, offered while eight clients ask: is one of their requests lost, does one get in.

    .venv/bin/python bench/bad_versions.py [--count 200] [--kinds "cut short" ...] [--quick]

Each is a copy of the demo's artifact that is bad in a way that disks, builds and people bring about: files
that are cut, rotten or missing, weights and tokenizers that answer wrongly, one that is far too large, one
whose file never comes (a named pipe), one that llama.cpp gives up the process over, one whose template
never ends. It is offered as an operator would, through the admin API: load, and where it loads, gate. After
each, what served is still current, and the status says of the bad one what ended it. Ends with 1 where that
is not so.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import _load
import _planted
from _goals import exactly, show_goals
from _measure import ROOT, progress, save, show
from _served import ROOM, Server, artifact, busy, mortal, named, slmopsd
from swaps import jobs

SECONDS: Final = 10
"""For a load, and for a gate: what hangs is ended then."""
EPSILON: Final = b"llama.attention.layer_norm_rms_epsilon"
ENDLESS: Final = "".join(f"{{% for {each} in range(9999) %}}" for each in "abc") + "{% endfor %}" * 3
STILL: Final = "stands still while it loads"
RARE: Final = 25
"""Those that hang take SECONDS each; one version in so many is one."""


def _cut(folder: Path) -> None:
    os.truncate(folder / "model.gguf", (folder / "model.gguf").stat().st_size // 2)


def _rot(folder: Path) -> None:
    with (folder / "model.gguf").open("r+b") as file:
        file.seek(64)
        file.write(b"\xff" * 4096)


def _count(folder: Path) -> None:
    with (folder / "model.gguf").open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<Q", 1 << 40))


def _empty(folder: Path) -> None:
    os.truncate(folder / "model.gguf", 0)


def _missing(folder: Path) -> None:
    (folder / "model.gguf").unlink()


def _unsaid(folder: Path) -> None:
    (folder / "artifact.json").write_text("{", encoding="utf-8")


def _large(folder: Path) -> None:
    _say(folder, memory_bytes=1 << 42, context=1 << 30)


def _pipe(name: str) -> Callable[[Path], None]:
    """Have one of the files be a named pipe that nobody writes to: who reads it waits."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def _abort(folder: Path) -> None:
    """Have the file ask for a norm with a negative epsilon: llama.cpp ends the process at its first token."""
    file = folder / "model.gguf"
    data = bytearray(file.read_bytes())
    struct.pack_into("<f", data, data.index(EPSILON) + len(EPSILON) + 4, -1.0)
    file.write_bytes(data)


def _endless(folder: Path) -> None:
    file = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))["chat_template"]
    (folder / file).write_text(ENDLESS, encoding="utf-8")


def _planted_as(kind: str) -> Callable[[Path], None]:
    return lambda folder: _planted.KINDS[kind](folder, ROOT / "demo/model")


def _say(folder: Path, **more: Any) -> None:
    file = folder / "artifact.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **more}), encoding="utf-8")


KINDS: Final[Mapping[str, Callable[[Path], None]]] = {
    "cut short": _cut,
    "head rotten": _rot,
    "a trillion tensors": _count,
    "empty": _empty,
    "no model": _missing,
    "no description": _unsaid,
    "far too large": _large,
    "crashes at its first token": _abort,
    **{
        f"{name} is a pipe": _pipe(name)
        for name in ("model.gguf", "tokenizer.json", "golden.jsonl", "artifact.json")
    },
    **{
        kind: _planted_as(kind)
        for kind in ("tokenizer swapped", "head cut", "answers empty", "a tensor of NaN")
    },
}
HANGING: Final[Mapping[str, Callable[[Path], None]]] = {
    "template never ends": _endless,
    STILL: lambda _folder: None,
}


def offer(server: Server, good: Path, kind: str, room: Path) -> dict[str, Any]:
    """Offer a bad version; return what became of it."""
    folder = room / "version"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    _say(folder, version=f"2.0.{time.monotonic_ns()}")
    digest = named(folder)
    ({**KINDS, **HANGING})[kind](folder)
    began = time.monotonic()
    with still(server) if kind == STILL else nullcontext():
        answer = server.ask("load", folder=str(folder), digest=digest)
    how, said = "load", answer.json()
    if answer.is_success:
        answer = server.ask("gate", digest=digest)
        how, said = "gate", answer.json()
    took = time.monotonic() - began
    refused = not answer.is_success or said.get("outcome") != "pass"
    promoted = server.ask("promote", digest=digest).is_success
    status = server.order("status")
    told: dict[str, Any] = next((each for each in status["versions"] if each["digest"] == digest), {})
    server.ask("drop", digest=digest)
    return {
        "kind": kind, "by": how, "status": answer.status_code, "seconds": took,
        "let_in": not refused or promoted,
        "kept": status["labels"]["current"] == named(good),
        "evidence": told.get("failure") or (said if how == "gate" and refused else None),
        "said": said,
    }  # fmt: skip


@contextmanager
def still(server: Server) -> Iterator[None]:
    """Stop the next worker as soon as it is there, as a disk that no longer answers does."""
    there, over = set(server.pids()), threading.Event()

    def stop() -> None:
        while not over.wait(0.001):
            for pid in set(server.pids()) - there:
                os.kill(pid, signal.SIGSTOP)
                return

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def drawn(count: int, kinds: list[str] | None) -> list[str]:
    """Return the kinds to offer, in order."""
    usual, hanging = list(KINDS), list(HANGING)
    if kinds:
        return [kinds[number % len(kinds)] for number in range(count)]
    return [
        hanging[number // RARE % len(hanging)] if number % RARE == RARE - 1 else usual[number % len(usual)]
        for number in range(count)
    ]


def main() -> None:
    """Offer, look, show."""
    mortal()
    asked = _asked()
    good = artifact("demo", asked.room)
    found: list[dict[str, Any]] = []
    bounds = ("--max-load", str(SECONDS), "--max-gate", str(SECONDS))
    with (
        tempfile.TemporaryDirectory(prefix="slmops-bench-") as room,
        slmopsd(good, "--slots", "8", *bounds, python=asked.python) as server,
    ):
        others = busy()
        with _load.playing(server.port, jobs(good)) as got:
            for number, kind in enumerate(drawn(asked.count, asked.kinds), 1):
                found.append(offer(server, good, kind, Path(room)))
                progress(f"{number}/{asked.count}  {kind}: {found[-1]['by']} {found[-1]['status']}")
    failed = [vars(each) for each in got if not each.good]
    by = collections.defaultdict(list)
    for each in found:
        by[each["kind"]].append(each)
    rows = [
        [kind, str(len(tried)), tried[0]["by"], f"{max(each['seconds'] for each in tried):.1f}"]
        for kind, tried in by.items()
    ]
    show("Bad versions", ("", "offered", "stopped at", "s at most"), rows, "")
    goals = [
        exactly(f"requests failed, of {len(got)}", 0, len(failed)),
        exactly("bad versions that came in", 0, sum(each["let_in"] for each in found)),
        exactly("times that current changed", 0, sum(not each["kept"] for each in found)),
        exactly("bad versions of which nothing is told", 0, sum(not each["evidence"] for each in found)),
    ]
    show_goals(f"{len(found)} bad versions", goals, f"Others used {others:.0%} of the machine.")
    for strange in [*failed[:5], *(each for each in found if each["let_in"] or not each["evidence"])][:10]:
        print(strange, file=sys.stderr)
    if not asked.quick:
        offered = [{**each, "evidence": bool(each["evidence"])} for each in found]
        for each in offered:
            del each["said"]
        save("bad_versions", {}, offered=offered, requests=len(got), failed=failed, others_used=others)
    sys.exit(0 if all(goal.met for goal in goals) else 1)


def _asked() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=(*KINDS, *HANGING), help="which (all)")
    parser.add_argument("--room", type=Path, default=ROOM, help="where models are kept between runs")
    parser.add_argument("--python", default=sys.executable, help="Python that the daemon runs from")
    parser.add_argument(
        "--quick", action="store_true", help="each kind that does not hang once: does it work?"
    )
    asked = parser.parse_args()
    if asked.quick:
        asked.count = len(KINDS)
    return asked


if __name__ == "__main__":
    main()
