"""A line of ours in a user's crontab, through a crontab that behaves as cron's does."""

import os

import pytest

from slmops.device import crontab

OURS = "@reboot agent supervise"
THEIRS = b"# m h dom mon dow\n0 5 * * * echo caf\xe9 \xe2\x80\xa8 one line\n"
CRONTAB = """#!/bin/sh
cd "$(dirname "$0")"
case "$1" in
-l) test -e broken && { echo "crontab: cannot read your table" >&2; exit 1; }
    test -e table || { echo "no crontab for you" >&2; exit 1; }; cat table;;
-) cat > table;;
esac
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The user's crontab; it is not there yet."""
    program = tmp_path / "crontab"
    program.write_text(CRONTAB)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "table"


def test_a_line_is_put_into_a_crontab_that_is_not_there_yet(table):
    crontab.add(OURS)

    assert crontab.has(OURS)
    assert table.read_text() == f"{OURS}\n"


def test_a_line_comes_once_and_goes_and_all_others_stay_as_they_were(table):
    table.write_bytes(THEIRS)

    crontab.add(OURS)
    crontab.add(OURS)
    assert table.read_bytes() == THEIRS + f"{OURS}\n".encode()
    crontab.remove(OURS)

    assert table.read_bytes() == THEIRS


def test_a_crontab_that_cannot_be_read_is_left_alone(table, tmp_path):
    table.write_bytes(THEIRS)
    (tmp_path / "broken").touch()
    assert not crontab.has(OURS)

    crontab.add(OURS)
    crontab.remove(OURS)

    assert table.read_bytes() == THEIRS
