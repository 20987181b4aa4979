"""Read a fleet file; paths in it are relative to the file."""

from pathlib import Path

import pytest

from slmops.errors import DocumentError
from slmops.fleet.load import find, load_fleet

TEXT = """\
name: lab
defaults: {identity: keys/id, known_hosts: known_hosts}
devices:
  - {name: 'edge-[1:2]', host: '10.0.0.[1:2]'}
  - {name: gate, host: gate.lan, identity: /etc/keys/gate, known_hosts: ~/trusted}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "fleets").mkdir()
    path = tmp_path / "fleets" / "lab.yaml"
    path.write_text(TEXT)
    return path


def test_paths_are_relative_to_the_file_wherever_it_is_read_from(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, devices = load_fleet(Path("fleets/lab.yaml"))

    assert devices[0].identity == str(file.parent / "keys/id")
    assert devices[0].known_hosts == str(file.parent / "known_hosts")


def test_absolute_paths_and_home_stay_what_they_are(file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    _, devices = load_fleet(file)

    assert find(devices, "gate").identity == "/etc/keys/gate"
    assert find(devices, "gate").known_hosts == "/home/me/trusted"


def test_a_device_that_names_no_key_has_none(tmp_path):
    (tmp_path / "fleet.yaml").write_text("name: lab\ndevices: [{name: a, host: h}]\n")
    fleet, (device,) = load_fleet(tmp_path / "fleet.yaml")

    assert (fleet.name, device.identity, device.known_hosts) == ("lab", None, None)


def test_a_device_is_found_by_name(file):
    _, devices = load_fleet(file)

    assert find(devices, "edge-2").host == "10.0.0.2"


def test_a_device_that_is_not_there_is_named_with_those_that_are(file):
    _, devices = load_fleet(file)

    with pytest.raises(DocumentError, match="no device 'edge-3'; it has edge-1, edge-2, gate"):
        find(devices, "edge-3")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DocumentError, match=r"lab\.yaml: no such file or directory"):
        load_fleet(tmp_path / "lab.yaml")


def test_what_is_wrong_is_told_with_the_files_own_path(file):
    file.write_text(TEXT.replace("host: gate.lan, ", ""))

    with pytest.raises(DocumentError, match=r"lab\.yaml, line 5: devices\[1\]\.host: missing key"):
        load_fleet(file)


@pytest.mark.parametrize(
    ("rollout", "words"),
    [
        (
            "{max_unavailable: {by: rak}}",
            r"line 4: rollout.max_unavailable.by: no device has a label 'rak'; did",
        ),
        ("{canary: {each: [profile, zone]}}", r"line 4: rollout.canary.each: no device has a label 'zone'"),
    ],
)
def test_a_strategy_that_goes_by_a_label_nobody_has_is_refused_with_the_way_on(tmp_path, rollout, words):
    file = tmp_path / "fleet.yaml"
    file.write_text(
        f"name: lab\ndevices:\n  - {{name: a, host: h, labels: {{rack: r1}}}}\nrollout: {rollout}\n"
    )

    with pytest.raises(DocumentError, match=words) as told:
        load_fleet(file)

    assert "slmops schema fleet" in told.value.remedy


def test_a_strategy_may_go_by_sites_where_no_device_has_one_for_that_is_what_it_does_unasked(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text("name: lab\ndevices: [{name: a, host: h}]\nrollout: {max_unavailable: {by: site}}\n")

    assert load_fleet(file)[0].rollout.max_unavailable.by == "site"
