"""`python -m slmops.daemon.work`: load one artifact and compute what the router asks, until it leaves.

The router starts it, with a socket between them; `protocol` says what goes over it. One thread hears and
understands, the other computes. Exit codes: 0 when the router has left, 1 when the model does not load or
computes no more; the router is told why.

Laws: it ends with its socket, whatever is being computed; a Ping is answered at once; no prompt and no
answer is ever written to the log.
"""

from __future__ import annotations

import argparse
import gc
import os
import queue
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from slmops.daemon import spin
from slmops.daemon.batch import Batch, EngineLostError, Errands, Work
from slmops.daemon.generate import Piece
from slmops.daemon.load import Model, Want, describe, load
from slmops.daemon.outbox import Outbox
from slmops.daemon.protocol import (
    Ask,
    Cancel,
    Done,
    Failed,
    Pulse,
    Reader,
    Refused,
    ToRouter,
    ToWorker,
    frame,
)
from slmops.daemon.refusal import BAD_REQUEST, SERVER_ERROR, RefusedError
from slmops.daemon.spin import Spinning
from slmops.daemon.understand import Clerk, Order
from slmops.errors import ModelError, SlmopsError

CHUNK = 1 << 16
SWITCH_SECONDS = 0.0005
"""How long one thread may keep the other from Python: what hears must not hold up what computes."""
OOM_SCORE = 500
"""How much rather than the router the kernel should end a worker when memory is short."""


