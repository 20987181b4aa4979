"""What stays of a vocabulary: a text of tokens that stayed is cut as it was, and all can still be written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from slmops.errors import ModelError, UsageError
from slmops.train.renumbering import fewer_tokens, named_ids, named_texts, numbers_of, renumbered
from slmops.train.vocabulary_use import BYTES, ROWS, choose, vocabulary_of

LETTERS = "abc▁"
WORDS = st.lists(st.text("abc", min_size=2, max_size=6), min_size=1, max_size=40, unique=True)
TEXTS = st.lists(st.text("abc ?", min_size=1, max_size=40), min_size=1, max_size=6)
SUBSET = st.sets(st.integers(0, 90), max_size=30)
UNKNOWN = "<unk>"
SPECIAL = [UNKNOWN, "<s>"]
UNUSED = [f"zz{number:02}" for number in range(ROWS)]
"""They get the rows that rounding leaves, so that nothing else is kept by chance."""


def bpe(longer, *, with_bytes=False, ignore_merges=False, unused=UNUSED):
    """Return a tokenizer in which longer tokens come about in every way they can, as in SentencePiece's."""
    tokens = list(dict.fromkeys([*SPECIAL, *unused, *(BYTES if with_bytes else ()), *LETTERS, *longer]))
    vocab = {text: id_ for id_, text in enumerate(tokens)}
    merges = [
        (text[:at], text[at:])
        for text in longer
        for at in range(1, len(text))
        if text[:at] in vocab and text[at:] in vocab
    ]
    model = models.BPE(
        vocab, merges, unk_token=UNKNOWN, byte_fallback=with_bytes, fuse_unk=True, ignore_merges=ignore_merges
    )
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(steps)
    if ignore_merges:
        made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    made.add_special_tokens(SPECIAL)
    return made


