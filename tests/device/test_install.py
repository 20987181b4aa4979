import io
import os
import sys

import pytest

from slmops.artifact import sign
from slmops.device import incoming, prepare, receive, slots, stage, trust
from slmops.device.places import write_json
from slmops.errors import DeviceError, DoesNotFitError, IntegrityError


@pytest.fixture
def here(places, shop):
    """A device that accepts the shop's releases, without any process."""
    trust.believe(places, shop.trust)
    write_json(places.config, {"device": "box", "runtime": [sys.executable], "port": 0})
    return places


def names(prepared):
    return {each["name"] for each in prepared["missing"]}


def offsets(prepared):
    return {each["name"]: each["offset"] for each in prepared["missing"]}


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


class Sender:
    """Sends files to a folder as an operator does, from a file of its own."""

    def __init__(self, places, parcel):
        self.places, self.parcel = places, parcel

    def prepare(self, **changes):
        return prepare.make_ready(self.places, self.parcel.said(**changes))

    def send(self, name, data):
        part = incoming.part_of(self.places.incoming / self.parcel.slot / name)
        offset = part.stat().st_size if part.exists() else 0
        length = len(self.parcel.files[name]) - offset
        said = {"slot": self.parcel.slot, "name": name, "offset": offset, "length": length}
        return receive.take(self.places, said, io.BytesIO(data).read)

    def send_all(self):
        for each in self.prepare()["missing"]:
            self.send(each["name"], self.parcel.files[each["name"]][each["offset"] :])

    def stage(self):
        stage.make_slot(self.places, self.parcel.slot)


@pytest.fixture
def sender(here, shop):
    return Sender(here, shop.release())


def untouched(places):
    return not any(places.incoming.iterdir()) and not any(places.slots.iterdir())


def test_a_new_device_lacks_every_file(sender):
    prepared = sender.prepare()

    assert prepared["slot"] == sender.parcel.slot
    assert prepared["staged"] is False
    assert {each["name"]: each["size"] for each in prepared["missing"]} == {
        name: len(data) for name, data in sender.parcel.files.items()
    }
    assert set(offsets(prepared).values()) == {0}


def test_what_was_sent_becomes_a_slot_that_nobody_writes_to(sender, here):
    sender.send_all()
    sender.stage()

    files = here.files(sender.parcel.slot)
    assert {path.name: path.read_bytes() for path in files.iterdir()} == sender.parcel.files
    assert {path.stat().st_mode & 0o777 for path in files.iterdir()} == {0o444}
    slots.verify(here, sender.parcel.slot)
    assert not any(here.incoming.iterdir())


def test_a_release_signed_by_a_stranger_is_refused_before_anything_is_written(here, shop, tmp_path):
    sign.make_key(tmp_path / "stranger", "a stranger")
    strange = shop.release("6.6.6", key=tmp_path / "stranger")

    with pytest.raises(IntegrityError, match="the signature does not hold"):
        prepare.make_ready(here, strange.said())

    assert untouched(here)


def test_an_index_that_is_not_the_signed_one_is_refused(sender, here, shop):
    other = shop.release("1.1.0").signed.index.decode()

    with pytest.raises(IntegrityError, match="the signature does not hold"):
        sender.prepare(index=other)

    assert untouched(here)


def test_a_manifest_that_its_release_does_not_list_is_refused(sender, here, shop):
    other = shop.release("1.1.0").said()["manifest"]

    with pytest.raises(IntegrityError, match="not the one its release lists"):
        sender.prepare(manifest=other)

    assert untouched(here)


def test_a_profile_that_the_release_has_no_artifact_for_is_named(sender, here):
    with pytest.raises(IntegrityError, match="no artifact for profile 'pi-9'; it has: local"):
        sender.prepare(profile="pi-9")

    assert untouched(here)


def test_an_artifact_for_another_machine_is_refused(here, shop):
    machine = os.uname().machine

    with pytest.raises(DoesNotFitError, match=f"the artifact is for riscv64, this device is {machine}"):
        prepare.make_ready(here, shop.release(arch="riscv64").said())

    assert untouched(here)


def test_half_a_file_is_kept_and_the_rest_goes_on_there(sender):
    sender.prepare()
    whole = sender.parcel.files["README.md"]

    with pytest.raises(DeviceError, match=rf"README\.md: the link ended after 10000 of {len(whole)} bytes"):
        sender.send("README.md", whole[:10000])

    assert offsets(sender.prepare())["README.md"] == 10000
    assert sender.send("README.md", whole[10000:])["whole"]
    assert "README.md" not in names(sender.prepare())


def test_a_flipped_byte_is_thrown_away_and_asked_for_again_from_the_start(sender):
    sender.prepare()

    with pytest.raises(IntegrityError, match=r"model\.gguf: what arrived is not sha256:.* thrown away"):
        sender.send("model.gguf", flipped(sender.parcel.files["model.gguf"]))

    assert offsets(sender.prepare())["model.gguf"] == 0
    sender.send("model.gguf", sender.parcel.files["model.gguf"])
    assert "model.gguf" not in names(sender.prepare())


