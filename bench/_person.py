"""An operator whose commands begin at once: one process has slmops in memory, each command is a fork of it.

A command is a process of its own, which may be killed at any instant; nothing is left of it in the next one.
It may be told to kill itself as it enters or leaves a state of a rollout or of a device.

    the server:  {"words": [...], "out": FILE, "die": null | {"what", "state", "at"}, "files": null | N}
                 a line, answered by the process's id, and by its exit code when it has ended
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self, cast

ENTER, LEAVE = "enter", "leave"
DEVICE, ROLLOUT = "device", "rollout"
LONGEST = 300.0
"""Seconds after which a command counts as one that never ends."""


class Operator:
    """A person at a command line, with a home of its own. Use it in a `with`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._log = home.parent / "operator.log"
        self._begun = 0
        home.mkdir(parents=True, exist_ok=True)
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "SLMOPS_HOME": str(home), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._ask, self._told = cast("tuple[IO[str], IO[str]]", (self._server.stdin, self._server.stdout))
        self.pid: int | None = None
        """The command that runs now."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
        self._ask.close()
        self._server.wait()
        self._told.close()

    def start(self, *words: object, die: dict[str, str] | None = None, files: int | None = None) -> int:
        """Begin a command, which may have so many files open; return its process id.

        One that was begun before and never heard to its end is killed first.
        """
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            self.ended(LONGEST)
        said = {"words": [str(word) for word in words], "out": str(self._log), "die": die, "files": files}
        self._ask.write(json.dumps(said) + "\n")
        self._ask.flush()
        self.pid = int(self._told.readline())
        return self.pid

    def ended(self, within: float) -> int | None:
        """Return the exit code of the command that was begun, negative for a signal; None while it runs."""
        ready, _, _ = select.select([self._told], [], [], within)
        if not ready:
            return None
        self.pid = None
        return int(self._told.readline())

    def __call__(self, *words: object, die: dict[str, str] | None = None, files: int | None = None) -> int:
        """Run a command to its end; return its exit code."""
        self.start(*words, die=die, files=files)
        code = self.ended(LONGEST)
        if code is None:
            raise TimeoutError(f"slmops {' '.join(map(str, words))}: no end after {LONGEST:.0f} s")
        return code

    def said(self) -> str:
        """Return what the last command printed."""
        return self._log.read_text(errors="replace")


def serve() -> None:
    """Answer requests until there are no more."""
    # What commands need is read once; nothing of it starts a thread.
    from slmops.cli import app, deploy, rollout, status  # noqa: F401, PLC0415

    for line in sys.stdin:
        said = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(said)
            app.main()
        print(pid, flush=True)
        _, status_ = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status_), flush=True)


def _become(said: dict[str, Any]) -> None:
    """Make this process the one that runs a command."""
    out = os.open(said["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in ((0, nothing), (1, out), (2, out)):
        os.dup2(file, number)
    sys.argv = ["slmops", *said["words"]]
    if said["files"] is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (said["files"], said["files"]))
    if said["die"] is not None:
        _doom(**said["die"])


def _doom(what: str, state: str, at: str) -> None:
    """Have this process killed when history is about to hear of a state (enter), or has heard (leave)."""
    from slmops.rollout import history  # noqa: PLC0415

    class Doomed(history.History):
        def moved(self, number: int, state: str, wave: int, **named: Any) -> None:
            with self._doomed(ROLLOUT, state):
                super().moved(number, state, wave, **named)

        def told(self, number: int, device: str, state: str, *more: Any, **named: Any) -> None:
            with self._doomed(DEVICE, state):
                super().told(number, device, state, *more, **named)

        @contextmanager
        def _doomed(self, of: str, to: str) -> Iterator[None]:
            doomed = (of, to) == (what, state)
            if doomed and at == ENTER:
                os.kill(os.getpid(), signal.SIGKILL)
            yield
            if doomed:
                os.kill(os.getpid(), signal.SIGKILL)

    for module in list(sys.modules.values()):
        if getattr(module, "History", None) is history.History and module is not history:
            module.History = Doomed  # type: ignore[attr-defined]


if __name__ == "__main__":
    serve()
