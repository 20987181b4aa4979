"""A phrase that picks devices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.errors import UsageError
from slmops.fleet.inventory import Device
from slmops.fleet.selector import select

WORDS = ["site", "canary", "berlin", "lyon", "a", "b"]
DEVICES = st.lists(
    st.builds(
        Device,
        name=st.sampled_from([*WORDS, "edge-1", "edge-2"]),
        host=st.just("h"),
        labels=st.dictionaries(st.sampled_from(WORDS), st.sampled_from([*WORDS, ""]), max_size=3),
        groups=st.lists(st.sampled_from(WORDS), max_size=2).map(tuple),
    ),
    max_size=6,
)
FLEET = [
    Device("edge-1", "h1", {"site": "berlin", "canary": "yes"}, ("pi",)),
    Device("edge-2", "h2", {"site": "berlin"}, ("pi", "slow")),
    Device("edge-3", "h3", {"site": "lyon"}, ("nano",)),
    Device("edge-4", "h4"),
]


def pick(devices, phrase):
    """Select, where picking none is an answer."""
    try:
        return select(devices, phrase)
    except UsageError as error:
        if "picks none" not in str(error):
            raise
        return []


def names(phrase):
    return [device.name[-1] for device in pick(FLEET, phrase)]


@pytest.mark.parametrize("phrase", ["", " "])
def test_the_empty_phrase_picks_all(phrase):
    assert select(FLEET, phrase) == FLEET


@pytest.mark.parametrize(
    ("phrase", "picked"),
    [
        ("edge-2", "2"),
        ("pi", "12"),
        ("canary", "1"),
        ("site", "123"),
        ("site=berlin", "12"),
        ("site!=berlin", "34"),
        ("!canary", "234"),
        ("!pi", "34"),
        ("site=berlin,!canary", "2"),
        (" site=berlin , slow ", "2"),
        ("!!pi", "12"),
        ("edge-1|edge-3", "13"),
        ("site=berlin|lyon,!edge-2", "13"),
        ("site != berlin|lyon", "4"),
        ("!edge-1|nano", "24"),
        ("pi | nano, site=lyon", "3"),
    ],
)
def test_a_phrase_picks_what_its_terms_all_hold_for(phrase, picked):
    assert "".join(names(phrase)) == picked


@given(DEVICES, st.sampled_from(WORDS))
def test_a_term_and_its_negation_split_the_fleet(devices, term):
    picked, others = pick(devices, term), pick(devices, f"!{term}")

    assert len(picked) + len(others) == len(devices)
    assert [each for each in devices if (each in picked) != (each in others)] == devices


@given(DEVICES, st.sampled_from(WORDS), st.sampled_from(WORDS))
def test_equal_and_not_equal_split_the_fleet(devices, key, value):
    picked, others = pick(devices, f"{key}={value}"), pick(devices, f"{key}!={value}")

    assert len(picked) + len(others) == len(devices)


@given(
    DEVICES,
    st.lists(st.sampled_from(["site", "!canary", "site=berlin|lyon", "a|b", "!b|edge-1"]), max_size=3),
)
def test_order_is_kept_and_every_term_only_narrows(devices, terms):
    picked = pick(devices, ",".join(terms))
    rest = iter(devices)

    assert all(any(each is other for other in rest) for each in picked)
    assert all(len(picked) <= len(pick(devices, term)) for term in terms)


@pytest.mark.parametrize("term", ["site=berlin", "site!=berlin", "site=berlin|lyon", "edge-1|nano"])
def test_a_comparison_can_be_negated_too(term):
    assert sorted(names(term) + names(f"!{term}")) == ["1", "2", "3", "4"]


def test_space_around_the_equals_sign_does_not_count():
    assert names("site = berlin") == ["1", "2"]


@pytest.mark.parametrize(
    "phrase", [",", "site,", ",site", "a,,b", "!", "a|", "|", "site=|b", "a, !", "!=berlin", "=berlin", "! !"]
)
def test_an_empty_term_is_refused_and_the_phrase_shown(phrase):
    with pytest.raises(UsageError, match="a term is empty") as told:
        select(FLEET, phrase)

    assert repr(phrase) in str(told.value)


def test_a_phrase_that_picks_none_is_refused_naming_who_was_there():
    with pytest.raises(UsageError, match=r"selector 'site=rome' picks none of 4 devices \(edge-1, edge-2, "):
        select(FLEET, "site=rome")


@pytest.mark.parametrize("phrase", ["edge-1|!edge-2", "site|canary=yes", "edge-1|site=lyon"])
def test_a_bar_between_terms_is_refused(phrase):
    with pytest.raises(UsageError, match="stands between values of one label, or between names"):
        select(FLEET, phrase)


def test_names_with_a_comma_between_them_are_told_what_picks_several():
    with pytest.raises(UsageError, match="picks none of 4") as told:
        select(FLEET, "edge-1, edge-2")

    assert "-l 'edge-1|edge-2'" in told.value.remedy
    assert [device.name for device in select(FLEET, "edge-1|edge-2")] == ["edge-1", "edge-2"]
