"""Many requests on one engine: who is read, who goes on, what is shared, and what happens when calls fail."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.daemon.batch import PROMPT_SECONDS, Batch, EngineLostError, Errands, Job
from slmops.daemon.generate import Wish, Writing
from slmops.daemon.prefix import ALIKE
from slmops.daemon.refusal import RefusedError
from slmops.daemon.sampling import Sampling
from slmops.daemon.vectors import Vectors
from slmops.errors import ModelError

VOCABULARY = 7


class Abacus:
    """An engine whose next token is a sum over all that it was given, so that any mistake changes it."""

    def __init__(self, *, context=60, pool=60, slots=3, stride=4, copies=False, apart=False, parts=1):
        self.context, self.pool, self.slots, self.stride, self.parts = context, pool, slots, stride, parts
        self.apart, self.copies, self.vocabulary = apart, copies or apart, VOCABULARY
        self.outputs, self.width = 3, VOCABULARY
        self.sequences = slots if apart else 2 * slots
        if apart:
            self.pool = slots * context
        self.lines = {sequence: [] for sequence in range(self.sequences)}
        self.calls = []
        self.broken = False

    def read(self, parts):
        assert 1 <= sum(len(part.ids) for part in parts) <= self.stride
        assert len({part.sequence for part in parts}) == len(parts) <= self.parts
        assert all(part.ids for part in parts)
        for part in parts:
            self._call(("read", part.sequence, len(part.ids)))
            self._add(part.sequence, part.ids)
        return [self._logits(part.sequence) if part.wants_logits else None for part in parts]

    def step(self, rows):
        assert 1 <= len(rows) <= self.slots
        self._call(("step", *(sequence for sequence, _ in rows)))
        for sequence, token in rows:
            self._add(sequence, (token,))
        return [self._logits(sequence) for sequence, _ in rows]

    def keep(self, sequence, length):
        del self.lines[sequence][length:]
        return len(self.lines[sequence])

    def share(self, source, target, length):
        assert not self.lines[target]
        self.lines[target] = [list(cell) if self.copies else cell for cell in self.lines[source][:length]]
        return length

    def exchange(self, one, other):
        assert self.apart
        assert len(self.lines[one]) + len(self.lines[other]) <= self.context
        self.lines[one], self.lines[other] = self.lines[other], self.lines[one]

    def embed(self, sequence, ids):
        assert 1 <= len(ids) <= self.outputs
        self._call(("embed", sequence, len(ids)))
        start = len(self.lines[sequence])
        self._add(sequence, ids)
        return sums(ids, start)

    @property
    def used(self):
        return len({id(cell) for line in self.lines.values() for cell in line})

    def _call(self, call):
        if self.broken:
            raise ModelError("it does not compute")
        self.calls.append(call)

    def _add(self, sequence, ids):
        self.lines[sequence] += [[token] for token in ids]
        assert self.used <= self.pool
        assert len(self.lines[sequence]) <= self.context

    def _logits(self, sequence):
        return np.eye(VOCABULARY, dtype=np.float32)[following([cell[0] for cell in self.lines[sequence]])]


def following(ids):
    return sum(at * token + 1 for at, token in enumerate(ids, 1)) % VOCABULARY


def sums(ids, start=0):
    """What tokens come to: each more the later it stands, so that any mistake changes it."""
    return sum(at * np.eye(VOCABULARY)[token] for at, token in enumerate(ids, start + 1))


def vector(text):
    return (sums(text) / np.linalg.norm(sums(text))).astype(np.float32).tolist()


def expected(prompt, limit):
    """The answer, reckoned without an engine: token 0 ends it."""
    ids = list(prompt)
    while len(ids) < len(prompt) + limit and (token := following(ids)):
        ids.append(token)
    return "".join(map(str, ids[len(prompt) :]))


def decode(ids):
    return "".join(map(str, ids))


def job(prompt, limit=5, **wish):
    return Job(Writing(Wish(prompt, limit, Sampling(), **wish), decode, [0]))


def batch(engine, clock=lambda: 0.0):
    return Batch(engine, clock)


def drained(batch):
    """Run a batch to its end; return by request what was said."""
    said = {}
    while batch.active:
        for work, words in batch.turn():
            said.setdefault(work, []).append(words)
    return said


def ran(batch, turns):
    """Let a batch take some turns; return what was said."""
    return [each for _ in range(turns) if batch.active for each in batch.turn()]


def text(pieces):
    return "".join(piece.text for piece in pieces)


ids = st.lists(st.integers(1, 2), min_size=1, max_size=30)
asks = st.tuples(ids, st.integers(1, 20), st.booleans(), st.integers(0, 6))
texts = st.tuples(st.lists(ids, min_size=1, max_size=3), st.integers(0, 6))


engines = st.builds(
    Abacus,
    slots=st.integers(1, 4),
    copies=st.booleans(),
    apart=st.booleans(),
    parts=st.integers(1, 4),
    stride=st.integers(1, 20),
)


@settings(max_examples=300)
@given(st.lists(asks, min_size=1, max_size=10), engines)
def test_whoever_comes_whenever_each_gets_its_own_answer(asked, engine):
    running, said, jobs = batch(engine), {}, []
    for prompt, limit, anew, turns in asked:
        jobs.append((job(prompt, limit, anew=anew), prompt, limit))
        running.add(jobs[-1][0])
        for _ in range(turns):
            for work, words in running.turn() if running.active else ():
                said.setdefault(work, []).append(words)
    for work, words in drained(running).items():
        said.setdefault(work, []).extend(words)
    for made, prompt, limit in jobs:
        assert text(said[made]) == expected(prompt, limit)
        assert [piece.finish is None for piece in said[made]] == [True] * (len(said[made]) - 1) + [False]


@settings(max_examples=200)
@given(st.lists(asks, min_size=1, max_size=10), engines, st.data())
def test_those_who_leave_take_nobody_with_them(asked, engine, data):
    running, said = batch(engine), {}
    jobs = {job(prompt, limit): (prompt, limit) for prompt, limit, _, _ in asked}
    for made in jobs:
        running.add(made)
    leaving = data.draw(st.sets(st.sampled_from(list(range(len(jobs))))))
    gone = [made for at, made in enumerate(jobs) if at in leaving]
    for made in gone:
        for work, words in running.turn() if running.active else ():
            said.setdefault(work, []).append(words)
        running.cancel(made)
    for work, words in drained(running).items():
        said.setdefault(work, []).extend(words)
    for made, (prompt, limit) in jobs.items():
        if made not in gone:
            assert text(said[made]) == expected(prompt, limit)
    assert running.active == 0


@settings(max_examples=200)
@given(st.lists(asks | texts, min_size=1, max_size=8), engines, st.data())
def test_vectors_are_the_same_whoever_asks_and_leaves_beside_them(asked, engine, data):
    running, said = batch(engine), []
    works = [Vectors(each[0]) if len(each) == 2 else job(*each[:2], anew=each[2]) for each in asked]
    for work, each in zip(works, asked, strict=True):
        running.add(work)
        said += ran(running, each[-1])
    leaving = data.draw(st.sets(st.sampled_from(works)))
    for work in leaving:
        said += ran(running, 1)
        running.cancel(work)
    after = ran(running, 10_000)
    assert running.active == 0
    assert not leaving & {work for work, _ in after}
    for work in set(works) - leaving:
        words = [words for one, words in said + after if one is work]
        if isinstance(work, Job):
            assert text(words) == expected(work.ids, work.writing.wish.limit)
        else:
            assert words == [None]
            assert work.found == [pytest.approx(vector(one)) for one in work.texts]


def test_prompts_are_read_one_after_the_other_and_then_all_go_on_together():
    engine = Abacus()
    running = batch(engine)
    for start in (1, 2):
        running.add(job([start] * 6, limit=3))
    drained(running)
    assert engine.calls[:5] == [
        ("read", 0, 4),
        ("read", 0, 2),
        ("read", 1, 4),
        ("read", 1, 2),
        ("step", 0, 1),
    ]


def test_prompts_share_a_stride_where_they_fit_as_a_whole():
    engine = Abacus(stride=10, parts=3, apart=True)
    running = batch(engine)
    for start, count in ((1, 12), (2, 6), (3, 6), (4, 4)):
        running.add(job([start] * count, limit=1))
    turns = []
    while running.active:
        before = len(engine.calls)
        running.turn()
        turns.append([call[2] for call in engine.calls[before:]])
    assert turns == [[10], [2, 6], [6, 4]]


def test_who_begins_like_one_that_is_being_read_waits_for_it():
    engine = Abacus(stride=100, parts=3, apart=True)
    running = batch(engine)
    jobs = [job([1] * (ALIKE + 4) + [end], limit=2) for end in (1, 2)]
    for made in jobs:
        running.add(made)
    drained(running)
    assert [made.cached for made in jobs] == [0, ALIKE + 4]


def test_whoever_reads_anew_is_read_by_itself():
    engine = Abacus(stride=100, parts=3, apart=True)
    running = batch(engine)
    for start, anew in ((1, False), (2, True), (3, False), (4, False)):
        running.add(job([start] * 5, limit=1, anew=anew))
    turns = []
    while running.active:
        before = len(engine.calls)
        running.turn()
        turns.append(len(engine.calls) - before)
    assert turns == [1, 1, 2]


def test_those_who_are_written_come_to_lie_side_by_side():
    engine = Abacus(slots=4, apart=True)
    running = batch(engine)
    long = [start for start in itertools.product((1, 2, 3), repeat=4) if len(expected(start, 12)) == 12]
    first, second, third = (job(list(start), limit) for start, limit in zip(long, (12, 3, 12), strict=False))
    for made in (first, second, third):
        running.add(made)
    said = drained(running)
    steps = [call[1:] for call in engine.calls if call[0] == "step"]
    assert (0, 1, 2) in steps
    assert all(rows == tuple(range(rows[0], rows[0] + len(rows))) for rows in steps)
    assert text(said[third]) == expected(list(long[2]), 12)


def test_a_long_prompt_lets_the_others_go_on_in_between():
    engine, seconds = Abacus(slots=2, pool=100, context=100), itertools.count(step=PROMPT_SECONDS)
    running = batch(engine, lambda: next(seconds))
    talker = next(list(ids) for ids in itertools.product((1, 2), repeat=8) if len(expected(ids, 20)) == 20)
    running.add(job(talker, limit=20))
    running.add(job([2] * 40, limit=2))
    kinds = []
    while running.active:
        running.turn()
        kinds.append(engine.calls[-1][0])
    reads = [at for at, kind in enumerate(kinds) if kind == "read"][2:]
    assert all("step" in kinds[one:other] for one, other in itertools.pairwise(reads))


def test_a_long_text_lets_the_others_go_on_in_between():
    engine, seconds = Abacus(slots=2, pool=100, context=100), itertools.count(step=PROMPT_SECONDS)
    running = batch(engine, lambda: next(seconds))
    talker = next(list(ids) for ids in itertools.product((1, 2), repeat=8) if len(expected(ids, 20)) == 20)
    running.add(job(talker, limit=20))
    running.add(Vectors([[2] * 40]))
    while running.active:
        running.turn()
    kinds = [call[0] for call in engine.calls]
    strides = [at for at, kind in enumerate(kinds) if kind == "embed"]
    assert len(strides) == 14
    assert all("step" in kinds[one:other] for one, other in itertools.pairwise(strides))


def test_who_leaves_in_the_midst_of_a_text_has_no_more_of_it_read():
    engine = Abacus()
    running = batch(engine)
    leaving, staying = Vectors([[1] * 9]), job([2] * 3, limit=2)
    for work in (leaving, staying):
        running.add(work)
    running.turn()
    running.cancel(leaving)
    said = drained(running)
    assert [call[0] for call in engine.calls].count("embed") == 1
    assert list(said) == [staying]
    assert not engine.lines[0] or engine.lines[0][0] == [2]


def test_a_text_that_cannot_be_read_is_nobody_elses_loss():
    engine = Abacus()
    running = batch(engine)
    broken, fine = Vectors([[1] * 9]), Vectors([[1, 2]])
    for work in (broken, fine):
        running.add(work)
    running.turn()
    engine.broken = True
    ((failed, refusal),) = running.turn()
    engine.broken = False
    assert (failed, refusal.status) == (broken, 500)
    assert drained(running) == {fine: [None]}
    assert fine.found == [pytest.approx(vector([1, 2]))]


def test_what_begins_alike_is_read_once():
    engine = Abacus()
    running = batch(engine)
    first, second = job([1] * 9, limit=1), job([1] * 8 + [2], limit=1)
    running.add(first)
    running.add(second)
    drained(running)
    assert (first.cached, second.cached) == (0, 8)
    assert [call for call in engine.calls if call[1] == 1] == [("read", 1, 1)]


def test_whoever_wants_nothing_from_before_gets_nothing():
    running = batch(Abacus())
    first, second = job([1] * 9, limit=1), job([1] * 9, limit=1, anew=True)
    running.add(first)
    running.add(second)
    drained(running)
    assert second.cached == 0


def test_who_has_no_room_waits_until_there_is_some():
    engine = Abacus(pool=60, context=60)
    running = batch(engine)
    jobs = [job([number] * 30, limit=15) for number in (1, 2)]
    for made in jobs:
        running.add(made)
    said = drained(running)
    assert [text(said[made]) for made in jobs] == [expected([number] * 30, 15) for number in (1, 2)]


def test_a_prompt_is_scored_token_by_token_and_read_anew():
    engine = Abacus()
    running = batch(engine)
    scoring = job([1, 2, 1], limit=0, alternatives=1, scores_prompt=True)
    running.add(scoring)
    (piece,) = drained(running)[scoring]
    assert [each.text for each in piece.scored] == ["1", "2", "1"]
    assert piece.scored[0].logprob is None
    assert [each.top[0][0] for each in piece.scored[1:]] == [str(following([1])), str(following([1, 2]))]
    assert (piece.finish, piece.tokens) == ("length", 0)


def test_a_prompt_that_cannot_be_scored_is_nobody_elses_loss():
    class Broken(Abacus):
        def _logits(self, sequence):
            broken = [cell[0] for cell in self.lines[sequence]] == [2]
            return np.full(VOCABULARY, np.nan, np.float32) if broken else super()._logits(sequence)

    running = batch(Broken(parts=3, stride=100))
    fine, scoring = job([1] * 4), job([2, 1, 1], limit=1, alternatives=1, scores_prompt=True)
    for made in (fine, scoring):
        running.add(made)
    said = drained(running)
    assert isinstance(said[scoring][-1], RefusedError)
    assert text(said[fine]) == expected([1] * 4, 5)


def test_a_call_that_fails_ends_those_that_were_read_in_it_and_nobody_else():
    engine = Abacus(parts=2, stride=8, apart=True)
    running = batch(engine)
    jobs = [job([number] * 4, limit=2) for number in (1, 2, 3)]
    for made in jobs:
        running.add(made)
    engine.broken = True
    failed = dict(running.turn())
    engine.broken = False
    said = drained(running)
    assert set(failed) == set(jobs[:2])
    assert all(isinstance(words, RefusedError) for words in failed.values())
    assert text(said[jobs[2]]) == expected([3] * 4, 2)


def test_a_prompt_that_is_only_echoed_is_not_read():
    engine = Abacus()
    running = batch(engine)
    running.add(job([1, 2, 1], limit=0))
    drained(running)
    assert engine.calls == []


def test_a_call_that_fails_ends_those_that_were_in_it_and_nobody_else():
    engine = Abacus()
    running = batch(engine)
    first, second = job([1, 1]), job([2, 1])
    running.add(first)
    running.turn()
    engine.broken = True
    (failed,) = running.turn()
    engine.broken = False
    running.add(second)
    said = drained(running)
    assert failed[0] is first
    assert isinstance(failed[1], RefusedError)
    assert failed[1].status == 500
    assert text(said[second]) == expected([2, 1], 5)


def test_an_engine_that_fails_every_time_is_lost():
    engine = Abacus()
    engine.broken = True
    running = batch(engine)
    for _ in range(3):
        running.add(job([1]))
    with pytest.raises(EngineLostError):
        drained(running)


class Dumb(Abacus):
    """It computes no numbers."""

    def _logits(self, _sequence):
        return np.full(VOCABULARY, np.nan, np.float32)


def test_numbers_that_are_none_end_the_one_answer_they_are_of():
    broken = job([1, 1])
    running = batch(Dumb())
    running.add(broken)
    (said,) = drained(running)[broken]
    assert said.status == 500
    assert "not numbers" in str(said)


def test_a_text_takes_its_turn_among_the_others_and_its_room_from_what_is_kept():
    engine = Abacus(pool=20, context=20)
    running = batch(engine)
    first, vectors, last = job([1] * 10, limit=2), Vectors([[1] * 18, [2] * 20]), job([2] * 10, limit=2)
    for work in (first, vectors, last):
        running.add(work)
    said = drained(running)
    assert said[vectors] == [None]
    assert text(said[last]) == expected([2] * 10, 2)


def test_who_comes_after_many_texts_waits_for_one():
    engine = Abacus()
    running = batch(engine)
    vectors, question = Vectors([[1] * 3, [1] * 3]), job([2] * 3, limit=2)
    running.add(vectors)
    running.add(question)
    running.turn()
    assert [work for work, _ in running.turn()] == [question]
    assert len(vectors.found) == 1


class Countdown:
    """An errand in some bits, which may fail at its end."""

    def __init__(self, bits, *, fails=False):
        self.bits, self.fails = bits, fails

    def bit(self):
        self.bits -= 1
        if self.fails and not self.bits:
            raise ModelError("it does not compute")
        return not self.bits


def test_without_an_engine_errands_take_turns():
    running = Errands()
    long, gone, short, failing = Countdown(5), Countdown(1), Countdown(2), Countdown(3, fails=True)
    for errand in (long, gone, short, failing):
        running.add(errand)
    running.cancel(gone)
    said = drained(running)
    assert list(said) == [short, failing, long]
    assert (said[short], said[long], said[failing][0].status) == ([None], [None], 500)
    assert running.steps == 10


def test_an_errand_is_here_while_it_is_done_and_counted_when_it_was():
    seen, running = [], Errands()

    class Watching:
        room = 0

        def bit(self):
            seen.append((running.active, running.steps))
            return len(seen) > 1

    running.add(Watching())
    drained(running)
    assert seen == [(1, 0), (1, 1)]
