"""Keys as a file holds them."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops import keys
from slmops.errors import DocumentError, UsageError

NOW = 1_700_000_000.0


def issue(there=(), name="app", role="infer", expires=None, seed=0):
    chance = random.Random(seed)  # noqa: S311 - the same keys every time
    return keys.issue(there, name, role, now=NOW, expires=expires, draw=chance.randbytes)


@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z][a-z0-9.-]{0,9}", fullmatch=True), st.sampled_from(keys.ROLES)),
        max_size=6,
        unique_by=lambda each: each[0],
    ),
    st.one_of(st.none(), st.floats(1, 1e9)),
)
def test_what_is_kept_is_read_again_and_each_key_opens_as_itself(wanted, lasts):
    kept, said = (), {}
    for number, (name, role) in enumerate(wanted):
        kept, key, spoken = issue(kept, name, role, None if lasts is None else NOW + lasts, seed=number)
        said[spoken] = key

    read = keys.parse(keys.render(kept))

    assert read == kept
    assert {spoken: keys.find(read, spoken, NOW) for spoken in said} == said
    assert all(secret.split("_", 2)[2].encode() not in keys.render(kept) for secret in said)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_stumble(text):
    with pytest.raises(DocumentError):
        keys.parse(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(
        ["id", "name", "role", "salt", "hash", "created", "expires", "revoked", "keys", "format"]
    ),
)
def test_no_value_in_its_place_makes_the_reader_stumble(value, where):
    kept, _, spoken = issue()
    whole = json.loads(keys.render(kept))
    (whole if where in whole else whole["keys"][0])[where] = value

    try:
        read = keys.parse(json.dumps(whole).encode())
    except DocumentError:
        return
    keys.find(read, spoken, NOW)
    keys.shown(read, NOW)


@given(st.text(max_size=80))
def test_no_guess_opens(guess):
    kept, _, spoken = issue()

    assert keys.find(kept, guess, NOW) is None
    assert keys.find(kept, spoken[: -len(guess) or None] + guess, NOW) in {None, *kept}
    assert keys.find(kept, f"{spoken}{guess}x", NOW) is None


def test_a_secret_has_256_bits_and_no_two_are_alike():
    kept, first, spoken = issue(name="one")
    kept, second, other = issue(kept, name="two")

    assert len(spoken.split("_", 2)[2]) == 43
    assert len({first.id, second.id, first.salt, second.salt}) == 4
    assert spoken != other


def test_a_key_of_another_with_its_own_id_does_not_open():
    kept, _, spoken = issue(name="one")
    kept, _, other = issue(kept, name="two", seed=2)
    mark, identity, _ = spoken.split("_", 2)

    assert keys.find(kept, f"{mark}_{identity}_{other.split('_', 2)[2]}", NOW) is None


def test_what_expired_or_was_revoked_opens_nothing():
    kept, key, spoken = issue(expires=NOW + 10)

    assert keys.find(kept, spoken, NOW + 9) == key
    assert keys.find(kept, spoken, NOW + 10) is None
    revoked, gone = keys.revoke(kept, "app", NOW + 1)
    assert keys.find(revoked, spoken, NOW + 2) is None
    assert keys.revoke(revoked, key.id, NOW + 5) == (revoked, gone)
    assert [row["state"] for row in keys.shown(revoked, NOW + 2)] == ["revoked"]
    assert [row["state"] for row in keys.shown(kept, NOW + 11)] == ["expired"]


def test_what_is_shown_holds_nothing_to_guess_from():
    kept, key, _ = issue()

    assert key.hash not in str(keys.shown(kept, NOW))
    assert key.salt not in str(keys.shown(kept, NOW))


def test_a_name_is_taken_while_its_key_is_in_force():
    kept, _, _ = issue()

    with pytest.raises(UsageError, match="in force"):
        issue(kept)
    kept, _ = keys.revoke(kept, "app", NOW)
    kept, key, _ = issue(kept, seed=1)
    assert keys.revoke(kept, "app", NOW + 1)[1].id == key.id


@pytest.mark.parametrize("wrong", ["", " ", "a b", "-a", "ä", "a" * 65, "a\n"])
def test_a_name_that_would_garble_a_log_is_refused(wrong):
    with pytest.raises(UsageError, match="name"):
        issue(name=wrong)


def test_a_role_or_a_time_that_is_none_is_refused():
    with pytest.raises(UsageError, match="role"):
        issue(role="root")
    with pytest.raises(UsageError, match="expired"):
        issue(expires=NOW)
    with pytest.raises(UsageError, match="no key"):
        keys.revoke((), "app", NOW)


def test_more_keys_than_a_file_holds_are_refused():
    kept, key, _ = issue()

    with pytest.raises(UsageError, match="1000"):
        issue(kept * keys.MOST, name="other")
    with pytest.raises(DocumentError, match="one id"):
        keys.parse(keys.render((key, key)))
