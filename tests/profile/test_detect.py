from dataclasses import replace

import pytest

from slmops.document import dumps, loads
from slmops.errors import DeviceError
from slmops.profile.detect import BANDWIDTH, as_profile, here
from slmops.profile.device import DeviceProfile
from slmops.profile.load import load_profile
from slmops.profile.reading import DeviceFacts

GIB = 1 << 30


def test_a_device_like_a_known_one_keeps_its_own_facts_and_takes_the_rest(said):
    known = load_profile("raspberry-pi-5")
    profile = as_profile(said("raspberry-pi-5"), "kitchen", like=known)

    assert (profile.name, profile.title) == ("kitchen", "Raspberry Pi 5 Model B Rev 1.0")
    assert profile.memory.bandwidth == known.memory.bandwidth
    assert profile.memory.total == 8257440 // 1024 << 20
    assert profile.storage.free == 52635164 // 1024 << 20
    assert profile.cpu.features == ("asimd", "aes", "crc32", "atomics", "fphp", "asimdhp", "asimddp")
    assert profile.serve == known.serve


def test_a_device_like_no_other_gets_cautious_figures(said):
    profile = as_profile(said("alpine"), "shed")

    assert profile.memory.bandwidth == BANDWIDTH
    assert profile.memory.reserve == profile.memory.total // 4
    assert profile.serve.threads == 4
    assert profile.system.python is None


def test_no_more_threads_are_asked_of_a_device_than_it_has(said):
    facts = replace(said("raspberry-pi-5"), cores=2, memory_total=GIB)
    profile = as_profile(facts, "small", like=load_profile("raspberry-pi-5"))

    assert profile.serve.threads == 2
    assert profile.memory.budget > 0


@pytest.mark.parametrize(
    "device",
    ["raspberry-pi-5", "raspberry-pi-zero-2w-32-bit", "jetson-orin-nano", "rock-5b", "intel-n100", "alpine"],
)
def test_a_detected_profile_is_written_and_read_back(said, device):
    profile = as_profile(said(device), "detected")

    assert loads(dumps(profile), DeviceProfile, "detected.yaml") == profile


def test_a_device_of_another_architecture_is_an_error():
    with pytest.raises(DeviceError, match="expected an architecture of x86_64, aarch64, armv7l, got riscv64"):
        as_profile(DeviceFacts(arch="riscv64", memory_total=GIB, cores=4, disk_free=GIB), "board")


def test_a_device_that_says_too_little_is_an_error():
    with pytest.raises(DeviceError, match="did not say how much memory"):
        as_profile(DeviceFacts(arch="aarch64"), "board")


def test_this_machine_can_be_asked(tmp_path):
    facts = here(tmp_path)

    assert as_profile(facts, "here").cpu.cores == facts.cores
