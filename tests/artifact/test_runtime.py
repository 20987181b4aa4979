"""What a runtime bundle says of itself, and who may have it."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.artifact import runtime
from slmops.artifact.runtime import Machine, Platform, Runtime
from slmops.errors import IntegrityError, SlmopsError, UsageError

PI = Runtime(
    name="runtime", version="1.0.0", arch="aarch64", python="3.11", libc="2.28", provides=["gguf"],
    imports=["numpy"], unpacked=100, files=2, parts={"numpy": "2.4.6"},
)  # fmt: skip
HERE = Machine("aarch64", ("3.11", "3.9"), "2.36", lzma=True)
words = st.text(min_size=1)
versions = st.lists(st.integers(0, 99), min_size=2, max_size=3).map(lambda each: ".".join(map(str, each)))
every = st.builds(
    Runtime, name=words, version=words, arch=words, python=versions, libc=versions,
    provides=st.lists(st.sampled_from(runtime.FORMATS), min_size=1), imports=st.lists(words),
    unpacked=st.integers(0, 2**40), files=st.integers(0, 10**6), parts=st.dictionaries(words, words),
    schema=st.just(runtime.SCHEMA),
)  # fmt: skip


@given(every)
def test_what_is_written_is_read(said):
    assert runtime.parse(runtime.render(said)) == said


@given(st.one_of(st.binary(), st.dictionaries(words, words).map(lambda each: json.dumps(each).encode())))
def test_what_is_no_runtime_is_refused(data):
    with pytest.raises(IntegrityError):
        runtime.parse(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [("unpacked", -1), ("unpacked", True), ("files", "2"), ("python", "three"), ("libc", "2"),
     ("provides", []), ("provides", ["tflite"]), ("parts", {"numpy": 2}), ("imports", "numpy"),
     ("name", ""), ("schema", 2)],
)  # fmt: skip
def test_each_key_holds_what_it_must(key, value):
    said = json.loads(runtime.render(PI)) | {key: value}

    with pytest.raises(IntegrityError, match=key):
        runtime.parse(json.dumps(said).encode())


def test_a_key_that_is_missing_or_strange_is_named():
    said = json.loads(runtime.render(PI))
    del said["libc"]

    with pytest.raises(IntegrityError, match="colour, libc"):
        runtime.parse(json.dumps({**said, "colour": "red"}).encode())


def test_a_platform_is_a_word():
    assert str(PI.platform) == "aarch64-cp311"
    assert runtime.parse_platform("aarch64-cp311") == PI.platform
    assert runtime.parse_platform("x86_64-cp39") == Platform("x86_64", "3.9")


@given(st.text())
def test_another_word_is_no_platform(text):
    try:
        assert str(runtime.parse_platform(text)) == text
    except SlmopsError as error:
        assert isinstance(error, UsageError)  # noqa: PT017 - either is right


def test_a_machine_that_can_have_it_is_not_refused():
    assert runtime.refusal(PI, HERE) is None
    assert runtime.refusal(PI, replace(HERE, libc="2.28")) is None


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (replace(HERE, arch="x86_64"), "is for aarch64, this device is x86_64"),
        (replace(HERE, pythons=("3.9",)), "Python 3.11, this device has 3.9"),
        (replace(HERE, libc="2.9"), "2.28, this device has 2.9"),
        (replace(HERE, libc=None), "another C library"),
        (replace(HERE, lzma=False), "LZMA"),
    ],
)
def test_a_machine_that_cannot_is_told_why(machine, why):
    assert why in runtime.refusal(PI, machine)
