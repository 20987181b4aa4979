"""Servers to be measured: a random model built and kept, daemons started and ended, memory read, admin asked.

It does not know what is measured. Nothing it starts outlives the block that it was started in.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from _measure import ROOT, progress
from _random_model import make, words

ROOM: Final = Path(tempfile.gettempdir()) / "slmops-bench-daemon"
CONTEXT: Final = 2048
MICRO_BATCH: Final = 512
"""Prompt tokens computed at once, here and in the peers, whose own default it is."""
THREADS: Final = 2
PATIENCE: Final = 300.0
MB: Final = 1e6
NAMES: Final = {"demo": "demo", "77M": "random-77m", "0.5B": "random-0.5b"}


def artifact(size: str, room: Path, version: str = "1.0.0") -> Path:
    """Return the folder of an artifact in Q8_0 of a random model or the demo's, built unless it is there.

    Versions are the same model under other names: what a swap costs does not follow from the numbers.
    """
    folder = room / f"{size}-{version}"
    if folder.exists():
        return folder
    if version != "1.0.0":
        return _called(artifact(size, room), folder, version)
    release, own = f"{NAMES[size]}:1.0.0", {"SLMOPS_HOME": str(room / "home")}
    progress(f"building {release}")
    source = ROOT / "demo/model" if size == "demo" else make(size, room / f"{size}-source")
    name, _, number = release.partition(":")
    slmops(
        own, "quantize", source, "--profile", "local", "--type", "Q8_0", "--name", name, "--version", number
    )
    fresh = room / f"{size}-fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    slmops(own, "release", "export", release, fresh)
    if size != "demo":
        _say(fresh, context=CONTEXT, micro_batch=MICRO_BATCH, threads=THREADS)
    fresh.rename(folder)
    return folder


def named(folder: Path) -> str:
    """Return a digest that tells this artifact from others."""
    return "sha256:" + hashlib.sha256((folder / "artifact.json").read_bytes()).hexdigest()


def slmops(env: Mapping[str, str], *said: str | Path) -> None:
    """Run a command of slmops to its end; end the benchmark if it fails."""
    words = [sys.executable, "-m", "slmops", *map(str, said)]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **env}, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stderr.decode(errors='replace')}")


def _called(base: Path, folder: Path, version: str) -> Path:
    fresh = folder.with_suffix(".fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(base, fresh, copy_function=os.link)
    (fresh / "artifact.json").unlink()
    shutil.copy(base / "artifact.json", fresh)
    _say(fresh, version=version)
    fresh.rename(folder)
    return folder


def _say(folder: Path, **more: Any) -> None:
    file = folder / "artifact.json"
    said = {**json.loads(file.read_text(encoding="utf-8")), **more}
    file.write_text(json.dumps(said, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def prompts(folder: Path, count: int, tokens: int, seed: int, shared: int = 0) -> list[str]:
    """Return `count` prompts of exactly `tokens` tokens; the first `shared` are the same in all of them."""
    import random  # noqa: PLC0415 - beside what is heavy

    from tokenizers import Tokenizer  # noqa: PLC0415 - as above

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lot = random.Random(seed)  # noqa: S311 - not a secret
    (text,) = words(lot, 4000 + 200 * count, 10**6)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    begin, found, at = tokenizer.decode(ids[:shared]), list[str](), shared
    while len(found) < count:
        # Where a piece is cut its ends may be read otherwise: such a piece is passed over.
        at, rest = at + 7, tokenizer.decode(ids[at : at + tokens - shared])
        if len(tokenizer.encode(begin + rest, add_special_tokens=False).ids) == tokens:
            found.append(begin + rest)
            at += tokens - shared
        if at > len(ids) - tokens:
            sys.exit("too few words for these prompts")
    return found


@dataclass
class Server:
    """A process that answers HTTP on a port of this machine."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    admin: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def get(self, path: str) -> httpx.Response:
        """Ask for something over loopback."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=60)

    def ask(self, verb: str, **said: Any) -> httpx.Response:
        """Ask the admin API on its own socket: a POST, of `status` a GET."""
        door = httpx.HTTPTransport(uds=str(self.admin))
        with httpx.Client(transport=door, base_url="http://admin", timeout=PATIENCE) as client:
            path = f"/admin/v1/{verb}"
            return client.get(path) if verb == "status" else client.post(path, json=said)

    def order(self, verb: str, **said: Any) -> dict[str, Any]:
        """Ask the admin API; end the benchmark if it refuses."""
        answer = self.ask(verb, **said)
        if not answer.is_success:
            sys.exit(f"{verb} {said}: {answer.status_code} {answer.text}\n{self.words()}")
        found: dict[str, Any] = answer.json()
        return found

    def bring(self, folder: Path) -> str:
        """Load a version, hold its gate, and have it serve; end what served before. Return how it came in."""
        old = self.order("status")["labels"]["current"]
        plan = self.order("load", folder=str(folder), digest=named(folder))["plan"]
        verdict = self.order("gate", digest=named(folder))
        if verdict["outcome"] != "pass":
            sys.exit(f"{folder}: {verdict}")
        self.order("promote", digest=named(folder))
        self.order("drop", digest=old)
        return str(plan)

    def words(self) -> str:
        """Return the last lines that it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def wait(self, path: str) -> float:
        """Wait until `path` is answered with 200; return the seconds. End the benchmark if it ends first."""
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE:
            with suppress(httpx.TransportError):
                if self.get(path).is_success:
                    return time.monotonic() - began
            if self.process.poll() is not None:
                sys.exit(f"{self.name} ended with exit code {self.process.returncode}\n{self.words()}")
            time.sleep(0.02)
        sys.exit(f"{self.name} does not answer\n{self.words()}")

    def pids(self) -> list[int]:
        """Return the process and all of its children."""
        return tree(self.process.pid)


