"""The cache of answers never holds more than its room, and never gives an answer to another question."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.api import ChatRequest, CompletionRequest
from slmops.daemon.cache import APIECE, Cache, Kept, name

PLAIN = {"prompt": "Once upon a time", "temperature": 0}


def asked(kind=CompletionRequest, **said):
    return msgspec.convert({**PLAIN, **said} if kind is CompletionRequest else said, kind)


def named(request=None, **other):
    said = {"digest": "sha256:1", "template": "t", "request": request or asked(), "defaults": {}}
    return name(**{**said, **other})


def kept(size, answer="cmpl-1"):
    return Kept(answer, b"x" * (size - size // 2), "x" * (size // 2))


names = st.tuples(st.sampled_from(["sha256:1", "sha256:2"]), st.sampled_from([b"a", b"b", b"c", b"d"]))
acts = st.lists(
    st.tuples(st.just("keep"), names, st.integers(0, 3000))
    | st.tuples(st.just("find"), names, st.just(0))
    | st.tuples(st.just("drop"), names, st.just(0)),
    max_size=40,
)


@given(acts, st.integers(0, 6000))
def test_what_is_found_was_kept_under_that_name_last_and_the_room_is_never_exceeded(acts, room):
    cache, latest = Cache(room), {}
    for act, key, size in acts:
        if act == "keep":
            cache.keep(key, kept(size))
            latest[key] = size
        elif act == "drop":
            cache.drop(key[0])
            latest = {one: size for one, size in latest.items() if one[0] != key[0]}
        elif found := cache.find(key):
            assert len(found.data) + len(found.text) == latest[key]
        assert 0 <= cache.held <= room
        assert cache.held >= len(cache) * APIECE


def test_the_one_unused_for_longest_goes_first():
    cache = Cache(2 * (APIECE + 10))
    cache.keep(("d", b"a"), kept(10))
    cache.keep(("d", b"b"), kept(10))
    cache.find(("d", b"a"))

    cache.keep(("d", b"c"), kept(10))

    assert [cache.find(("d", key)) is not None for key in (b"a", b"b", b"c")] == [True, False, True]


def test_a_cache_without_room_keeps_nothing():
    cache = Cache(0)

    cache.keep(("d", b"a"), kept(0))

    assert len(cache) == cache.held == 0


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "Twice upon a time"},
        {"max_tokens": 5},
        {"stop": "."},
        {"stop": ["."]},
        {"stream": True},
        {"temperature": 1, "seed": 3},
        {"temperature": 1, "seed": 4},
        {"logprobs": 1},
    ],
)
def test_whatever_an_answer_follows_from_is_part_of_its_name(other):
    assert named(asked(**other)) not in {None, named()}


def test_so_are_the_version_the_template_the_defaults_the_caller_and_the_path():
    others = [
        named(digest="sha256:2"),
        named(template="u"),
        named(defaults={"max_tokens": 3}),
        named(caller="till"),
        named(asked(ChatRequest, messages=[{"role": "user", "content": "Once upon a time"}], temperature=0)),
    ]
    assert len({named(), *others}) == 6


def test_who_asks_for_which_name_of_the_model_changes_nothing():
    assert named(asked(user="anna", model="m")) == named(asked(user="ben")) == named()


@pytest.mark.parametrize("chance", [{"temperature": 0.7}, {"temperature": 0.7, "top_k": 5}])
def test_an_answer_left_to_chance_is_computed_each_time(chance):
    assert named(asked(**chance)) is None


@pytest.mark.parametrize("sure", [{"temperature": 0.7, "seed": 0}, {"temperature": 0.7, "top_k": 1}])
def test_a_seed_or_a_single_candidate_leaves_nothing_to_chance(sure):
    assert named(asked(**sure)) is not None


def test_the_release_decides_where_the_request_says_nothing():
    silent = msgspec.convert({"prompt": "hello"}, CompletionRequest)

    assert named(silent) is not None
    assert named(silent, defaults={"temperature": 0.8}) is None


def test_an_answer_given_again_has_an_id_of_its_own():
    first = Kept("cmpl-1", b'{"id":"cmpl-1","text":"hi"}', "hi")

    assert first.again("cmpl-2") == b'{"id":"cmpl-2","text":"hi"}'
