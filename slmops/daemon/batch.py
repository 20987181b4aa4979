"""Continuous batching: requests come and go while others are computed, and all of them share each step.

It drives one engine, one call a turn: a stride of prompts, or a step of all that are being written. What a
prompt begins with, and who goes for it, is decided by the `Book`, or by `Lanes` where each sequence has room
of its own. It does not know sockets, bodies or text; time comes in by a clock.

Laws: whoever came first is read first, and each text that a vector is wanted of waits its turn anew; the
next prompt is read with those before only where it fits as a whole into the stride, not if it is to be read
anew, and after them if they begin alike; whoever is being written waits for the others no longer than
PROMPT_SECONDS, or one stride, at a time; what was cancelled takes no further turn; a call that fails ends
those that were in it, and nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from slmops.daemon.engine import Engine, Logits, Part
from slmops.daemon.generate import Piece, Writing
from slmops.daemon.lanes import Lanes
from slmops.daemon.prefix import ALIKE, Book, Entry, common
from slmops.daemon.refusal import SERVER_ERROR, RefusedError
from slmops.daemon.vectors import Vectors
from slmops.errors import ModelError, SlmopsError

PROMPT_SECONDS = 0.5
"""Time that prompts and texts may take between two steps of those being written."""
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

    @property
    def ids(self) -> Sequence[int]:
        """Return the prompt."""
        return self.writing.wish.ids

    @property
    def whole(self) -> int:
        """Tokens of the prompt and its longest answer."""
        return len(self.ids) + self.writing.wish.limit

    @property
    def left(self) -> int:
        """Tokens of the prompt that are still to be read."""
        return len(self.ids) - self.read

    @property
    def unread(self) -> bool:
        """Say whether the prompt is not read at all: nothing is written after it, and it is not scored."""
        return not self.writing.wish.limit and not self.writing.wish.scores_prompt

    @property
    def alone(self) -> bool:
        """Say whether the prompt is read by itself: anew, or token by token, or not at all."""
        wish = self.writing.wish
        return wish.anew or wish.scores_prompt or not wish.limit


class Errand(Protocol):
    """Work that is done in bits, each in a turn of its own: labels."""

    def bit(self) -> bool:
        """Do the next bit; say whether it was the last."""


Work = Job | Vectors | Errand
T = TypeVar("T")
Said = tuple[Work, Piece | RefusedError | None]
"""What was said to whom: a piece, the end of what has no pieces, or that it failed."""


@dataclass
class Batch:
    """The requests that are computed together on one engine."""

    engine: Engine
    now: Callable[[], float]
    """A clock, in seconds."""
    steps: int = 0
    """Computations finished so far."""
    _book: Book | Lanes = field(init=False)
    _waiting: deque[Work] = field(default_factory=deque)
    _reading: list[Job] = field(default_factory=list)
    """Whose prompts are read, the first first."""
    _text: Vectors | None = None
    """Of whom a text is read; no prompt is meanwhile."""
    _writing: list[Job] = field(default_factory=list)
    _spent: float = 0.0
    """Seconds for prompts since the last step."""
    _failures: int = 0

    def __post_init__(self) -> None:
        """Open the book."""
        engine = self.engine
        if engine.apart:
            self._book = Lanes(engine.context, engine.sequences)
        else:
            self._book = Book(engine.pool, engine.sequences, engine.slots, engine.copies)

    @property
    def active(self) -> int:
        """Requests that are here, waiting or not."""
        return len(self._waiting) + len(self._writing) + len(self._reading) + (self._text is not None)

    def add(self, work: Work) -> None:
        """Take a request; it must fit into the engine's context."""
        self._waiting.append(work)

    def cancel(self, work: Work) -> None:
        """Forget a request, wherever it is."""
        if work in self._waiting:
            self._waiting.remove(work)
        for jobs in (self._reading, self._writing):
            if isinstance(work, Job) and work in jobs:
                jobs.remove(work)
                self._keep(work.sequence)
        if work is self._text:
            self._leave(self._text)

    def turn(self) -> list[Said]:
        """Make one call to the engine, if there is anything to do; return what is to be said now.

        Raise EngineLostError when the engine is past help.
        """
        if self._writing and self._spent >= PROMPT_SECONDS:
            return self._step()
        start = self.now()
        said = self._go_on() if self._reading or self._text else self._begin()
        if said is not None:
            self._spent += self.now() - start
            return said
        return self._step() if self._writing else []

    def _begin(self) -> list[Said] | None:
        """Let in whoever is first, and make the first call for it; None: nobody can come in now."""
        if not self._waiting or len(self._writing) >= self.engine.slots:
            return None
        work = self._waiting[0]
        assert isinstance(work, Job | Vectors)  # noqa: S101 - errands need no engine
        if isinstance(work, Job) and work.unread:
            self._waiting.popleft()
            return [(work, work.writing.unwritten())]
        entry = self._entry(work)
        if entry is None:
            return None
        self._let_in(work, entry)
        return self._go_on()

    def _go_on(self) -> list[Said]:
        """Read on in what was begun."""
        return self._embed(self._text) if self._text else self._read()

    def _entry(self, work: Job | Vectors) -> Entry | None:
        """Return how a request can be let in; None: not now. What a text comes to, no other has kept."""
        if isinstance(work, Vectors):
            return self._book.entry((), work.whole, anew=False)
        wish = work.writing.wish
        return self._book.entry(wish.ids, work.whole, anew=wish.anew or wish.scores_prompt)

    def _let_in(self, work: Job | Vectors, entry: Entry) -> None:
        """Give the first of those who wait its sequence."""
        self._waiting.popleft()
        work.sequence, work.read = entry.target, self._taken(entry)
        self._book.begin(entry.target, work.ids, work.whole, entry.source, work.read)
        self._throw(entry.thrown)
        if isinstance(work, Job):
            work.cached = work.read
            self._reading.append(work)
        else:
            self._text = work

    def _taken(self, entry: Entry) -> int:
        """Have a sequence begin as `entry` says; return how many tokens it has."""
        if entry.source == entry.target:
            return self.engine.keep(entry.target, entry.shared)
        self.engine.keep(entry.target, 0)
        return 0 if entry.source is None else self.engine.share(entry.source, entry.target, entry.shared)

    def _read(self) -> list[Said]:
        """Read a stride of prompts; say the first piece of those that are read to their end."""
        parts = self._parts()
        jobs = self._reading[: len(parts)]
        scores = jobs[0].writing.wish.scores_prompt
        if scores and not jobs[0].read:
            jobs[0].writing.foretold(0, None)
        try:
            found = self._called(lambda: self.engine.read(parts))
        except ModelError as error:
            del self._reading[: len(parts)]
            return [self._fail(job, error) for job in jobs]
        said = list[Said]()
        for job, part, logits in zip(jobs, parts, found, strict=True):
            self._book.add(job.sequence, part.ids)
            job.read += len(part.ids)
            if not job.left:
                self._reading.remove(job)
                self._writing.append(job)
                said.append(self._hear(job, logits))
            elif scores:
                try:
                    job.writing.foretold(job.read, logits)
                except ModelError as error:
                    self._reading.remove(job)
                    said.append(self._fail(job, error))
        return said

    def _embed(self, work: Vectors) -> list[Said]:
        """Read a stride of a text; of one that ends nothing is kept, and the next one waits its turn anew."""
        ids = work.ids[work.read : work.read + self.engine.outputs]
        try:
            states = self._called(lambda: self.engine.embed(work.sequence, ids))
        except ModelError as error:
            self._leave(work)
            return [(work, _refusal(error))]
        self._book.add(work.sequence, ids)
        if not work.hear(len(ids), states):
            return []
        self._leave(work)
        if work.done:
            return [(work, None)]
        self._waiting.append(work)
        return []

    def _leave(self, work: Vectors) -> None:
        """Have a text go, read to its end or not."""
        self._text = None
        self._throw((work.sequence,))

    def _parts(self) -> list[Part]:
        """Return what is read now, for as long as there is room in the stride of those who may join."""
        room, parts = self.engine.stride, list[Part]()
        for at in range(self.engine.parts):
            if not room or (at == len(self._reading) and not self._joins(room)):
                break
            job = self._reading[at]
            scores = job.writing.wish.scores_prompt
            stride = job.ids[job.read : job.read + (1 if scores else room)]
            parts.append(Part(job.sequence, stride, scores or len(stride) == job.left))
            room -= len(stride)
            if job.alone:
                break
        return parts

    def _joins(self, room: int) -> bool:
        """Let in who waits first, if it can be read with others as a whole; say whether it could."""
        job = self._waiting[0] if self._waiting else None
        if not isinstance(job, Job) or job.alone:
            return False
        if len(self._writing) + len(self._reading) >= self.engine.slots:
            return False
        entry = self._entry(job)
        if entry is None or len(job.ids) - entry.shared > room:
            return False
        if self._most_alike(job) >= entry.shared + ALIKE:
            return False
        self._let_in(job, entry)
        return True

    def _most_alike(self, job: Job) -> int:
        """Return how many tokens a prompt could begin with, once those that are being read are read."""
        return max(common(other.ids, job.ids, len(job.ids) - 1) for other in self._reading)

    def _step(self) -> list[Said]:
        """Let everybody who is being written go on by one token."""
        self._spent = 0.0
        self._close_up()
        jobs = sorted(self._writing, key=lambda job: job.sequence)
        rows = [(job.sequence, job.writing.token) for job in jobs]
        try:
            found = self._called(lambda: self.engine.step(rows))
        except ModelError as error:
            return [self._fail(job, error) for job in jobs]
        for sequence, token in rows:
            self._book.add(sequence, (token,))
        return [self._hear(job, logits) for job, logits in zip(jobs, found, strict=True)]

    def _close_up(self) -> None:
        """Have those that are written lie side by side, where that saves computing."""
        if not isinstance(self._book, Lanes) or len(self._writing) < 2:  # noqa: PLR2004 - one has no gaps
            return
        at_work: list[Job | Vectors] = [*self._writing, *self._reading, *([self._text] if self._text else [])]
        for one, other in list(self._book.closing()):
            try:
                self.engine.exchange(one, other)
            except ModelError as error:
                raise EngineLostError(str(error)) from error
            self._book.exchange(one, other)
            for work in at_work:
                if work.sequence == one:
                    work.sequence = other

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
    """Requests to what writes nothing: whoever came first is first, and each bit waits its turn anew."""

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
        """Do a bit of what is first, which is here meanwhile; return what is to be said now."""
        errand, said = self._waiting[0], list[Said]()
        assert not isinstance(errand, Job | Vectors)  # noqa: S101 - there is no engine for one
        try:
            if errand.bit():
                said = [(errand, None)]
        except (ModelError, RefusedError) as error:
            said = [(errand, _refusal(error))]
        self.steps += 1
        # Many texts do not hold up one.
        self._waiting.popleft() if said else self._waiting.rotate(-1)
        return said


class EngineLostError(Exception):
    """The engine computes nothing any more; its process is to end."""


def _refusal(error: SlmopsError) -> RefusedError:
    return error if isinstance(error, RefusedError) else RefusedError(SERVER_ERROR, str(error))
