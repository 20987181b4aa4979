"""Speak with the agent of a device, over a real sshd."""

from dataclasses import replace

import pytest

from slmops import __version__, wire
from slmops.errors import DeviceError, DoesNotFitError, IntegrityError, ProtocolError
from slmops.fleet import agent, commands, probe
from slmops.fleet.agent import LostAgentError, NoAgentError, Session
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
    said = {"slot": "../../escape", "name": "model", "offset": 0, "length": 0}

    with pytest.raises(IntegrityError, match="edge-1: not a digest"):
        agent.call(greeted, "receive", said)


def test_a_verb_it_does_not_know_is_named(greeted):
    agent.greet(greeted)

    with pytest.raises(DeviceError, match=r"edge-1: the agent .* does not know the verb 'dance'"):
        agent.call(greeted, "dance")


def test_an_agent_that_breaks_is_shown_in_its_last_words(link, agent_of_ours):
    agent_of_ours("raise SystemExit('it broke')")

    with pytest.raises(
        LostAgentError, match="edge-1: the agent ended with exit code 1 and no answer: it broke"
    ):
        agent.call(link, "status")


def test_what_it_notes_meanwhile_is_told_in_order(link, agent_of_ours):
    replies = [wire.Reply("note", {"n": n}) for n in range(3)] + [wire.Reply("done", {"n": 3})]
    said = "".join(map(wire.render_reply, replies))
    agent_of_ours(f"print({said!r}, end='')")
    notes = []

    assert agent.call(link, "status", note=notes.append) == {"n": 3}
    assert notes == [{"n": 0}, {"n": 1}, {"n": 2}]


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


def test_one_session_answers_one_thing_after_another(greeted):
    with Session(greeted) as session:
        assert session.agent["tag"] == bundle().tag
        assert [session.call("status")["agent"] for _ in range(3)] == [__version__] * 3


def test_a_refusal_does_not_end_a_session(greeted):
    with Session(greeted) as session:
        with pytest.raises(DeviceError, match="does not know the verb 'dance'"):
            session.call("dance")
        assert session.call("status")["agent"] == __version__


def test_bytes_that_a_session_sends_and_nobody_wants_do_not_become_requests(greeted):
    with Session(greeted) as session:
        with pytest.raises(DeviceError, match="is not prepared"):
            session.call("receive", range_of(5), data=[b"hello"])
        assert session.call("status")["agent"] == __version__


def test_a_session_goes_on_after_it_was_refused_in_the_middle_of_its_bytes(greeted):
    def zeros():
        for _ in range(1000):
            yield bytes(1 << 16)

    with Session(greeted) as session:
        with pytest.raises(DeviceError, match="is not prepared"):
            session.call("receive", range_of(1000 << 16), data=zeros())
        assert session.call("status")["agent"] == __version__


def test_a_session_goes_on_after_the_source_of_its_bytes_failed(greeted):
    def torn():
        yield b"half"
        raise OSError("the disk is gone")

    with Session(greeted) as session:
        with pytest.raises(OSError, match="the disk is gone"):
            session.call("receive", range_of(8), data=torn())
        assert session.call("status")["agent"] == __version__


def range_of(length):
    """What is said of a range of a file that no release has."""
    return {"slot": "0" * 64, "name": "model", "offset": 0, "length": length}


def agent_that_says(version, least, newest):
    """The source of an agent of another version: it says hello, and how it was asked after that."""
    said = {"version": version, "tag": "theirs", "least": least, "protocol": newest}
    return (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        f"    said = {said!r} if asked['verb'] == 'hello' else asked\n"
        "    print('\\x1e' + json.dumps({'kind': 'done', 'said': said}), flush=True)\n"
    )


def test_a_newer_agent_that_shares_a_protocol_is_used_and_stays(link, agent_of_ours, tmp_path):
    agent_of_ours(agent_that_says("99.0.0", wire.PROTOCOL, wire.PROTOCOL + 3))

    with Session(link) as session:
        assert session.agent["version"] == "99.0.0"
        assert session.call("status")["protocol"] == wire.PROTOCOL

    assert not (tmp_path / "root" / "agent").exists()


