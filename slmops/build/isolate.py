"""Run one function in a process of its own, so that its memory, noise and crashes stay there.

Torch, llama.cpp and ONNX Runtime print as they like, keep the memory they once had, and abort the
whole process on bad input. Knows nothing of models.

Laws: what the child prints is shown only when it fails; a child that dies is a BuildError that
says how and shows its last words; no child outlives the call, whichever way the call ends; its
threads sleep while they wait. The main module of the program must be importable (not standard input).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from slmops.errors import BuildError, SlmopsError

P = ParamSpec("P")
T = TypeVar("T")
Progress = Callable[[str, float], None]
"""Told what is being done and which share of it is done, 0 to 1."""

STANDARD_OUTPUTS = (1, 2)
LAST_WORDS = 12
"""Lines of a dead child's output that its error shows."""


def silent(_doing: str, _share: float) -> None:
    """Take no notice of progress."""


def isolate(
    what: str,
    work: Callable[Concatenate[Progress, P], T],
    progress: Progress,
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Return `work(progress, *args, **kwargs)` from a fresh process; `what` names the work in errors.

    `work` is a module-level function, its arguments and its result can be pickled. A SlmopsError
    raised there is raised here; any other end without a result is a BuildError.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="slmops-") as room:
        noise = Path(room) / "output"
        child = context.Process(target=_live, args=(sender, noise, work, args, kwargs), daemon=True)
        child.start()
        sender.close()
        try:
            for message in iter(lambda: _receive(receiver), None):
                kind, said = message
                if kind == "error":
                    raise said
                if kind == "result":
                    result: T = said
                    return result
                progress(*said)
            child.join()
            raise _obituary(what, child.exitcode, noise)
        finally:
            child.kill()
            child.join()
            receiver.close()


def _receive(receiver: Connection) -> Any:
    try:
        return receiver.recv()
    except EOFError:
        return None


def _live(
    sender: Connection, noise: Path, work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Be the child. Ctrl-C reaches it too; the parent decides what that means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Threads of OpenMP that spin while they wait cost a shared machine a hundredfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with noise.open("wb") as file:
        for standard in STANDARD_OUTPUTS:
            os.dup2(file.fileno(), standard)
    try:
        sender.send(("result", work(lambda *said: sender.send(("progress", said)), *args, **kwargs)))
    except SlmopsError as error:
        sender.send(("error", error))


def _obituary(what: str, exit_code: int | None, noise: Path) -> BuildError:
    killed = exit_code is not None and exit_code < 0
    how = f"was ended by {signal.Signals(-exit_code).name}" if killed and exit_code else "failed"
    words = noise.read_text(errors="replace").strip().splitlines()[-LAST_WORDS:]
    starved = exit_code == -signal.SIGKILL
    return BuildError(
        "\n  ".join([f"{what} {how}; its last words:", *(words or ["(none)"])]),
        remedy="Free memory or take a machine with more; the system ended the process." if starved else None,
    )
