"""What an artifact says of itself."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.artifact import description as descriptions
from slmops.artifact.description import Description
from slmops.errors import IntegrityError

NUMBERS = st.integers(0, 1 << 40)
SHARES = st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=3)
WORDS = st.dictionaries(st.text(), st.text(), max_size=3)


def _format(said):
    return said.format if said.adapter is None else "gguf"


DESCRIPTIONS = st.builds(
    Description,
    **dict.fromkeys(("name", "version", "profile", "arch", "format", "type", "model"), st.text()),
    **dict.fromkeys(("parameters", "context", "threads", "micro_batch", "memory_bytes"), NUMBERS),
    architecture=st.text(),
    tokenizer=st.none() | st.text(),
    chat_template=st.none() | st.text(),
    golden=st.none() | st.text(),
    special_tokens=WORDS,
    source=WORDS,
    stop_ids=st.lists(NUMBERS, max_size=3),
    generation=SHARES,
    measured=SHARES,
    labels=st.lists(st.text(), max_size=3),
    adapter=st.none() | st.text(),
).map(lambda said: replace(said, task=descriptions.TASKS[bool(said.labels)], format=_format(said)))


@pytest.fixture
def said():
    """What a small description says, as an object."""
    text = dict.fromkeys(
        ("name", "version", "profile", "arch", "format", "type", "model", "architecture"), "x"
    )
    numbers = dict.fromkeys(("parameters", "context", "threads", "micro_batch", "memory_bytes"), 1)
    return {**text, **numbers, "schema": descriptions.SCHEMA}


@given(DESCRIPTIONS)
def test_a_description_is_read_as_it_was_written(description):
    assert descriptions.parse(descriptions.render(description)) == description


@given(DESCRIPTIONS)
def test_its_bytes_never_vary(description):
    said = asdict(description)
    turned = {key: said[key] for key in reversed(said)}
    turned["measured"] = dict(reversed(turned["measured"].items()))

    assert descriptions.render(Description(**turned)) == descriptions.render(description)


@given(DESCRIPTIONS)
def test_its_bytes_are_lines_of_json_with_one_newline_at_the_end(description):
    data = descriptions.render(description)

    assert json.loads(data)["schema"] == descriptions.SCHEMA
    assert data.endswith(b"}\n")


def test_its_reference_is_name_and_version(said):
    assert Description(**said | {"name": "demo", "version": "1.0.0"}).reference == "demo:1.0.0"


@pytest.mark.parametrize("data", [b"", b"{", b"not json", b"\xff\xfe"])
def test_what_is_not_json_is_refused(data):
    with pytest.raises(IntegrityError, match=r"artifact\.json is not JSON"):
        descriptions.parse(data)


@pytest.mark.parametrize("data", [b"[]", b"3", b"null", b"{}", b'{"schema": 2}', b'{"schema": "1"}'])
def test_another_schema_is_refused_naming_the_one_expected(data):
    with pytest.raises(IntegrityError, match=r"artifact\.json: expected schema 1, got "):
        descriptions.parse(data)


def test_unknown_keys_are_refused_by_name(said):
    with pytest.raises(IntegrityError, match="keys this version does not know: colour, size"):
        descriptions.parse(json.dumps(said | {"size": 1, "colour": 2}).encode())


@pytest.mark.parametrize("missing", ["name", "model", "memory_bytes"])
def test_a_missing_key_is_refused_by_name(said, missing):
    del said[missing]

    with pytest.raises(IntegrityError, match=rf"artifact\.json is incomplete: .*'{missing}'"):
        descriptions.parse(json.dumps(said).encode())


def test_what_was_written_before_there_were_classifiers_goes_on_from_texts(said):
    description = descriptions.parse(json.dumps(said).encode())

    assert (description.task, description.labels) == ("generation", [])


def test_without_an_adapter_it_is_written_as_before_there_were_any(said):
    assert b"adapter" not in descriptions.render(Description(**said))
    assert descriptions.parse(json.dumps(said).encode()).adapter is None


def test_an_adapter_on_what_is_no_gguf_is_refused(said):
    with pytest.raises(IntegrityError, match="expected an adapter on gguf alone, got one on onnx"):
        descriptions.parse(json.dumps(said | {"format": "onnx", "adapter": "adapter.gguf"}).encode())


def test_an_adapted_release_names_its_base_and_any_other_itself(said):
    description = Description(**said | {"name": "demo", "version": "1.1.0"})
    assert description.base == "demo:1.1.0"
    assert replace(description, source={"base": "demo:1.0.0"}).base == "demo:1.0.0"


@pytest.mark.parametrize(
    "change", [{"task": "translation"}, {"task": "classification"}, {"labels": ["a", "b"]}]
)
def test_a_task_without_what_belongs_to_it_is_refused(said, change):
    with pytest.raises(IntegrityError, match="expected task generation without labels or classification"):
        descriptions.parse(json.dumps(said | change).encode())


@pytest.mark.parametrize("change", [{"context": "2048"}, {"stop_ids": 3}, {"name": None}])
def test_a_value_of_the_wrong_type_is_refused_by_key(said, change):
    with pytest.raises(IntegrityError, match=next(iter(change))):
        descriptions.parse(json.dumps(said | change).encode())
