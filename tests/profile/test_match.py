from dataclasses import replace

import pytest

from slmops.profile.load import load_profiles
from slmops.profile.match import nearest
from slmops.profile.reading import DeviceFacts

PROFILES = load_profiles()


@pytest.mark.parametrize(
    ("device", "profile"),
    [
        ("raspberry-pi-5", "raspberry-pi-5"),
        ("raspberry-pi-zero-2w", "raspberry-pi-zero-2w"),
        ("jetson-orin-nano", "jetson-orin-nano"),
        ("rock-5b", "rk3588"),
        ("intel-n100", "intel-n100"),
    ],
)
def test_known_devices_are_recognised(said, device, profile):
    assert nearest(said(device), PROFILES).name == profile
    assert nearest(said(device), reversed(PROFILES)).name == profile


def test_boards_of_one_name_are_told_apart_by_memory():
    pi = DeviceFacts(arch="aarch64", board="Raspberry Pi 4 Model B Rev 1.4", memory_total=1_900_000_000)

    assert nearest(pi, PROFILES).name == "raspberry-pi-4-2gb"
    assert nearest(replace(pi, memory_total=7_900_000_000), PROFILES).name == "raspberry-pi-4-8gb"


def test_a_pc_without_a_profile_of_its_own_is_a_generic_one():
    features = ("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
    pc = DeviceFacts(arch="x86_64", cpu_model="AMD Ryzen 7 5700G", features=features)

    assert nearest(pc, PROFILES).name == "x86-64-v3"
    assert nearest(replace(pc, features=("sse2",)), PROFILES) is None


def test_another_architecture_is_another_device(said):
    assert nearest(said("raspberry-pi-zero-2w-32-bit"), PROFILES) is None


def test_nothing_known_is_nothing_recognised(said):
    assert nearest(DeviceFacts(), PROFILES) is None
    assert nearest(said("alpine"), PROFILES) is None
    assert nearest(said("raspberry-pi-5"), []) is None
