"""What a device says of itself, what it wrote down, and how its agent gives way to another."""

import io
import os
import subprocess

import pytest

from slmops import digest as digests
from slmops.artifact import manifest
from slmops.artifact.manifest import CONFIG_TYPE, WEIGHT_TYPE, Artifact, Blob
from slmops.device import receive
from slmops.errors import DoesNotFitError
from slmops.profile.reading import facts_from


def test_a_device_says_what_it_is(device):
    said = device.get("probe")

    facts = facts_from(said["facts"])
    assert (facts.arch, facts.cores) == (os.uname().machine, os.cpu_count())
    assert said["python"]["modules"]["zlib"] is True
    assert said["disk"]["free"] > 0
    assert said["disk"]["read_only"] is False
    assert said["service"]["after_boot"] is None


def test_a_device_is_probed_before_it_is_enrolled_and_nothing_is_written(box):
    before = sorted(box.places.root.rglob("*"))

    box.get("probe")

    assert sorted(box.places.root.rglob("*")) == before


def test_a_supervisor_is_started_before_there_is_a_release(device, until):
    device.get("start")

    until(device.supervisor)
    assert device.daemon() is None


def test_what_was_decided_can_be_read(device, shop):
    device.commit(shop.release())

    lines = device.get("logs", of="agent", lines=2)["lines"]

    assert [line.split()[1] for line in lines] == ["proved", "confirmed"]
    assert "up as" in device.get("logs", of="daemon", lines=1)["lines"][0]
    assert device.get("logs", of="supervisor", lines=5)["lines"] == []


def test_a_log_that_nobody_writes_is_refused_by_name(device):
    assert "daemon, supervisor, agent" in device.ask("logs", of="printer", lines=1).said["message"]


def test_an_agent_puts_itself_in_force_and_the_supervisor_hands_over(device, shop):
    parcel = shop.release()
    device.commit(parcel)
    supervisor, daemon, newer = device.supervisor(), device.daemon(), device.newer_agent()

    answer = device.ask("update-self", agent=newer)

    assert answer.said["supervisor"] == "handed over"
    assert (answer.said["agent"], answer.said["before"]) == (newer.stem, device.agent.stem)
    assert (device.supervisor(), device.daemon()) == (supervisor, daemon)
    assert device.supervised_by() == f"agent/{newer.name}"
    assert device.serves() == parcel.slot


def test_an_agent_that_is_not_what_it_is_called_is_not_put_in_force(device):
    newer = device.newer_agent()
    with newer.open("ab") as file:
        file.write(b"\0")

    answer = device.ask("update-self", agent=newer)

    assert answer.said["code"] == "SLM-INTEGRITY"
    assert device.places.agent_link.resolve() == device.agent


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_does_not_stop_the_way_back(device, shop, until, tmp_path):
    """The whole device lies on a disk of its own, which something else fills while a release is on trial."""
    good, bad = shop.release(), shop.release("2.0.0")
    device.commit(good)
    device.end()
    kept = tmp_path / "kept"
    device.places.root.rename(kept)
    device.places.root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", device.places.root],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", device.places.root], check=True)
        assert device.activate(bad, confirm_seconds=3.0)["outcome"] == "pass"
        _fill(device.places.root / "spool" / "fill")

        until(lambda: device.serves() == good.slot)
        assert device.status()["standing"]["trial"] is None
    finally:
        device.end()
        subprocess.run(["umount", "-l", device.places.root], check=True)


def _fill(path):
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\1" * 4096)
        except OSError:
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_while_a_file_comes_is_told_in_bytes_with_what_to_do(places):
    whole = b"1" * (3 << 20)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", places.incoming], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        blob = Blob(WEIGHT_TYPE, digests.of_bytes(whole), len(whole))
        config = Blob(CONFIG_TYPE, digests.of_bytes(b"{}"), 2)
        described = manifest.render_artifact(Artifact(config, (("model", blob),)))
        slot = digests.hexdigits(digests.of_bytes(described))
        (places.incoming / slot).mkdir()
        (places.incoming / slot / ".manifest.json").write_bytes(described)
        said = {"slot": slot, "name": "model", "offset": 0, "length": len(whole)}

        with pytest.raises(DoesNotFitError, match=r"model: the disk is full: .* to come, .* free") as told:
            receive.take(places, said, io.BytesIO(whole).read)
        assert "slmops device gc" in told.value.remedy
    finally:
        subprocess.run(["umount", "-l", places.incoming], check=True)
