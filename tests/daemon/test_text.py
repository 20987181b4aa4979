"""Text into tokens and back."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.text import JsonVocabulary, Writer
from slmops.errors import ModelError

MODELS = Path(__file__).parents[2].parent / "shared" / "models"


@pytest.fixture(scope="module", params=["byte level", "stories260k", "tinystories-656k"])
def vocabulary(request, tiny, tmp_path_factory):
    if request.param == "byte level":
        file = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
        tiny.make_tokenizer()[0].save(str(file))
        return JsonVocabulary(file, "<|begin|>")
    file = MODELS / request.param / "tokenizer.json"
    if not file.exists():
        pytest.skip(f"{file} is not here")
    return JsonVocabulary(file, {"stories260k": "<s>"}.get(request.param, "<|start_story|>"))


def written(vocabulary, ids, prompt=()):
    writer = Writer(vocabulary.decode, prompt)
    return [*map(writer.push, ids), writer.flush()]


@given(text=st.text(st.characters(codec="utf-8")))
def test_pieces_join_to_the_text(vocabulary, text):
    ids = vocabulary.encode(text, begin=False, controls=False)
    assert "".join(written(vocabulary, ids)) == vocabulary.decode(ids)


@given(text=st.text(st.sampled_from("aé猫🦜 e\u0301")))
def test_no_piece_holds_half_a_character(vocabulary, text):
    ids = vocabulary.encode(text, begin=False, controls=False)
    assert not any("\ufffd" in piece for piece in written(vocabulary, ids))


@given(before=st.text("abc 🦜", min_size=1), after=st.text("abc 🦜", min_size=1))
def test_an_answer_goes_on_where_the_prompt_ended(vocabulary, before, after):
    prompt = vocabulary.encode(before, begin=True, controls=False)
    ids = vocabulary.encode(after, begin=False, controls=False)
    whole = vocabulary.decode(prompt + ids)
    assert "".join(written(vocabulary, ids, prompt)) == whole[len(vocabulary.decode(prompt)) :]


@given(ids=st.lists(st.integers(0, 319), max_size=30))
def test_any_ids_at_all_give_pieces(vocabulary, ids):
    assert len(written(vocabulary, ids)) == len(ids) + 1


def test_a_character_that_is_never_finished_comes_at_the_end(vocabulary):
    parrot = vocabulary.encode("🦜", begin=False, controls=False)
    if len(parrot) < 3:
        pytest.skip("a vocabulary without bytes")
    pieces = written(vocabulary, parrot[:-1])
    assert set(pieces[:-1]) == {""}
    assert set(pieces[-1]) == {"\ufffd"}


def test_a_file_that_is_no_tokenizer_is_an_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        JsonVocabulary(tmp_path / "tokenizer.json", None)
