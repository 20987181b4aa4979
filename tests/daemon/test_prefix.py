"""What sequences hold, what a prompt can begin with, and who goes to make room."""

from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.daemon.prefix import UNTRIED, Book, common

POOL, SLOTS, SEQUENCES = 40, 3, 6
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=20)
few = st.integers(0, 5)


def begun(book, prompt, limit=0, *, anew=False):
    """Let a prompt in and read it, as whoever drives an engine; return its sequence and what it shared."""
    whole = len(prompt) + limit
    entry = book.entry(prompt, whole, anew=anew)
    if entry is None:
        return None
    book.begin(entry.target, prompt, whole, entry.source, entry.shared)
    for sequence in entry.thrown:
        book.forget(sequence)
    book.add(entry.target, prompt[entry.shared :])
    return entry.target, entry.shared


class Cells:
    """What an engine would really hold: for each sequence its cells, which sharing gives a second name."""

    def __init__(self, *, copies):
        self.lines, self.fresh, self.copies = {}, 0, copies

    def share(self, source, target, length):
        taken = self.lines[source][:length] if source is not None else []
        self.lines[target] = self.new(len(taken)) if self.copies else list(taken)

    def new(self, count):
        self.fresh += count
        return list(range(self.fresh - count, self.fresh))

    @property
    def used(self):
        return len({cell for line in self.lines.values() for cell in line})


class House:
    """A book and an engine's cells, driven side by side."""

    def __init__(self, *, copies):
        self.book, self.cells = Book(POOL, SEQUENCES, SLOTS, copies), Cells(copies=copies)
        self.texts, self.wholes = {}, {}

    def come(self, prompt, limit, *, anew):
        whole = len(prompt) + limit
        entry = self.book.entry(prompt, whole, anew=anew) if len(self.book.at_work) < SLOTS else None
        if entry is None:
            return
        assert entry.target not in self.texts
        assert not set(entry.thrown) & set(self.book.at_work)
        assert entry.shared < len(prompt)
        if entry.source is not None:
            assert self.texts[entry.source][: entry.shared] == prompt[: entry.shared]
        self.cells.share(entry.source, entry.target, entry.shared)
        self.book.begin(entry.target, prompt, whole, entry.source, entry.shared)
        for sequence in entry.thrown:
            self.book.forget(sequence)
            self.leave(sequence)
        self.texts[entry.target], self.wholes[entry.target] = list(prompt[: entry.shared]), whole
        self.add(entry.target, prompt[entry.shared :])

    def add(self, sequence, ids):
        self.cells.lines[sequence] += self.cells.new(len(ids))
        self.book.add(sequence, ids)
        self.texts[sequence] += ids

    def leave(self, sequence):
        del self.cells.lines[sequence], self.texts[sequence]


@settings(max_examples=200)
@given(st.lists(st.tuples(prompts, few, st.booleans(), st.integers(0, 3)), max_size=25), st.booleans())
def test_whatever_comes_and_goes_the_pool_holds_it_and_every_cell_is_counted(requests, copies):
    house = House(copies=copies)
    book = house.book
    for prompt, limit, anew, ends in requests:
        house.come(prompt, limit, anew=anew)
        for sequence in book.at_work:
            if len(house.texts[sequence]) < house.wholes[sequence]:
                house.add(sequence, [0])
        for sequence in book.at_work[:ends]:
            for gone in book.end(sequence):
                house.leave(gone)
        assert book.occupied == house.cells.used <= POOL
        assert len(book.kept) <= SEQUENCES - SLOTS
        assert [book.read(sequence) for sequence in house.texts] == list(map(len, house.texts.values()))


@given(prompts, st.integers(0, 5))
def test_with_nobody_at_work_everybody_comes_in(prompt, limit):
    book = Book(POOL, SEQUENCES, SLOTS)
    for filler in ([0] * 15, [1] * 15):
        sequence, _ = begun(book, filler)
        book.end(sequence)
    assert begun(book, prompt, limit) is not None


@given(prompts, prompts)
def test_the_longest_common_beginning_is_found(one, other):
    length = common(one, other, 100)
    assert one[:length] == other[:length]
    assert one[: length + 1] != other[: length + 1] or length == min(len(one), len(other))


def test_a_prompt_begins_with_what_is_kept_or_at_work_whichever_is_more_alike():
    book = Book(POOL, SEQUENCES, SLOTS)
    kept, _ = begun(book, [1, 2, 3])
    book.end(kept)
    begun(book, [1, 2, 3, 4, 5])
    assert begun(book, [1, 2, 3, 4, 6])[1] == 4


def test_the_last_token_of_a_prompt_is_always_read_again():
    book = Book(POOL, SEQUENCES, SLOTS)
    begun(book, [1, 2, 3])
    assert begun(book, [1, 2, 3])[1] == 2


def test_the_least_recently_used_goes_first_and_only_for_want_of_room():
    book = Book(POOL, SEQUENCES, SLOTS)
    first, second = (begun(book, [start] * 8)[0] for start in (1, 2))
    for sequence in (first, second):
        book.end(sequence)
    used_again, _ = begun(book, [1] * 8 + [3])
    assert book.kept == [second, first]
    assert book.entry([4] * 10, 14, anew=False).thrown == ()
    assert book.entry([4] * 20, 24, anew=False).thrown == (second,)
    assert used_again in book.at_work


def test_who_is_at_work_has_room_to_come_to_its_end():
    book = Book(POOL, SEQUENCES, SLOTS)
    begun(book, [1] * 10, limit=20)
    assert book.entry([2] * 11, 11, anew=False) is None
    assert book.entry([2] * 10, 10, anew=False) is not None


def test_whoever_reads_anew_alone_finds_an_empty_house():
    book = Book(POOL, SEQUENCES, SLOTS)
    kept, _ = begun(book, [1, 2, 3])
    book.end(kept)
    entry = book.entry([1, 2, 3], 5, anew=True)
    assert (entry.source, entry.thrown) == (None, (kept,))


def test_the_beginning_of_another_is_not_kept_beside_it():
    book = Book(POOL, SEQUENCES, SLOTS)
    first, _ = begun(book, [1, 2, 3])
    book.end(first)
    second, _ = begun(book, [1, 2, 3, 4])
    assert book.end(second) == (first,)
    assert book.kept == [second]


def test_one_is_kept_however_long_and_more_only_in_half_of_the_pool():
    book = Book(POOL, SEQUENCES, SLOTS)
    long, _ = begun(book, [1] * 30)
    assert book.end(long) == ()
    short, _ = begun(book, [2] * 8)
    assert book.end(short) == (long,)


def test_what_nobody_begins_with_is_kept_in_a_few_tokens_only():
    book = Book(100 * UNTRIED, 16, 8)
    kept = []
    for number in range(6):
        sequence, _ = begun(book, [number] * (UNTRIED // 3))
        assert not book.end(sequence) or number >= 3
        kept.append(sequence)
    assert len(book.kept) == 3

    useful = begun(book, [5] * (UNTRIED // 3) + [7] * UNTRIED)
    assert useful[1] == UNTRIED // 3
    book.end(useful[0])
    for number in range(10, 20):
        book.end(begun(book, [number] * UNTRIED)[0])

    assert useful[0] in book.kept


def test_where_sharing_copies_a_copy_takes_room_of_its_own():
    book = Book(POOL, SEQUENCES, SLOTS, copies=True)
    begun(book, [1] * 15)
    begun(book, [1] * 15)
    assert book.occupied == 30
    assert book.entry([1] * 15, 15, anew=False) is None
