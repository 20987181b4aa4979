"""The public model_signing verifies what we export, and refuses what was changed since."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from slmops.artifact import sign
from slmops.errors import IntegrityError
from slmops.registry import model_signing
from slmops.registry import release as releases


@pytest.fixture
def exported(layout, folder, key, tmp_path):
    """An artifact's folder, its signature in it, and the public key beside it."""
    signed = releases.publish(layout, {"pi": folder("pi")}, created="2026-01-01T00:00:00Z", key=key)
    built = releases.artifact(layout, signed.release.entry("pi"))
    place = tmp_path / "exported"
    place.mkdir()
    for name, blob in built.files:
        shutil.copyfile(layout.path(blob.digest), place / name)
    model_signing.make_key(tmp_path / "key.pem")
    signer = model_signing.load_key(tmp_path / "key.pem")
    (tmp_path / "public.pem").write_bytes(model_signing.public_pem(signer))
    payload = model_signing.statement("exported", built)
    (place / "model.sig").write_bytes(model_signing.bundle(payload, signer))
    return place


PYTHON = os.environ.get("SLMOPS_MODEL_SIGNING_PYTHON", sys.executable)
CALL = "import sys; from model_signing._cli import main; main(sys.argv[1:])"


def verify(folder):
    """Verify with the public tool; return its exit code."""
    words = [
        "verify", "key", str(folder), "--signature", str(folder / "model.sig"),
        "--public_key", str(folder.with_name("public.pem")),
    ]  # fmt: skip
    return subprocess.run([PYTHON, "-c", CALL, *words], capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def public_tool():
    """The package model-signing, where it is installed."""
    found = subprocess.run([PYTHON, "-c", CALL, "--version"], capture_output=True, check=False)
    if found.returncode != 0:
        pytest.skip("model-signing is not installed: set SLMOPS_MODEL_SIGNING_PYTHON to a Python that has it")


@pytest.mark.usefixtures("public_tool")
def test_the_public_tool_verifies_what_was_exported(exported):
    assert verify(exported) == 0


def spoil(folder):
    (folder / "model.gguf").write_bytes(b"other weights")


def add(folder):
    (folder / "more.py").write_text("import os")


def drop(folder):
    (folder / "tokenizer.json").unlink()


def sign_by_another(folder):
    model_signing.make_key(folder.with_name("other.pem"))
    other = model_signing.load_key(folder.with_name("other.pem"))
    folder.with_name("public.pem").write_bytes(model_signing.public_pem(other))


@pytest.mark.usefixtures("public_tool")
@pytest.mark.parametrize("change", [spoil, add, drop, sign_by_another])
def test_the_public_tool_refuses_what_was_changed_since(exported, change):
    change(exported)

    assert verify(exported) != 0


def test_a_bundle_lists_every_file_by_its_digest(exported):
    bundle = json.loads((exported / "model.sig").read_text())

    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"


def test_a_key_of_our_own_is_for_its_owner_alone(tmp_path):
    model_signing.make_key(tmp_path / "keys" / "key.pem")

    assert (tmp_path / "keys" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_key_of_ssh_keygen_will_do_if_its_curve_is_one_that_is_verified(tmp_path):
    words = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(tmp_path / "ec")]
    subprocess.run(words, check=True)
    sign.make_key(tmp_path / "ed", "ed25519")
    (tmp_path / "none").write_text("no key")

    assert model_signing.public_pem(model_signing.load_key(tmp_path / "ec")).startswith(
        b"-----BEGIN PUBLIC KEY"
    )
    with pytest.raises(IntegrityError, match="elliptic curve keys alone"):
        model_signing.load_key(tmp_path / "ed")
    with pytest.raises(IntegrityError, match="is no private key"):
        model_signing.load_key(tmp_path / "none")
