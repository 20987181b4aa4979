"""The texts a person gives, and the sequences they are cut into."""

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build.phrase import CheckpointPhrasing, TokenizerPhrasing, Words
from slmops.build.texts import read_texts, sequences, spread
from slmops.errors import DocumentError, ModelError

STORY = "Once upon a time there was a fox who lived in a forest of very tall trees. "


@pytest.fixture
def phrasing(random_checkpoint):
    """The words of a small model that begins a text with a token of its own."""
    return CheckpointPhrasing(random_checkpoint())


@pytest.fixture
def begun(byte_level_tokenizer):
    """Words that put a token of their own before every text."""
    return TokenizerPhrasing(
        Words(byte_level_tokenizer, {"bos_token": "<|begin|>"}, (), add_bos=True, chat_template=None)
    )


def lines(file, *objects):
    file.write_text("".join(json.dumps(said) + "\n" for said in objects))
    return file


def test_documents_lie_between_separators_and_blank_lines_belong_to_them(tmp_path):
    file = tmp_path / "stories.txt"
    file.write_text("One.\n\nStill one.\n<|endoftext|>\nTwo.\n<|endoftext|>\n")
    assert read_texts(file) == ["One.\n\nStill one.", "Two."]


def test_a_file_without_separators_is_one_long_text(tmp_path):
    file = tmp_path / "wiki.test.raw"
    file.write_text("One.\n\nStill one.\n")
    assert read_texts(file) == ["One.\n\nStill one."]


def test_json_lines_hold_texts_prompts_with_their_answers_and_conversations(tmp_path):
    asked = [{"role": "user", "content": "Two?"}]
    file = lines(
        tmp_path / "texts.jsonl",
        {"text": "A text."},
        {"prompt": "Two and two is", "completion": " four."},
        {"prompt": "One and one is", "expect": " two."},
        {"messages": asked, "expect": "2"},
    )
    answered = [*asked, {"role": "assistant", "content": "2"}]
    assert read_texts(file) == ["A text.", "Two and two is four.", "One and one is two.", answered]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, got list"),
        ('{"prompt": "without an answer"}', "expected text, got keys"),
        ('{"text": "  "}', "expected text"),
        ('{"messages": []}', "expected a list of them"),
        ('{"messages": [{"role": "user"}]}', "expected role and content"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(DocumentError, match=rf"texts\.jsonl, line 3: .*{complaint}"):
        read_texts(file)


def test_a_file_that_is_empty_absent_or_no_text_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DocumentError, match=r"empty\.txt holds no text"):
        read_texts(tmp_path / "empty.txt")
    with pytest.raises(DocumentError, match=r"none\.txt cannot be read: No such file"):
        read_texts(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"one\nno\xebl\n")
    with pytest.raises(DocumentError, match=r"latin\.txt, line 2: not text in UTF-8"):
        read_texts(tmp_path / "latin.txt")


@given(st.integers(0, 300))
def test_a_spread_visits_every_place_once(count):
    assert sorted(spread(count)) == list(range(count))


@given(st.integers(8, 300))
def test_the_first_few_places_of_a_spread_lie_all_over(count):
    order = list(spread(count))
    first = sorted(order[: count // 2])
    assert max(later - earlier for earlier, later in itertools.pairwise(first)) <= 4


def test_sequences_keep_their_length_and_their_sum(phrasing, tmp_path):
    file = tmp_path / "long.txt"
    file.write_text(STORY * 200)
    found = sequences(phrasing, file, length=32, tokens=500)
    assert max(map(len, found)) <= 32
    assert sum(map(len, found)) == 500
    assert found == sequences(phrasing, file, length=32, tokens=500)


def test_a_text_that_is_short_enough_is_read_whole(phrasing, tmp_path):
    file = tmp_path / "short.txt"
    file.write_text(STORY * 3)
    found = sequences(phrasing, file, length=1000, tokens=10_000)
    assert [phrasing.text(ids) for ids in found] == [(STORY * 3).strip()]


def test_sequences_come_from_all_over_the_file(phrasing, tmp_path):
    file = tmp_path / "numbered.txt"
    file.write_text("<|endoftext|>".join(f"This is story number {number}." for number in range(100)))
    said = [phrasing.text(ids) for ids in sequences(phrasing, file, length=40, tokens=300)]
    found = [int(number[1]) for text in said if (number := re.search(r"number (\d+)\.$", text))]
    assert len(found) >= len(said) - 1
    assert found == sorted(found)
    assert found[0] < 10
    assert found[-1] > 90


def test_every_sequence_begins_as_a_served_text_begins(begun, tmp_path):
    file = tmp_path / "long.txt"
    file.write_text(STORY * 20)
    found = sequences(begun, file, length=16, tokens=200)
    begin = begun.begin_ids[0]
    assert len(found) > 5
    assert {ids[0] for ids in found} == {begin}
    assert not any(begin in ids[1:] for ids in found)


def test_a_text_that_the_vocabulary_cannot_write_is_left_out(begun, tmp_path):
    folder = Path(__file__).parents[2].parent / "shared" / "models" / "tinystories-656k"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    from slmops.build.checkpoint import open_checkpoint  # noqa: PLC0415

    words = CheckpointPhrasing(open_checkpoint(folder))
    file = lines(tmp_path / "texts.jsonl", {"text": "The cat \U0001f431 sat."}, {"text": "The cat sat."})
    assert [words.text(ids) for ids in sequences(words, file, length=32, tokens=100)] == ["The cat sat."]
    both = sequences(begun, file, length=32, tokens=100, other=words)
    assert [begun.text(ids) for ids in both] == ["The cat sat."]
    with pytest.raises(DocumentError, match="no text that this model's vocabulary can write"):
        sequences(words, lines(tmp_path / "texts.jsonl", {"text": "\U0001f431"}), length=32, tokens=100)
    with pytest.raises(DocumentError, match="no text that both models' vocabularies can write"):
        sequences(begun, tmp_path / "texts.jsonl", length=32, tokens=100, other=words)


def test_a_conversation_is_written_by_the_chat_template(byte_level_tokenizer, tmp_path):
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    words = TokenizerPhrasing(Words(byte_level_tokenizer, {}, (), add_bos=False, chat_template=template))
    file = lines(tmp_path / "chats.jsonl", {"messages": [{"role": "user", "content": "Two?"}], "expect": "2"})
    (ids,) = sequences(words, file, length=100, tokens=100)
    assert words.text(ids) == "<user>Two?\n<assistant>2\n"


def test_a_conversation_for_a_model_that_has_none_is_refused(phrasing, tmp_path):
    file = lines(tmp_path / "chats.jsonl", {"messages": [{"role": "user", "content": "Two?"}]})
    with pytest.raises(ModelError, match="no chat template"):
        sequences(phrasing, file, length=100, tokens=100)
