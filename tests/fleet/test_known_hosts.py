"""Host keys: which key a device must show, over files and keys that OpenSSH made."""

import shutil
import subprocess

import paramiko
import pytest

from slmops.errors import HostKeyError, UnreachableError
from slmops.fleet import known_hosts

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")

NAME = "[10.0.0.1]:2222"


def make(folder, kind):
    path = folder / f"{kind}-{len(list(folder.iterdir()))}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)], check=True)
    return paramiko.PKey.from_path(path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two ed25519 host keys and one of another kind."""
    folder = tmp_path_factory.mktemp("keys")
    return [make(folder, "ed25519"), make(folder, "ed25519"), make(folder, "ecdsa")]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config" / "known_hosts"


def ssh_keygen(*words):
    return subprocess.run(["ssh-keygen", *words], capture_output=True, check=True, text=True).stdout


def held(file, name=NAME):
    return dict(known_hosts.read((file,)).lookup(name) or {})


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [("a.lan", 22, "a.lan"), ("a.lan", 2222, "[a.lan]:2222"), ("::1", 23, "[::1]:23")],
)
def test_a_host_has_the_name_openssh_gives_it(host, port, name):
    assert known_hosts.name_of(host, port) == name


def test_a_fingerprint_is_the_one_openssh_prints(keys, file):
    known_hosts.trust(file, NAME, keys[0])

    assert known_hosts.fingerprint(keys[0]) in ssh_keygen("-l", "-f", str(file))


def test_a_trusted_key_is_known_to_us_and_to_openssh(keys, file):
    known_hosts.trust(file, NAME, keys[0])

    assert held(file) == {"ssh-ed25519": keys[0]}
    assert keys[0].get_base64() in ssh_keygen("-F", NAME, "-f", str(file))


def test_trusting_again_changes_nothing(keys, file):
    known_hosts.trust(file, NAME, keys[0])
    before = file.read_bytes()

    known_hosts.trust(file, NAME, keys[0])

    assert file.read_bytes() == before


def test_a_changed_key_is_refused_and_the_trusted_one_stays(keys, file):
    known_hosts.trust(file, NAME, keys[0])

    with pytest.raises(HostKeyError, match="has changed: trusted is ") as told:
        known_hosts.trust(file, NAME, keys[1])

    for word in (NAME, str(file), known_hosts.fingerprint(keys[0]), known_hosts.fingerprint(keys[1])):
        assert word in str(told.value)
    assert "somebody stands between" in told.value.remedy
    assert held(file) == {"ssh-ed25519": keys[0]}


def test_keys_of_two_kinds_stand_side_by_side(keys, file):
    for key in (keys[0], keys[2]):
        known_hosts.trust(file, NAME, key)

    assert held(file) == {"ssh-ed25519": keys[0], "ecdsa-sha2-nistp256": keys[2]}


def test_one_host_is_not_another(keys, file):
    known_hosts.trust(file, NAME, keys[0])
    known_hosts.trust(file, "10.0.0.1", keys[1])

    assert held(file) == {"ssh-ed25519": keys[0]}
    assert held(file, "10.0.0.1") == {"ssh-ed25519": keys[1]}


def test_a_hashed_name_is_found(keys, file):
    known_hosts.trust(file, NAME, keys[0])
    ssh_keygen("-H", "-f", str(file))

    assert "10.0.0.1" not in file.read_text()
    assert known_hosts.read((file, file.with_name("another"))).lookup(NAME) == {"ssh-ed25519": keys[0]}


def test_a_file_whose_last_line_has_no_end_keeps_its_keys(keys, file):
    known_hosts.trust(file, "other", keys[1])
    file.write_text(file.read_text().rstrip("\n"))

    known_hosts.trust(file, NAME, keys[0])

    assert held(file) == {"ssh-ed25519": keys[0]}
    assert held(file, "other") == {"ssh-ed25519": keys[1]}


def test_files_that_are_not_there_trust_nobody(tmp_path):
    assert known_hosts.read((tmp_path / "none", tmp_path)).lookup(NAME) is None


def test_all_files_count(keys, tmp_path):
    for name, key in (("one", keys[0]), ("two", keys[2])):
        known_hosts.trust(tmp_path / name, NAME, key)

    found = known_hosts.read((tmp_path / "one", tmp_path / "two")).lookup(NAME)

    assert dict(found or {}) == {"ssh-ed25519": keys[0], "ecdsa-sha2-nistp256": keys[2]}


@pytest.mark.parametrize("line", ["# a note", "", "nonsense", f"{NAME} ssh-unheard-of AAAA"])
def test_lines_that_hold_no_key_are_passed_over(keys, file, line):
    known_hosts.trust(file, NAME, keys[0])
    file.write_text(f"{line}\n{file.read_text()}")

    assert known_hosts.read((file, file.with_name(str(len(line))))).lookup(NAME) == {"ssh-ed25519": keys[0]}


@pytest.mark.parametrize("mark", ["@cert-authority", "@revoked"])
def test_a_marked_line_does_not_hide_the_other_keys(keys, file, mark):
    known_hosts.trust(file, NAME, keys[0])
    with file.open("a") as lines:
        lines.write(f"{mark} *.lan ssh-ed25519 {keys[1].get_base64()}\n")

    assert known_hosts.read((file, file.with_name(mark))).lookup(NAME) == {"ssh-ed25519": keys[0]}


def test_a_torn_key_is_refused_naming_the_file(tmp_path):
    (tmp_path / "known_hosts").write_text(f"{NAME} ssh-ed25519 AAA\n")

    with pytest.raises(HostKeyError, match=str(tmp_path)):
        known_hosts.read((tmp_path / "known_hosts",))


def test_an_unknown_key_says_what_to_compare_and_what_to_run(keys):
    error = known_hosts.unknown(NAME, known_hosts.fingerprint(keys[0]))

    assert isinstance(error, UnreachableError)
    assert str(error) == f"the host key of {NAME} is unknown (it shows {known_hosts.fingerprint(keys[0])})"
    assert f"slmops device trust {NAME}" in error.remedy


def test_a_key_that_another_file_pins_otherwise_is_refused_naming_the_file(keys, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    known_hosts.trust(theirs, NAME, keys[0])

    with pytest.raises(HostKeyError, match=str(theirs)):
        known_hosts.refuse_other((ours, theirs), NAME, keys[1])
    known_hosts.refuse_other((ours, theirs), NAME, keys[0])
    known_hosts.refuse_other((ours, theirs), "another", keys[1])
