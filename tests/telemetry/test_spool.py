"""The bounded ring of events on disk."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.errors import IntegrityError
from slmops.telemetry import database
from slmops.telemetry.database import GAP
from slmops.telemetry.events import RequestFinished, render
from slmops.telemetry.spool import FILE, LEAST_BYTES, Spool, read, statuses

REPOSITORY = Path(__file__).parents[2]


def event(number, **said):
    return RequestFinished(
        **{
            "time": float(number),
            "release": "demo:1.0.0",
            "digest": "sha256:00",
            "status": 200,
            "prompt_tokens": number,
            "output_tokens": 1,
            "first_token_seconds": 0.1,
            "seconds": 0.2,
            "label": "current",
            "kind": "chat",
            **said,
        }
    )


def numbers(folder):
    return [found.prompt_tokens for _, found in read(folder).events]


def test_what_is_spooled_is_read_in_order(tmp_path):
    spool = Spool(tmp_path / "spool")
    for number in range(50):
        assert spool.append(event(number, first_token_seconds=None if number % 2 else 0.5))
    found = read(tmp_path / "spool")
    assert [each for _, each in found.events] == [
        event(number, first_token_seconds=None if number % 2 else 0.5) for number in range(50)
    ]
    assert [number for number, _ in found.events] == list(range(1, 51))
    assert found.last == 50


def test_a_spool_that_was_never_written_holds_nothing(tmp_path):
    found = read(tmp_path / "missing")
    assert (found.name, found.events, found.dropped, found.last) == ("", [], 0, 0)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("limit", [1000, LEAST_BYTES, 700_000])
def test_a_full_spool_drops_the_oldest_counts_them_and_stays_within_its_limit(tmp_path, limit):
    spool = Spool(tmp_path, limit)
    many = 24_000
    for start in range(0, many, 50):
        assert spool.extend([event(number) for number in range(start, start + 50)])
        assert spool.bytes <= max(limit, LEAST_BYTES)
    kept = numbers(tmp_path)
    assert kept == list(range(many - len(kept), many))
    assert read(tmp_path).dropped == spool.dropped == many - len(kept) > 0
    assert len(kept) * 40 > max(limit, LEAST_BYTES) // 4


@given(st.lists(st.sampled_from(["append", "open", "kill"]), max_size=30))
@settings(max_examples=30, deadline=None)
def test_numbers_rise_and_are_given_once_however_often_it_is_opened(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("spool")
    spools = [Spool(folder)]
    written = 0
    for step in steps:
        if step == "append":
            assert spools[-1].append(event(written))
            written += 1
        else:
            if step == "open":
                spools[-1].close()
            spools.append(Spool(folder))
    ids = [number for number, _ in read(folder).events]
    assert ids == sorted(set(ids))
    assert numbers(folder) == list(range(written))
    for spool in spools:
        spool.close()


def test_a_power_cut_that_takes_the_last_events_does_not_give_their_numbers_again(tmp_path):
    spool = Spool(tmp_path)
    for start in (0, 10):
        spool.extend([event(number) for number in range(start, start + 10)])
        spool.close()
    spool.append(event(20))
    # What is on the disk for good when a spool has been opened: its log as it was synced then.
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute("VACUUM INTO ?", (str(tmp_path / "left"),))
    connection.close()
    connection = sqlite3.connect(tmp_path / "left", isolation_level=None)
    connection.execute("DELETE FROM events WHERE prompt_tokens = 20")
    connection.close()
    spool.extend([event(number) for number in range(21, 100)])
    taken = read(tmp_path).last
    spool.close()
    (tmp_path / "left").replace(tmp_path / FILE)

    Spool(tmp_path).append(event(100))

    found = read(tmp_path, after=taken)
    assert [each.prompt_tokens for _, each in found.events] == [100]
    assert taken < found.last <= taken + 2 * GAP


def test_reading_after_a_number_gives_what_came_since(tmp_path):
    spool = Spool(tmp_path)
    spool.extend([event(number) for number in range(10)])
    name = read(tmp_path).name
    assert [number for number, _ in read(tmp_path, 7, name=name).events] == [8, 9, 10]
    assert [number for number, _ in read(tmp_path, 2, 3, name).events] == [3, 4, 5]


def test_of_another_spool_than_the_one_read_before_everything_is_new(tmp_path):
    Spool(tmp_path).extend([event(number) for number in range(10)])
    assert len(read(tmp_path, 7, name="another").events) == 10


def test_two_daemons_may_write_to_one_spool(tmp_path):
    draining, starting = Spool(tmp_path), Spool(tmp_path)
    for number in range(20):
        assert (draining if number % 3 else starting).append(event(number))
    assert numbers(tmp_path) == list(range(20))


def test_another_thread_may_go_on_with_it(tmp_path):
    spool = Spool(tmp_path)
    spool.append(event(0))
    clerk = threading.Thread(target=spool.append, args=[event(1)])
    clerk.start()
    clerk.join()
    assert numbers(tmp_path) == [0, 1]


@pytest.mark.parametrize(
    "ruin",
    [
        lambda path: path.write_bytes(b"no database at all" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:3000] + os.urandom(4000)),
        lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    ],
)
def test_a_damaged_spool_is_set_aside_and_a_new_one_with_another_name_begins(tmp_path, ruin):
    spool = Spool(tmp_path)
    spool.extend([event(number) for number in range(200)])
    name = read(tmp_path).name
    spool.close()
    ruin(tmp_path / FILE)

    again = Spool(tmp_path)
    assert all(again.append(event(number)) for number in range(200, 400))

    found = read(tmp_path)
    assert found.name != name
    assert numbers(tmp_path) == list(range(200, 400))
    assert (tmp_path / (FILE + database.ASIDE)).exists()
    assert again.lost == 0


def test_a_damaged_spool_is_told_of_by_who_reads_it(tmp_path):
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(IntegrityError, match="not a database"):
        read(tmp_path)


def test_what_cannot_be_written_is_counted_as_lost_and_said(tmp_path):
    (tmp_path / FILE).mkdir()
    spool = Spool(tmp_path)
    assert not spool.append(event(0))
    assert not spool.extend([event(1), event(2)])
    assert spool.lost == 3
    assert "unable to open" in spool.why
    (tmp_path / FILE).rmdir()
    assert spool.append(event(3))
    assert numbers(tmp_path) == [3]


FILL = """
import resource, signal, sys
from pathlib import Path
from tests_events import event
from slmops.telemetry.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 200_000))
for number in range(3000):
    spool.append(event(number))
