"""Run functions in processes of their own, so that their memory, noise and crashes stay there.

Torch, llama.cpp and ONNX Runtime print as they like, keep the memory they once had, and abort the
whole process on bad input. Knows nothing of models.

Laws: what a child prints is shown only when it fails; a child that dies is a BuildError that
says how and shows its last words; no child outlives its `with`, whichever way that ends; its
threads sleep while they wait. The main module of the program must be importable (not standard input).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from slmops.errors import BuildError, SlmopsError

P = ParamSpec("P")
T = TypeVar("T")
Progress = Callable[[str, float], None]
"""Told what is being done and which share of it is done, 0 to 1."""

STANDARD_OUTPUTS = (1, 2)
LAST_WORDS = 12
"""Lines of a dead child's output that its error shows."""
DAMAGED = "Mend what its last words name; if that is a model's file, copy, download or build it again."
"""What to do about a process that did not end for want of memory."""
_spawn = multiprocessing.get_context("spawn")


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
    with Child(what, work, *args, **kwargs) as child:
        return gather([child], progress)[0]


class Child(Generic[T]):
    """A process that does one piece of work; `gather` has its result. Use it in a `with`."""

    def __init__(
        self, what: str, work: Callable[Concatenate[Progress, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Prepare `work(progress, *args, **kwargs)`, which begins with the `with`."""
        self._what = what
        self._room = tempfile.TemporaryDirectory(prefix="slmops-")
        self._noise = Path(self._room.name) / "output"
        # It is there even for a child that ends before it can say anything.
        self._noise.touch()
        self.receiver, self._sender = _spawn.Pipe(duplex=False)
        self.done = False
        """Its result was heard."""
        self._process = _spawn.Process(
            target=_live, args=(self._sender, self._noise, work, args, kwargs), daemon=True
        )

    def __enter__(self) -> Self:
        """Begin the work."""
        # A child has what its parent blocks blocked from its first moment on, before it could say so itself.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._sender.close()
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self.receiver.close()
        self._room.cleanup()

    def obituary(self) -> BuildError:
        """Return what to say of a process that ended without a result."""
        self._process.join()
        code = self._process.exitcode
        killed = code is not None and code < 0
        how = f"was ended by {signal.Signals(-code).name}" if killed and code else "failed"
        words = self._noise.read_text(errors="replace").strip().splitlines()[-LAST_WORDS:]
        starved = code == -signal.SIGKILL
        return BuildError(
            "\n  ".join([f"{self._what} {how}; its last words:", *(words or ["(none)"])]),
            remedy="Free memory or take a machine with more; the system ended the process."
            if starved
            else DAMAGED,
        )


def gather(children: Sequence[Child[T]], progress: Progress, *beside: Child[Any]) -> list[T]:
    """Return the results of `children`, in their order, whichever is done first.

    Processes `beside` them that the work needs are heard meanwhile; their results are not waited for.
    The first failure of any is raised.
    """
    everyone = {child.receiver: child for child in (*children, *beside) if not child.done}
    waiting, results = set(children), dict[Child[T], T]()
    while waiting:
        for ready in connection.wait(list(everyone)):
            child = everyone[ready]  # type: ignore[index]  # what is waited for is what comes back
            message = _receive(child.receiver)
            if message is None:
                raise child.obituary()
            kind, said = message
            if kind == "error":
                raise said
            if kind == "result":
                results[child], child.done = said, True
                waiting.discard(child)
                del everyone[child.receiver]
            else:
                progress(*said)
    return [results[child] for child in children]


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
    # Else a debugger's account of the whole stack covers the line in which llama.cpp says why it aborts.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    with noise.open("wb") as file:
        for standard in STANDARD_OUTPUTS:
            os.dup2(file.fileno(), standard)
    try:
        sender.send(("result", work(lambda *said: sender.send(("progress", said)), *args, **kwargs)))
    except SlmopsError as error:
        sender.send(("error", error))
