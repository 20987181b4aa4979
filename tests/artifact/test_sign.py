"""Sign and verify with SSH keys; the signer here is the machine's own ssh-keygen."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from slmops.artifact import sign
from slmops.errors import IntegrityError, MissingPartError

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")

DATA = b'{"what":"a release"}'


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two keys: ours, and somebody else's."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        sign.make_key(folder / name, name)
    return folder


@pytest.fixture(scope="module")
def ours(keys):
    """The allowed-signers text that trusts our key."""
    return sign.allowed_signers((keys / "ours.pub").read_text())


@pytest.fixture(scope="module")
def signature(keys):
    """Our signature of the data."""
    return sign.sign(DATA, keys / "ours")


def ssh_keygen(*words, data=b""):
    return subprocess.run(["ssh-keygen", *words], input=data, capture_output=True, check=True).stdout


def test_what_we_signed_verifies(ours, signature):
    sign.verify(DATA, signature, ours)


def test_one_of_several_signers_is_enough(keys, ours, signature):
    theirs = sign.allowed_signers((keys / "theirs.pub").read_text())

    sign.verify(DATA, signature, theirs + ours)


def test_the_same_data_and_key_give_the_same_signature(keys, signature):
    assert sign.sign(DATA, keys / "ours") == signature


def test_a_key_is_for_its_owner_alone_and_has_its_public_half_beside_it(keys):
    assert (keys / "ours").stat().st_mode & 0o777 == 0o600
    assert (keys / "ours.pub").read_text().startswith("ssh-ed25519 ")


def test_a_key_is_made_in_a_folder_of_its_own(tmp_path):
    sign.make_key(tmp_path / "new" / "folder" / "key", "x")

    assert (tmp_path / "new" / "folder").stat().st_mode & 0o777 == 0o700


def test_a_key_that_is_there_is_never_written_over(keys):
    before = (keys / "ours").read_bytes()

    with pytest.raises(IntegrityError, match=r"ssh-keygen -q -t failed: .*already exists"):
        sign.make_key(keys / "ours", "again")

    assert (keys / "ours").read_bytes() == before


def test_the_fingerprint_is_the_one_openssh_prints(keys):
    shown = ssh_keygen("-l", "-E", "sha256", "-f", str(keys / "ours.pub")).decode()

    assert sign.fingerprint(keys / "ours.pub") in shown
    assert sign.fingerprint(keys / "ours.pub").startswith("SHA256:")


@pytest.mark.parametrize("place", [0, len(DATA) // 2, len(DATA) - 1])
def test_a_tampered_byte_is_refused(ours, signature, place):
    tampered = bytearray(DATA)
    tampered[place] ^= 1

    with pytest.raises(IntegrityError, match=r"the signature does not hold: .*incorrect signature") as told:
        sign.verify(bytes(tampered), signature, ours)

    assert "slmops release verify" in told.value.remedy


@pytest.mark.parametrize("data", [b"", DATA + b"\n", DATA[:-1]])
def test_less_or_more_than_was_signed_is_refused(ours, signature, data):
    with pytest.raises(IntegrityError, match="the signature does not hold"):
        sign.verify(data, signature, ours)


def test_another_key_is_refused(keys, ours):
    with pytest.raises(IntegrityError, match="the signature does not hold: "):
        sign.verify(DATA, sign.sign(DATA, keys / "theirs"), ours)


def test_a_signature_made_for_another_purpose_is_refused(tmp_path, keys, ours):
    (tmp_path / "message").write_bytes(DATA)
    ssh_keygen("-q", "-Y", "sign", "-f", str(keys / "ours"), "-n", "git", str(tmp_path / "message"))

    with pytest.raises(IntegrityError, match=r"the signature does not hold: .*namespace"):
        sign.verify(DATA, (tmp_path / "message.sig").read_bytes(), ours)


@pytest.mark.parametrize("signature", [b"", b"\n", b"not a signature", b"\x00\xff" * 50])
def test_what_is_no_signature_is_refused(ours, signature):
    with pytest.raises(IntegrityError, match="the signature does not hold: "):
        sign.verify(DATA, signature, ours)


def test_a_torn_signature_is_refused(ours, signature):
    with pytest.raises(IntegrityError, match="the signature does not hold: "):
        sign.verify(DATA, signature[: len(signature) // 2], ours)


@pytest.mark.parametrize("signers", ["", "\n", "# nobody\n", "release@slmops nonsense\n"])
def test_nobody_trusted_means_nothing_verifies(signature, signers):
    with pytest.raises(IntegrityError, match="the signature does not hold: "):
        sign.verify(DATA, signature, signers)


def test_the_allowed_signer_is_for_releases_alone(ours):
    who, what, kind, _ = ours.split()

    assert (who, what, kind) == ("release@slmops", 'namespaces="slmops-release"', "ssh-ed25519")
    assert ours.endswith("\n")


def test_a_missing_key_is_refused_naming_it(tmp_path):
    with pytest.raises(IntegrityError, match=r"ssh-keygen -q -Y failed: .*no-such-key"):
        sign.sign(DATA, tmp_path / "no-such-key")


def test_without_ssh_keygen_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingPartError, match="ssh-keygen is not installed") as told:
        sign.fingerprint(Path(os.devnull))

    assert "openssh-client" in told.value.remedy