full = spool.lost
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
spool.append(event(3000))
print(full, spool.lost)
"""
WRITE = """
import sys
from pathlib import Path
from tests_events import event
from slmops.telemetry.spool import Spool
spool = Spool(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    assert spool.append(event(number))
    print(number, flush=True)
    number += 1
"""


@pytest.fixture
def python(tmp_path):
    (tmp_path / "tests_events.py").write_text(
        "from slmops.telemetry.events import RequestFinished\n"
        "def event(n): return RequestFinished(float(n), 'demo:1.0.0', 'sha256:00', 200, n, 1, 0.1, 0.2)\n"
    )
    path = f"{REPOSITORY}:{tmp_path}"

    def start(script, *words):
        return subprocess.Popen(
            [sys.executable, "-c", script, *map(str, words)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


def test_a_file_that_may_not_grow_loses_events_quietly_and_takes_them_again_later(tmp_path, python):
    folder = tmp_path / "spool"
    with python(FILL, folder) as filling:
        full, lost = map(int, filling.stdout.read().split())
    assert filling.returncode == 0
    assert 0 < full == lost < 3000
    kept = numbers(folder)
    assert kept[-1] == 3000
    assert len(kept) == 3001 - lost


def test_a_writer_that_is_killed_has_lost_nothing_that_it_had_written(tmp_path, python):
    folder, told = tmp_path / "spool", -1
    for heard in (1, 7, 40):
        with python(WRITE, folder, told + 1) as writing:
            for _ in range(heard):
                told = int(writing.stdout.readline())
            writing.send_signal(signal.SIGKILL)
            told = max([told, *map(int, writing.stdout.read().split())])
        kept = numbers(folder)
        # One more may be written that was not told of.
        assert kept[: told + 1] == list(range(told + 1))
        assert len(kept) <= told + 2
        told = len(kept) - 1


def legacy(folder, *batches):
    folder.mkdir(exist_ok=True)
    for place, batch in enumerate(batches, 1):
        lines = [render(event(number)) for number in batch]
        (folder / f"{place:010d}.jsonl").write_text("\n".join([*lines, "torn {", ""]))
    (folder / "dropped").write_text("17\n")


def test_a_spool_of_lines_is_carried_over_once(tmp_path):
    legacy(tmp_path, range(5), range(5, 9))
    Spool(tmp_path).append(event(9))
    Spool(tmp_path).append(event(10))
    assert numbers(tmp_path) == list(range(11))
    assert {path.name for path in tmp_path.iterdir()} == {FILE, FILE + "-wal", FILE + "-shm"}


def test_a_carrying_over_that_was_cut_off_is_finished_and_carries_nothing_twice(tmp_path):
    legacy(tmp_path, range(5), range(5, 9))
    Spool(tmp_path).append(event(9))
    with sqlite3.connect(tmp_path / FILE) as connection:
        ((done,), *_) = connection.execute("SELECT token FROM carried ORDER BY token").fetchall()
    connection.close()
    (tmp_path / done).write_text(render(event(0)) + "\n")
    (tmp_path / "0000000001-abcdef.carrying").write_text(render(event(10)) + "\n")

    Spool(tmp_path).append(event(11))

    assert numbers(tmp_path) == [*range(10), 10, 11]
    assert not list(tmp_path.glob("*.carrying"))


def test_a_daemon_of_before_that_still_writes_lines_is_not_overheard(tmp_path):
    legacy(tmp_path, range(3))
    Spool(tmp_path).append(event(3))
    legacy(tmp_path, [4])
    Spool(tmp_path).append(event(5))
    assert numbers(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_statuses_are_those_of_an_artifact_after_a_number(tmp_path):
    Spool(tmp_path).extend(
        [event(1, status=500), event(2, status=503), event(3, digest="sha256:11"), event(4, status=200)]
    )
    assert statuses(tmp_path, "sha256:00", 1) == [503, 200]
    assert statuses(tmp_path / "missing", "sha256:00", 0) == []


def test_who_reads_while_a_file_is_made_finds_nothing_or_all(tmp_path):
    (tmp_path / FILE).touch()
    assert read(tmp_path).events == []
    assert statuses(tmp_path, "sha256:00", 0) == []
    folders = [tmp_path / str(number) for number in range(20)]

    def look():
        for folder in folders:
            end = time.monotonic() + 10
            while not read(folder).events:
                assert time.monotonic() < end

    with ThreadPoolExecutor(1) as others:
        looking = others.submit(look)
        for folder in folders:
            spool = Spool(folder)
            spool.append(event(1))
            spool.close()
        looking.result(60)
