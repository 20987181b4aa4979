"""What a fleet file says is never a command, and a link to a device is no way back from it: S17 and S18."""

import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from slmops.errors import DocumentError, LockedError, SlmopsError
from slmops.fleet import agent
from slmops.fleet.load import load_fleet
from slmops.fleet.ssh import Link

HOSTILE = [
    "a; touch planted",
    "$(touch planted)",
    "`touch planted`",
    "a'\"; touch planted; '\"",
    "a\ntouch planted",
]


@pytest.fixture
def keeper(tmp_path, monkeypatch):
    """An operator's ssh-agent, which a device must not get at, and a screen that it must not draw on."""
    way = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(way)], stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 30
        while not way.exists():
            assert time.monotonic() < end, "ssh-agent did not start"
        monkeypatch.setenv("SSH_AUTH_SOCK", str(way))
        monkeypatch.setenv("DISPLAY", "localhost:10.0")
        yield
        process.terminate()


@pytest.mark.usefixtures("keeper")
def test_s17_a_device_gets_no_agent_no_screen_and_no_terminal(devices):
    lines = []

    with Link(devices[0], ()) as link:
        assert link.run('echo "$SSH_AUTH_SOCK,$DISPLAY,$SSH_TTY,"; tty; true', on_line=lines.append).code == 0

    assert lines == [",,,", "not a tty"]


def test_s17_a_device_may_forbid_all_but_commands_and_is_worked_on_all_the_same(devices, homes, tmp_path):
    keys = homes["edge-1"].parent / "authorized_keys"
    allowed = keys.read_text()
    keys.write_text(f"restrict {allowed}")
    try:
        with agent.session(replace(devices[0], root=str(tmp_path / "root")), ()) as session:
            assert session.call("status")["standing"]["slot"] is None
    finally:
        keys.write_text(allowed)


@pytest.mark.parametrize("word", HOSTILE)
def test_s18_a_root_a_holder_or_a_reason_is_never_a_command(devices, homes, tmp_path, word):
    device = replace(devices[0], root=str(tmp_path / f"root {word}"))

    with agent.session(device, ()) as session:
        session.call("status")
        told = {"action": "break", "epoch": 1, "holder": "ann@desk", "reason": word.replace("\n", " ")}
        session.call("lease", told)
    with Link(device, ()) as link:
        assert agent.call(link, "lease", {"action": "status"})["epoch"] == 1

    assert [path.name for path in tmp_path.iterdir()] == [f"root {word}"]
    assert not list(homes["edge-1"].rglob("planted*"))
    assert not Path("planted").exists()


@pytest.mark.parametrize("word", HOSTILE)
@pytest.mark.parametrize(
    "text",
    [
        "devices:\n  - {name: WORD, host: h}\n",
        "devices:\n  - {name: a, host: WORD}\n",
        "defaults: {user: WORD}\ndevices:\n  - {name: a, host: h}\n",
        "defaults: {jump: WORD}\ndevices:\n  - {name: a, host: h}\n",
        "defaults: {profile: WORD}\ndevices:\n  - {name: a, host: h}\n",
        "groups: {WORD: {}}\ndevices:\n  - {name: a, host: h}\n",
        "devices:\n  - {name: a, host: h, labels: {site: WORD}}\n",
    ],
)
def test_s18_what_a_fleet_file_says_is_a_name_or_refused_and_nothing_happens(
    tmp_path, monkeypatch, text, word
):
    monkeypatch.chdir(tmp_path)
    quoted = '"' + word.replace('"', '\\"').replace("\n", "\\n") + '"'
    Path("fleet.yaml").write_text("name: lab\n" + text.replace("WORD", quoted))

    with suppress(DocumentError):
        _, (device,) = load_fleet(Path("fleet.yaml"))
        said = [device.host, device.user, device.jump, device.profile, *device.labels.values()]
        assert word in said, "what is not refused is kept letter by letter"

    assert [path.name for path in Path().iterdir()] == ["fleet.yaml"]


def test_s18_a_device_that_is_locked_shows_its_holder_and_cannot_write_over_a_screen(devices, tmp_path):
    device = replace(devices[0], root=str(tmp_path / "root"))
    lease = {"rollout": "red", "epoch": 1, "holder": "ann@desk", "seconds": 60.0}
    with agent.session(device, (), lease) as session, pytest.raises(SlmopsError, match="not prepared"):
        session.call("stage", {"slot": "a" * 64})

    with agent.session(device, ()) as other, pytest.raises(LockedError) as told:
        other.call("stage", {"slot": "a" * 64})
    assert "ann@desk has this device" in str(told.value)
    with (
        agent.session(device, (), lease | {"holder": "\x1b[2Jann"}) as again,
        pytest.raises(SlmopsError, match="expected a holder, one line of text"),
    ):
        again.call("stage", {"slot": "a" * 64})
