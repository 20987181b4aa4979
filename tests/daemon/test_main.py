"""What the tools beside the daemon say to whoever uses them wrongly: no traceback, and what would help."""

import subprocess
import sys

import pytest


def ended(*words):
    said = [sys.executable, "-m", "slmops.daemon", *map(str, words)]
    return subprocess.run(said, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("keys", "list", "--file", "/nope/x"), 2),
        (("keys", "revoke", "nobody", "--file", "/nope/x"), 1),
        (("unit", "--artifact", "/home/x"), 2),
        (("unit", "--artifact", "here"), 2),
        (("serve",), 1),
    ],
)
def test_a_user_s_error_is_told_with_what_is_next_and_no_traceback(words, code):
    run = ended(*words)
    assert run.returncode == code
    assert "Traceback" not in run.stderr
    assert "\nnext: " in run.stderr


def test_a_folder_that_is_none_is_said_before_anybody_is_told_that_we_listen():
    run = ended("--artifact", "/nope", "--port", 0)
    assert run.returncode == 1
    assert "not an artifact folder" in run.stderr
    assert "listening" not in run.stderr


def test_help_names_the_tools_with_a_line_each():
    said = ended("--help").stdout
    assert said.startswith("usage: slmopsd ")
    for tool in ("ctl", "keys", "unit"):
        assert f"  slmopsd {tool}" in said


def test_keys_that_cannot_be_made_or_revoked_are_told_in_the_same_way(tmp_path):
    file = ("--file", tmp_path / "keys.json")
    assert ended("keys", "create", "--name", "app", *file).returncode == 0
    for words in (
        ("create", "--name", "app"),
        ("create", "--name", "b", "--days", "-1"),
        ("revoke", "nobody"),
    ):
        run = ended("keys", *words, *file)
        assert (run.returncode, "Traceback" in run.stderr, "\nnext: " in run.stderr) == (2, False, True)