def test_a_newer_agent_that_shares_none_asks_for_an_update_here(link, agent_of_ours):
    agent_of_ours(agent_that_says("99.0.0", wire.PROTOCOL + 1, wire.PROTOCOL + 3))

    with pytest.raises(ProtocolError, match="edge-1: its agent speaks protocols 3 to 5") as told:
        Session(link)

    assert told.value.remedy == "Update slmops here."


@pytest.mark.parametrize("version", ["0.0.1", __version__])
def test_an_agent_that_is_not_newer_is_replaced(link, agent_of_ours, version):
    agent_of_ours(agent_that_says(version, wire.PROTOCOL, wire.PROTOCOL))

    with Session(link) as session:
        assert session.agent["tag"] == bundle().tag


def test_an_agent_that_breaks_is_replaced(link, agent_of_ours):
    agent_of_ours("raise SystemExit('it broke')")

    with Session(link) as session:
        assert session.agent["tag"] == bundle().tag


def test_a_question_is_asked_again_in_a_protocol_that_an_older_agent_speaks(link, agent_of_ours):
    refusal = {"code": "SLM-PROTOCOL", "message": "no", "least": 1, "protocol": wire.PROTOCOL}
    agent_of_ours(
        "import json, os, sys\n"
        "asked, mark = json.loads(sys.stdin.readline()), sys.argv[1] + '/asked'\n"
        f"told = {refusal!r} if not os.path.exists(mark) else asked\n"
        "open(mark, 'w').close()\n"
        "kind = 'failed' if 'code' in told else 'done'\n"
        "print('\\x1e' + json.dumps({'kind': kind, 'said': told}))\n"
    )

    assert agent.call(link, "status")["protocol"] == wire.PROTOCOL


def test_an_agent_that_refuses_what_it_says_it_speaks_is_not_asked_for_ever(link, agent_of_ours):
    refusal = {"code": "SLM-PROTOCOL", "message": "no", "least": wire.LEAST, "protocol": wire.PROTOCOL}
    agent_of_ours(f"import json; print('\\x1e' + json.dumps({{'kind': 'failed', 'said': {refusal!r}}}))")

    with pytest.raises(DeviceError, match="edge-1: no"):
        agent.call(link, "status")


@pytest.mark.parametrize(
    ("spoken", "kind", "remedy"),
    [((0, 1), NoAgentError, "slmops deploy"), ((98, 99), ProtocolError, "Update slmops here")],
)
def test_a_question_to_an_agent_that_shares_no_protocol_says_which_side_is_old(
    link, agent_of_ours, spoken, kind, remedy
):
    least, newest = spoken
    refusal = {"code": "SLM-PROTOCOL", "message": "no", "least": least, "protocol": newest}
    agent_of_ours(f"import json; print('\\x1e' + json.dumps({{'kind': 'failed', 'said': {refusal!r}}}))")

    with pytest.raises(kind, match=f"its agent speaks protocols {least} to {newest}") as told:
        agent.call(link, "status")

    assert remedy in told.value.remedy


def test_a_login_shell_that_says_a_mebibyte_and_takes_its_time_disturbs_nothing(link, homes):
    bashrc = homes["edge-1"] / ".bashrc"
    bashrc.write_text(
        "head -c 1048576 /dev/zero | tr '\\0' x; head -c 1048576 /dev/zero | tr '\\0' y >&2; sleep 0.3\n"
    )
    try:
        with Session(link) as session:
            assert session.call("status")["agent"] == __version__
    finally:
        bashrc.unlink()


def test_a_device_without_a_python_of_today_is_refused_and_not_written_to(link, agent_of_ours, tmp_path):
    agent_of_ours(f"raise SystemExit({commands.NO_PYTHON})")

    with pytest.raises(DeviceError, match=r"edge-1 has no Python 3\.9 or newer"):
        Session(link)

    assert not (tmp_path / "root" / "agent").exists()
