"""The record of what operators do: written before and after each act, whole whatever is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slmops.cli import auditing
from slmops.errors import UnreachableError
from slmops.rollout import audit

APPENDER = """
import sys
from pathlib import Path
from slmops.cli.auditing import append
for number in range(int(sys.argv[2])):
    facts = {"number": number, "words": ["x" * 3000]}
    print(append(Path(sys.argv[1]), "ada@desk", "deploy", facts), flush=True)
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "home" / auditing.FILE_NAME


def appender(file, count):
    return subprocess.Popen(
        [sys.executable, "-c", APPENDER, file, str(count)], stdout=subprocess.PIPE, text=True
    )


def whole(file):
    """Return what a chain says, once it is seen to be whole."""
    lines = file.read_bytes().splitlines(keepends=True)
    assert audit.verify(lines).broken is None
    return [audit.read(line) for line in lines]


def test_several_processes_that_are_killed_while_they_write_leave_a_whole_chain(file):
    """Of each line that was said to be written, not one is lost."""
    noted = []
    for _ in range(3):
        crew = [appender(file, 100_000) for _ in range(4)]
        for process in crew:
            noted += [process.stdout.readline().strip() for _ in range(5)]
        for process in crew:
            os.kill(process.pid, signal.SIGKILL)
        for process in crew:
            noted += [line.strip() for line in process.communicate()[0].splitlines() if len(line) == 72]
    last = auditing.append(file, "ada@desk", "deploy", {})

    lines = file.read_bytes().splitlines(keepends=True)
    assert {audit.digest(line) for line in lines} >= {*noted, last}
    assert {said["action"] for said in whole(file)} <= {"deploy", audit.TORN}
    assert len(noted) >= 60


@pytest.mark.parametrize("left", [1, 40, -1])
def test_a_line_that_a_power_cut_tore_is_kept_as_an_act_of_its_own(file, left):
    first = auditing.append(file, "ada@desk", "deploy", {})
    auditing.append(file, "ada@desk", "rollback", {"why": "x" * 20_000})
    written = file.read_bytes()
    file.write_bytes(written[: written.index(b"\n") + 1] + written.splitlines()[1][:left])
    short = file.read_bytes()
    assert audit.verify(short.splitlines(keepends=True)).broken.line == 2

    auditing.append(file, "bob@desk", "deploy", {})

    (one, torn, then) = whole(file)
    assert (one["action"], torn["action"], then["who"]) == ("deploy", audit.TORN, "bob@desk")
    assert torn["prev"] == first
    assert torn["bytes"] == len(short.splitlines()[1])
    assert torn["left"] == short.splitlines()[1][:4096].decode()


def test_a_first_line_that_was_torn_is_kept_too(file):
    file.parent.mkdir()
    file.write_bytes(b"\0" * 9000)

    auditing.append(file, "ada@desk", "deploy", {})

    assert [said["action"] for said in whole(file)] == [audit.TORN, "deploy"]


def test_a_line_is_bound_to_the_one_before_however_long_that_is(file):
    for length in (10, 8191, 8192, 100_000, 3):
        auditing.append(file, "ada@desk", "deploy", {"why": "x" * length})

    assert len(whole(file)) == 5


def test_only_its_owner_reads_the_record(file):
    auditing.append(file, "ada@desk", "deploy", {})

    assert file.stat().st_mode & 0o777 == 0o600


def test_an_act_says_how_it_ended(home, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["slmops", "deploy", "--api-key", "hush"])
    with auditing.recorded("deploy", fleet="plant"):
        auditing.note(rollout=7)
    with pytest.raises(UnreachableError), auditing.recorded("deploy"):
        raise UnreachableError("edge-1 is away")
    with pytest.raises(KeyboardInterrupt), auditing.recorded("deploy"):
        raise KeyboardInterrupt
    with auditing.recorded("rollout catch-up"):
        auditing.note(exit_code=5)

    acts = whole(home / auditing.FILE_NAME)

    assert [act["outcome"] for act in acts] == ["begun", "done", *["begun", "failed"] * 3]
    assert (acts[0]["fleet"], acts[0]["words"]) == ("plant", ["deploy", "--api-key", "***"])
    assert (acts[1]["exit_code"], acts[1]["rollout"]) == (0, 7)
    assert (acts[3]["exit_code"], acts[3]["error"]) == (6, "SLM-UNREACHABLE")
    assert (acts[5]["exit_code"], acts[7]["exit_code"]) == (130, 5)
    assert acts[3]["began"] == acts[3]["prev"]


