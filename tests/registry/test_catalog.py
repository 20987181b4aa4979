"""Names and versions: what `name:version` may be, and which version is newer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.errors import UsageError
from slmops.registry import catalog
from slmops.registry.catalog import Reference

NAMES = st.from_regex(r"[a-z0-9]{1,20}(?:[._-][a-z0-9]{1,20}){0,2}", fullmatch=True)
VERSIONS = st.from_regex(r"[A-Za-z0-9]{1,9}(?:(?:[._+-]|--)[A-Za-z0-9]{1,9}){0,5}", fullmatch=True)
REFERENCES = st.builds(Reference, st.sampled_from("ab"), st.text("01a.-+", min_size=1, max_size=5))
IDENTIFIERS = st.from_regex(r"0|[1-9][0-9]{0,3}|[0-9]{0,2}[a-zA-Z-][a-zA-Z0-9-]{0,4}", fullmatch=True)
NUMBERS = st.integers(0, 12)
SEMVER = st.tuples(
    NUMBERS, NUMBERS, NUMBERS, st.lists(IDENTIFIERS, max_size=3), st.lists(IDENTIFIERS, max_size=2)
)


def written(version):
    *numbers, pre, build = version
    text = ".".join(map(str, numbers))
    return text + ("-" + ".".join(pre) if pre else "") + ("+" + ".".join(build) if build else "")


def precedes(left, right):
    """Say whether one SemVer version has lower precedence than another, by clause 11 read word for word."""
    if left[:3] != right[:3]:
        return left[:3] < right[:3]
    if not left[3] or not right[3]:
        return bool(left[3]) and not right[3]
    for one, other in zip(left[3], right[3], strict=False):
        if one == other:
            continue
        if one.isdigit() and other.isdigit():
            return int(one) < int(other)
        return one.isdigit() if one.isdigit() != other.isdigit() else one < other
    return len(left[3]) < len(right[3])


def newest(*versions):
    return [r.version for r in catalog.newest_first([Reference("demo", version) for version in versions])]


@given(NAMES, VERSIONS)
def test_a_reference_is_read_as_it_is_printed(name, version):
    assert str(catalog.parse(f"{name}:{version}")) == f"{name}:{version}"
    assert catalog.parse(f"{name}:{version}") == Reference(name, version)


@pytest.mark.parametrize("text", ["", "demo", "demo=1.0.0"])
def test_a_reference_without_a_colon_is_refused_saying_what_was_expected(text):
    with pytest.raises(UsageError, match="expected NAME:VERSION, got ") as told:
        catalog.parse(text)

    assert repr(text) in str(told.value)
    assert told.value.remedy == "Run `slmops release list`."


@pytest.mark.parametrize(
    "name", ["", "Demo", "a/b", "..", ".a", "a.", "a--b", "a b", "a\n", "é", "x" * 65, "sha256-x."]
)
def test_a_name_the_registry_cannot_keep_is_refused_and_shown(name):
    with pytest.raises(UsageError, match=r"release name .*: expected lower-case letters") as told:
        catalog.reference(name, "1.0.0")

    assert repr(name) in str(told.value)


@pytest.mark.parametrize("version", ["", "-1", ".1", "1/2", "1 2", "1:2", "1\n", "é", "1" * 65])
def test_a_version_the_registry_cannot_keep_is_refused_and_shown(version):
    with pytest.raises(UsageError, match=r"release version .*: expected letters") as told:
        catalog.reference("demo", version)

    assert repr(version) in str(told.value)


@given(SEMVER, SEMVER)
def test_newest_first_agrees_with_semver(left, right):
    order = newest(written(left), written(right))

    if precedes(left, right):
        assert order == [written(right), written(left)]
    if precedes(right, left):
        assert order == [written(left), written(right)]


@given(st.lists(REFERENCES, unique=True, max_size=6), st.randoms())
def test_newest_first_is_total(references, random):
    shuffled = list(references)
    random.shuffle(shuffled)

    assert catalog.newest_first(shuffled) == catalog.newest_first(references)
    assert sorted(catalog.newest_first(references), key=str) == sorted(references, key=str)


def test_names_stand_together_and_in_order():
    given_order = [Reference("b", "1"), Reference("a", "1"), Reference("b", "2"), Reference("a", "2")]

    assert [str(each) for each in catalog.newest_first(given_order)] == ["a:2", "a:1", "b:2", "b:1"]


def test_the_order_of_semvers_own_example():
    oldest_first = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
    ]

    assert newest(*oldest_first) == oldest_first[::-1]


def test_ten_is_newer_than_nine():
    assert newest("1.9.0", "1.10.0", "2025-01-31", "v2") == ["v2", "2025-01-31", "1.10.0", "1.9.0"]
