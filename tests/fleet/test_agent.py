"""Speak with the agent of a device, over a real sshd."""

from dataclasses import replace

import pytest

from slmops import __version__, wire
from slmops.errors import DeviceError, DoesNotFitError, IntegrityError
from slmops.fleet import agent, probe
from slmops.fleet.agent import NoAgentError
from slmops.fleet.agent_bundle import bundle
from slmops.fleet.ssh import Link

NOISE = "echo 'Welcome to edge!'; echo 'beware' >&2; printf 'no end of line> '\n"


@pytest.fixture
def link(devices, tmp_path):
    """A connection to a device that has never had an agent."""
    with Link(replace(devices[0], root=str(tmp_path / "root")), ()) as there:
        yield there


@pytest.fixture(scope="module")
def greeted(devices, tmp_path_factory):
    """A connection to a device whose agent is in force."""
    with Link(replace(devices[0], root=str(tmp_path_factory.mktemp("greeted") / "root")), ()) as there:
        agent.greet(there)
        yield there


@pytest.fixture
def agent_of_ours(tmp_path):
    """Put a program in the place of the agent in force."""

    def put(text):
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "agent.pyz").write_text(text)

    return put


@pytest.fixture
def noisy(homes):
    """The same device, its login shell telling everybody hello."""
    (homes["edge-1"] / ".bashrc").write_text(NOISE)
    yield
    (homes["edge-1"] / ".bashrc").unlink()


def test_a_device_without_an_agent_says_so_and_what_brings_one(link):
    with pytest.raises(NoAgentError, match=r"edge-1 has no agent in .*root") as told:
        agent.call(link, "status")

    assert "slmops deploy" in told.value.remedy


def test_greeting_brings_the_agent_once(link, tmp_path):
    said = agent.greet(link)
    file = tmp_path / "root" / "agent" / f"{bundle().tag}.pyz"
    before = file.stat()

    assert said["version"] == __version__
    assert said["protocol"] == wire.PROTOCOL
    assert file.read_bytes() == bundle().data
    assert (tmp_path / "root" / "agent.pyz").resolve() == file
    assert agent.greet(link) == said
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_it_answers_comes_back(greeted):
    agent.greet(greeted)

    said = agent.call(greeted, "status")

    assert said["agent"] == __version__
    assert said["release"] is None
    assert said["healthy"] is False


def test_a_refusal_comes_back_as_the_error_it_is_naming_the_device(greeted):
    agent.greet(greeted)
    settings = {"device": "edge-1", "profile": "p", "runtime": ["python3"], "port": 0, "service": "process"}
    agent.call(greeted, "enroll", {**settings, "signers": "ours"})

    with pytest.raises(IntegrityError, match="edge-1: this device trusts another release key") as told:
        agent.call(greeted, "enroll", {**settings, "signers": "theirs"})

    assert "allowed_signers" in told.value.remedy


def test_a_verb_it_does_not_know_is_named(greeted):
    agent.greet(greeted)

    with pytest.raises(DeviceError, match=r"edge-1: the agent .* does not know the verb 'dance'"):
        agent.call(greeted, "dance")


def test_an_agent_that_breaks_is_shown_in_its_last_words(link, agent_of_ours):
    agent_of_ours("raise SystemExit('it broke')")

    with pytest.raises(DeviceError, match="edge-1: the agent ended with exit code 1 and no answer: it broke"):
        agent.call(link, "status")


def test_what_it_notes_meanwhile_is_told_in_order(link, agent_of_ours):
    replies = [wire.Reply("note", {"n": n}) for n in range(3)] + [wire.Reply("done", {"n": 3})]
    said = "".join(map(wire.render_reply, replies))
    agent_of_ours(f"print({said!r}, end='')")
    notes = []

    assert agent.call(link, "status", note=notes.append) == {"n": 3}
    assert notes == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_bytes_after_the_request_reach_the_agent(link, agent_of_ours):
    agent_of_ours(
        "import json, sys\n"
        "said = json.loads(sys.stdin.buffer.readline())\n"
        "size = len(sys.stdin.buffer.read())\n"
        "print('\\x1e' + json.dumps({'kind': 'done', 'said': {'verb': said['verb'], 'size': size}}))\n"
    )

    assert agent.call(link, "receive", data=[bytes(1 << 20), b"x"]) == {
        "verb": "receive",
        "size": (1 << 20) + 1,
    }


@pytest.mark.usefixtures("noisy")
def test_a_noisy_login_shell_disturbs_nothing(link):
    lines = []
    link.run("true", on_line=lines.append)
    if "Welcome to edge!" not in lines:
        pytest.skip("the login shell here reads no .bashrc")

    assert agent.greet(link)["version"] == __version__
    assert agent.call(link, "status")["agent"] == __version__
    assert probe.facts(link).python is not None
    assert probe.lacking(link, ["json"]) == ""


def test_a_root_that_cannot_be_written_is_refused_with_a_remedy(devices, tmp_path):
    (tmp_path / "file").write_text("")
    device = replace(devices[0], root=str(tmp_path / "file"))
    with (
        Link(device, ()) as link,
        pytest.raises(DeviceError, match=r"edge-1: .*file cannot take the agent: ") as told,
    ):
        agent.greet(link)

    assert "`root`" in told.value.remedy


def test_a_complaint_in_the_middle_of_a_reply_does_not_break_it(link, agent_of_ours):
    begin, end = wire.render_reply(wire.Reply("done", {"n": 1})).split('"n"')
    agent_of_ours(
        "import sys, time\n"
        f"sys.stdout.write({begin!r}); sys.stdout.flush(); time.sleep(0.1)\n"
        "sys.stderr.write('a warning\\n'); sys.stderr.flush(); time.sleep(0.1)\n"
        f"sys.stdout.write({chr(34) + 'n' + chr(34) + end!r})\n"
    )

    assert agent.call(link, "status") == {"n": 1}


def test_every_refusal_a_device_makes_has_its_own_kind():
    assert agent.KINDS["SLM-FIT"] is DoesNotFitError
    assert agent.KINDS["SLM-DEVICE"] is DeviceError


def test_a_live_host_says_what_it_is_and_nothing_is_left_there(link, tmp_path):
    facts = probe.facts(link)

    assert facts.python is not None
    assert not (tmp_path / "root").exists()


def test_what_a_runtime_lacks_is_told_in_words(greeted):
    python = greeted.device.runtime[0]

    assert (
        probe.lacking(greeted, ["json", "no_such_module", "nor_this"])
        == f"{python} lacks no_such_module, nor_this"
    )
    assert probe.lacking(greeted, ["json"]) == ""


def test_a_runtime_that_does_not_start_is_told_in_words(devices):
    with Link(replace(devices[0], runtime=("/no/such/python",)), ()) as link:
        assert probe.lacking(link, ["json"]).startswith("/no/such/python does not start: ")
