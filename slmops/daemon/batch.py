"""Continuous batching: requests come and go while others are computed, and all of them share each step.

It drives one engine, one call a turn: a stride of a prompt, or a step of all that are being written. Whose
prompt is read next, and who goes for it, is decided by the `Book`. It does not know sockets, bodies or text;
time comes in by a clock.

Laws: whoever came first is read first, and each bit of an errand waits its turn anew; a prompt is read to its
end before the next one begins; whoever is being written waits for the others no longer than PROMPT_SECONDS,
one stride, or one bit, at a time; what was cancelled takes no further turn; a call that fails ends those that
were in it, and nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from slmops.daemon.engine import Engine, Logits
from slmops.daemon.generate import Piece, Writing
from slmops.daemon.prefix import Book
from slmops.daemon.refusal import SERVER_ERROR, RefusedError
from slmops.errors import ModelError, SlmopsError

PROMPT_SECONDS = 0.5
"""Time that prompts may take between two steps of those being written."""
FAILURES = 3
"""Calls that fail one after the other, after which the engine is past help."""


@dataclass(eq=False)
class Job:
    """A request for an answer, on its way through the engine."""

    writing: Writing
    read: int = 0
    """Tokens of the prompt that were read, or shared."""
    cached: int = 0
    """Tokens of the prompt that were shared."""
    sequence: int = -1
    """Where it is at work; none yet."""


class Errand(Protocol):
    """Work that is done in bits, each in a turn of its own: vectors of texts, labels."""

    @property
    def room(self) -> int:
        """Tokens of the pool that the next bit needs, for as long as it is done."""

    def bit(self) -> bool:
        """Do the next bit; say whether it was the last."""


Work = Job | Errand
T = TypeVar("T")
Said = tuple[Work, Piece | RefusedError | None]
"""What was said to whom: a piece, the end of an errand, or that it failed."""


@dataclass
class Batch:
    """The requests that are computed together on one engine."""

    engine: Engine
    now: Callable[[], float]
    """A clock, in seconds."""
    steps: int = 0
    """Computations finished so far."""
    _book: Book = field(init=False)
    _waiting: deque[Work] = field(default_factory=deque)
    _reading: Job | None = None
    _writing: list[Job] = field(default_factory=list)
    _spent: float = 0.0
    """Seconds for prompts since the last step."""
    _failures: int = 0

    def __post_init__(self) -> None:
        """Open the book."""
        self._book = Book(self.engine.pool, self.engine.sequences, self.engine.slots, self.engine.copies)

    @property
    def active(self) -> int:
        """Requests that are here, waiting or not."""
        return len(self._waiting) + len(self._writing) + (self._reading is not None)

    def add(self, work: Work) -> None:
        """Take a request; it must fit into the engine's context."""
        self._waiting.append(work)

    def cancel(self, work: Work) -> None:
        """Forget a request, wherever it is."""
        if work in self._waiting:
            self._waiting.remove(work)
        elif work is self._reading:
            self._reading = None
            self._keep(work.sequence)
        elif isinstance(work, Job) and work in self._writing:
            self._writing.remove(work)
            self._keep(work.sequence)

    def turn(self) -> list[Said]:
        """Make one call to the engine, if there is anything to do; return what is to be said now.

        Raise EngineLostError when the engine is past help.
        """
        if self._writing and self._spent >= PROMPT_SECONDS:
            return self._step()
        start = self.now()
        said = self._read() if self._reading is not None else self._begin()
        if said is not None:
            self._spent += self.now() - start
            return said
        return self._step() if self._writing else []

    def _begin(self) -> list[Said] | None:
        """Let in whoever is first, and make the first call for it; None: nobody can come in now."""
        if not self._waiting or len(self._writing) >= self.engine.slots:
            return None
        work = self._waiting[0]
        if not isinstance(work, Job):
            return self._run(work)
        wish = work.writing.wish
        if not wish.limit and not wish.scores_prompt:
            self._waiting.popleft()
            return [(work, work.writing.unwritten())]
        whole = len(wish.ids) + wish.limit
        entry = self._book.entry(wish.ids, whole, anew=wish.anew or wish.scores_prompt)
        if entry is None:
            return None
        self._waiting.popleft()
        self._reading, work.sequence = work, entry.target
        shared = 0
        if entry.source is not None:
            shared = self.engine.share(entry.source, entry.target, entry.shared)
        work.read = work.cached = shared
        self._book.begin(entry.target, wish.ids, whole, entry.source, shared)
        self._throw(entry.thrown)
        return self._read()

    def _read(self) -> list[Said] | None:
        """Read a stride of the prompt that is being read; at its end, say the first piece."""
        job = self._reading
        if job is None:
            return None
        writing, ids = job.writing, job.writing.wish.ids
        scores = writing.wish.scores_prompt
        if scores and not job.read:
            writing.foretold(0, None)
        stride = ids[job.read : job.read + (1 if scores else self.engine.stride)]
        at_end = job.read + len(stride) == len(ids)
        try:
            logits = self._called(lambda: self.engine.read(job.sequence, stride, scores or at_end))
            self._book.add(job.sequence, stride)
            job.read += len(stride)
            if not at_end:
                if scores:
                    writing.foretold(job.read, logits)
                return []
            self._reading = None
            self._writing.append(job)
            return [self._hear(job, logits)]
        except ModelError as error:
            self._reading = None
            return [self._fail(job, error)]

    def _step(self) -> list[Said]:
        """Let everybody who is being written go on by one token."""
        self._spent, jobs = 0.0, self._writing[:]
        rows = [(job.sequence, job.writing.token) for job in jobs]
        try:
            found = self._called(lambda: self.engine.step(rows))
        except ModelError as error:
            return [self._fail(job, error) for job in jobs]
        for sequence, token in rows:
            self._book.add(sequence, (token,))
        return [self._hear(job, logits) for job, logits in zip(jobs, found, strict=True)]

    def _hear(self, job: Job, logits: Logits | None) -> Said:
        """Tell an answer its logits; return its next piece."""
        if not job.writing.wish.limit:
            return self._ended(job, job.writing.unwritten())
        assert logits is not None  # noqa: S101 - they were asked for
        try:
            piece = job.writing.hear(logits)
        except (ModelError, RefusedError) as error:
            return self._fail(job, error)
        return self._ended(job, piece) if piece.finish else (job, piece)

    def _ended(self, job: Job, piece: Piece) -> Said:
        self._writing.remove(job)
        self._keep(job.sequence)
        return job, piece

    def _run(self, errand: Errand) -> list[Said] | None:
        """Do a bit of an errand, which is first; None: there is no room for it now."""
        if errand.room:
            thrown = self._book.room(errand.room)
            if thrown is None:
                return None
            self._throw(thrown)
        try:
            if not self._called(errand.bit):
                # The next bit is behind those who wait: many texts do not hold up one question.
                self._waiting.rotate(-1)
                return []
        except (ModelError, RefusedError) as error:
            self._waiting.popleft()
            return [(errand, _refusal(error))]
        self._waiting.popleft()
        return [(errand, None)]

    def _called(self, call: Callable[[], T]) -> T:
        """Call the engine; raise ModelError when it failed, for good when it fails every time."""
        try:
            found = call()
        except ModelError as error:
            self._failures += 1
            if self._failures >= FAILURES:
                raise EngineLostError(
                    f"{FAILURES} computations failed one after the other: {error}"
                ) from error
            raise
        self._failures = 0
        self.steps += 1
        return found

    def _fail(self, job: Job, error: SlmopsError) -> Said:
        """End a job that cannot go on; nothing of it is kept."""
        if job in self._writing:
            self._writing.remove(job)
        self._throw((job.sequence,))
        return job, _refusal(error)

    def _keep(self, sequence: int) -> None:
        """Keep what a job has read for others who begin alike."""
        for other in self._book.end(sequence):
            self.engine.keep(other, 0)

    def _throw(self, sequences: Iterable[int]) -> None:
        for sequence in sequences:
            self.engine.keep(sequence, 0)
            self._book.forget(sequence)


@dataclass
class Errands:
    """Requests to what writes nothing: each errand is done to its end, in the order they came."""

    steps: int = 0
    """Computations finished so far."""
    _waiting: deque[Work] = field(default_factory=deque)

    @property
    def active(self) -> int:
        """Requests that are here."""
        return len(self._waiting)

    def add(self, work: Work) -> None:
        """Take a request."""
        self._waiting.append(work)

    def cancel(self, work: Work) -> None:
        """Forget a request."""
        if work in self._waiting:
            self._waiting.remove(work)

    def turn(self) -> list[Said]:
        """Do a bit of what is first; return what is to be said now."""
        errand = self._waiting[0]
        assert not isinstance(errand, Job)  # noqa: S101 - there is no engine for one
        said: RefusedError | None = None
        try:
            if not errand.bit():
                return []
        except (ModelError, RefusedError) as error:
            said = _refusal(error)
        finally:
            self.steps += 1
        self._waiting.popleft()
        return [(errand, said)]


class EngineLostError(Exception):
    """The engine computes nothing any more; its process is to end."""


def _refusal(error: SlmopsError) -> RefusedError:
    return error if isinstance(error, RefusedError) else RefusedError(SERVER_ERROR, str(error))