def test_an_act_that_was_killed_shows_as_one_with_no_end(slmops, home):
    act = "import os\nfrom slmops.cli.auditing import recorded\nwith recorded('x'): os.kill(os.getpid(), 9)"
    own = {**os.environ, "SLMOPS_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", act], env=own, check=False)
    assert done.returncode == -signal.SIGKILL

    shown = slmops("audit", "list")

    assert (shown.code, "no end" in shown.out) == (0, True)
    assert slmops("audit", "verify").code == 0


@pytest.mark.usefixtures("released")
def test_verbs_that_change_something_are_recorded_and_others_are_not(slmops):
    assert slmops("trust", "show").code == 0
    assert slmops("release", "gc", "--dry-run").code == 0
    assert json.loads(slmops("audit", "list", "-o", "json").out) == []

    assert slmops("release", "channel", "set", "stable", "parrot:1.0.0").code == 0
    assert slmops("release", "rm", "parrot:9.9.9", "--yes").code == 1
    assert slmops("trust", "init").code == 2

    assert "trust init" not in slmops("audit", "list").out
    assert "trust init" in slmops("audit", "list", "--all").out
    acts = json.loads(slmops("audit", "list", "-o", "json").out)
    assert [(act["action"], act["end"]["exit_code"]) for act in acts] == [
        ("trust init", 2),
        ("release rm", 1),
        ("release channel set", 0),
    ]
    assert acts[2]["words"] == ["release", "channel", "set", "stable", "parrot:1.0.0"]
    (found,) = json.loads(slmops("audit", "list", "--action", "release rm", "-o", "json").out)
    assert found["end"]["error"] == "SLM-RELEASE"
    assert len(json.loads(slmops("audit", "list", "--limit", "1", "-o", "json").out)) == 1


def test_a_record_that_somebody_changed_is_said_to_be_broken_and_where(slmops, home):
    for number in range(3):
        auditing.append(home / auditing.FILE_NAME, "ada@desk", "deploy", {"number": number})
    head = slmops("audit", "head").out.strip()
    assert json.loads(slmops("audit", "head", "-o", "json").out) == {"entries": 3, "head": head}
    assert slmops("audit", "verify", "--head", head.removeprefix("sha256:")).code == 0
    file = home / auditing.FILE_NAME
    lines = file.read_bytes().splitlines(keepends=True)

    file.write_bytes(b"".join([lines[0], lines[1].replace(b"ada", b"bob"), lines[2]]))
    broken = slmops("audit", "verify", "-o", "json")
    assert (broken.code, json.loads(broken.out)["broken"]["line"]) == (7, 3)
    assert "line 3: line 2 was changed" in broken.err

    file.write_bytes(b"".join(lines[:2]))
    assert slmops("audit", "verify").code == 0
    assert slmops("audit", "verify", "--head", head).code == 7

    file.write_bytes(lines[0] + b"nonsense\n" + lines[1])
    assert "1 line cannot be read" in slmops("audit", "list").err


def test_a_head_that_is_none_is_refused(slmops):
    assert slmops("audit", "verify", "--head", "abc").code == 2
    assert slmops("audit", "verify").out.startswith("0 lines are whole; head sha256:000000")


@pytest.mark.usefixtures("released")
def test_what_cannot_be_written_down_is_not_done(slmops, home):
    (home / auditing.FILE_NAME).mkdir()

    assert slmops("release", "rm", "parrot:1.0.0", "--yes").code == 1
    assert "parrot:1.0.0" in slmops("release", "list").out


def test_the_record_lies_where_the_operator_keeps_things(home):
    assert auditing.path() == Path(home) / "audit.jsonl"
