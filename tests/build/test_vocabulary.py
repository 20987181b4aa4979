"""A tokenizer.json is said in llama.cpp's words, or refused."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build.corpus import byte_marks, texts
from slmops.build.vocabulary import Ends, TokenType, vocabulary
from slmops.errors import ModelError

ENDS = Ends(bos=None, stop=(1,), add_bos=False)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
AS_IS = {**BYTE_LEVEL, "use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}


def split(regex, behavior="Isolated"):
    return {
        "type": "Split",
        "pattern": {"Regex": regex},
        "behavior": behavior,
        "invert": behavior == "Removed",
    }


def added(id_, content, *, special=True):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": content, "special": special, **flags}


def byte_level(*steps, ignore_merges=False):
    words = ["<|begin|>", "<|end|>", *byte_marks(), "he", "hel"]
    return {
        "added_tokens": [added(0, "<|begin|>"), added(1, "<|end|>")],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps or [BYTE_LEVEL])},
        "model": {
            "type": "BPE",
            "ignore_merges": ignore_merges,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [["h", "e"], "he l"],
        },
    }


def spaced():
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
        "▁ab",
    ]
    prepend = {"type": "Prepend", "prepend": "▁"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {
        "added_tokens": [added(i, words[i]) for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]},
        "pre_tokenizer": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [["▁", "a"], ["a", "b"], ["▁", "ab"], ["▁a", "b"]],
        },
    }


@pytest.mark.parametrize(
    ("steps", "ignore_merges", "name"),
    [
        ([BYTE_LEVEL], False, "gpt-2"),
        ([DIGITS, BYTE_LEVEL], False, "smollm"),
        ([split(LLAMA3), AS_IS], True, "llama-bpe"),
        ([split(LLAMA3), AS_IS], False, "smaug-bpe"),
        ([split(QWEN2), AS_IS], False, "qwen2"),
        ([split(QWEN2, "Removed"), AS_IS], False, "qwen2"),
        ([split(TEKKEN), AS_IS], True, "tekken"),
    ],
)
def test_the_pre_tokenizers_name_follows_from_what_it_does(steps, ignore_merges, name):
    said = vocabulary(byte_level(*steps, ignore_merges=ignore_merges), 260, ENDS, None)
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) == ("gpt2", name)


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (byte_level(split(r"\w+|\W+"), AS_IS), r"splits by .*w\+"),
        (byte_level(split(QWEN2), AS_IS, ignore_merges=True), "splits by"),
        (byte_level({**BYTE_LEVEL, "add_prefix_space": True}), "add_prefix_space"),
        ({**byte_level(), "normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({**spaced(), "normalizer": {"type": "NFKC"}}, "NFKC"),
        ({**byte_level(), "model": {"type": "Unigram"}}, "Unigram"),
        ({**byte_level(), "pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
    ],
)
def test_a_tokenizer_that_llama_cpp_cannot_express_is_refused_with_a_way_out(tokenizer, why):
    with pytest.raises(ModelError, match=why) as caught:
        vocabulary(tokenizer, 300, ENDS, None)
    assert "--converter" in caught.value.remedy


def test_ids_beyond_the_tokenizer_are_padded_as_unused():
    said = vocabulary(byte_level(), 270, ENDS, None)
    assert said["tokenizer.ggml.tokens"][260:] == [f"[PAD{i}]" for i in range(260, 270)]
    assert set(said["tokenizer.ggml.token_type"][260:]) == {TokenType.UNUSED}


def test_a_tokenizer_larger_than_the_model_is_refused():
    with pytest.raises(ModelError, match="ids up to 259, the model's vocab_size is 259"):
        vocabulary(byte_level(), 259, ENDS, None)


def test_a_model_without_an_end_token_is_refused():
    with pytest.raises(ModelError, match="no end token"):
        vocabulary(byte_level(), 260, Ends(bos=0, stop=(), add_bos=False), None)


def test_two_tokens_with_one_text_are_refused():
    tokenizer = byte_level()
    tokenizer["added_tokens"].append(added(261, "[PAD260]"))
    with pytest.raises(ModelError, match=r"two tokens with the text '\[PAD260\]'"):
        vocabulary(tokenizer, 262, ENDS, None)


def test_kinds_of_token_are_told_apart():
    tokenizer = spaced()
    tokenizer["added_tokens"].append(added(265, "▁▁user", special=False))
    said = vocabulary(tokenizer, 266, ENDS, None)
    kinds = said["tokenizer.ggml.token_type"]
    assert kinds[:4] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.BYTE]
    assert kinds[259] == TokenType.NORMAL
    assert (kinds[265], said["tokenizer.ggml.tokens"][265]) == (TokenType.USER_DEFINED, "  user")


def test_ends_and_template_are_said():
    ends = Ends(bos=0, stop=(1, 5), add_bos=True, pad="<|end|>", unknown="absent")
    said = vocabulary(byte_level(), 260, ends, "{{ x }}")
    picked = {key.removeprefix("tokenizer.ggml."): value for key, value in said.items() if "token_id" in key}
    assert picked == {"bos_token_id": 0, "eos_token_id": 1, "eot_token_id": 5, "padding_token_id": 1}
    assert said["tokenizer.ggml.add_bos_token"] is True
    assert said["tokenizer.chat_template"] == "{{ x }}"


def test_merges_are_read_in_both_spellings():
    assert vocabulary(byte_level(), 260, ENDS, None)["tokenizer.ggml.merges"] == ["h e", "he l"]


def test_the_best_score_is_the_first_merge():
    said = vocabulary(spaced(), 265, ENDS, None)
    score = dict(zip(said["tokenizer.ggml.tokens"], said["tokenizer.ggml.scores"], strict=True))
    assert score["▁a"] > score["ab"] > score["▁ab"] > score["a"] == score["<s>"]
    assert said["tokenizer.ggml.add_space_prefix"] is True


@given(st.permutations(range(4)))
def test_scores_order_tokens_as_their_earliest_merge_does(order):
    tokenizer = copy.deepcopy(spaced())
    tokenizer["model"]["merges"] = [tokenizer["model"]["merges"][i] for i in order]
    said = vocabulary(tokenizer, 265, ENDS, None)
    score = dict(zip(said["tokenizer.ggml.tokens"], said["tokenizer.ggml.scores"], strict=True))
    made = ["".join(pair) for pair in tokenizer["model"]["merges"]]
    assert sorted(set(made), key=made.index) == sorted(set(made), key=lambda text: -score[text])


def test_metaspace_says_whether_a_space_is_put_before():
    for step, expected in (
        ({"prepend_scheme": "always"}, True),
        ({"prepend_scheme": "first"}, True),
        ({"prepend_scheme": "never"}, False),
        ({"add_prefix_space": False}, False),
        ({}, True),
    ):
        metaspace = {"type": "Metaspace", "replacement": "▁", **step}
        tokenizer = {**spaced(), "normalizer": None, "pre_tokenizer": metaspace}
        assert vocabulary(tokenizer, 265, ENDS, None)["tokenizer.ggml.add_space_prefix"] is expected


def test_texts_are_always_the_same_and_many():
    assert texts(byte_level()) == texts(byte_level())
    assert len(set(texts(byte_level()))) > 100


def test_texts_stay_inside_an_alphabet_without_bytes():
    tokenizer = spaced()
    tokenizer["model"]["vocab"] = {w: i for w, i in tokenizer["model"]["vocab"].items() if "0x" not in w}
    alphabet = set("ab ") | set("<unk></s>")
    assert texts(tokenizer)
    assert all(set(text) <= alphabet for text in texts(tokenizer))


def test_special_tokens_are_asked_only_where_llama_cpp_takes_them_alike():
    assert "<|end|>" in texts(byte_level())
    tokenizer = spaced()
    assert "</s>" in texts(tokenizer)
    tokenizer["added_tokens"][2]["normalized"] = True
    assert "</s>" not in texts(tokenizer)
    first = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}
    assert "</s>" not in texts({**spaced(), "normalizer": None, "pre_tokenizer": first})