class Desk:
    """The worker's end of the socket, and what came in by it."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._speaking = threading.Lock()
        self._orders: queue.SimpleQueue[Order | int] = queue.SimpleQueue()
        """Orders to begin, and ids of those to forget."""
        self._clerk: Clerk | None = None
        self.batch: Batch | Errands | None = None

    def say(self, *messages: ToRouter) -> None:
        """Send messages, together; nobody there to hear them ends the process."""
        try:
            with self._speaking:
                self._line.sendall(b"".join(map(frame, messages)))
        except OSError:
            os._exit(0)

    def open(self, clerk: Clerk, batch: Batch | Errands) -> None:
        """Take requests from now on."""
        self._clerk, self.batch = clerk, batch

    def hear(self) -> None:
        """Read what the router says until it leaves; then end the process, which may be computing."""
        reader: Reader[ToWorker] = Reader(ToWorker)
        try:
            while data := self._line.recv(CHUNK):
                for message in reader.feed(data):
                    self._take(message)
        except (OSError, ModelError) as error:
            _log(f"the router's line is broken: {error}")
        finally:
            os._exit(0)

    def work(self) -> None:
        """Compute what is asked, for ever; raise EngineLostError when nothing can be computed any more."""
        batch, open_, spinning, outbox = self.batch, dict[Work, Order](), Spinning(), Outbox()
        assert batch is not None  # noqa: S101 - it is open
        while True:
            while not batch.active or not self._orders.empty():
                self._admit(batch, open_, self._orders.get())
            words = list[ToRouter]()
            for work, said in batch.turn():
                word = _word(open_[work], said)
                if word is not None:
                    words.append(word)
                if isinstance(word, Done | Refused):
                    del open_[work]
            now = time.monotonic()
            told = outbox.put(words, now)
            if told:
                self.say(*told)
            spinning.look(now)

    def _take(self, message: ToWorker) -> None:
        if isinstance(message, Ask):
            self._understand(message)
        elif isinstance(message, Cancel):
            self._orders.put(message.id)
        elif self.batch is None:
            self.say(Pulse(steps=0, busy=True, active=0))
        else:
            active = self.batch.active
            self.say(Pulse(steps=self.batch.steps, busy=active > 0, active=active))

    def _understand(self, ask: Ask) -> None:
        """Make an order of a request; whatever is wrong with one request is told of that one."""
        if self._clerk is None:
            self.say(Refused(id=ask.id, status=SERVER_ERROR, message="the model is not loaded"))
            return
        try:
            self._orders.put(self._clerk.read(ask))
        except RefusedError as refusal:
            self.say(_refused(ask.id, refusal))
        except RecursionError:
            self.say(Refused(id=ask.id, status=BAD_REQUEST, message="the request is nested too deep"))
        # A template is a stranger's program, and a tokenizer raises bare Exception: neither may end us.
        except Exception as error:  # noqa: BLE001
            _log(f"a request could not be understood: {type(error).__name__}")
            message = f"the request could not be understood: {type(error).__name__}"
            self.say(Refused(id=ask.id, status=SERVER_ERROR, message=message))

    def _admit(self, batch: Batch | Errands, orders: dict[Work, Order], come: Order | int) -> None:
        """Begin an order, or forget one."""
        if isinstance(come, Order):
            orders[come.work] = come
            batch.add(come.work)
            return
        for work in [work for work, order in orders.items() if order.id == come]:
            batch.cancel(work)
            del orders[work]


def main() -> int:
    """Work; return the exit code."""
    options = _options()
    # Ctrl-C reaches the whole terminal, `timeout` the whole group; the router ends us when it has finished.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _stand_back()
    # Else two threads of llama.cpp that give up together each start a debugger, and wait for the other's
    # for ever: neither they nor their debuggers end, and what these hold open stays open.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    if options.adopt:
        # By a process without what computes here: that is half the memory.
        at = sys.orig_argv.index("-m") + 1
        os.execv(sys.executable, [*sys.orig_argv[:at], "slmops.daemon.adopt", *sys.orig_argv[at + 1 :]])  # noqa: S606 - no shell
    spin.prepare()
    sys.setswitchinterval(SWITCH_SECONDS)
    desk = Desk(socket.socket(fileno=options.fd))
    threading.Thread(target=desk.hear, name="hear", daemon=True).start()
    start = time.monotonic()
    try:
        description = describe(options.artifact)
        model = load(options.artifact, description, Want(options.slots, options.pool, options.threads))
    except SlmopsError as error:
        desk.say(Failed(message=str(error), code=error.code))
        return 1
    clerk = Clerk(model, description, options.digest)
    batch = Batch(model.engine, time.monotonic) if isinstance(model, Model) else Errands()
    # What is there now stays: to look through it for garbage takes longer than a token.
    gc.collect()
    gc.freeze()
    desk.open(clerk, batch)
    desk.say(clerk.ready(time.monotonic() - start))
    try:
        desk.work()
    except EngineLostError as error:
        _log(str(error))
    return 1


def _word(order: Order, said: Piece | RefusedError | None) -> ToRouter | None:
    return _refused(order.id, said) if isinstance(said, RefusedError) else order.tell(said)


def _refused(number: int, refusal: RefusedError) -> Refused:
    return Refused(
        id=number,
        status=refusal.status,
        message=str(refusal),
        reason=refusal.reason,
        param=refusal.param,
    )


def _stand_back() -> None:
    """Be ended before the router when memory is short; where that cannot be had, go on without."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(f"{OOM_SCORE}\n", encoding="ascii")


def _log(line: str) -> None:
    sys.stderr.write(f"slmops.daemon.work: {line}\n")


def _options() -> argparse.Namespace:
    reading = argparse.ArgumentParser(prog="python -m slmops.daemon.work", description="Compute answers.")
    reading.add_argument("--fd", type=int, required=True, help="socket to the router")
    reading.add_argument("--artifact", type=Path, required=True, help="folder with artifact.json")
    reading.add_argument("--digest", default="", help="digest of the artifact, as told to clients")
    reading.add_argument("--slots", type=int, default=8, help="requests computed together at most")
    reading.add_argument("--pool", type=int, help="tokens for all of them; by default the context")
    reading.add_argument("--threads", type=int, help="to compute with; by default as the artifact says")
    reading.add_argument("--adopt", metavar="PROGRAM", help="an installed llama-server to do the work")
    return reading.parse_args()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # The thread that hears waits for a socket, and would be waited for.
    os._exit(code)
