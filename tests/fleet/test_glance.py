"""Where a device stands, asked over a real connection: what it says by itself, else its agent's answer."""

from pathlib import Path

import pytest

from slmops import __version__
from slmops.fleet import agent, glance
from slmops.fleet.agent import NoAgentError
from slmops.fleet.ssh import Link
from slmops.telemetry import bulletin

WELL = {"agent": __version__, "healthy": True, "standing": {"slot": "00"}}


@pytest.fixture
def run(devices, homes):
    """Where the first device keeps its bulletin."""
    folder = homes[devices[0].name] / ".slmops/run"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    (folder / "bulletin").unlink(missing_ok=True)


@pytest.fixture
def link(devices):
    with Link(devices[0], ()) as link:
        yield link


def told(run, status, ago=1.0):
    """Let the device say this of itself."""
    up = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    line = bulletin.render(status, folder=str(run.resolve()), boot=boot, at=up - ago)
    (run / "bulletin").write_text(line, encoding="ascii")


def test_a_device_that_is_well_is_not_asked(run, link):
    told(run, WELL)
    assert glance.status(link) == glance.glance(link) == WELL


@pytest.mark.parametrize(
    ("status", "ago"),
    [({**WELL, "healthy": False}, 1.0), ({**WELL, "agent": "0.0.1"}, 1.0), (WELL, bulletin.FRESH + 1)],
    ids=["not well", "another version", "old"],
)
def test_all_else_is_asked_of_the_agent(run, link, status, ago):
    told(run, status, ago)
    assert glance.glance(link) is None
    with pytest.raises(NoAgentError):
        glance.status(link)


def test_a_device_that_has_nothing_is_asked_too(link):
    assert glance.glance(link) is None


def test_an_agent_without_a_supervisor_answers_by_its_verb(run, link):
    agent.greet(link)
    assert not (run / "bulletin").exists()
    assert glance.status(link)["standing"]["slot"] is None