def unigram(scored):
    pieces = {**dict.fromkeys([*SPECIAL, *UNUSED], 0.0), **dict.fromkeys(LETTERS, -6.0), **scored}
    made = Tokenizer(models.Unigram(list(pieces.items()), unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(SPECIAL)
    return made


def word_piece(pieces):
    tokens = dict.fromkeys([*SPECIAL, *UNUSED, *pieces])
    model = models.WordPiece({text: id_ for id_, text in enumerate(tokens)}, unk_token=UNKNOWN)
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(SPECIAL)
    return made


def fewer(whole, kept):
    return Tokenizer.from_str(json.dumps(fewer_tokens(json.loads(whole.to_str()), numbers_of(kept))))


def said(tokenizer):
    return vocabulary_of(json.loads(tokenizer.to_str()))


def holds(whole, kept, texts):
    """Say that texts of tokens that stayed are cut as they were; return how many those are."""
    cut, numbers, stayed = fewer(whole, kept), numbers_of(kept), 0
    for text in texts:
        ids = whole.encode(text).ids
        if set(ids) <= set(kept):
            assert cut.encode(text).ids == [numbers[id_] for id_ in ids], text
            assert cut.decode(cut.encode(text).ids) == whole.decode(ids)
            stayed += 1
    return stayed


def used(whole, texts):
    return {id_: 1 for text in texts for id_ in whole.encode(text).ids}


@given(WORDS, TEXTS, TEXTS, SUBSET, st.tuples(st.booleans(), st.booleans()))
def test_bpe_cuts_a_text_of_tokens_that_stayed_as_it_did(longer, texts, others, wanted, kind):
    whole = bpe(longer, with_bytes=kind[0], ignore_merges=kind[1])
    some = {id_: 1 for id_ in wanted if id_ < whole.get_vocab_size()}

    assert holds(whole, choose(said(whole), used(whole, texts), set()), [*texts, *others]) >= len(texts)
    holds(whole, choose(said(whole), {}, some.keys()), [*texts, *others])


@given(WORDS, SUBSET)
def test_every_token_of_bpe_that_stays_can_still_be_made(longer, wanted):
    whole = bpe(longer)
    kept = choose(said(whole), {}, {id_ for id_ in wanted if id_ < whole.get_vocab_size()})
    cut = fewer(whole, kept)
    made = [text for text in longer if [each.value for each in whole.model.tokenize(text)] == [text]]

    for text in set(made) & cut.get_vocab().keys():
        assert [each.value for each in cut.model.tokenize(text)] == [text]


@given(
    st.dictionaries(st.text("abc▁", min_size=2, max_size=5), st.sampled_from([-1.0, -2.0, -2.5, -4.0, -9.0])),
    TEXTS,
    TEXTS,
)
def test_unigram_cuts_a_text_of_tokens_that_stayed_as_it_did(scored, texts, others):
    whole = unigram(scored)

    assert holds(whole, choose(said(whole), used(whole, texts), set()), [*texts, *others]) >= len(texts)


@given(
    st.sets(st.text("abc", min_size=1, max_size=4)),
    st.sets(st.text("abc", min_size=1, max_size=3)),
    TEXTS,
    TEXTS,
)
def test_word_piece_cuts_a_text_of_tokens_that_stayed_as_it_did(first, later, texts, others):
    whole = word_piece([*sorted(first), *(f"##{text}" for text in sorted(later))])
    vocabulary = said(whole)
    words = {word for text in texts for word, _ in whole.pre_tokenizer.pre_tokenize_str(text)}
    parts = {id_ for word in words for id_ in vocabulary.read_so_far(word)}
    kept = choose(vocabulary, used(whole, texts), parts)

    assert holds(whole, kept, texts) == len(texts)
    holds(whole, kept, [text for text in others if 0 not in whole.encode(text).ids])


@given(WORDS, TEXTS, st.integers(0, 60))
def test_a_budget_keeps_what_is_used_most_and_no_more(longer, texts, more):
    whole = bpe(longer)
    vocabulary, counts = said(whole), used(whole, texts)
    most = len(vocabulary.lasting(set())) + more
    kept = choose(vocabulary, counts, set(), most)

    assert len(kept) <= -(-most // ROWS) * ROWS
    assert vocabulary.lasting(set()) <= set(kept)
    cut = fewer(whole, kept)
    assert all(0 not in cut.encode(text.replace("?", "")).ids for text in texts)


def test_rows_come_in_blocks_and_none_is_empty_while_there_are_tokens():
    whole = bpe(
        [a + b for a in "abc" for b in "abc"] + [a + b + c for a in "abc" for b in "abc" for c in "abc"],
        unused=(),
    )
    few = choose(said(whole), used(whole, ["ab"]), set())
    kept = choose(said(whole), used(whole, ["ab abc bca cab aab bbc"]), set())

    assert len(few) == ROWS
    assert len(kept) == ROWS
    assert len(choose(said(whole), dict.fromkeys(range(33), 1), set())) == whole.get_vocab_size() == 42


def test_rounding_gives_rows_to_tokens_that_their_parts_come_with():
    longer = ["".join("abc"[n // 3**i % 3] for i in range(6)) for n in range(40)]
    merged = dict.fromkeys(text[:end] for text in longer for end in range(2, 7))
    whole = bpe(list(merged), unused=())
    kept = choose(said(whole), {}, set())
    vocabulary = said(whole)
    texts = {id_: text for text, id_ in vocabulary.ids.items()}

    assert len(kept) == ROWS
    assert all(set(vocabulary.made_from(texts[id_])) <= set(kept) for id_ in kept)


def test_characters_stay_where_there_are_no_bytes_to_fall_back_on():
    texts = ["ab"]
    with_bytes, without = (bpe(["ab", "bc"], with_bytes=choice) for choice in (True, False))

    assert {with_bytes.token_to_id(text) for text in BYTES} <= set(
        choose(said(with_bytes), used(with_bytes, texts), set())
    )
    assert {without.token_to_id(text) for text in LETTERS} <= set(
        choose(said(without), used(without, texts), set())
    )


def test_a_word_that_was_unknown_does_not_become_known_by_what_went():
    whole = word_piece(["ab", "a", "##bc", "##b", "##c"])
    vocabulary = said(whole)
    parts = list(vocabulary.read_so_far("abcx"))

    assert [whole.id_to_token(id_) for id_ in parts] == ["ab", "##c"]
    assert whole.encode("abbc").ids == [whole.token_to_id(text) for text in ("ab", "##bc")]
    assert list(vocabulary.read_so_far("x")) == []


def test_an_unknown_character_costs_a_unigram_what_it_did():
    whole = unigram({"a": -18.0, "b?": -18.0, "ab": -0.5, "ccc": -30.0})
    texts = ["ab?", "ab"]

    assert whole.encode("ab?").tokens == ["▁", "a", "b?"]
    assert holds(whole, choose(said(whole), used(whole, texts), set()), texts) == 2


def test_what_merges_pass_through_is_what_won_and_not_what_might_have():
    whole = bpe(["ab", "bc", "abc", "aabc", "aab"])
    vocabulary = said(whole)

    made = {whole.id_to_token(id_) for id_ in vocabulary.made_from("aabc")}
    assert made == {"a", "b", "c", "ab", "abc", "aabc"}
    assert list(vocabulary.made_from("zz00")) == []


def test_too_small_a_budget_is_refused_with_the_least_that_would_do():
    whole = bpe(["ab"])
    with pytest.raises(UsageError, match=r"5 tokens were asked for, 6 must stay") as caught:
        choose(said(whole), {}, set(), 5)

    assert caught.value.remedy == "Ask for at least 6 tokens."


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
        {"type": "BPE", "vocab": {"a</w>": 0}, "merges": [], "end_of_word_suffix": "</w>"},
        {"type": "BPE", "vocab": {"a": 0}, "merges": [], "continuing_subword_prefix": "##"},
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(model):
    with pytest.raises(ModelError, match="expected BPE that does not mark the parts of words"):
        vocabulary_of({"model": model})


def test_merges_are_read_in_both_forms_and_written_as_they_were():
    pairs = json.loads(bpe(["ab", "abc"], unused=()).to_str())
    lines = {
        **pairs,
        "model": {**pairs["model"], "merges": [" ".join(pair) for pair in pairs["model"]["merges"]]},
    }
    numbers = numbers_of([0, 1, 2, 3, 6])

    assert vocabulary_of(pairs) == vocabulary_of(lines)
    assert fewer_tokens(pairs, numbers)["model"]["merges"] == [["a", "b"]]
    assert fewer_tokens(lines, numbers)["model"]["merges"] == ["a b"]


def test_ids_are_renumbered_wherever_files_name_them():
    numbers = numbers_of([1, 5, 9])
    config = {
        "eos_token_id": [5, 9],
        "pad_token_id": -1,
        "bos_token_id": 1,
        "hidden_size": 9,
        "bad_words_ids": [[5]],
    }

    assert set(named_ids(config)) == {5, 9, -1, 1}
    assert renumbered(config, numbers) == {
        "eos_token_id": [1, 2],
        "pad_token_id": -1,
        "bos_token_id": 0,
        "hidden_size": 9,
        "bad_words_ids": [[1]],
    }
    assert list(
        named_texts({"eos_token": {"content": "x"}, "bos_token": "y", "pad_token": None, "name": "z"})
    ) == ["x", "y"]


def test_special_tokens_around_a_text_are_renumbered_in_every_form():
    whole = word_piece(["a", "b", "c"])
    template = {
        "type": "TemplateProcessing",
        "single": [],
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    ends = {"type": "BertProcessing", "sep": ["<s>", 1], "cls": ["<unk>", 0]}
    tokenizer = {**json.loads(whole.to_str()), "padding": {"pad_id": 1, "pad_token": "<s>"}}
    tokenizer["post_processor"] = {"type": "Sequence", "processors": [template, ends, {"type": "ByteLevel"}]}
    made = fewer_tokens(tokenizer, {1: 0, 0: 7, 2: 1})

    first, second, third = made["post_processor"]["processors"]
    assert first["special_tokens"]["<s>"]["ids"] == [0]
    assert (second["sep"], second["cls"]) == (["<s>", 0], ["<unk>", 7])
    assert third == {"type": "ByteLevel"}
    assert made["padding"]["pad_id"] == 0
    assert [token["id"] for token in made["added_tokens"]] == [7, 0]
