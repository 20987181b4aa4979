"""Send files to a device over whatever connection there is, and over a new one after a cut.

It does not know what the files are. Laws: what the device holds and can prove is not sent again; a sender
that gets no further gives up; a file that arrived wrong is sent whole once more, and a delta that does not
become its file is followed by the file.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from slmops.errors import DeviceError, HostKeyError, IntegrityError, UnreachableError
from slmops.fleet.agent import LostAgentError, Session
from slmops.wire import CHUNK_DIGITS

PIECE = 1 << 18
CHUNK = 1 << 20
MOST_CHUNKS = 4096
TRIES = 8
"""Times that a cut may follow another without a byte of progress."""
LONGEST_PAUSE = 20.0
HASHING = 600.0
"""Seconds a device may be silent while it hashes files of some gigabytes on a slow card."""


@dataclass(frozen=True)
class Change:
    """What a file differs by from one that the device holds."""

    base: str
    """Digest of the file that the device holds."""
    digest: str
    size: int
    path: Path


@dataclass(frozen=True)
class Outgoing:
    """A file that a device lacks."""

    name: str
    size: int
    path: Path
    offset: int = 0
    """How much of it the device said it holds."""
    change: Change | None = None
    """How to come to it in fewer bytes, if there is a way."""

    @property
    def sent(self) -> int:
        """Return the bytes that are meant to be sent."""
        return self.change.size if self.change else self.size


class Sender:
    """A way to a device that outlives its connections. Use it in a `with`.

    `connect` opens a session; `stop` is called between pieces and raises when nothing more is to be done;
    `cut` hears how many times the link broke without progress between, each time before it is tried again.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Session]],
        stop: Callable[[], None] = lambda: None,
        *,
        cut: Callable[[int], None] = lambda times: None,
        first_pause: float = 0.5,
    ) -> None:
        self._connect, self._stop, self._cut, self._first_pause = connect, stop, cut, first_pause
        self._stack = ExitStack()
        self._session: Session | None = None
        self._cuts, self._reached = 0, False
        self.sent = 0
        """Bytes of files that went over the wire."""
        self.refused: list[str] = []
        """Why a file was sent whole that was to be sent as a change."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def session(self) -> Session:
        """Return the session there is, or a new one."""
        if self._session is None:
            self._session = self._stack.enter_context(self._connect())
            self._reached = True
        return self._session

    def call(self, verb: str, said: dict[str, Any], **how: Any) -> dict[str, Any]:
        """Ask for a verb, again over a new connection after a cut: to ask twice does no harm."""
        while True:
            try:
                return self.session.call(verb, said, **how)
            except (UnreachableError, LostAgentError) as error:
                self._recover(error)

    def send(self, slot: str, files: Sequence[Outgoing], told: Callable[[int, int], None]) -> None:
        """Send files of a release that was prepared; `told` hears how many bytes are there, of how many."""
        whole = sum(each.sent for each in files)
        done = 0
        for each in files:
            before = done

            def tell(here: int, before: int = before) -> None:
                told(before + here, max(whole, before + here))

            self._bring(slot, each, tell)
            done += each.sent

    def _bring(self, slot: str, each: Outgoing, tell: Callable[[int], None]) -> None:
        said: dict[str, Any] = {"slot": slot, "name": each.name}
        if each.change is not None and self._changed(said, each.change, tell):
            return
        try:
            self._send(said, each.size, each.path, tell, held=each.offset)
        except IntegrityError:
            self._send(said, each.size, each.path, tell)

    def _changed(self, said: dict[str, Any], change: Change, tell: Callable[[int], None]) -> bool:
        """Send what a file differs by; return whether the device made the file of it."""
        said = {**said, "delta": {"digest": change.digest, "size": change.size}}
        try:
            self._send({**said, "name": f"{said['name']}.delta"}, change.size, change.path, tell)
            self.call("patch", {**said, "base": change.base}, silence=2 * HASHING)
        except (IntegrityError, DeviceError, FileNotFoundError) as error:
            self.refused.append(f"{said['name']} went whole: {error}")
            return False
        return True

    def _send(
        self,
        said: dict[str, Any],
        size: int,
        source: Path,
        tell: Callable[[int], None],
        held: int | None = None,
    ) -> None:
        """Send one file until it is there whole; `held` is what the device says it has, if it was asked."""
        before = 0
        with source.open("rb") as file:
            while True:
                try:
                    if held is None:
                        held = self._compare(said, 0, [])["held"]
                    self._cuts = 0 if held > before else self._cuts
                    before = held
                    self._send_rest(said, size, file, held, tell)
                except (UnreachableError, LostAgentError) as error:
                    self._recover(error)
                    held = None
                else:
                    return

    def _send_rest(
        self, said: dict[str, Any], size: int, file: BufferedReader, held: int, tell: Callable[[int], None]
    ) -> None:
        """Send what the device has not got of a file, or has wrong."""
        chunk = max(CHUNK, -(-size // (MOST_CHUNKS * CHUNK)) * CHUNK)
        bad = self._compare(said, held, _digests(file, held, chunk), chunk)["bad"] if held else []
        spans = _spans([(at * chunk, min((at + 1) * chunk, held)) for at in bad], held, size)
        for number, (start, end) in enumerate(spans, 1):
            asked = {**said, "offset": start, "length": end - start, "more": number < len(spans)}
            data = self._data(file, start, end, tell)
            self.session.call("receive", asked, data=data, silence=HASHING)

    def _compare(
        self, said: dict[str, Any], size: int, digests: Sequence[str], chunk: int = CHUNK
    ) -> dict[str, Any]:
        asked = {**said, "size": size, "digests": digests, "chunk": chunk}
        return self.session.call("compare", asked, silence=HASHING)

    def _data(
        self, file: BufferedReader, start: int, end: int, tell: Callable[[int], None]
    ) -> Iterator[memoryview]:
        """Yield a range of a file, each piece good until the next."""
        room = memoryview(bytearray(PIECE))
        file.seek(start)
        while start < end:
            self._stop()
            got = file.readinto(room[: min(PIECE, end - start)])
            if not got:
                raise IntegrityError(f"{file.name} became shorter while it was sent")
            yield room[:got]
            start += got
            self.sent += got
            tell(start)

    def _recover(self, error: DeviceError | UnreachableError) -> None:
        """Let the broken connection go and wait a while; raise `error` when that has not helped before.

        A device that was never reached, or that is another one now, is not tried again.
        """
        self._stack.close()
        self._session = None
        self._cuts += 1
        if self._cuts > TRIES or not self._reached or isinstance(error, HostKeyError):
            raise error
        self._cut(self._cuts)
        until = time.monotonic() + min(self._first_pause * 2 ** (self._cuts - 1), LONGEST_PAUSE)
        while time.monotonic() < until:
            self._stop()
            time.sleep(min(0.2, self._first_pause))


def _digests(file: BufferedReader, size: int, chunk: int) -> list[str]:
    """Return what the chunks of a file's first `size` bytes are, the last of which may be short."""
    found = []
    file.seek(0)
    for start in range(0, size, chunk):
        state, left = hashlib.sha256(), min(chunk, size - start)
        while left and (piece := file.read(min(left, PIECE))):
            state.update(piece)
            left -= len(piece)
        found.append(state.hexdigest()[:CHUNK_DIGITS])
    return found


def _spans(bad: Sequence[tuple[int, int]], held: int, size: int) -> list[tuple[int, int]]:
    """Return the ranges to send, in order and joined where they touch: the bad ones, and what is not held.

    The last is never missing, though it may be empty: with it the file gets its name.
    """
    spans: list[tuple[int, int]] = []
    for start, end in [*bad, (held, size)]:
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans
