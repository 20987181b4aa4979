"""Text into tokens and back."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.refusal import RefusedError
from slmops.daemon.text import JsonVocabulary, Writer
from slmops.errors import ModelError

MODELS = Path(__file__).parents[2].parent / "shared" / "models"


@pytest.fixture(scope="module", params=["byte level", "stories260k", "tinystories-656k"])
def vocabulary(request, tiny):
    if request.param == "byte level":
        return JsonVocabulary(tiny.make_tokenizer()[0].to_str(), "<|begin|>")
    file = MODELS / request.param / "tokenizer.json"
    if not file.exists():
        pytest.skip(f"{file} is not here")
    return JsonVocabulary(file.read_text(), {"stories260k": "<s>"}.get(request.param, "<|start_story|>"))


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


@pytest.mark.parametrize("text", ["on", "<|begin|>on", ""])
def test_a_bos_that_tokenizer_json_does_not_add_is_added_once(tiny, text):
    tokenizer, _, _ = tiny.make_tokenizer()
    silent = json.loads(tokenizer.to_str()) | {"post_processor": None}
    ours = JsonVocabulary(json.dumps(silent), "<|begin|>", add_bos=True)
    expected = tokenizer.encode(text.removeprefix("<|begin|>")).ids
    assert ours.encode(text, begin=True, controls=True) == expected
    assert ours.encode("on", begin=False, controls=True) == tokenizer.encode("on").ids[1:]


@pytest.mark.parametrize("source", ["", "{}", '{"model": null}'])
def test_what_is_no_tokenizer_is_an_error(source):
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        JsonVocabulary(source, None)


@pytest.mark.parametrize("pre", ["gpt-2", "deepseek-llm", "gpt-4o", "default"])
@pytest.mark.parametrize("sign", ["a", "1", "!", " ", "猫"])
def test_no_word_is_so_long_that_it_ends_the_process(tiny, tmp_path, pre, sign):
    llama = pytest.importorskip("slmops.daemon.llama", reason="llama-cpp-python is not installed")
    tiny.write_gguf(tmp_path / "model.gguf", tiny.parrot_weights(), pre=pre)
    vocabulary = llama.GgufVocabulary(llama.LlamaModel(tmp_path / "model.gguf"))
    for count in (llama.SHALLOW_WORD, llama.LONGEST_WORD):
        ids = vocabulary.encode(sign * count, begin=False, controls=False)
        assert vocabulary.decode(ids) == sign * count
    with pytest.raises(RefusedError, match="without a space"):
        vocabulary.encode(sign * (llama.LONGEST_WORD + 1), begin=False, controls=False)
