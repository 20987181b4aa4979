"""A release that somebody brings in a folder, to a device with no link."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slmops.artifact import sign
from slmops.artifact import trust as trusts
from slmops.artifact.trust import Role, SignedTrust, Trust
from slmops.device import journal
from slmops.device.places import Places
from slmops.errors import IntegrityError, UsageError
from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Strategy
from slmops.registry.layout import Layout
from slmops.rollout import check_bundle, write_bundle
from slmops.rollout import order as orders
from slmops.rollout.mandate import Mandate
from slmops.rollout.write_bundle import Contents

DAY = 86400


@pytest.fixture(scope="session")
def mandate(shop, tmp_path_factory):
    """The word of the shop: its key for releases, another for rollouts."""
    rollout = tmp_path_factory.mktemp("keys") / "rollout"
    sign.make_key(rollout, "rollout")
    keys = [trusts.key_text(key.with_suffix(".pub").read_text()) for key in (shop.key, rollout)]
    marks = [trusts.fingerprint(key) for key in keys]
    first, second = Role((marks[0],), 1), Role((marks[1],), 1)
    roles = {trusts.ROOT: first, trusts.RELEASE: first, trusts.ROLLOUT: second}
    document = trusts.render(
        Trust(1, "2026-01-01T00:00:00Z", None, dict(zip(marks, keys, strict=True)), roles)
    )
    chain = (SignedTrust(document, (sign.sign(document, shop.key, sign.TRUST),)),)
    return Mandate(chain, rollout, epoch=1)


@pytest.fixture
def written(shop, mandate, tmp_path):
    """A way to write a bundle; returns its folder."""

    def write(version="1.0.0", names=("box",), valid=DAY, **model):
        parcel = shop.release(version, **model)
        layout = Layout(next(f for f in shop.folder.glob("registry-*") if _has(Layout(f), parcel)))
        order = orders.take(layout, parcel.signed, mandate)
        runtime = (sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_runtime.py")))
        devices = [
            Device(name=name, host=name, profile="local", runtime=runtime, daemon_port=0, service="process")
            for name in names
        ]
        strategy = Strategy(ready_timeout="30s", gate_timeout="30s")
        folder = tmp_path / f"stick-{version}"
        write_bundle.write(folder, Contents(order.parcels["local"], None, mandate, devices, strategy, valid))
        return folder

    return write


def _has(layout, parcel):
    return parcel.signed.blob in layout.names().values()


@pytest.fixture
def alone(box, tmp_path):
    """A device that nobody ever spoke to; called with a folder, it installs that."""
    shutil.rmtree(box.places.root)
    box.places = Places(tmp_path / "alone")

    def install(folder, *more):
        words = [sys.executable, folder / "agent.pyz", box.places.root, "install", folder, *more]
        done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
        box.agent = box.places.agent_link
        return done.returncode, done.stdout

    install.box = box
    return install


def test_a_device_with_no_link_installs_proves_and_commits_by_itself(alone, written, shop):
    code, said = alone(written())

    assert code == 0, said
    assert "parrot:1.0.0 serves: 2 of 2 golden prompts passed" in said.splitlines()
    assert alone.box.serves() == shop.release().slot
    assert alone.box.status()["standing"]["trial"] is None


def test_what_does_not_pass_goes_back_to_what_served(alone, written, shop):
    alone(written())

    code, said = alone(written("2.0.0", answers={"One and one?": "three"}))

    assert code == 5, said
    assert "went back: 2 of 2 golden prompts failed" in said
    assert alone.box.serves() == shop.release().slot


def test_to_install_again_changes_nothing(alone, written):
    folder = written()
    alone(folder)
    before = [record["kind"] for record in journal.read(alone.box.places.journal)]

    assert alone(folder)[0] == 0
    assert [record["kind"] for record in journal.read(alone.box.places.journal)] == before


@pytest.mark.parametrize("name", ["model/index.json", "model/files/model.gguf", "model/signature"])
def test_a_bundle_that_was_changed_is_refused_by_device_and_operator(alone, written, name):
    folder = written()
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(IntegrityError):
        check_bundle.check(folder)
    code, said = alone(folder)

    assert code == 7, said
    assert not alone.box.places.current.exists()


def test_an_assignment_for_another_device_is_refused(alone, written):
    folder = written(names=("box", "other"))
    told = json.loads((folder / "bundle.json").read_text())
    told["devices"]["box"]["assignments"] = told["devices"]["other"]["assignments"]
    (folder / "bundle.json").write_text(json.dumps(told))

    code, said = alone(folder, "box")

    assert (code, "another device" in said) == (7, True), said
    with pytest.raises(IntegrityError, match="another device"):
        check_bundle.check(folder)


def test_a_bundle_for_several_asks_a_new_device_for_its_name(alone, written, shop):
    folder = written(names=("box", "other"))

    code, said = alone(folder)
    assert (code, "for box, other" in said) == (1, True)

    assert alone(folder, "other")[0] == 0
    assert alone.box.places.read_config()["device"] == "other"
    assert alone.box.serves() == shop.release().slot


def test_a_bundle_that_is_good_says_what_it_is(written, mandate):
    checked = check_bundle.check(written(names=("box", "other")))

    assert (checked.release, checked.runtime, checked.profile) == ("parrot:1.0.0", None, "local")
    assert list(checked.devices) == ["box", "other"]
    assert checked.trust.digest in mandate.digests


def test_a_bundle_is_written_over_a_bundle_and_over_nothing_else(written, tmp_path):
    folder = written()
    os.link(folder / "README.txt", folder / "model/files/of-another-time")

    assert not (written() / "model/files/of-another-time").exists()
    (tmp_path / "stick-9.9.9").mkdir()
    (tmp_path / "stick-9.9.9/precious").touch()
    with pytest.raises(UsageError, match="no bundle"):
        written("9.9.9")


def test_what_goes_on_trial_is_what_was_vouched_for_whatever_the_folder_says(alone, written, shop):
    alone(written())
    folder = written("2.0.0")
    told = json.loads((folder / "bundle.json").read_text())
    told["parts"]["model"]["slot"] = shop.release().slot
    (folder / "bundle.json").write_text(json.dumps(told))

    assert alone(folder)[0] == 0

    assert alone.box.serves() == shop.release("2.0.0").slot


def test_a_device_that_knows_its_name_takes_no_other(alone, written):
    folder = written()
    alone(folder)

    code, said = alone(folder, "other")

    assert (code, "this device is box, not other" in said) == (1, True), said


@pytest.mark.parametrize("told", [b"{}", b"[]", b"{", b'{"devices": [], "parts": 1, "trust": {}}'])
def test_a_folder_that_says_nonsense_is_refused_in_words_by_device_and_operator(alone, written, told):
    folder = written()
    (folder / "bundle.json").write_bytes(told)

    code, said = alone(folder)

    assert (code, said.startswith("error: ")) == (7, True), said
    with pytest.raises(IntegrityError):
        check_bundle.check(folder)


def test_a_bundle_that_lacks_a_file_is_refused_by_its_name(written):
    folder = written()
    (folder / "model/index.json").unlink()

    with pytest.raises(IntegrityError, match=r"model/index.json is missing"):
        check_bundle.check(folder)


def test_a_device_of_another_name_is_told_whom_the_bundle_is_for(alone, written):
    alone(written())

    code, said = alone(written("2.0.0", names=("kiosk-1", "kiosk-2")))

    assert code == 1
    assert "this device is box; the bundle is for kiosk-1, kiosk-2" in said
    assert "slmops bundle create --device box" in said


def test_a_daemon_that_does_not_start_is_told_with_its_last_words(alone, written):
    code, said = alone(written(exit=1))

    assert code == 5
    assert "starting slot" in said
    assert f"next: Read {alone.box.places.log}" in said


@pytest.mark.parametrize("length", [2, None])
def test_a_tampered_stick_is_to_be_written_again(alone, written, length):
    folder = written()
    model = folder / "model/files/model.gguf"
    model.write_bytes(b" " * (length or model.stat().st_size))

    _, said = alone(folder)

    assert "next: Have the bundle written again" in said
    assert "release verify" not in said


def test_after_an_install_a_person_sees_where_to_ask_and_may_look_and_remove(alone, written):
    _, said = alone(written())
    port = str(alone.box.status()["port"])
    assert port in said
    assert "after boot: " in said

    def typed(*words):
        command = [sys.executable, alone.box.agent, alone.box.places.root, *words]
        done = subprocess.run(command, capture_output=True, text=True, input="", timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    code, said = typed("status")
    assert (code, "parrot:1.0.0" in said, "healthy" in said, port in said) == (0, True, True, True)
    assert "starting slot" in typed("logs", "500")[1]
    assert typed("fsck") == (0, "all is as it was left\n")
    code, said = typed("stauts")
    assert (code, "retire --yes" in said) == (2, True)
    assert typed("--help")[0] == 2
    assert typed("retire")[0] == 2
    assert typed("retire", "--yes")[0] == 0
    assert not alone.box.places.root.exists()
