"""Texts with labels, from the files that people have."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from slmops.build.read_labelled import Reader, read_for_build, read_labelled
from slmops.errors import DocumentError, ModelError

LABELS = ("card lost", "card found", "2")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    words = {word: at for at, word in enumerate(["[CLS]", "[SEP]", "[UNK]", "card"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([AddedToken(word, special=True) for word in list(words)[:3]])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    made.enable_truncation(4)
    made.enable_padding(length=4)
    file = tmp_path_factory.mktemp("words") / "tokenizer.json"
    made.save(str(file))
    return file


def write(folder, name, text):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def said(file, tokenizer):
    return [(each.text, each.label) for each in read_labelled(file, LABELS, Reader(tokenizer))]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'text,category\n"lost, I fear",card lost\nfound,1\n'),
        ("A.CSV", '\ufefflabel,text\r\ncard lost,"lost, I fear"\r\ncard found,found\r\n'),
        ("a.jsonl", '{"text": "lost, I fear", "label": 0}\n\n{"text": "found", "intent": "card found"}\n'),
    ],
)
def test_labels_are_names_or_numbers_under_the_keys_that_people_use(tmp_path, tokenizer, name, text):
    assert said(write(tmp_path, name, text), tokenizer) == [("lost, I fear", 0), ("found", 1)]


def test_a_name_that_is_a_number_is_the_name(tmp_path, tokenizer):
    assert said(write(tmp_path, "a.csv", "text,label\na,2\n"), tokenizer) == [("a", 2)]


def test_a_plain_file_has_a_text_a_line_and_no_labels(tmp_path, tokenizer):
    file = write(tmp_path, "a.txt", "one card \n\ntwo\none card\n")

    assert said(file, tokenizer) == [("one card", None), ("two", None)]


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("a.csv", "text,label\na,card stolen\n", r"a\.csv, line 2: the model has no label 'card stolen'"),
        ("a.csv", "sentence,label\na,0\n", "line 2: expected a text under 'text', got sentence, label"),
        ("a.csv", 'text\n"a"b\n', "line 2: not CSV"),
        ("a.csv", "text,label\n ,0\n", "line 2: expected a text, got none"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', "line 2: expected a text under 'text'"),
        ("a.jsonl", "[]\n", "line 1: expected an object"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_line(tmp_path, tokenizer, name, text, named):
    with pytest.raises(DocumentError, match=named):
        said(write(tmp_path, name, text), tokenizer)


def test_a_file_that_is_not_there_is_said(tmp_path, tokenizer):
    with pytest.raises(DocumentError, match=r"none\.csv cannot be read"):
        said(tmp_path / "none.csv", tokenizer)


def test_a_tokenizer_that_is_none_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        Reader(write(tmp_path, "tokenizer.json", "{}"))


def test_a_text_is_read_whole_and_nothing_in_it_is_a_control_token(tokenizer):
    assert Reader(tokenizer).ids("card card card [SEP] card") == (0, 3, 3, 3, 2, 2, 2, 3, 1)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(16, 60), turn=st.randoms(use_true_random=False))
def test_which_texts_calibrate_does_not_depend_on_their_order(tmp_path_factory, tokenizer, count, turn):
    folder = tmp_path_factory.mktemp("texts")
    lines = [f"text {number}" for number in range(count)]
    one = read_for_build(tokenizer, LABELS, 16, write(folder, "a.txt", "\n".join(lines)))
    turn.shuffle(lines)
    other = read_for_build(tokenizer, LABELS, 16, write(folder, "a.txt", "\n".join(lines)))

    assert (one.calibrating, one.measuring) == (other.calibrating, other.measuring)
    assert {each.text for each in one.calibrating}.isdisjoint(each.text for each in one.measuring)
    assert len(one.calibrating) + len(one.measuring) == count


def test_with_a_file_to_evaluate_on_all_of_it_measures_and_none_of_it_calibrates(tmp_path, tokenizer):
    given_ = write(tmp_path, "a.txt", "\n".join(f"text {number}" for number in range(40)))
    apart = write(tmp_path, "b.jsonl", "".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(30)))

    read = read_for_build(tokenizer, LABELS, 16, given_, apart)

    assert [each.text for each in read.measuring] == [f"text {number}" for number in range(30)]
    assert {each.text for each in read.calibrating} == {f"text {number}" for number in range(30, 40)}


def test_texts_that_the_model_cannot_read_whole_are_counted_and_left_out(tmp_path, tokenizer):
    lines = [f"text {number}" for number in range(20)] + ["card " * 20]
    read = read_for_build(tokenizer, LABELS, 16, write(tmp_path, "a.txt", "\n".join(lines)))

    assert read.too_long == 1
    assert len(read.calibrating) + len(read.measuring) == 20


def test_too_few_texts_are_refused_with_their_number(tmp_path, tokenizer):
    file = write(tmp_path, "a.txt", "\n".join(f"text {number}" for number in range(15)))
    with pytest.raises(DocumentError, match=r"expected at least 8 different texts .* got 7 and 8"):
        read_for_build(tokenizer, LABELS, 16, file)