def tree(pid: int) -> list[int]:
    """Return a process and its children, and theirs; the ones that are gone are not among them."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def memory(pid: int) -> dict[str, float]:
    """Return the resident and the proportional megabytes of a process."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    said = {line.split()[0]: int(line.split()[1]) * 1024 / MB for line in rollup.splitlines()[1:]}
    return {"rss": said["Rss:"], "pss": said["Pss:"], "own": said["Private_Clean:"] + said["Private_Dirty:"]}


def spent(pids: Sequence[int]) -> float:
    """Return the seconds of processor that these have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@contextmanager
def serving(
    name: str,
    argv: Sequence[str | Path],
    port: int,
    path: str,
    *,
    tree: Path = ROOT,
    admin: Path | None = None,
) -> Iterator[Server]:
    """Run a server; give it once it answers `path`; end it and whatever it started."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slmops-bench-")))
        log = folder / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                argv, cwd=tree, stdout=said, stderr=said,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        stack.callback(end, process)
        server = Server(name, port, process, log, admin)
        server.facts["ready_s"] = server.wait(path)
        yield server


def mortal() -> None:
    """Have SIGTERM end this process as an error does: blocks are left, and what they started is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its whole session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def slmopsd(
    folder: Path,
    *more: str | Path,
    python: str = sys.executable,
    tree: Path = ROOT,
    steered: bool = True,
    state: Path | None = None,
) -> Iterator[Server]:
    """Run our daemon on an artifact; `steered`: with an admin socket and a journal."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as own:
        admin = Path(own) / "admin.sock"
        words: list[str | Path] = [python, "-m", "slmops.daemon", "--artifact", folder]
        words += ["--digest", named(folder)]
        words += ["--port", str(port), "--spool", f"{own}/spool", *more]
        if steered:
            words += ["--admin", admin, "--state", state or f"{own}/state"]
        with serving("slmops", words, port, "/readyz", tree=tree, admin=admin) as server:
            yield server


def busy(seconds: float = 1.0) -> float:
    """Return the share of this machine's processors that somebody uses now."""
    before = _times()
    time.sleep(seconds)
    after = _times()
    whole = sum(after) - sum(before)
    idle = after[3] + after[4] - before[3] - before[4]
    return 1 - idle / whole if whole else 0.0


def _times() -> list[int]:
    with Path("/proc/stat").open(encoding="utf-8") as stat:
        return [int(word) for word in stat.readline().split()[1:9]]
