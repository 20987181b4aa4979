"""Wheels whose bytes depend on their files alone."""

import base64
import hashlib
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build import pack_wheel

FILES = {"b/__init__.py": b"1", "a.so": bytes(1000), "b/zz.py": b"pass\n"}


@pytest.fixture
def pack(tmp_path):
    def packed(files, name="one.whl"):
        pack_wheel.pack("b-1.dist-info", files, tmp_path / name)
        return tmp_path / name

    return packed


def test_the_order_of_files_changes_nothing(pack):
    assert pack(FILES).read_bytes() == pack(dict(reversed(FILES.items())), "two.whl").read_bytes()


def test_record_names_every_file_with_its_digest(pack):
    with zipfile.ZipFile(pack(FILES)) as archive:
        lines = archive.read("b-1.dist-info/RECORD").decode().splitlines()

    digest = base64.urlsafe_b64encode(hashlib.sha256(b"1").digest()).rstrip(b"=").decode()
    assert f"b/__init__.py,sha256={digest},1" in lines
    assert lines[-1] == "b-1.dist-info/RECORD,,"
    assert len(lines) == len(FILES) + 1


def test_what_was_packed_by_others_is_packed_anew_to_the_same_bytes(pack, tmp_path):
    for name, when in (("early.whl", (1999, 1, 1, 0, 0, 0)), ("late.whl", (2020, 2, 2, 2, 2, 2))):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in ("b-1.dist-info/METADATA", *FILES, "b/tests/test_b.py"):
                archive.writestr(zipfile.ZipInfo(file, when), FILES.get(file, b"x"))
    made = []
    for name in ("early.whl", "late.whl"):
        info, files = pack_wheel.unpack(tmp_path / name, lambda file: "/tests/" not in file)
        assert info == "b-1.dist-info"
        made.append(pack(files, f"again-{name}"))

    assert made[0].read_bytes() == made[1].read_bytes()
    assert not any("tests" in name for name in zipfile.ZipFile(made[0]).namelist())


@given(st.dictionaries(st.text(st.characters(codec="ascii", categories=("L",)), min_size=1), st.binary()))
def test_what_is_packed_is_unpacked(tmp_path_factory, files):
    wheel = tmp_path_factory.mktemp("packed") / "any.whl"
    pack_wheel.pack("b-1.dist-info", files, wheel)

    _, found = pack_wheel.unpack(wheel, lambda file: not file.endswith("RECORD"))
    assert found == files
    assert sum(pack_wheel.sizes(wheel)) > sum(map(len, files.values()))
