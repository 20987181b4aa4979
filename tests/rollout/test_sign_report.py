import pytest
from _course import course

from slmops.artifact import amendment, sign, vouch
from slmops.artifact import trust as trusts
from slmops.artifact.trust import RELEASE, ROLLOUT, ROOT, SignedTrust
from slmops.errors import IntegrityError, MissingPartError
from slmops.rollout import sign_report
from slmops.rollout.report import report


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for role in (ROOT, RELEASE, ROLLOUT):
        sign.make_key(folder / role, role)
    return folder


@pytest.fixture(scope="module")
def chain(keys):
    public = {role: [(keys / f"{role}.pub").read_text()] for role in (ROOT, RELEASE, ROLLOUT)}
    document = trusts.render(amendment.first("2026-01-01T00:00:00Z", None, public, {}))
    signed = SignedTrust(document, (sign.sign(document, keys / ROOT, sign.TRUST),))
    vouch.advance(None, signed)
    return (signed,)


@pytest.fixture
def said():
    made = course(3)
    return report(made.entry, made.lines, made.events, made=made.entry.changed)


def test_a_report_holds_by_the_rollout_key_that_signed_it(tmp_path, keys, chain, said):
    sign_report.write(tmp_path / "rollout", said, keys / ROLLOUT)

    found, signer = sign_report.verify(tmp_path / "rollout", chain)

    assert found == said
    assert (signer.role, signer.version, signer.in_force) == (ROLLOUT, 1, True)
    assert signer.fingerprint == sign.fingerprint(keys / "rollout.pub")
    assert sign_report.role_of(chain) == ROLLOUT


@pytest.mark.parametrize("name", [sign_report.DATA, sign_report.PAGE])
def test_a_report_that_was_changed_does_not_hold(tmp_path, keys, chain, said, name):
    sign_report.write(tmp_path, said, keys / ROLLOUT)
    file = tmp_path / name
    file.write_text(file.read_text().replace("parrot", "carrot", 1))

    with pytest.raises(IntegrityError, match="does not hold"):
        sign_report.verify(tmp_path, chain)


def test_a_signature_made_for_another_purpose_does_not_hold(tmp_path, keys, chain, said):
    sign_report.write(tmp_path, said, keys / ROLLOUT)
    data = (tmp_path / sign_report.DATA).read_bytes()
    (tmp_path / "report.json.sig").write_bytes(sign.sign(data, keys / ROLLOUT, sign.ASSIGNMENT))

    with pytest.raises(IntegrityError):
        sign_report.verify(tmp_path, chain)


def test_a_key_that_says_only_whom_to_trust_signs_no_report(tmp_path, keys, chain, said):
    sign_report.write(tmp_path, said, keys / ROOT)

    with pytest.raises(IntegrityError):
        sign_report.verify(tmp_path, chain)


def test_a_folder_without_a_report_is_said_to_be_one(tmp_path, chain):
    with pytest.raises(MissingPartError, match="is not there"):
        sign_report.verify(tmp_path, chain)


def test_a_report_without_its_signature_does_not_hold(tmp_path, keys, chain, said):
    sign_report.write(tmp_path, said, keys / ROLLOUT)
    (tmp_path / "report.json.sig").unlink()

    with pytest.raises(IntegrityError, match=r"report\.json\.sig is not there"):
        sign_report.verify(tmp_path, chain)
