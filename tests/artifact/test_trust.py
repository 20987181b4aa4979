"""Whose word counts: the document, how it changes, and who may change it."""

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.artifact import amendment, trust
from slmops.artifact.trust import RELEASE, ROLES, ROLLOUT, ROOT, Role, SignedTrust
from slmops.errors import IntegrityError

CREATED, EXPIRES = "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"


def public(seed):
    """A public key as its file says it."""
    kind, raw = b"ssh-ed25519", bytes([seed]) * 32
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (kind, raw))
    return f"{kind.decode()} {base64.b64encode(blob).decode()}"


def print_of(seed):
    return trust.fingerprint(public(seed))


SEEDS = st.sets(st.integers(0, 9), min_size=1, max_size=4)
MOMENTS = st.datetimes().map(lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ").zfill(20))


VERSIONS = st.integers(1, 99)


@st.composite
def documents(draw, version=VERSIONS):
    """A trust document that can be kept."""
    keys = {role: draw(SEEDS) for role in ROLES}
    if draw(st.booleans()):
        keys[ROLLOUT] = set()
    asked = {role: draw(st.integers(1, len(found))) for role, found in keys.items() if found}
    first = amendment.first(
        draw(MOMENTS),
        draw(st.none() | MOMENTS),
        {role: map(public, found) for role, found in keys.items()},
        asked,
    )
    used = {seed for found in keys.values() for seed in found}
    revoked = draw(st.sets(st.integers(10, 15), max_size=2)) - used
    floors = draw(
        st.dictionaries(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True), st.integers(0, 9))
    )
    return replace(first, version=draw(version), revoked=tuple(sorted(map(print_of, revoked))), floors=floors)


def simple(*roots, threshold=1, version=1):
    """A document with these root keys, and one key for the rest."""
    keys = {ROOT: map(public, roots), RELEASE: [public(7)], ROLLOUT: [public(8)]}
    return replace(amendment.first(CREATED, EXPIRES, keys, {ROOT: threshold}), version=version)


@given(documents())
def test_a_document_is_read_as_it_was_written(document):
    assert trust.parse(trust.render(document)) == document


@given(documents())
def test_a_signed_document_is_told_and_heard(document):
    signed = SignedTrust(trust.render(document), (b"one\n", b"two\n"))

    assert trust.from_said(json.loads(json.dumps(trust.said(signed)))) == signed
    assert signed.trust == document


STRANGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=9), inner, max_size=2),
    max_leaves=4,
)


