"""Stands between sshd and the agent of a test device, and has one fault at one point of one verb.

Called in the place of `python3`: its words are the fault file and then those of the agent. It starts the real
agent, passes on what both say, and strikes as the file says, once for every time that it may:

    [{"verb": VERB, "at": enter|inside|leave, "do": error|kill|hang, "times": N}, ...]

`enter` is before the agent sees the request; `inside` after half of its raw bytes, or its first note, or a
few milliseconds of work, and before anybody has heard an answer; `leave` when the agent has done it and has
answered, and nobody has heard the answer. `error` answers that it failed, and whatever was at work is dead
then; `kill` kills the agent and this process; `hang` freezes the agent, and nothing more is said until the
operator hangs up.
It does not know what a verb does. Standard library only: a device's own Python runs it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PYTHON = "/usr/bin/python3"
MARK = "\x1e"
PIECE = 1 << 14
SAID: Any = sys.stdin.buffer
"""What the operator says; it can be read without waiting for all that was asked for."""
MOMENT = 0.005
"""Seconds of work after which a verb that says nothing and takes no bytes is within it."""


def take(path: str, verb: str) -> dict | None:  # type: ignore[type-arg]
    """Take the next fault of a verb out of the file: it is struck with once."""
    with suppress(FileNotFoundError), Path(path).open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        faults = json.load(file)
        for fault in faults:
            if fault["verb"] == verb and fault["times"] > 0:
                fault["times"] -= 1
                file.seek(0)
                file.write(json.dumps(faults))
                file.truncate()
                return dict(fault)
            if fault["times"] > 0:
                # Each waits for those before it.
                return None
    return None


class Between:
    """One agent, and what is said to it and by it."""

    def __init__(self, path: str, words: list[str]) -> None:
        self.path = path
        self.fault: dict | None = None  # type: ignore[type-arg]
        self.struck = threading.Lock()
        self.answered = threading.Event()
        self.heard = threading.Event()
        self.agent = subprocess.Popen(
            [PYTHON, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def run(self) -> int:
        """Pass on until one side ends; return the agent's exit code."""
        listener = threading.Thread(target=self.listen, daemon=True)
        listener.start()
        with suppress(BrokenPipeError):
            while line := SAID.readline():
                self.request(line)
        with suppress(BrokenPipeError):
            self.agent.stdin.close()  # type: ignore[union-attr]
        code = self.agent.wait()
        listener.join()
        return code

    def request(self, line: bytes) -> None:
        """Pass on one request with its raw bytes."""
        try:
            said = json.loads(line)
            verb, owed = said["verb"], int(said["said"].get("length", 0))
        except (ValueError, KeyError, TypeError):
            verb, owed = "", 0
        self.answered.clear()
        self.heard.clear()
        self.fault = take(self.path, verb)
        if self.is_due("enter"):
            self.strike(owed)
        self.pass_on(line)
        half = owed // 2
        while owed:
            piece = SAID.read1(min(PIECE, owed))
            if not piece:
                return
            owed -= len(piece)
            self.pass_on(piece)
            if owed <= half and half and self.is_due("inside"):
                self.strike(owed)
        if self.is_due("inside"):
            # A verb that notes something is within its work then.
            self.heard.wait(0.5) if verb in ("activate", "roll-back") else time.sleep(MOMENT)
            self.strike(0)
        if self.fault is not None:
            self.answered.wait()

    def is_due(self, at: str) -> bool:
        """Say whether there is a fault at this point."""
        return self.fault is not None and self.fault["at"] == at

    def pass_on(self, data: bytes) -> None:
        """Give the agent what the operator said."""
        self.agent.stdin.write(data)  # type: ignore[union-attr]
        self.agent.stdin.flush()  # type: ignore[union-attr]

    def listen(self) -> None:
        """Pass on what the agent says, as long as it may be heard."""
        for line in self.agent.stdout:  # type: ignore[union-attr]
            said = line.decode(errors="replace").rpartition(MARK)[2]
            kind = ""
            with suppress(ValueError, AttributeError):
                kind = str(json.loads(said).get("kind"))
            # Whoever is to be struck inside has not been heard to answer.
            if kind in ("done", "failed") and (self.is_due("leave") or self.is_due("inside")):
                self.strike(0)
            with self.struck:
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
            self.heard.set()
            if kind in ("done", "failed"):
                self.answered.set()

    def strike(self, owed: int) -> None:
        """Do what the fault says; the operator hears nothing of this agent after that."""
        self.struck.acquire()
        do = self.fault["do"] if self.fault else "kill"
        if do == "hang":
            os.killpg(self.agent.pid, signal.SIGSTOP)
            while SAID.read1(PIECE):
                pass
        elif do == "error":
            self.end_agent()
            said = {"code": "SLM-DEVICE", "exit_code": 1, "message": "an injected fault", "remedy": ""}
            sys.stdout.write(MARK + json.dumps({"kind": "failed", "said": said}) + "\n")
            sys.stdout.flush()
            while owed > 0 and (piece := SAID.read1(min(PIECE, owed))):
                owed -= len(piece)
        self.end_agent()
        os._exit(137)

    def end_agent(self) -> None:
        """Kill the agent and whatever is in its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.agent.pid, signal.SIGKILL)
        self.agent.wait()


if __name__ == "__main__":
    sys.exit(Between(sys.argv[1], sys.argv[2:]).run() & 0xFF)
