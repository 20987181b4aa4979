"""Judging an answer: as `golden.passes` does, but that a pattern never holds up who asks."""

import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.artifact.golden import Golden, passes
from slmops.artifact.judge import judge
from slmops.errors import DocumentError

ENDLESS = "a" * 50 + "!"
ANYTHING = st.text(st.characters(exclude_categories=()))


@given(st.sampled_from(["exact", "prefix", "contains", "json"]), ANYTHING, ANYTHING)
def test_without_a_pattern_it_says_what_passes_says(match, expect, answer):
    golden = Golden(expect, match)
    assert judge(golden, answer) == passes(golden, answer)


@settings(max_examples=20)
@given(st.lists(st.sampled_from(["a", "b+", ".", "^", "$", r"\d", "(c|é)", "\n"]), min_size=1), ANYTHING)
def test_with_a_pattern_too_whatever_the_text_is(parts, answer):
    golden = Golden("".join(parts), "regex")
    assert judge(golden, answer, seconds=60) == passes(golden, answer)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){20}$"])
def test_a_pattern_that_finds_no_end_is_named(pattern):
    with pytest.raises(
        DocumentError, match=re.escape(f"{pattern!r} was not searched for within 0.5 s")
    ) as told:
        judge(Golden(pattern, "regex"), ENDLESS, seconds=0.5)
    assert "no repeat inside a repeat" in told.value.remedy


def test_a_search_without_end_does_not_outlive_who_was_killed_over_it():
    asking = (
        "from slmops.artifact.judge import *; judge(Golden('(a+)+$', 'regex'), 'a' * 50 + '!', seconds=1)"
    )
    with subprocess.Popen([sys.executable, "-c", asking]) as killed:
        children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children")
        while not (searching := children.read_text().split()):
            assert killed.poll() is None
        left = os.pidfd_open(int(searching[0]))
        killed.kill()
    ended, _, _ = select.select([left], [], [], 60)
    os.close(left)
    assert ended
