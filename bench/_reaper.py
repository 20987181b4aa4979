"""Run something in a process of its own, and count the CPU of all that comes of it.

What daemons and devices leave behind when their parents die is handed to this process, which buries it: so
the CPU of every process below counts, and not only of those that their parents waited for. Linux alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

BECOME_SUBREAPER: Final = 36
"""PR_SET_CHILD_SUBREAPER of linux/prctl.h."""
LAST_RITES: Final = 5.0
"""Seconds for which what is still dying at the end is waited for."""


def counted(play: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `play` returned, plain JSON, and the seconds of CPU that it and all below it took."""
    if ctypes.CDLL(None).prctl(BECOME_SUBREAPER, 1, 0, 0, 0):
        raise OSError("this process cannot take in orphans")
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        pid = os.fork()
        if pid == 0:
            answer.write_text(json.dumps(play()))
            sys.stdout.flush()
            os._exit(0)
        try:
            _bury(pid)
        except KeyboardInterrupt:
            os.kill(pid, signal.SIGTERM)
            _bury(pid)
            raise
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return json.loads(answer.read_text()), round(used.ru_utime + used.ru_stime, 1)


def _bury(pid: int) -> None:
    """Wait until a child has ended and, for a moment, all that it left."""
    while os.wait()[0] != pid:
        pass
    end = time.monotonic() + LAST_RITES
    while time.monotonic() < end:
        try:
            found, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not found:
            time.sleep(0.05)
