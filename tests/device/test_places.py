import stat

import pytest

from slmops.device.places import Places, read_json, write, write_json
from slmops.errors import DeviceError


def test_the_folders_are_for_their_owner_alone(tmp_path):
    places = Places(tmp_path / "a" / "device")

    places.make()

    made = [places.root, *(path for path in places.root.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in made} == {0o700}


def test_making_them_twice_loses_nothing(places):
    (places.incoming / "half").write_text("here")

    places.make()

    assert (places.incoming / "half").read_text() == "here"


def test_a_device_that_was_never_enrolled_says_so(places):
    with pytest.raises(DeviceError, match="is not enrolled"):
        places.read_config()


@pytest.mark.parametrize("torn", [b"", b"{", b'{"a": ', b"[1]", b"7", b"\xff"])
def test_a_torn_file_reads_as_none(places, torn):
    places.config.write_bytes(torn)

    assert read_json(places.config) is None


def test_what_is_written_is_read_back_and_replaces_what_was_there(places):
    write_json(places.config, {"device": "Küche"})
    write_json(places.config, {"device": "kitchen"})

    assert read_json(places.config) == {"device": "kitchen"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(places):
    write_json(places.config, {"device": "old"})
    before = sorted(places.root.iterdir())

    with pytest.raises(TypeError):
        write(places.config, "not bytes")

    assert read_json(places.config) == {"device": "old"}
    assert sorted(places.root.iterdir()) == before
