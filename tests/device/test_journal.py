import fcntl
import json
import subprocess
import sys
from threading import Timer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.device import journal
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
    places = Places(tmp_path_factory.getbasetemp() / "shortening")
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
