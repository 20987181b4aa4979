"""A device says what it runs, with a key of its own."""

import json

import pytest

from slmops.artifact import attestation as attestations
from slmops.errors import IntegrityError
from slmops.rollout import attested

NONCE = "0123456789abcdef" * 2
TIMES = {"ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 60.0}
LEASE = {"rollout": "red", "epoch": 5, "holder": "ann@desk", "seconds": 60.0}


@pytest.fixture
def told(device, shop):
    """What a device attests of a release that passed."""
    device.take(shop.release())
    asked = {"slot": shop.release().slot, "nonce": NONCE, "lease": LEASE}
    return device.get("activate", **asked, **TIMES)["attestation"]


def test_a_device_attests_what_it_runs_to_who_asked(device, shop, told):
    evidence = attested.check("box", shop.release().slot, NONCE, told, None)

    assert evidence["digest"] == f"sha256:{shop.release().slot}"
    assert (evidence["epoch"], evidence["golden"]) == (5, 2)
    assert evidence["by"].startswith("SHA256:")
    assert attested.check("box", shop.release().slot, NONCE, told, evidence["key"]) == evidence
    assert device.places.identity_key.stat().st_mode & 0o777 == 0o600


def test_the_way_back_is_attested_too(device, shop, told):
    first, second = shop.release(), shop.release("1.1.0")
    device.get("confirm", slot=first.slot, lease=LEASE)
    device.commit(second)

    asked = {"slot": second.slot, "code": "OPERATOR", "message": "back", "nonce": NONCE}
    again = device.get("roll-back", **asked, **TIMES)["attestation"]

    assert attested.check("box", first.slot, NONCE, again, told["key"])["epoch"] == 0


def test_what_failed_is_not_attested(device, shop):
    device.take(shop.release("1.1.0", answers={}))

    answer = device.get("activate", slot=shop.release("1.1.0", answers={}).slot, nonce=NONCE, **TIMES)

    assert (answer["outcome"], answer["attestation"]) == ("fail", None)


@pytest.mark.parametrize("wrong", ["key", "no key", "nonce"])
def test_no_activation_fails_for_want_of_an_attestation(device, shop, wrong):
    key = device.places.identity_key
    if wrong == "key":
        key.write_text("rot")
    elif wrong == "no key":
        key.unlink()
    device.take(shop.release())
    nonce = "no nonce" if wrong == "nonce" else NONCE

    answer = device.get("activate", slot=shop.release().slot, nonce=nonce, **TIMES)

    assert (answer["outcome"], answer["attestation"]) == ("pass", None)
    assert attested.check("box", shop.release().slot, NONCE, None, None) == {"by": None}


def test_a_key_is_made_once_and_goes_with_the_device(device):
    key = device.places.identity_key.read_bytes()

    device.enroll()

    assert device.places.identity_key.read_bytes() == key
    device.get("retire")
    assert not device.places.root.exists()


def test_another_session_device_artifact_or_key_is_refused(shop, told):
    slot = shop.release().slot
    other = (shop.key.with_suffix(".pub")).read_text()
    for words, asked in (
        ("another session", ("box", slot, "f" * 32, told, None)),
        ("another device", ("crate", slot, NONCE, told, None)),
        ("another artifact", ("box", "a" * 64, NONCE, told, None)),
        ("another key than the one it had", ("box", slot, NONCE, told, other)),
        ("names no 'signature'", ("box", slot, NONCE, {"document": ""}, None)),
    ):
        with pytest.raises(IntegrityError, match=words):
            attested.check(*asked)


def test_what_was_changed_after_it_was_signed_does_not_hold(shop, told):
    lie = json.loads(told["document"]) | {"digest": "sha256:" + "a" * 64}
    document = attestations.render(
        attestations.Attestation(**{key: value for key, value in lie.items() if key != "type"})
    ).decode()

    with pytest.raises(IntegrityError, match="signature of its attestation does not hold"):
        attested.check("box", "a" * 64, NONCE, told | {"document": document}, None)
    with pytest.raises(IntegrityError, match="signature of its attestation does not hold"):
        attested.check("box", shop.release().slot, NONCE, told | {"signature": "rot"}, None)


def test_a_device_that_attested_before_and_says_nothing_now_is_not_believed(shop, told):
    with pytest.raises(IntegrityError, match="attests nothing, and has done so before with the key SHA256:"):
        attested.check("box", shop.release().slot, NONCE, None, told["key"])
