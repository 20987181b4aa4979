"""Sign with SSH keys, and find out who did; the signer here is the machine's own ssh-keygen."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slmops.artifact import sign, trust
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


def public(keys, *names):
    """The public keys of these names, by fingerprint."""
    lines = [trust.key_text((keys / f"{name}.pub").read_text()) for name in names]
    return {trust.fingerprint(line): line for line in lines}


@pytest.fixture(scope="module")
def ours(keys):
    """Our public key, by its fingerprint."""
    return public(keys, "ours")


@pytest.fixture(scope="module")
def signature(keys):
    """Our signature of the data."""
    return sign.sign(DATA, keys / "ours")


def ssh_keygen(*words, data=b""):
    return subprocess.run(["ssh-keygen", *words], input=data, capture_output=True, check=True).stdout


def test_what_we_signed_is_known_to_be_signed_by_us(ours, signature):
    assert sign.signers(DATA, [signature], ours) == set(ours)


def test_of_several_keys_the_one_that_signed_is_named(keys, ours, signature):
    assert sign.signers(DATA, [signature], public(keys, "ours", "theirs")) == set(ours)


def test_two_keys_that_signed_are_both_named(keys, signature):
    both = public(keys, "ours", "theirs")

    assert sign.signers(DATA, [signature, sign.sign(DATA, keys / "theirs")], both) == set(both)


def test_a_key_that_signed_twice_is_named_once(keys, signature):
    again = sign.sign(DATA + b"2", keys / "ours")

    assert len(sign.signers(DATA, [signature, signature, again], public(keys, "ours", "theirs"))) == 1


def test_a_signature_that_does_not_hold_takes_nothing_from_one_that_does(keys, ours, signature):
    assert sign.signers(DATA, [b"garbage", sign.sign(DATA, keys / "theirs"), signature], ours) == set(ours)


def test_more_signatures_than_anybody_needs_are_not_looked_at(ours, signature):
    assert sign.signers(DATA, [b"garbage"] * sign.MOST + [signature], ours) == set()


def test_signatures_in_one_file_are_told_apart(keys, signature):
    theirs = sign.sign(DATA, keys / "theirs")

    assert sign.split(signature + theirs) == (signature, theirs)
    assert sign.split(b"") == sign.split(b"garbage") == sign.split(signature[:-20]) == ()


def test_an_agent_signs_with_the_public_half_alone(keys, ours, tmp_path):
    (tmp_path / "ours.pub").write_bytes((keys / "ours.pub").read_bytes())
    words = ["ssh-agent", "sh", "-c", 'ssh-add -q "$1" && exec "$2" -c "$3" "$4"', "sh", str(keys / "ours")]
    script = (
        "import sys, pathlib; from slmops.artifact import sign; "
        "sys.stdout.buffer.write(sign.sign(sys.stdin.buffer.read(), pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [*words, sys.executable, script, str(tmp_path / "ours.pub")],
        input=DATA,
        capture_output=True,
        check=True,
    )

    assert sign.signers(DATA, [done.stdout], ours) == set(ours)


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
def test_a_tampered_byte_is_signed_by_nobody(ours, signature, place):
    tampered = bytearray(DATA)
    tampered[place] ^= 1

    assert sign.signers(bytes(tampered), [signature], ours) == set()


@pytest.mark.parametrize("data", [b"", DATA + b"\n", DATA[:-1]])
def test_less_or_more_than_was_signed_is_signed_by_nobody(ours, signature, data):
    assert sign.signers(data, [signature], ours) == set()


def test_another_key_counts_for_nobody(keys, ours):
    assert sign.signers(DATA, [sign.sign(DATA, keys / "theirs")], ours) == set()


@pytest.mark.parametrize("namespace", ["git", sign.TRUST, sign.ASSIGNMENT])
def test_a_signature_made_for_another_purpose_counts_for_nobody(keys, ours, namespace):
    other = sign.sign(DATA, keys / "ours", namespace)

    assert sign.signers(DATA, [other], ours, sign.RELEASE) == set()
    assert sign.signers(DATA, [other], ours, namespace) == set(ours)


@pytest.mark.parametrize("signature", [b"", b"\n", b"not a signature", b"\x00\xff" * 50])
def test_what_is_no_signature_counts_for_nobody(ours, signature):
    assert sign.signers(DATA, [signature], ours) == set()


def test_a_torn_signature_counts_for_nobody(ours, signature):
    assert sign.signers(DATA, [signature[: len(signature) // 2]], ours) == set()


def test_nobody_trusted_means_nobody_signed(signature):
    assert sign.signers(DATA, [signature], {}) == set()


def test_a_missing_key_is_refused_naming_it(tmp_path):
    with pytest.raises(IntegrityError, match=r"ssh-keygen -q -Y failed: .*no-such-key"):
        sign.sign(DATA, tmp_path / "no-such-key")


def test_without_ssh_keygen_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingPartError, match="ssh-keygen is not installed") as told:
        sign.fingerprint(Path(os.devnull))

    assert "openssh-client" in told.value.remedy
