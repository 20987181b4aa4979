"""A request's head: what is made of it, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.head import LONGEST, plain
from slmops.daemon.refusal import RefusedError


def scope(path="/v1/models", query=b"", **fields):
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return {"path": path, "raw_path": path.encode(), "query_string": query, "headers": headers}


def refused(asked):
    with pytest.raises(RefusedError) as caught:
        plain(asked)
    return caught.value.status, caught.value.reason


@given(st.text(st.characters(codec="ascii", exclude_characters="?"), max_size=40).map("/".__add__))
def test_a_path_is_left_as_it_is(path):
    asked = scope(path, host="localhost")

    assert plain(asked) == asked


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        ("http://localhost/v1/models", b"localhost", "/v1/models"),
        ("HTTP://[::1]:80/a/b", b"[::1]:80", "/a/b"),
        ("https://evil.example", b"evil.example", "/"),
        ("http:///admin", b"", "/admin"),
    ],
)
def test_a_whole_address_says_the_host_that_is_meant_and_its_path(target, host, path):
    said = plain(scope(target, host="other", accept="*/*"))

    assert (said["path"], said["raw_path"]) == (path, path.encode())
    assert said["headers"] == [(b"host", host), (b"accept", b"*/*")]


@given(st.sampled_from(["path", "query", "field"]), st.integers(-200, 200))
def test_a_head_is_bounded_wherever_its_bytes_stand(where, beyond):
    length = LONGEST + beyond
    fits = {
        "path": lambda: scope("/" + "a" * (length - 1)),
        "query": lambda: scope("/", b"a" * (length - 1)),
        "field": lambda: scope("/", a="b" * (length - 6)),
    }[where]()

    if beyond <= 0:
        assert plain(fits) == fits
    else:
        assert refused(fits) == (400, "head_too_large")


def test_how_long_a_body_is_is_said_in_one_way():
    both = {"content_length": "5", "transfer_encoding": "chunked"}

    assert refused(scope(**both)) == (400, "invalid_head")
    for one in both.items():
        assert plain(scope(**dict([one])))