def ways(value, way=()):
    """Every path in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*way, key)
        yield from ways(each, (*way, key))


def put(value, way, other):
    """The document with another value at a path."""
    if not way:
        return other
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[way[0]] = put(value[way[0]], way[1:], other)
    return changed


@given(documents(), st.data())
def test_whatever_stands_in_a_document_it_is_read_or_refused(document, data):
    said = json.loads(trust.render(document))
    way = data.draw(st.sampled_from(list(ways(said))))
    changed = put(said, way, data.draw(STRANGE))
    text = json.dumps(changed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    try:
        found = trust.parse(text.encode(errors="surrogatepass"))
    except IntegrityError:
        return
    assert trust.render(found) == text.encode()


@given(st.binary(max_size=200) | st.just(b"[" * 100_000) | st.just(b'{"type":' * 50_000))
def test_what_is_no_document_is_refused(data):
    with pytest.raises(IntegrityError):
        trust.parse(data)


@given(STRANGE)
def test_what_is_no_signed_document_is_refused(said):
    with pytest.raises(IntegrityError):
        trust.from_said(said)


@given(documents(), st.sampled_from([b" ", b"\n"]))
def test_a_document_has_one_form_alone(document, space):
    data = trust.render(document)

    with pytest.raises(IntegrityError, match="one form"):
        trust.parse(data[:1] + space + data[1:])
    with pytest.raises(IntegrityError):
        trust.parse(data[:-1] + b',"version":1}')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not an SSH public key"),
        ("ssh-ed25519 AAAA\nssh-ed25519 AAAA", "not the ssh-ed25519 it says"),
        (public(1).replace("ssh-ed25519 ", "ssh-rsa "), "not the ssh-rsa it says"),
        ('signer@slmops namespaces="x" ' + public(1), "not an SSH public key"),
    ],
)
def test_a_key_that_is_none_is_refused(text, words):
    with pytest.raises(IntegrityError, match=words):
        trust.key_text(text)


def test_the_comment_of_a_key_is_left_out():
    assert trust.key_text(public(1) + " me@here\n") == public(1)


@settings(max_examples=40)
@given(documents(), st.sets(st.integers(0, 9).map(print_of)))
def test_the_first_document_is_believed_by_its_own_root_keys_alone(document, signed):
    enough = len(signed & set(document.roles[ROOT].keys)) >= document.roles[ROOT].threshold

    if enough:
        assert trust.advance(None, document, signed) is document
    else:
        with pytest.raises(IntegrityError, match="the signature does not hold"):
            trust.advance(None, document, signed)


@settings(max_examples=60)
@given(documents(), documents(), st.sets(st.integers(0, 9).map(print_of)))
def test_a_document_gives_way_only_to_the_next_that_old_and_new_root_keys_signed(known, candidate, signed):
    def signs(document):
        return len(signed & set(document.roles[ROOT].keys)) >= document.roles[ROOT].threshold

    next_ = candidate.version == known.version + 1
    keeps = set(known.revoked) <= set(candidate.revoked)

    if next_ and keeps and signs(known) and signs(candidate):
        assert trust.advance(known, candidate, signed) is candidate
    elif candidate == known:
        assert trust.advance(known, candidate, signed) is known
    else:
        with pytest.raises(IntegrityError):
            trust.advance(known, candidate, signed)


@settings(max_examples=30)
@given(st.lists(documents(version=st.integers(1, 4)), max_size=8), st.sets(st.integers(0, 9).map(print_of)))
def test_along_any_documents_the_version_never_falls_and_no_revoked_key_comes_back(offered, signed):
    known = None
    for candidate in offered:
        try:
            after = trust.advance(known, candidate, signed)
        except IntegrityError:
            continue
        assert known is None or after.version in (known.version, known.version + 1)
        assert known is None or set(known.revoked) <= set(after.revoked)
        assert not set(after.revoked) & set(after.keys)
        known = after


def test_a_version_that_was_skipped_is_refused_naming_the_one_expected():
    with pytest.raises(IntegrityError, match="expected trust document 2, got 3"):
        trust.advance(simple(1), simple(1, version=3), {print_of(1)})


def test_a_root_key_that_is_rotated_out_signs_its_own_leaving():
    before = simple(1)
    after = amendment.with_role(
        amendment.following(before, CREATED, EXPIRES), ROOT, [public(2)], [print_of(1)]
    )

    assert trust.advance(before, after, {print_of(1), print_of(2)}) is after
    for alone in (1, 2):
        with pytest.raises(IntegrityError, match=r"needs 1 of the root keys .*, and 0 signed it"):
            trust.advance(before, after, {print_of(alone)})


def test_a_document_that_has_expired_leads_on_to_the_next():
    before = replace(simple(1), expires="2020-01-01T00:00:00Z")
    after = amendment.following(before, CREATED, EXPIRES)

    with pytest.raises(IntegrityError, match="expired at 2020"):
        before.require_unexpired(CREATED)
    assert trust.advance(before, after, {print_of(1)}) is after


@given(documents(version=st.just(5)), st.data())
def test_a_revoked_key_leaves_every_role_and_stays_revoked(document, data):
    lost = data.draw(st.sampled_from(sorted(document.keys)))
    try:
        after = amendment.without(document, lost)
    except IntegrityError:
        # A role would be left with too few keys.
        return
    assert lost not in after.keys
    assert lost in after.revoked
    trust.check(after)
    with pytest.raises(IntegrityError, match="unknown or revoked"):
        amendment.with_role(after, RELEASE, [document.keys[lost]])


def test_a_role_that_nobody_could_fill_is_refused():
    with pytest.raises(IntegrityError, match="expected a threshold from 1 to its 1 keys, got 2"):
        amendment.with_role(simple(1), RELEASE, threshold=2)
    with pytest.raises(IntegrityError, match="the release role would have no key"):
        amendment.without(simple(1), print_of(7))
    with pytest.raises(IntegrityError, match="release has no key"):
        amendment.with_role(simple(1), RELEASE, remove=[print_of(1)])


def test_more_rollout_keys_than_sign_an_assignment_are_not_asked_for():
    with pytest.raises(IntegrityError, match="an assignment is signed by one key"):
        amendment.with_role(simple(1), ROLLOUT, add=[public(7)], threshold=2)


def test_the_rollout_role_alone_may_be_nobodys():
    nobody = amendment.with_role(simple(1), ROLLOUT, remove=[print_of(8)])

    assert nobody.roles[ROLLOUT] == Role()
    assert trust.parse(trust.render(nobody)) == nobody


def test_floors_are_said_once():
    lowered = amendment.following(simple(1), CREATED, EXPIRES, {"demo": 3})

    assert lowered.floors == {"demo": 3}
    assert amendment.following(lowered, CREATED, EXPIRES).floors == {}
