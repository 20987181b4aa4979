"""Which boot it is."""

from pathlib import Path

from slmops.device import boots


def test_a_boot_is_the_same_whether_the_kernel_or_systemd_tells_of_it(monkeypatch):
    monkeypatch.delenv(boots.TOLD, raising=False)
    read = boots.identity()
    monkeypatch.setenv(boots.TOLD, read.replace("-", ""))

    assert boots.identity() == read
    assert read in Path("/proc/sys/kernel/random/boot_id").read_text()
