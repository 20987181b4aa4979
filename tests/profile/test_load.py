from pathlib import Path

import pytest

from slmops.document import dumps, loads
from slmops.errors import DocumentError, UsageError
from slmops.profile.detect import here
from slmops.profile.device import DeviceProfile
from slmops.profile.load import load_profile, load_profiles

FOLDER = Path(__file__).parents[2] / "device_profiles"
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_loads_and_reads_back_as_written(name):
    profile = load_profile(name)

    assert profile.name == name
    assert profile.sources
    assert loads(dumps(profile), DeviceProfile, "again.yaml") == profile


def test_the_devices_that_were_promised_are_there():
    assert set(NAMES) >= {
        "raspberry-pi-4-2gb",
        "raspberry-pi-4-8gb",
        "raspberry-pi-5",
        "raspberry-pi-zero-2w",
        "jetson-orin-nano",
        "rk3588",
        "intel-n100",
        "x86-64-v3",
        "local",
    }
    assert [profile.name for profile in load_profiles()] == NAMES


def test_local_is_made_of_this_machine_and_served_as_its_file_says():
    profile = load_profile("local")
    facts = here(Path.home())

    assert (profile.arch, profile.cpu.model, profile.cpu.cores) == (facts.arch, facts.cpu_model, facts.cores)
    assert abs(profile.memory.total - facts.memory_total) < 1 << 20
    assert (profile.title, profile.serve.context) == ("This machine", 1024)


def test_an_unknown_name_says_which_ones_are_near():
    with pytest.raises(
        UsageError, match=r"no profile is named 'raspbery-pi-5'; did you mean raspberry-pi-5, "
    ):
        load_profile("raspbery-pi-5")
    with pytest.raises(UsageError, match="did you mean intel-n100, jetson-orin-nano, local, "):
        load_profile("zzzzzzzz")


def test_a_profile_of_the_user_is_found_and_goes_before_ours(tmp_path):
    ours = (FOLDER / "raspberry-pi-5.yaml").read_text()
    (tmp_path / "raspberry-pi-5.yaml").write_text(ours.replace("title: Raspberry Pi 5, 8 GB", "title: Mine"))
    (tmp_path / "kiosk.yaml").write_text(ours.replace("name: raspberry-pi-5", "name: kiosk"))

    assert load_profile("raspberry-pi-5", tmp_path).title == "Mine"
    assert load_profile("kiosk", tmp_path).cpu.cores == 4
    assert load_profile(str(tmp_path / "kiosk.yaml")).name == "kiosk"
    assert len(load_profiles(tmp_path)) == len(NAMES) + 1


def test_a_folder_of_the_user_that_is_not_there_holds_no_profiles(tmp_path):
    assert len(load_profiles(tmp_path / "none")) == len(NAMES)


def test_a_name_that_is_not_that_of_the_file_is_refused(tmp_path):
    (tmp_path / "kiosk.yaml").write_text((FOLDER / "raspberry-pi-5.yaml").read_text())

    with pytest.raises(DocumentError, match=r"kiosk\.yaml: name: expected 'kiosk', the name of the file"):
        load_profile("kiosk", tmp_path)


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(DocumentError, match=r"nowhere\.yaml: no such file"):
        load_profile(str(tmp_path / "nowhere.yaml"))
