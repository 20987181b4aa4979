"""What a journal keeps through torn lines, rot, full disks and other routers."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon import journal
from slmops.daemon.journal import FILE_NAME, LONGEST, Journal
from slmops.daemon.versions import fold
from slmops.errors import UsageError

A, B = ("sha256:" + letter * 64 for letter in "ab")


def records(*digests):
    return [
        {"kind": kind, "digest": digest, "at": 1.0, "folder": "/ä"}
        for digest in digests
        for kind in ("loading", "loaded", "gated", "promoted")
    ]


def written(folder, said):
    opened = Journal(folder)
    for record in said:
        opened.write(record)
    opened.close()
    return folder / FILE_NAME


def test_a_journal_opened_again_knows_what_was_written(tmp_path):
    written(tmp_path, records(A, B))
    again = Journal(tmp_path)
    assert again.state == fold(records(A, B))
    assert journal.read(tmp_path) == records(A, B)
    again.close()


def test_a_journal_without_a_folder_keeps_nothing_on_disk(tmp_path):
    kept = Journal()
    for record in records(A):
        kept.write(record)
    kept.close()
    assert kept.state.current == A
    assert not list(tmp_path.iterdir())


@given(st.data())
def test_a_journal_cut_anywhere_is_one_that_ends_with_its_last_whole_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("state")
    path = written(folder, records(A, B))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    lines = whole[:cut].count(b"\n")
    torn = Journal(folder)
    assert torn.state == fold(records(A, B)[:lines])
    torn.write({"kind": "failed", "digest": B, "at": 2.0})
    torn.close()
    again = Journal(folder)
    assert again.state == torn.state
    assert again.lost == 0
    again.close()


@given(st.integers(0), st.integers(1, 255))
def test_a_line_that_rotted_is_no_record_and_the_others_stand(tmp_path_factory, at, flip):
    folder = tmp_path_factory.mktemp("state")
    path = written(folder, records(A))
    data = bytearray(path.read_bytes())
    data[at % (len(data) - 1)] ^= flip
    path.write_bytes(data)
    again = Journal(folder)
    assert again.state.current in (A, None)
    assert again.lost >= 1
    again.close()


def test_a_journal_that_grew_long_is_rewritten_and_says_the_same(tmp_path):
    long = records(A) + [{"kind": "gated", "digest": A, "at": 2.0, "by": "router"}] * LONGEST
    path = written(tmp_path, long)
    again = Journal(tmp_path)
    assert len(path.read_bytes().splitlines()) == 1
    assert again.state == fold(long)
    again.write(records(B)[0])
    again.close()
    assert [record["kind"] for record in journal.read(tmp_path)] == ["kept", "loading"]


def test_each_line_is_json(tmp_path):
    path = written(tmp_path, records(A))
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == [
        "loading",
        "loaded",
        "gated",
        "promoted",
    ]


def test_two_routers_do_not_have_one_journal(tmp_path):
    first = Journal(tmp_path)
    with pytest.raises(UsageError, match="another router"):
        Journal(tmp_path)
    first.close()
    Journal(tmp_path).close()


FULL = """
import pathlib, resource, signal, sys
from slmops.daemon.journal import Journal
from slmops.errors import SlmopsError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
kept = Journal(pathlib.Path(sys.argv[1]))
file = pathlib.Path(sys.argv[1]) / "versions.jsonl"
kept.write({"kind": "loading", "digest": "sha256:a", "at": 1.0})
size = file.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20))
try:
    kept.write({"kind": "loaded", "digest": "sha256:a", "at": 1.0})
except SlmopsError as error:
    print(kept.state.stage("sha256:a").loaded, file.stat().st_size == size)
"""


def test_a_record_that_the_disk_refuses_was_never_said(tmp_path):
    said = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True, env=os.environ
    )
    assert said.stdout == "False True\n"
    assert [record["kind"] for record in journal.read(tmp_path)] == ["loading"]
