"""The unit of a daemon."""

import shutil
import subprocess
import sys

import pytest

from slmops.daemon.unit import main, units
from slmops.errors import UsageError

GOAL = 15
"""Ten times the exposure that a unit may have."""
PYTHON, ARTIFACT = "/opt/slmops/bin/python", "/var/lib/models/lamp"
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")


@needs_systemd
@pytest.mark.parametrize("more", [{}, {"socket_activated": True}, {"host": "0.0.0.0"}, {"host": "::"}])
def test_a_unit_is_exposed_as_little_as_is_wanted(tmp_path, more):
    file = tmp_path / "slmopsd.service"
    file.write_text(units(PYTHON, ARTIFACT, **more)["slmopsd.service"])

    words = ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={GOAL}", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-200:] + done.stderr


@needs_systemd
@pytest.mark.parametrize("activated", [True, False])
def test_systemd_understands_every_line(tmp_path, activated):
    texts = units("/bin/sh", ARTIFACT, "sha256:00", socket_activated=activated, memory="2G")
    for name, text in texts.items():
        (tmp_path / name).write_text(text)

    files = [str(tmp_path / name) for name in texts]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, check=False
    )

    assert [line for line in done.stderr.splitlines() if "slmopsd" in line] == []


def test_a_unit_on_loopback_lets_no_other_machine_in():
    assert "IPAddressDeny=any\nIPAddressAllow=localhost\n" in units(PYTHON, ARTIFACT)["slmopsd.service"]
    assert "IPAddress" not in units(PYTHON, ARTIFACT, host="192.0.2.1")["slmopsd.service"]


def test_words_reach_the_daemon_as_they_are():
    text = units(PYTHON, '/srv/100% "a" $b \\c')["slmopsd.service"]

    assert '"--artifact" "/srv/100%% \\"a\\" $$b \\\\c"' in text


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("/home/pi/venv/bin/python", ARTIFACT), "lies in /home"),
        ((PYTHON, "/root/models"), "lies in /root"),
        ((PYTHON, "models"), "whole path"),
        ((PYTHON, "/srv/a\nExecStartPost=/bin/sh"), "cannot hold"),
    ],
)
def test_what_a_unit_would_not_see_is_refused(said, message):
    with pytest.raises(UsageError, match=message):
        units(*said)


@pytest.mark.parametrize(
    "more", [{"memory": "much"}, {"memory": "1G\nUser=root"}, {"host": "example.com"}, {"port": 99999}]
)
def test_what_is_no_value_is_refused(more):
    with pytest.raises(UsageError):
        units(PYTHON, ARTIFACT, **more)


def test_a_service_that_waits_for_its_socket_binds_none_itself():
    texts = units(PYTHON, ARTIFACT, socket_activated=True, host="::1", port=80)

    assert "ListenStream=[::1]:80\n" in texts["slmopsd.socket"]
    assert "FileDescriptorName=api\n" in texts["slmopsd.socket"]
    assert '"--port"' not in texts["slmopsd.service"]
    assert "Requires=slmopsd.socket\n" in texts["slmopsd.service"]


def test_units_are_printed_or_written(tmp_path, capsys):
    words = ["--artifact", ARTIFACT, "--python", PYTHON, "--socket-activated"]

    assert main(words) == 0
    printed = capsys.readouterr().out
    assert main([*words, "--into", str(tmp_path)]) == 0

    for name in ("slmopsd.service", "slmopsd.socket"):
        assert f"# /etc/systemd/system/{name}\n{(tmp_path / name).read_text()}" in printed
    assert sys.executable not in printed
