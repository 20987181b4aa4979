"""The way back never depends on what came after it, and nothing of others is touched."""

import os
import sys

from slmops.device import journal
from slmops.device.places import read_json


def kinds(device):
    return [record["kind"] for record in journal.read(device.places.journal)]


def test_retiring_leaves_what_others_keep_in_the_same_folder(device, shop):
    device.commit(shop.release())
    (device.places.root / "precious").write_text("not ours")

    device.get("retire")

    assert [path.name for path in device.places.root.iterdir()] == ["precious"]


def test_a_slot_goes_back_to_the_runtime_it_was_committed_with(device, shop):
    first = shop.release()
    device.commit(first)
    device.enroll(runtime=["/bin/false"])

    verdict = device.activate(shop.release(version="2.0.0"), ready_seconds=3)

    assert verdict["outcome"] == "fail"
    assert device.serves() == first.slot


def test_a_trial_that_nobody_could_end_does_not_begin(box, shop):
    device = box.enroll(service="systemd")
    parcel = shop.release()
    slot = device.take(parcel)

    answer = device.ask("activate", slot=slot, ready_seconds=5, gate_seconds=5, confirm_seconds=5)

    assert "systemd" in answer.said["message"]
    assert kinds(device) == []
    assert not device.places.current.is_symlink()


def test_a_runtime_that_vanishes_and_returns_is_waited_for(box, shop, tmp_path, until):
    wrapper = tmp_path / "python"
    wrapper.symlink_to(sys.executable)
    runtime = box.enroll().places.read_config()["runtime"]
    device = box.enroll(runtime=[str(wrapper), *runtime[1:]])
    parcel = shop.release()
    device.commit(parcel)
    supervisor = device.supervisor()

    wrapper.unlink()
    pid = device.daemon()
    os.kill(pid, 9)
    until(lambda: (read_json(device.places.daemon) or {}).get("last_exit") == 127)
    wrapper.symlink_to(sys.executable)

    until(lambda: device.serves() == parcel.slot)
    assert device.supervisor() == supervisor


def test_a_committed_slot_that_does_not_answer_is_put_to_the_proof_with_the_present_settings(
    box, shop, tmp_path, until
):
    wrapper = tmp_path / "python"
    wrapper.symlink_to(sys.executable)
    runtime = box.enroll().places.read_config()["runtime"]
    device = box.enroll(runtime=[str(wrapper), *runtime[1:]])
    parcel = shop.release()
    device.commit(parcel)
    wrapper.unlink()
    os.kill(device.daemon(), 9)
    until(lambda: (read_json(device.places.daemon) or {}).get("crashes", 0) >= 3)

    device.enroll(runtime=runtime)
    verdict = device.activate(parcel)

    assert verdict["outcome"] == "pass"
    assert device.serves() == parcel.slot
    assert kinds(device) == ["activated", "proved", "confirmed", "activated", "proved"]


def test_a_device_whose_artifact_has_rotted_still_says_where_it_stands(device, shop):
    parcel = shop.release()
    device.commit(parcel)
    rotten = device.places.files(parcel.slot) / "artifact.json"
    rotten.chmod(0o644)
    rotten.write_text("rot")

    said = device.status()

    assert said["standing"]["slot"] == parcel.slot
    assert "artifact.json" in said["release"]["damage"]
