"""The agent as one file, run by every Python that is here."""

import io
import shutil
import subprocess
import sys
import zipfile

import pytest

from slmops import __version__, wire
from slmops import digest as digests
from slmops.fleet import agent_bundle, commands
from slmops.wire import Request

HELLO = wire.render_request(Request("hello"))
PYTHONS = [f"python3.{minor}" for minor in range(9, 14)]


def python(name):
    """Return the path of a Python that starts, or skip."""
    path = shutil.which(name)
    if path is None or subprocess.run([path, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture
def agent(tmp_path):
    """The agent, lying where a device has it."""
    bundle = agent_bundle.bundle()
    path = tmp_path / "root" / "agent" / f"{bundle.tag}.pyz"
    path.parent.mkdir(parents=True)
    path.write_bytes(bundle.data)
    return path


def ask(program, agent, line, verb="hello"):
    root = agent.parent.parent
    done = subprocess.run(
        [program, str(agent), str(root), verb], input=line, capture_output=True, check=False, cwd="/"
    )
    said = [wire.parse_reply(text) for text in done.stdout.decode().split("\n")]
    (answer,) = filter(None, said)
    return done.returncode, answer


def test_the_same_sources_give_the_same_bytes():
    script = (
        "import sys; from slmops.fleet.agent_bundle import bundle; sys.stdout.buffer.write(bundle().data)"
    )
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, cwd=agent_bundle.PACKAGE.parent
    ).stdout

    assert other == agent_bundle._bundle.__wrapped__().data == agent_bundle.bundle().data


def test_the_tag_is_the_beginning_of_its_digest():
    bundle = agent_bundle.bundle()

    assert bundle.tag == digests.short(digests.of_bytes(bundle.data))


def test_it_holds_the_sources_of_this_installation_and_a_way_in():
    with zipfile.ZipFile(io.BytesIO(agent_bundle.bundle().data)) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}

    assert b"slmops.device.main" in files.pop("__main__.py")
    assert len(files) == len(agent_bundle.modules() | agent_bundle.decoder())
    for name, data in files.items():
        assert (agent_bundle.PACKAGE.parent / name).read_bytes() == data


def test_it_holds_the_device_and_what_that_shares_and_nothing_of_the_operator():
    names = agent_bundle.modules()

    assert {"slmops", "slmops.device", "slmops.device.main", "slmops.wire", "slmops.errors"} <= names
    rooms = {name.split(".")[1] for name in names if name.count(".") == 2}
    assert rooms <= {"device", "artifact", "telemetry", "profile"}


def test_importing_every_module_in_this_python_brings_no_package():
    names = sorted(agent_bundle.modules())
    script = (
        "import importlib, sys\n"
        "before = set(sys.modules)\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
    )
    told = subprocess.run(
        [sys.executable, "-S", "-c", script, *names],
        capture_output=True,
        check=True,
        text=True,
        cwd=agent_bundle.PACKAGE.parent,
    ).stdout.split()

    assert {name for name in told if name not in sys.stdlib_module_names} == {"slmops"}


@pytest.mark.parametrize("name", PYTHONS)
def test_it_says_hello_under_every_python(agent, name):
    code, reply = ask(python(name), agent, HELLO)

    assert code == 0
    assert reply.kind == "done"
    assert reply.said["version"] == __version__
    assert reply.said["protocol"] == wire.PROTOCOL
    assert name == "python" + ".".join(reply.said["python"].split(".")[:2])


@pytest.mark.parametrize("name", PYTHONS)
def test_every_module_of_it_imports_under_every_python(agent, name):
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = subprocess.run(
        [python(name), "-W", "error", "-c", script, *sorted(agent_bundle.modules())],
        capture_output=True,
        check=False,
        cwd="/",
        env={"PYTHONPATH": str(agent)},
    )

    assert done.returncode == 0, done.stderr.decode()


def test_hello_makes_it_the_agent_in_force(agent):
    link = agent.parent.parent / "agent.pyz"
    link.symlink_to("agent/older.pyz")

    ask(sys.executable, agent, HELLO)

    assert link.resolve() == agent


def test_a_python_that_is_too_old_says_so_before_it_reads_the_rest(agent):
    program = python("python3.8")
    done = subprocess.run(
        [program, str(agent), "/nowhere", "hello"], capture_output=True, check=False, cwd="/"
    )

    assert (done.returncode, done.stderr) == (commands.NO_PYTHON, b"")


def test_the_decoder_has_a_way_in_of_its_own_and_the_room_knows_nothing_of_it(agent):
    words = [sys.executable, str(agent), "--apply-delta", "/no/base", "/no/delta", str(agent.parent / "out")]
    done = subprocess.run(words, capture_output=True, check=False, cwd="/")

    assert done.returncode == 1
    assert b"/no/base" in done.stderr
    assert agent_bundle.DECODER not in agent_bundle.modules()


@pytest.mark.parametrize("line", [b"", b"not a request\n", b"{}\n"])
def test_what_is_no_request_is_answered_with_an_error(agent, line):
    code, reply = ask(sys.executable, agent, line)

    assert (code, reply.kind) == (1, "failed")
    assert reply.said["code"] == "SLM-DEVICE"
    assert reply.said["message"].startswith("not a request: ")


def test_a_verb_it_does_not_know_is_named(agent):
    _, reply = ask(sys.executable, agent, wire.render_request(Request("dance")))

    assert reply.kind == "failed"
    assert f"the agent {__version__} does not know the verb 'dance'" in reply.said["message"]


def test_another_protocol_is_refused_with_a_remedy(agent):
    _, reply = ask(sys.executable, agent, wire.render_request(Request("status", protocol=wire.PROTOCOL + 1)))

    assert reply.kind == "failed"
    assert "speaks protocol" in reply.said["message"]
    assert reply.said["remedy"]
