"""What is believed of what a device says unasked, and what is not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.telemetry import bulletin

STATUS = {"agent": "1.2.3", "healthy": True, "standing": {"slot": "00"}, "telemetry": {"seconds": [[1, 2]]}}
BOOT = "6b2c1a50-0000-4000-8000-000000000000"
LINE = bulletin.render(STATUS, folder="/root/.slmops/run", boot=BOOT, at=100.25).rstrip("\n")


def read(line=LINE, *, folder="/root/.slmops/run", up="103.50 200.00", boot=BOOT, version="1.2.3", noise=()):
    return bulletin.parse([*noise, folder, line, up, boot], version)


def test_what_was_told_a_moment_ago_is_believed_whatever_a_login_shell_prints_before_it():
    assert read() == read(noise=["Welcome!", "", LINE]) == STATUS


@pytest.mark.parametrize(
    "other",
    [
        {"up": "115.26 0"},
        {"up": "100.24 0"},
        {"up": "soon"},
        {"up": ""},
        {"boot": BOOT.replace("6", "7")},
        {"folder": "/root/.slmops-2/run"},
        {"version": "1.2.4"},
        {"line": ""},
        {"line": LINE.replace('"bulletin"', '"done"')},
        {"line": LINE.replace("true", "false")},
        {"line": LINE.replace("100.25", "103.25")},
    ],
    ids=["old", "of later", "no time", "no clock", "another boot", "another folder", "another version",
         "nothing", "another kind", "forged health", "forged time"],
)  # fmt: skip
def test_what_is_not_of_here_and_now_is_no_answer(other):
    assert read(**other) is None


def test_less_than_all_of_it_is_no_answer():
    whole = ["/root/.slmops/run", LINE, "103.50 200.00", BOOT]
    assert [bulletin.parse(whole[:many], "1.2.3") for many in range(4)] == [None] * 4
    assert bulletin.parse(whole[1:], "1.2.3") is None


@given(st.integers(0, len(LINE) - 1), st.integers(0, len(LINE) - 1))
def test_a_line_that_was_cut_or_written_over_meanwhile_is_no_answer(cut, other):
    assert read(LINE[:cut]) is None
    later = bulletin.render({**STATUS, "standing": None}, folder="/root/.slmops/run", boot=BOOT, at=102.0)
    torn = LINE[:other] + later.rstrip("\n")[other:]
    assert read(torn) in (None, STATUS, {**STATUS, "standing": None})


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5),
    )
)
def test_what_is_told_is_what_is_read(status):
    status = {**status, "agent": "1"}
    line = bulletin.render(status, folder="f", boot="b", at=1.5)
    assert bulletin.parse(["f", line.rstrip("\n"), "2.5 9", "b"], "1") == json.loads(json.dumps(status))
