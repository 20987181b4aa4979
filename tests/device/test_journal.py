import fcntl
import json
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from threading import Timer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.device import journal, slots
from slmops.device.journal import LONGEST
from slmops.device.places import Places
from slmops.device.trial import Standing, fold
from slmops.errors import DeviceError

HOLD = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("mine", flush=True)
    sys.stdin.read()
"""


def activate(places, slot):
    return journal.append(places, "activated", slot=slot, boot="first", deadline=1.0)


def confirm(places, slot):
    return journal.append(places, "confirmed", slot=slot)


def line(**said):
    return json.dumps(said).encode() + b"\n"


def test_a_device_without_a_journal_stands_nowhere(places):
    assert journal.read(places.journal) == []
    assert journal.standing(places) == Standing()


def test_what_is_appended_is_read_back_in_order_with_its_time(places):
    activate(places, "a")
    told = confirm(places, "a")

    records = journal.read(places.journal)

    assert [(record["kind"], record["slot"]) for record in records] == [
        ("activated", "a"),
        ("confirmed", "a"),
    ]
    assert records[0]["at"] <= records[1]["at"]
    assert told == fold(records) == journal.standing(places)


def test_a_torn_last_line_is_not_a_record(places):
    activate(places, "a")
    before = journal.standing(places)

    with places.journal.open("ab") as file:
        file.write(line(kind="confirmed", slot="a")[:-7])

    assert journal.standing(places) == before


def test_a_record_after_a_torn_line_stands_on_its_own(places):
    activate(places, "a")
    with places.journal.open("ab") as file:
        file.write(b'{"kind": "activa')

    confirm(places, "a")

    assert [record["kind"] for record in journal.read(places.journal)] == ["activated", "confirmed"]


def test_a_line_torn_at_its_very_end_never_becomes_a_record(places):
    activate(places, "a")
    confirm(places, "a")
    with places.journal.open("ab") as file:
        file.write(line(kind="activated", slot="b", at=0.0, boot="first", deadline=1.0)[:-1])
    assert journal.standing(places).slot == "a"

    journal.append(places, "rolled_back", slot="a")

    assert journal.standing(places).slot is None


@given(st.binary().filter(lambda noise: b"{" not in noise), st.integers(0, 3))
def test_garbage_between_records_costs_nothing_but_itself(tmp_path_factory, noise, at):
    whole = [
        line(kind="activated", slot="a", at=1.0, boot="first", deadline=1.0),
        line(kind="confirmed", slot="a", at=2.0),
        line(kind="activated", slot="b", at=3.0, boot="first", deadline=1.0),
    ]
    path = tmp_path_factory.getbasetemp() / "garbage.jsonl"
    path.write_bytes(b"".join([*whole[:at], noise.replace(b"\n", b" ") + b"\n", *whole[at:]]))

    assert journal.read(path) == [json.loads(each) for each in whole]


@pytest.mark.parametrize("noise", [b"\0" * 4096, b"\xff\xfe", b"[1, 2]", b"null", b"7", b'"text"', b"{"])
def test_a_line_that_is_no_record_is_passed_over(places, noise):
    places.journal.write_bytes(noise + b"\n" + line(kind="activated", slot="a", at=0, boot="x", deadline=0))

    assert journal.standing(places).slot == "a"


def test_a_long_journal_is_shortened_and_stands_where_it_stood(places):
    for slot in ("a", "b"):
        activate(places, slot)
        journal.append(places, "proved", slot=slot, boot="x", deadline=2.0)
        before = confirm(places, slot)
    noise = b"".join(line(kind="of a newer agent", number=number) for number in range(LONGEST))
    with places.journal.open("ab") as file:
        file.write(noise)

    after = activate(places, "c")

    assert after.before == before
    assert journal.standing(places) == after
    assert len(journal.read(places.journal)) >= LONGEST, "the old records still matter"


def test_what_no_longer_matters_is_dropped(places):
    noise = b"".join(line(kind="of a newer agent", number=number) for number in range(2 * LONGEST))
    places.journal.write_bytes(noise)

    after = activate(places, "a")

    assert len(journal.read(places.journal)) == LONGEST // 2
    assert journal.standing(places) == after


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["activated", "proved", "confirmed", "rolled_back", "other"]),
            st.sampled_from("abc"),
        ),
        max_size=12,
    ),
    st.integers(0, LONGEST),
)
@settings(max_examples=25)
def test_shortening_keeps_the_fold(tmp_path_factory, moves, quiet):
    places = Places(tmp_path_factory.mktemp("shortening"))
    places.make()
    noise = [{"kind": "of a newer agent"}] * quiet
    said = [{"kind": kind, "slot": slot, "at": 1.0, "boot": "x", "deadline": 2.0} for kind, slot in moves]
    records = [*noise, *said, *[{"kind": "of a newer agent"}] * (LONGEST - quiet)]
    places.journal.write_bytes(b"".join(line(**record) for record in records))

    journal.append(places, "of a newer agent")

    assert journal.standing(places) == fold(records)
    assert len(journal.read(places.journal)) <= len(records) + 1


def test_only_one_changes_a_device_at_a_time(places):
    words = [sys.executable, "-c", HOLD, str(places.lock)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"mine\n"

        with pytest.raises(DeviceError, match="another operator"), journal.locked(places, wait=0.0):
            pass

        other.stdin.close()
    with journal.locked(places, wait=0.0):
        pass


def test_the_lock_is_waited_for(places):
    words = [sys.executable, "-c", HOLD, str(places.lock)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"mine\n"
        Timer(0.1, other.stdin.close).start()

        with journal.locked(places, wait=30.0):
            pass


def test_the_lock_is_given_back_when_the_work_fails(places):
    with pytest.raises(RuntimeError), journal.locked(places):
        raise RuntimeError

    with places.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def committed_b(places):
    """Commit a, then b; return the standing."""
    for slot in ("a", "b"):
        activate(places, slot)
        journal.append(places, "proved", slot=slot, boot="first", deadline=2.0)
        standing = confirm(places, slot)
    return standing


def test_a_journal_that_is_lost_leaves_the_committed_slot_in_place(places):
    before = committed_b(places)

    places.journal.unlink()

    assert journal.standing(places) == before
    assert journal.lost(places)
    assert activate(places, "c").before == before
    assert [record["kind"] for record in journal.read(places.journal)] == ["restored", "activated"]


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@settings(max_examples=30)
def test_a_byte_that_rots_in_the_journal_never_moves_a_device_off_what_it_committed(
    tmp_path_factory, share, flip
):
    places = Places(tmp_path_factory.mktemp("rot"))
    places.make()
    before = committed_b(places)
    bytes_ = bytearray(places.journal.read_bytes())
    bytes_[int(share * len(bytes_))] ^= flip
    places.journal.write_bytes(bytes_)

    assert journal.standing(places) == before
    after = activate(places, "c")
    assert (after.slot, after.before) == ("c", before)
    assert journal.append(places, "rolled_back", slot="c").slot == "b"


def test_a_copy_that_rots_changes_nothing_and_is_made_anew(places):
    before = committed_b(places)

    places.committed.write_bytes(places.committed.read_bytes().replace(b'"b"', b'"x"'))

    assert journal.standing(places) == before
    assert journal.lacks_copy(places)
    journal.copy(places)
    assert not journal.lacks_copy(places)
    places.journal.unlink()
    assert journal.standing(places) == before


def test_where_journal_and_copy_are_lost_the_links_say_what_serves(places):
    for slot in ("a", "b"):
        places.slot(slot).mkdir()
    slots.point(places, committed_b(places))
    places.journal.unlink()
    places.committed.unlink()

    standing = journal.standing(places)

    assert (standing.slot, standing.previous, standing.trial) == ("b", "a", None)
    assert activate(places, "c").before.slot == "b"
    assert journal.append(places, "rolled_back", slot="c").slot == "b"


def test_a_copy_older_than_the_journal_loses_nothing(places):
    activate(places, "a")
    journal.append(places, "proved", slot="a", boot="first", deadline=2.0)
    confirm(places, "a")
    old = places.committed.read_bytes()
    activate(places, "b")
    journal.append(places, "proved", slot="b", boot="first", deadline=2.0)
    after = confirm(places, "b")

    places.committed.write_bytes(old)

    assert journal.standing(places) == after


def test_a_record_that_the_disk_does_not_take_was_never_written(places):
    before = committed_b(places)
    whole = places.journal.stat().st_size

    with _largest_file(whole + 20), pytest.raises(OSError, match="File too large"):
        activate(places, "c")

    assert places.journal.stat().st_size == whole
    assert journal.standing(places) == before


@contextmanager
def _largest_file(size):
    """No file of this process may become longer; a write that would is an error, not a signal."""
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, was[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
        signal.signal(signal.SIGXFSZ, ignored)


def test_bytes_are_set_aside_once(places):
    journal.set_aside(places)
    first = places.reserve.stat()

    journal.set_aside(places)

    assert places.reserve.stat().st_ino == first.st_ino
    assert first.st_blocks * 512 >= journal.RESERVE