def test_a_file_of_another_slot_is_not_asked_for_again(sender, here, shop):
    sender.send_all()
    sender.stage()
    second = Sender(here, shop.release("1.1.0"))

    assert names(second.prepare()) == {"artifact.json"}
    second.send_all()
    second.stage()

    assert (here.files(second.parcel.slot) / "README.md").samefile(
        here.files(sender.parcel.slot) / "README.md"
    )
    slots.verify(here, second.parcel.slot)


def test_a_rotten_file_of_another_slot_is_not_borrowed(sender, here, shop):
    sender.send_all()
    sender.stage()
    rotten = here.files(sender.parcel.slot) / "README.md"
    rotten.chmod(0o644)
    rotten.write_bytes(flipped(rotten.read_bytes()))

    assert names(Sender(here, shop.release("1.1.0")).prepare()) == {"artifact.json", "README.md"}


def test_a_lost_file_of_another_slot_is_not_borrowed(sender, here, shop):
    sender.send_all()
    sender.stage()
    lost = here.files(sender.parcel.slot) / "README.md"
    lost.parent.chmod(0o755)
    lost.unlink()

    assert names(Sender(here, shop.release("1.1.0")).prepare()) == {"artifact.json", "README.md"}


def test_a_rotten_manifest_of_another_slot_is_no_hindrance(sender, here, shop):
    sender.send_all()
    sender.stage()
    (here.slot(sender.parcel.slot) / "manifest.json").write_bytes(b"")

    assert "README.md" in names(Sender(here, shop.release("1.1.0")).prepare())


def test_borrowing_survives_the_removal_of_the_slot_it_came_from(sender, here, shop):
    sender.send_all()
    sender.stage()
    second = Sender(here, shop.release("1.1.0"))
    second.send_all()
    slots.remove(here.slot(sender.parcel.slot))

    second.stage()

    slots.verify(here, second.parcel.slot)


def test_what_is_staged_lacks_nothing_and_stages_again_to_no_effect(sender, here):
    sender.send_all()
    sender.stage()

    assert sender.prepare() == {
        "slot": sender.parcel.slot, "staged": True, "missing": [], "can": {"delta": False},
    }  # fmt: skip
    sender.stage()
    slots.verify(here, sender.parcel.slot)


def test_a_staged_slot_that_has_rotted_is_made_whole_again(sender, here):
    sender.send_all()
    sender.stage()
    rotten = here.files(sender.parcel.slot) / "model.gguf"
    rotten.chmod(0o644)
    rotten.write_bytes(b"rot")

    prepared = sender.prepare()
    assert prepared["staged"] is False
    assert [each["name"] for each in prepared["missing"]] == ["model.gguf"]
    sender.send("model.gguf", sender.parcel.files["model.gguf"])
    sender.stage()
    slots.verify(here, sender.parcel.slot)


def test_staging_before_all_is_here_makes_no_slot(sender, here):
    sender.prepare()
    sender.send("model.gguf", sender.parcel.files["model.gguf"])

    with pytest.raises(IntegrityError, match="is not here whole"):
        sender.stage()

    assert slots.names(here) == []


def test_a_file_that_rots_between_receiving_and_staging_makes_no_slot(sender, here):
    sender.send_all()
    (here.incoming / sender.parcel.slot / "model.gguf").write_bytes(b"rot")

    with pytest.raises(IntegrityError, match=r"model\.gguf is not here whole"):
        sender.stage()

    assert slots.names(here) == []


def test_a_stage_that_was_killed_half_way_is_done_again(sender, here):
    sender.send_all()
    half = here.slots / f".{sender.parcel.slot}" / "files"
    half.mkdir(parents=True)
    (half / "model.gguf").write_bytes(b"half")
    (half / "model.gguf").chmod(0o444)

    sender.stage()

    slots.verify(here, sender.parcel.slot)
    assert slots.names(here) == [sender.parcel.slot]
    assert not half.exists()


def test_a_stage_that_was_killed_at_its_end_leaves_nothing_when_done_again(sender, here):
    sender.send_all()
    sender.stage()
    left = here.incoming / sender.parcel.slot
    left.mkdir()
    (left / "README.md").write_bytes(b"left")

    sender.prepare()
    sender.stage()

    assert not left.exists()


def test_a_part_longer_than_its_file_counts_as_the_file(sender, here):
    sender.prepare()
    whole = sender.parcel.files["model.gguf"]
    incoming.part_of(here.incoming / sender.parcel.slot / "model.gguf").write_bytes(whole + b"more")

    assert offsets(sender.prepare())["model.gguf"] == len(whole)


def test_what_was_seen_to_hold_is_read_again_once_it_changed(sender, here):
    sender.send_all()
    model = here.incoming / sender.parcel.slot / "model.gguf"
    blob = dict(sender.parcel.built.files)["model.gguf"]
    assert incoming.holds(model, blob)

    model.write_bytes(flipped(model.read_bytes()))

    assert not incoming.holds(model, blob)
