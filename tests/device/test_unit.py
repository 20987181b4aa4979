"""The unit that keeps the supervisor."""

import shutil
import subprocess

import pytest

from slmops.device.unit import unit

GOAL = 15
"""Ten times the exposure that a system's unit may have."""


def of(root="/root/.slmops", *, system=True):
    return unit("/usr/bin/python3", f"{root}/agent.pyz", root, system=system)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_systems_unit_is_exposed_as_little_as_is_wanted(tmp_path):
    file = tmp_path / "slmops-0.service"
    file.write_text(of())

    words = ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={GOAL}", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-200:] + done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("system", [True, False])
def test_systemd_understands_every_line(tmp_path, system):
    file = tmp_path / "slmops-0.service"
    file.write_text(of("/", system=system).replace("/usr/bin/python3", "/bin/sh"))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file], capture_output=True, text=True, check=False
    )

    assert [line for line in done.stderr.splitlines() if "slmops-0" in line] == []


def test_a_kernel_without_users_of_its_own_is_not_asked_for_them():
    text = unit("/usr/bin/python3", "/a/agent.pyz", "/a", system=True, namespaces=False)

    assert text == of("/a").replace("PrivateUsers=yes", "PrivateUsers=no")


def test_a_percent_sign_in_a_path_stays_one():
    assert 'ReadWritePaths="/srv/100%%"' in of("/srv/100%")


def test_a_user_asks_his_systemd_for_nothing_that_takes_root():
    text = of(system=False)

    assert not any(
        f"\n{word}" in text for word in ("Protect", "Private", "Capability", "ReadWrite", "Device")
    )
    assert "WantedBy=default.target" in text


def test_a_root_that_lies_among_temporary_files_is_seen():
    assert "PrivateTmp=no" in of("/tmp/tried-out")  # noqa: S108 - a text
    assert "PrivateTmp=yes" in of("/tmpfs")  # noqa: S108 - a text
