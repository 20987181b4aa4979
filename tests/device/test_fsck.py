"""Whether a device sees what is wrong with it, mends what it can, and frees what it does not need."""

import json

import pytest

from slmops.device import journal, prepare, slots
from slmops.rollout.check import _is_current
from slmops.rollout.order import ModelParcel


def rot(path):
    """Flip a byte of a file, as a worn-out card does."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def wrong(device, **said):
    return [(each["where"], each["mended"]) for each in device.get("fsck", **said)["findings"]]


def current(said, parcel):
    """Whether a rollout would leave the device as it is."""
    return _is_current(said, ModelParcel(None, "local", parcel.slot, b"", parcel.built, {}, None), None)


@pytest.fixture
def twice(device, shop):
    """A device that serves one release and may go back to another; and both."""
    first, second = shop.release(), shop.release("2.0.0", mark=2)
    device.commit(first)
    device.commit(second)
    return device, first, second


def test_nothing_is_wrong_with_a_device_that_works(twice):
    device, first, second = twice

    said = device.get("fsck")

    assert (said["findings"], said["clean"], said["slots"]) == ([], True, 2)
    assert said["bytes"] == sum(blob.size for each in (first, second) for _, blob in each.built.files)


def test_what_has_rotted_and_serves_gives_way_to_a_whole_slot(twice, until):
    device, first, second = twice
    rot(device.places.files(second.slot) / "model.gguf")

    assert wrong(device) == [(f"slots/{second.slot}", False)]
    assert wrong(device, repair=True) == [(f"slots/{second.slot}", True)]

    until(lambda: device.serves() == first.slot)
    assert device.status()["standing"]["failure"]["code"] == "ROTTEN"
    assert wrong(device) == []
    assert not device.places.slot(second.slot).exists()


def test_a_way_back_that_has_rotted_is_given_up(twice):
    device, first, second = twice
    rot(device.places.files(first.slot) / "model.gguf")

    assert wrong(device, repair=True) == [(f"slots/{first.slot}", True)]

    assert wrong(device) == []
    assert device.serves() == second.slot
    assert device.status()["standing"]["previous"] is None


def test_the_only_slot_serves_on_though_it_has_rotted_and_a_person_is_told(device, shop):
    parcel = shop.release()
    device.commit(parcel)
    rot(device.places.files(parcel.slot) / "README.md")

    (finding,) = device.get("fsck", repair=True)["findings"]

    assert (finding["where"], finding["mended"]) == (f"slots/{parcel.slot}", False)
    assert "slmops deploy" in finding["advice"]
    assert device.serves() == parcel.slot


def test_links_follow_the_journal_again(twice):
    device, first, _ = twice
    device.places.current.unlink()
    device.places.current.symlink_to(f"slots/{first.slot}")
    device.places.previous.unlink()

    assert wrong(device, repair=True) == [("current", True), ("previous", True)] or wrong(device) == []

    assert device.places.previous.readlink().name == first.slot
    assert wrong(device) == []


def test_a_journal_that_is_lost_is_written_again(twice):
    device, first, second = twice
    device.places.journal.unlink()

    assert ("journal.jsonl", True) in wrong(device, repair=True)

    assert wrong(device) == []
    standing = device.status()["standing"]
    assert (standing["slot"], standing["previous"]) == (second.slot, first.slot)


def test_what_was_never_finished_goes(twice):
    device, *_ = twice
    torn = device.places.slots / f".{'0' * 64}" / "files"
    torn.mkdir(parents=True)
    (device.places.root / ".new-abc").write_bytes(b"half")

    assert len(wrong(device, repair=True)) == 2

    assert not torn.exists()
    assert wrong(device) == []


def test_an_agent_that_has_rotted_is_named(twice):
    device, *_ = twice
    with device.agent.open("ab") as file:
        file.write(b"\0")

    assert wrong(device) == [(f"agent/{device.agent.name}", False)]


def test_what_the_device_does_not_return_to_is_freed_and_nothing_else(twice, shop):
    device, first, second = twice
    failed = shop.release("3.0.0", exit=1)
    assert device.activate(failed)["outcome"] == "fail"
    waiting = device.take(shop.release("4.0.0"))
    old = device.newer_agent()

    would = device.get("gc", dry_run=True)
    assert {each["path"] for each in would["gone"]} == {f"slots/{failed.slot}", f"agent/{old.name}"}
    assert device.places.slot(failed.slot).is_dir()

    did = device.get("gc")

    assert did["gone"] == would["gone"]
    assert did["bytes"] == would["bytes"] > 0
    assert slots.names(device.places) == sorted([first.slot, second.slot, waiting])
    assert device.get("gc")["gone"] == []


def test_a_file_that_another_slot_holds_too_gives_nothing_back(device, shop):
    first, second = shop.release(), shop.release("1.0.1")
    device.commit(first)
    device.take(second)
    with journal.locked(device.places):
        journal.append(device.places, "activated", slot=second.slot, boot="x", deadline=0.0)
        slots.point(device.places, journal.append(device.places, "rolled_back", slot=second.slot))
    shared = (device.places.files(second.slot) / "README.md").stat()

    freed = device.get("gc")["bytes"]

    assert shared.st_nlink == 2
    assert 0 < freed < shared.st_blocks * 512


def test_a_slot_that_rotted_while_the_device_was_off_does_not_serve_when_the_one_before_is_whole(
    twice, until
):
    device, first, second = twice
    device.end()
    # What was read in this boot is not read again; a boot forgets it.
    device.places.whole.write_text(json.dumps({"boot": "another", "slots": [first.slot, second.slot]}))
    rot(device.places.files(second.slot) / "model.gguf")

    with device.supervise() as supervisor:
        until(lambda: device.serves() == first.slot)
        supervisor.terminate()

    assert device.status()["standing"]["failure"]["code"] == "ROTTEN"


def test_a_device_whose_journal_is_lost_goes_on_serving(twice, until):
    device, _, second = twice
    pid = device.daemon()

    device.places.journal.unlink()

    assert device.serves() == second.slot
    device.end()
    with device.supervise() as supervisor:
        until(lambda: device.serves() == second.slot)
        supervisor.terminate()
    assert device.daemon() != pid


def test_what_cannot_be_mended_is_said_and_the_look_goes_on(device, shop):
    """The slot that serves says that it runs from a runtime, and the slot of that holds none."""
    parcel, other = shop.release(), shop.release("2.0.0")
    device.commit(parcel)
    device.end()
    device.take(other)
    settings = {"runtime": [], "runtime_slot": other.slot, "port": 0}
    journal.append(device.places, "restarted", slot=parcel.slot, settings=settings)
    device.places.current.unlink()

    said = device.get("fsck", repair=True)

    found = {each["where"]: each for each in said["findings"]}
    assert "cannot be mended: slot" in found[f"runtimes/{other.slot}"]["wrong"]
    assert found["current"]["mended"]
    assert not said["clean"]


def test_what_rotted_and_has_no_way_back_is_told_sent_again_and_served_anew(device, shop):
    parcel = shop.release()
    device.commit(parcel)
    pid, model = device.daemon(), dict(parcel.built.files)["model.gguf"].digest
    assert current(device.status(), parcel)
    rot(device.places.files(parcel.slot) / "model.gguf")
    assert wrong(device, repair=True) == [(f"slots/{parcel.slot}", False)]

    said = device.status()
    assert "model.gguf has rotted" in said["release"]["damage"]
    assert (parcel.slot in said["slots"], model in said["held"], len(said["held"])) == (False, False, 3)
    assert not current(said, parcel)

    missing = prepare.make_ready(device.places, parcel.said())["missing"]
    assert [each["name"] for each in missing] == ["model.gguf"]
    assert device.activate(parcel)["outcome"] == "pass"

    said = device.status()
    assert (said["release"]["damage"], current(said, parcel)) == (None, True)
    assert device.daemon() != pid
    assert wrong(device) == []


def test_a_daemon_of_files_that_were_put_right_is_started_anew_by_fsck(device, shop, until):
    parcel = shop.release()
    device.commit(parcel)
    pid = device.daemon()
    rot(device.places.files(parcel.slot) / "model.gguf")
    wrong(device)
    device.take(parcel)

    assert device.status()["release"]["damage"]
    assert wrong(device, repair=True) == [(f"slots/{parcel.slot}", True)]

    until(lambda: device.daemon() not in (None, pid) and device.serves() == parcel.slot)
    assert wrong(device) == []
    assert device.status()["release"]["damage"] is None


def test_a_slot_that_was_not_read_right_once_is_remembered_only_until_it_is(twice):
    device, first, _ = twice
    path = device.places.files(first.slot) / "model.gguf"
    rot(path)
    wrong(device)
    assert first.slot not in device.status()["slots"]
    rot(path)

    assert wrong(device) == []
    assert first.slot in device.status()["slots"]


@pytest.fixture
def changed(box, shop):
    """Return a device whose second release was changed in how it is run, and both releases."""
    first, second = shop.release(), shop.release("2.0.0", mark=2)
    for seats, release in ((4, first), (4, second), (9, second)):
        box.enroll(daemon={"seats": seats}).commit(release)
    return box, first, second


def test_what_has_rotted_is_left_for_the_slot_before_and_not_run_another_way(changed, until):
    device, first, second = changed
    rot(device.places.files(second.slot) / "model.gguf")

    device.get("fsck", repair=True)

    until(lambda: device.serves() == first.slot)


def test_what_is_gone_is_left_for_the_slot_before(changed):
    device, first, second = changed
    slots.remove(device.places.slot(second.slot))

    device.get("fsck", repair=True)

    assert device.status()["standing"]["slot"] == first.slot
