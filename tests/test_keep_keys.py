"""Files of keys."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from slmops import keep_keys, keys
from slmops.errors import DocumentError, UsageError


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def test_a_key_is_kept_and_revoked(file):
    key, spoken = keep_keys.create(file, "app", "infer")

    assert keys.find(keep_keys.read(file), spoken, 0) == key
    assert keep_keys.revoke(file, "app").revoked
    assert keys.find(keep_keys.read(file), spoken, 0) is None


def test_the_file_is_its_owners_alone_and_nothing_else_is_left(file):
    before = os.umask(0)
    try:
        keep_keys.create(file, "app", "infer", lasts=60)
    finally:
        os.umask(before)

    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["keys.json"]


def test_a_file_that_others_may_write_is_not_believed(file):
    keep_keys.create(file, "app", "infer")
    file.chmod(0o620)

    with pytest.raises(DocumentError, match="others may write"):
        keep_keys.read(file)
    with pytest.raises(DocumentError, match="others may write"):
        keep_keys.create(file, "other", "infer")


def test_a_broken_file_is_never_written_over(file):
    file.write_bytes(b"{")
    file.chmod(0o600)

    with pytest.raises(DocumentError):
        keep_keys.create(file, "app", "infer")
    assert file.read_bytes() == b"{"


def test_what_is_refused_changes_nothing(file):
    keep_keys.create(file, "app", "infer")
    before = file.read_bytes()

    with pytest.raises(UsageError):
        keep_keys.create(file, "app", "infer")
    assert file.read_bytes() == before


def test_processes_that_change_it_at_once_take_turns(file):
    program = """if True:
        import sys
        from pathlib import Path
        from slmops import keep_keys
        for number in range(5):
            keep_keys.create(Path(sys.argv[1]), f"{sys.argv[2]}-{number}", "infer")
    """

    with ThreadPoolExecutor() as crew:
        done = list(
            crew.map(
                lambda who: subprocess.run([sys.executable, "-c", program, file, who], check=True), "abc"
            )
        )

    assert len(done) == 3
    assert len(keep_keys.read(file)) == 15


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_leaves_the_keys_to_whose_folder_it_is(file):
    os.chown(file.parent, 12345, 12346)

    keep_keys.create(file, "app", "infer")

    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12346)
